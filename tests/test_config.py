from dataclasses import dataclass
from typing import Literal

import pytest

from positronic.config import Config, ModelConfig, canonical_json, did_you_mean, diff, override
from positronic.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Part(Config, kind="test-part"):
    size: int = 4
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Whole(Config, kind="test-whole"):
    part: Part = Part()
    organs: tuple[Config, ...] = ()
    widths: tuple[int, ...] = (1, 2)
    bound: int | None = None
    mode: Literal["a", "b"] = "a"
    name: str = "x"
    on: bool = False


def test_json_and_back_is_identity_through_nesting():
    config = Whole(part=Part(size=9), organs=(Part(rate=1.0), Whole()), widths=(), bound=3, mode="b", on=True)
    assert Config.from_json(config.to_json()) == config
    assert canonical_json(Config.from_json(config.to_json()).to_json()) == canonical_json(config.to_json())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bond": 1}, "no field 'bond'. Did you mean bound"),
        ({"sise": 1}, "no field 'sise'. Choose one of bound"),
        ({"bound": "3"}, "config.bound"),
        ({"bound": True}, "config.bound"),
        ({"widths": [1, 2.5]}, "config.widths.1"),
        ({"mode": "c"}, "use one of 'a', 'b'"),
        ({"part": {"kind": "test-part", "size": None}}, "config.part.size"),
        ({"part": {"kind": "nothing"}}, "config.part.kind"),
        ({"part": {"kind": "test-whole"}}, "is no Part"),
        ({"part": {"kind": "test-part", "rate": float("nan")}}, "config.part.rate"),
        ({"on": 1}, "config.on"),
        ({"kind": ["x"]}, "config.kind"),
    ],
)
def test_wrong_json_is_refused_by_its_path(change, complaint):
    with pytest.raises(ConfigError, match=complaint.replace(".", r"\.")):
        Config.from_json(Whole().to_json() | change)


def test_overrides_reach_into_parts_and_lists():
    config = override(
        Whole(organs=(Part(),)),
        ["part.size=8", "organs.0.rate=2", "widths=[3,4]", "bound=7", "mode=b", "name=12", "on=True"],
    )
    assert config == Whole(
        part=Part(size=8), organs=(Part(rate=2.0),), widths=(3, 4), bound=7, mode="b", name="12", on=True
    )
    assert override(config, ["bound=none"]).bound is None


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("part.sice=8", "Did you mean size"),
        ("part", "not of the form"),
        ("part.size=x", "part.size"),
        ("name.x=1", "has no parts"),
        ("organs.3.size=1", "no item 3"),
    ],
)
def test_a_wrong_override_says_what_would_be_right(setting, complaint):
    with pytest.raises(ConfigError, match=complaint):
        override(Whole(organs=(Part(),)), [setting])


def test_diff_lists_exactly_the_fields_that_differ():
    assert diff(Whole(), Whole()) == []
    assert diff(Whole(), Whole(part=Part(size=5), on=True)) == ["on: False -> True", "part.size: 4 -> 5"]


@pytest.mark.parametrize(
    "wrong", [{"vocab_size": 0}, {"context": 99, "max_positions": 98}, {"boundary_id": 16_512}, {"d_model": -1}]
)
def test_an_impossible_model_config_is_refused(wrong):
    with pytest.raises(ConfigError):
        ModelConfig(**wrong)


def test_many_names_are_not_listed():
    many = [str(number) for number in range(1000)]
    assert did_you_mean("x", many) == "Check its spelling."
    assert did_you_mean("x", many[:2]) == "Choose one of 0, 1."
    assert did_you_mean("9990", many).startswith("Did you mean 999")
