import pytest

from positronic.config import Config
from positronic.errors import ConfigError
from positronic.mixers.attention import AttentionConfig
from positronic.models import PRESETS, build, preset


def size(module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_familys_attention_has_the_specified_size():
    assert size(AttentionConfig().build(768)) == 1_574_144


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("tinygpt-15m", 14_899_969),
        ("tinygpt-tiny", 3_280_129),
        ("control-79m", 79_303_425),
        ("control-91m", 90_362_625),
        ("control-144m", 143_446_785),
    ],
)
def test_presets_have_the_sizes_they_are_named_for(name, parameters):
    assert size(build(preset(name), device="meta")) == parameters


@pytest.mark.parametrize(("control", "published"), [("control-144m", 143_836_940), ("control-79m", 79_423_838)])
def test_controls_match_their_families_within_a_percent(control, published):
    assert size(build(preset(control), device="meta")) == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    assert Config.from_json(preset(name).to_json()) == preset(name)


def test_an_unknown_preset_names_its_neighbours():
    with pytest.raises(ConfigError, match="tinygpt-15m"):
        preset("tinygpt-51m")
