"""No number of any config can ask for more than a machine has: it is refused in a sentence, or built small and soon."""

import math
import typing
from dataclasses import MISSING, dataclass, fields
from typing import Annotated

import pytest

from bounded import bounded
from config_walk import MODEL_PARTS, WHOLE, at, every_kind, nodes, put
from positronic.config import DEEPEST, MOST_ITEMS, MOST_WHOLE, AtMost, Config, ModelConfig, override
from positronic.errors import ConfigError
from positronic.models import build, preset
from positronic.observe import describe

WHOLE_NUMBERS = [10**6, 10**9, 10**12, 10**29, 10**400, -1, -(10**9), -(10**29), 0]
NUMBERS = [1e6, 1e9, 1e12, 1e29, 1e300, 10**400, -1.0, 0.0, 1e-310, math.nan, math.inf, -math.inf]
TEXTS = [
    "1e29",
    "9" * 5000,
    "-" + "9" * 5000,
    "[" * 5000,
    "[[1]]",
    "nan",
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1",
]
UNBOUNDED = {("model", "boundary_id"), ("fractal_phase", "sha256")}
"""Numbers that no size follows from: an id below the vocabulary's."""


def numeric(config: type[Config]) -> dict[str, typing.Any]:
    """Fields that hold whole numbers, or any, by name; with what they say of their bounds."""
    hints = typing.get_type_hints(config, include_extras=True)
    found = {f.name: hints[f.name] for f in fields(config) if "Literal" not in str(hints[f.name])}
    return {name: hint for name, hint in found.items() if "int" in str(hint) or "float" in str(hint)}


def cases():
    """Model, path and values of each number of each config of a model, once a kind."""
    seen = set()
    for name, model in WHOLE.items():
        for path, config in nodes(model):
            for field, hint in numeric(type(config)).items():
                if (config.kind, field) not in seen or config is model:
                    seen.add((config.kind, field))
                    yield pytest.param(name, (*path, field), hint, id=".".join(map(str, (name, *path, field))))


def test_every_config_of_a_model_is_walked():
    walked = {config.kind for model in WHOLE.values() for _, config in nodes(model)}
    assert walked == {kind for kind, found in every_kind().items() if found.__module__.startswith(MODEL_PARTS)}


@pytest.mark.parametrize(("model", "path", "hint"), cases())
def test_a_size_out_of_all_proportion_is_refused_or_harmless(model, path, hint):
    tree = WHOLE[model].to_json()
    values = NUMBERS if "float" in str(hint) else WHOLE_NUMBERS
    whole = at(tree, path)
    for value in values:
        wrong = [value] * len(whole) if isinstance(whole, list) else value
        said = bounded(lambda wrong=wrong: describe(ModelConfig.from_json(put(tree, path, wrong))))
        beyond = not math.isfinite(value) if isinstance(value, float) else abs(value) >= 10**29
        assert isinstance(said, str) or not beyond, f"{value} was taken"


@pytest.mark.parametrize(("model", "path", "hint"), cases())
def test_an_override_out_of_all_proportion_is_refused(model, path, hint):
    for text in TEXTS:
        setting = f"{'.'.join(map(str, path))}={text}"
        bounded(lambda setting=setting: describe(override(WHOLE[model], [setting])))


@pytest.mark.parametrize("kind", every_kind())
def test_every_number_of_every_config_is_held_when_it_is_made(kind):
    """In Python, too, where no JSON is read."""
    config = every_kind()[kind]
    needed = {"name": "x", "weight": 1.0, "data": ("x",), "model": preset("tinygpt-tiny")}
    if kind == "lora":
        needed["model"] = "x"
    given = {f.name: needed[f.name] for f in fields(config) if f.default is MISSING and f.default_factory is MISSING}
    for field, hint in numeric(config).items():
        for value in (10**39, math.nan, math.inf, -math.inf) if "float" in str(hint) else (10**29, -(10**29)):
            wrong = (value,) if "tuple" in str(hint) else value
            with pytest.raises(ConfigError, match=rf"{field}.* is |{field}s? are "):
                config(**{**given, field: wrong})


@pytest.mark.parametrize(
    "kind", [kind for kind, found in every_kind().items() if found.__module__.startswith(MODEL_PARTS)]
)
def test_every_whole_number_that_a_model_is_built_from_states_its_bound(kind):
    for field, hint in numeric(every_kind()[kind]).items():
        if "int" in str(hint) and "float" not in str(hint) and ("model", field) not in UNBOUNDED:
            marks = getattr(hint, "__metadata__", ())
            assert any(isinstance(mark, AtMost) for mark in marks), f"{kind}.{field} states no bound"


@pytest.mark.slow
@pytest.mark.parametrize(("model", "path", "hint"), cases())
def test_at_its_bound_a_size_is_refused_or_counted_in_little_time_and_memory(model, path, hint):
    most = next((mark.n for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, AtMost)), MOST_WHOLE)
    tree = WHOLE[model].to_json()
    whole = at(tree, path)
    wrong = [most] * len(whole) if isinstance(whole, list) else most
    bounded(lambda: describe(ModelConfig.from_json(put(tree, path, wrong))))


@dataclass(frozen=True, kw_only=True)
class Sized(Config, kind="test-sized"):
    width: Annotated[int, AtMost(8)] = 4
    parts: Annotated[tuple[int, ...], AtMost(8)] = (1, 2)
    share: float = 0.5
    rest: int = 0
    inner: Config | None = None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"width": 9}, "test-sized.width is 9; use at most 8."),
        ({"parts": (1, 9)}, "test-sized.parts is 9; use at most 8."),
        ({"parts": (1,) * 65}, f"test-sized.parts has 65 items; use at most {MOST_ITEMS}."),
        ({"share": 1e13}, "test-sized.share is 10000000000000.0; use 0 or a size from 1e-20 to 1e+12."),
        ({"share": 1e-30}, "test-sized.share is 1e-30; use 0 or a size from 1e-20 to 1e+12."),
        ({"share": math.nan}, "test-sized.share is nan; use a finite number."),
        ({"rest": 2**31}, "test-sized.rest is 2147483648; use at most 2,147,483,647."),
        ({"rest": 10**5000}, "test-sized.rest is a number of 16610 bits; use at most 2,147,483,647."),
    ],
)
def test_a_refusal_names_the_field_the_number_and_the_bound(wrong, said):
    with pytest.raises(ConfigError) as error:
        Sized(**wrong)
    assert str(error.value) == said


def test_bounds_themselves_are_taken():
    made = Sized(width=8, parts=(8,) * MOST_ITEMS, share=1e12, rest=-MOST_WHOLE)
    assert Config.from_json(made.to_json()) == made
    assert Sized(share=-1e-20).share == -1e-20


@pytest.mark.parametrize("levels", [DEEPEST, 500, 5000])
@pytest.mark.parametrize(
    "wrap", [lambda x: [x], lambda x: {"kind": "test-sized", "inner": x}], ids=["lists", "configs"]
)
def test_a_config_without_end_is_refused_in_a_sentence(levels, wrap):
    tree = {"kind": "test-sized"}
    for _ in range(levels):
        tree = wrap(tree)
    with pytest.raises(ConfigError, match=r"nested more than 64 levels deep"):
        Config.from_json({"kind": "test-sized", "inner": tree})


def test_layers_without_end_are_refused_before_they_are_built():
    config = preset("positronic-tiny")
    many = config.replace(n_layers=256, oscillators=config.oscillators.replace(rings=(1,) * 32))
    many = many.replace(refiners=config.refiners * 32)
    organs = config.oscillators.injections[-1:] * 60
    many = many.replace(oscillators=many.oscillators.replace(injections=organs))
    assert "more than 65,536 parameter tensors" in bounded(lambda: describe(many))


def test_weights_that_no_memory_holds_are_refused_before_they_are_asked_for():
    config = preset("tinygpt-tiny")
    wide = config.replace(d_model=65_536, n_layers=64, channel=config.channel.replace(hidden=262_144))
    assert "GiB" in bounded(lambda: build(wide))
