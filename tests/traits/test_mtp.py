"""Draft heads: their size, their silence, one alone and all together."""

import pytest
import torch

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.traits.mtp import MTPConfig

D = 32


def heads():
    made = MTPConfig(heads=3, hidden=48).build(D)
    for head in made:
        torch.nn.init.normal_(head.down.weight, std=0.3)
    return made


def test_they_have_the_specified_size():
    assert sum(p.numel() for p in MTPConfig().build(768).parameters()) == 9_440_256


def test_new_heads_say_what_the_main_head_says():
    hidden = torch.randn(2, 5, D)
    guesses = MTPConfig(heads=3, hidden=48).build(D)(hidden)
    assert torch.equal(guesses, hidden[..., None, :].expand(2, 5, 3, D))


@pytest.mark.parametrize("shape", [(D,), (1, D), (2, 5, D)])
def test_all_heads_together_are_each_head_alone(shape):
    made, hidden = heads(), torch.randn(shape)
    together = made(hidden)
    assert together.shape == (*shape[:-1], 3, D)
    for k in range(len(made)):
        assert (together[..., k, :] - made[k](hidden)).abs().max() < 1e-5
    assert (together[..., 0, :] - together[..., 1, :]).abs().max() > 0.1


def test_more_heads_than_a_row_has_targets_are_refused():
    MTPConfig(heads=4).check_context(5)
    with pytest.raises(ConfigError, match=r"mtp\.heads is 4, but a row of 4"):
        MTPConfig(heads=4).check_context(4)


@pytest.mark.parametrize("settings", [{"heads": 0}, {"hidden": 0}])
def test_impossible_settings_are_errors(settings):
    with pytest.raises(ConfigError, match="mtp has"):
        MTPConfig(**settings)


def test_its_config_survives_json():
    assert Config.from_json(MTPConfig(heads=2).to_json()) == MTPConfig(heads=2)
