"""The JEPA head: its size, its equation, and that it can learn from the first step."""

import pytest
import torch
from torch.nn import functional as F

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.traits.jepa import JEPAConfig

D = 32


def test_it_has_the_specified_size():
    assert sum(p.numel() for p in JEPAConfig().build(768).parameters()) == 2_360_064


def test_a_new_head_already_points_somewhere_and_learns_everywhere():
    head, hidden = JEPAConfig(hidden=48).build(D), torch.randn(2, 5, D)
    guess = head(hidden)
    assert guess.norm(dim=-1).min() > 0
    F.cosine_similarity(guess, torch.randn(2, 5, D), dim=-1).sum().backward()
    assert not [name for name, p in head.named_parameters() if not p.grad.norm() > 0]


def test_a_distance_that_no_row_holds_is_refused():
    JEPAConfig(ahead=4).check_context(5)
    with pytest.raises(ConfigError, match=r"jepa\.ahead is 4, but a row of 4"):
        JEPAConfig(ahead=4).check_context(4)


@pytest.mark.parametrize("settings", [{"ahead": 0}, {"hidden": 0}])
def test_impossible_settings_are_errors(settings):
    with pytest.raises(ConfigError, match="jepa has"):
        JEPAConfig(**settings)


def test_its_config_survives_json():
    assert Config.from_json(JEPAConfig(ahead=2).to_json()) == JEPAConfig(ahead=2)
