"""Fractal phases: the table is the same numbers on every machine, and nothing but its two extents decides them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.nn.init import initialize
from positronic.state import Step
from positronic.traits.fractal_phase import (
    FractalPhase,
    FractalPhaseConfig,
    fractal_rows,
    fractal_sha256,
    fractal_table,
)

FROZEN = "9490d6e10f06d523ea4ccd26b778aa35e0fd10f863a70c5f30a87f28c44fa008"
"""16,512 tokens, 508 oscillators, one level."""
FROZEN_LEVELS = "a4eeda87209234e02253811d7f719105b86b38700873ed58390a8a1687cd9e82"
"""16,512 tokens, 288 columns, four levels."""
SMALL = (40, (4, 8, 12))


@pytest.fixture(scope="module")
def table():
    return fractal_table(16_512, 508)


def orbit_by_hand(token: int, columns: int, level: int = 0) -> list[int]:
    """The definition in Python's unbounded integers, one token, one step at a time."""

    def halton(base: int) -> tuple[int, int]:
        numerator, denominator, index = 0, 1, token + 1
        while index:
            numerator, denominator, index = numerator * base + index % base, denominator * base, index // base
        return numerator, denominator

    one = 2**28
    (a, of_a), (b, of_b) = halton(2), halton(3)
    c = [one * (5 * a - 4 * of_a) // (2 * of_a), one * 5 * (2 * b - of_b) // (4 * of_b)]
    if level:
        points = [halton(base) for base in ((5, 7), (11, 13), (17, 19))[level - 1]]
        c = [x + one * (2 * n - d) // (2 * d * 2**level) for x, (n, d) in zip(c, points, strict=True)]
    re, im, angles = 0, 0, []
    for _ in range(columns):
        re, im = (re * re - im * im) // one + c[0], 2 * re * im // one + c[1]
        assert re * re + im * im < 2**62, "a product left the range that int64 was promised to hold"
        if re * re + im * im > 4 * one * one:
            re, im = re // 4, im // 4
        exact = math.atan2(im, re) * 2**13 / math.pi
        angles.append(int(math.copysign(math.floor(abs(exact) + 0.5), exact)))
    return angles


def test_the_table_is_golden(table):
    assert table.dtype == np.int16
    assert fractal_sha256(table) == FROZEN
    assert fractal_sha256(fractal_table(16_512, 288, levels=4)) == FROZEN_LEVELS


@pytest.mark.parametrize("token", [0, 1, 2, 255, 4_095, 16_511])
def test_a_row_is_the_orbit_computed_by_hand(table, token):
    assert table[token].tolist() == orbit_by_hand(token, 508)


def test_each_level_is_the_orbit_of_its_own_point():
    rows = fractal_rows(np.array([7, 9_999]), 288, levels=4)
    for row, token in zip(rows, (7, 9_999), strict=True):
        by_hand = [angle for level in range(4) for angle in orbit_by_hand(token, 72, level)]
        assert row.tolist() == by_hand
    assert np.array_equal(rows[:, :72], fractal_rows(np.array([7, 9_999]), 72))


def test_every_token_is_told_apart_by_32_columns(table):
    assert len(np.unique(table[:, :32], axis=0)) == 16_512


def test_a_row_depends_on_its_own_token_alone():
    whole = fractal_table(300, 32, 2)
    pieces = [fractal_rows(np.arange(0, 97), 32, 2), fractal_rows(np.arange(97, 300), 32, 2)]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert np.array_equal(fractal_table(97, 32, 2), whole[:97])


def test_phases_are_angles_of_the_tokens():
    part = FractalPhaseConfig().build_shared(*SMALL)
    tokens = torch.arange(40).reshape(2, 20)
    phases, state = part(Step.of(tokens))
    assert state is None
    assert phases.shape == (2, 20, 24)
    assert phases.dtype == torch.float32
    assert phases.abs().max() <= torch.tensor(math.pi)
    expected = torch.from_numpy(fractal_table(40, 24).astype(np.float64) * math.pi / 2**13).reshape(2, 20, 24)
    assert (phases - expected).abs().max() < 1e-6


def test_the_table_is_rebuilt_and_never_saved():
    with torch.device("meta"):
        model = nn.ModuleDict({"part": FractalPhaseConfig(levels=2).build_shared(*SMALL)})
    assert not model.state_dict()
    assert not list(model.parameters())
    model.to_empty(device="cpu")
    initialize(model, 0)
    assert np.array_equal(model["part"].table.numpy(), fractal_table(40, 24, 2))


def test_a_pinned_hash_is_verified_when_the_table_is_built():
    made = fractal_sha256(fractal_table(40, 24))
    assert isinstance(FractalPhaseConfig(sha256=made).build_shared(*SMALL), FractalPhase)
    with pytest.raises(ConfigError, match=f"has {made}"):
        FractalPhaseConfig(sha256=FROZEN).build_shared(*SMALL)
    with torch.device("meta"):
        FractalPhaseConfig(sha256=FROZEN).build_shared(*SMALL)  # extents alone: there is nothing to verify yet


@pytest.mark.parametrize("wrong", [{"levels": 0}, {"levels": 5}, {"sha256": "9490"}, {"sha256": FROZEN.upper()}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"fractal_phase.{next(iter(wrong))}"):
        FractalPhaseConfig(**wrong)


def test_levels_must_share_the_columns_evenly():
    with pytest.raises(ConfigError, match="25 columns"):
        FractalPhaseConfig(levels=2).build_shared(40, (12, 13))


def test_config_to_json_to_config_is_identity():
    config = FractalPhaseConfig(levels=3, sha256=FROZEN)
    assert Config.from_json(config.to_json()) == config


def test_a_hash_that_was_asked_for_is_not_replaced():
    asked = FractalPhaseConfig(sha256="0" * 64)
    assert asked.fitted(64, (4, 8)) == asked
    assert FractalPhaseConfig().fitted(64, (4, 8)).sha256 == fractal_sha256(fractal_table(64, 12))
