"""Configs: frozen values that rebuild what they describe.

A config is a frozen keyword-only dataclass registered under a `kind`. It turns into JSON and back without loss, takes
dotted overrides (`attention.n_heads=8`) and can be compared field by field. Fields hold numbers, strings, booleans,
other configs, and tuples of these; nothing else, so that any JSON reader can read a checkpoint's config.

Every number has a bound, held before anything is built from it: it is `AtMost` what its field says, or else MOST_WHOLE
and LARGEST. Numbers that are no whole ones are finite, and tuples of numbers or configs have at most MOST_ITEMS.
"""

import dataclasses
import difflib
import functools
import json
import math
import sys
import types
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar, cast

from positronic.errors import ConfigError

__all__ = [
    "AtMost",
    "Config",
    "MixerConfig",
    "ModelConfig",
    "OrganConfig",
    "canonical_json",
    "check_depth",
    "did_you_mean",
    "diff",
    "override",
    "shared_by",
]

MOST_WHOLE = 2**31 - 1
"""Largest whole number, either way, of a field that states no other."""
SMALLEST, LARGEST = 1e-20, 1e12
"""Sizes between which any other number lies, if it is not 0 and its field states no other bound."""
MOST_ITEMS = 64
"""Items of a tuple."""
DEEPEST = 64
"""Levels of objects and lists inside one another that any JSON of ours may have."""


class AtMost(NamedTuple):
    """`Annotated[int, AtMost(64)]`: the largest number, either way, that a field or an item of its tuple takes."""

    n: float


@dataclass(frozen=True, kw_only=True)
class Config:
    """The parent of every config: `@dataclass(frozen=True, kw_only=True) class XConfig(Config, kind="x")`."""

    kind: ClassVar[str] = ""
    registry: ClassVar[dict[str, type["Config"]]] = {}

    def __init_subclass__(cls, kind: str = "", **rest: Any):
        super().__init_subclass__(**rest)
        if kind:
            taken = Config.registry.get(kind)
            assert taken is None or taken.__qualname__ == cls.__qualname__, f"two configs of kind {kind!r}"
            cls.kind = kind
            Config.registry[kind] = cls

    def __post_init__(self) -> None:
        """Hold every number against its bound; a subclass with more to say calls this first."""
        for name, most in _bounds(cast(Hashable, type(self))).items():
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) > MOST_ITEMS and not isinstance(value[0], str):
                raise ConfigError(f"{self.kind}.{name} has {len(value)} items; use at most {MOST_ITEMS}.")
            for number in value if isinstance(value, tuple) else (value,):
                _check_size(number, most, f"{self.kind}.{name}")

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values; `kind` first, so that `from_json` knows the class."""
        body = {field.name: _encode(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"kind": self.kind, **body}

    @classmethod
    def from_json(cls, data: Any, where: str = "config") -> Self:
        """The config that `to_json` wrote. Unknown kinds, unknown keys and wrong types raise `ConfigError`."""
        try:
            check_depth(data)
        except ValueError as error:
            raise ConfigError(f"{where} is {error}; no config is. Give one that `describe --json` printed.") from None
        return cls._from_json(data, where)

    @classmethod
    def _from_json(cls, data: Any, where: str) -> Self:
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where} is {_short(data)}; a config is a JSON object with a 'kind'.")
        kind = data.get("kind")
        found = Config.registry.get(kind) if isinstance(kind, str) else None
        if found is None:
            raise ConfigError(
                f"{where}.kind is {_short(kind)}; this build knows {', '.join(sorted(Config.registry))}. "
                f"Use one of these, or upgrade positronic."
            )
        if not issubclass(found, cls):
            raise ConfigError(f"{where}.kind is {kind!r}, which is no {cls.__name__}; put a fitting config there.")
        hints = typing.get_type_hints(found)
        known = [field.name for field in dataclasses.fields(found)]
        values = {}
        for key, value in data.items():
            if key == "kind":
                continue
            if key not in known:
                raise ConfigError(f"{where} has no field {key!r}. {did_you_mean(key, known)}")
            values[key] = _decode(hints[key], value, f"{where}.{key}")
        required = [f.name for f in dataclasses.fields(found) if not _has_default(f)]
        missing = [name for name in required if name not in values]
        if missing:
            raise ConfigError(f"{where} lacks {', '.join(missing)}; add what is missing.")
        return found(**values)

    def replace(self, **changes: Any) -> Self:
        """A copy with these fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """What every family's config has."""

    vocab_size: Annotated[int, AtMost(2**20)] = 16_512
    """Entries of the vocabulary; a run takes it from its tokenizer."""
    d_model: Annotated[int, AtMost(65_536)] = 384
    """Width of the residual stream."""
    context: Annotated[int, AtMost(131_072)] = 1024
    """Tokens a row in training and evaluation."""
    max_positions: Annotated[int, AtMost(2**24)] = 4096
    """Tokens a sequence may ever have; longer prompts are refused."""
    boundary_id: int | None = None
    """Token between documents: it sees nothing, and what follows sees nothing before. None: one document a row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("vocab_size", "d_model", "context"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; use 1 or more.")
        if self.max_positions < self.context:
            raise ConfigError(
                f"max_positions is {self.max_positions}, less than context {self.context}; raise it to {self.context}."
            )
        if self.boundary_id is not None and not 0 <= self.boundary_id < self.vocab_size:
            raise ConfigError(
                f"boundary_id is {self.boundary_id}, outside the vocabulary of {self.vocab_size}; use a token's id."
            )

    def fitted(self, vocab_size: int, boundary_id: int) -> Self:
        """The config for a tokenizer: its vocabulary, and the token that ends a document."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        mixers = {name: part.fitted(vocab_size) for name, part in parts.items() if isinstance(part, MixerConfig)}
        return self.replace(vocab_size=vocab_size, boundary_id=boundary_id, **mixers)

    @property
    def loop_depths(self) -> Sequence[int]:
        """How often a loop in the trunk may be passed; none where there is no loop."""
        return ()

    @property
    def usual_depth(self) -> int:
        """How often the trunk is passed where nothing else is said."""
        return 1

    def check_loops(self, loops: Any) -> None:
        """Raise `ConfigError` where the trunk cannot be passed that often; None is the usual way of every family."""
        if loops is not None:
            raise ConfigError(f"--loops is {loops}, and a {self.kind} model has no loop; leave it out.")

    def build(self) -> Any:
        """The module this config describes, an `LM`; parameters are not filled yet (see `nn.init.initialize`)."""
        raise NotImplementedError(f"{type(self).__name__} must say which module it builds")


@dataclass(frozen=True, kw_only=True)
class MixerConfig(Config):
    """A part of the trunk: it builds an `lm.Mixer`."""

    def build(self, d_model: int, n_branches: int = 1) -> Any:
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        raise NotImplementedError(f"{type(self).__name__} must say which module it builds")

    def without_organs(self) -> Self:
        """The mixer alone."""
        return self

    def shared_parts(self, vocab_size: int) -> dict[str, Any]:
        """Modules by kind that all layers share, `lm.Shared` each, read as `Step.shared[kind]`."""
        return {}

    def fitted(self, vocab_size: int) -> Self:
        """The same for a vocabulary; most mixers fit any."""
        return self


@dataclass(frozen=True, kw_only=True)
class OrganConfig(Config):
    """A part of a bank; `rings` are the sizes of the groups it falls into: oscillators of a ring, axes of a tip."""

    def build(self, d_model: int, rings: tuple[int, ...]) -> Any:
        """One layer's part."""
        raise NotImplementedError(f"{type(self).__name__} must say which module it builds")

    def build_shared(self, vocab_size: int, rings: tuple[int, ...]) -> Any:
        """What all layers share, an `lm.Shared` read as `Step.shared[kind]`; None: nothing."""
        return None

    def fitted(self, vocab_size: int, rings: tuple[int, ...]) -> Self:
        """The same for a vocabulary; most organs fit any."""
        return self


def shared_by(organs: Iterable[OrganConfig | None], vocab_size: int, rings: tuple[int, ...]) -> dict[str, Any]:
    """What the organs of all layers share, by kind."""
    parts = {organ.kind: organ.build_shared(vocab_size, rings) for organ in organs if organ is not None}
    return {kind: part for kind, part in parts.items() if part is not None}


C = TypeVar("C", bound=Config)


def canonical_json(data: Any) -> str:
    """One spelling for equal JSON: sorted keys, no spaces. What hashes are taken of."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def override(config: C, settings: Iterable[str]) -> C:
    """`config` with settings of the form `a.b=value`, all of them at once: only the result has to be possible."""
    tree = config.to_json()
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {setting!r} is not of the form name=value; write attention.n_heads=8, say.")
        _put(tree, config, path.split("."), text, path)
    return type(config).from_json(tree, "--set")


def diff(ours: Config, theirs: Config) -> list[str]:
    """Lines `path: ours -> theirs` for every field that differs; empty when the configs are equal."""
    a, b = dict(_flatten(ours.to_json())), dict(_flatten(theirs.to_json()))
    return [
        f"{path}: {_short(a.get(path))} -> {_short(b.get(path))}"
        for path in sorted(a.keys() | b.keys())
        if a.get(path, _ABSENT) != b.get(path, _ABSENT)
    ]


LISTED = 50
"""Names that a sentence may list."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """One sentence with the nearest known names, or all, if none is near and they are not many."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {', '.join(near)}?"
    return f"Choose one of {', '.join(known)}." if len(known) <= LISTED else "Check its spelling."


def check_depth(data: Any, room: int = DEEPEST) -> None:
    """Raise `ValueError` if a JSON value has more than `room` levels: what reads it on must not run out of stack."""
    if isinstance(data, dict | list | tuple):
        if not room:
            raise ValueError(f"nested more than {DEEPEST} levels deep")
        for item in data.values() if isinstance(data, dict) else data:
            check_depth(item, room - 1)


_ABSENT = object()


@functools.cache
def _bounds(config: type[Config]) -> dict[str, float | None]:
    """The largest number that every field states."""
    hints = typing.get_type_hints(config, include_extras=True)
    marks = {field.name: getattr(hints[field.name], "__metadata__", ()) for field in dataclasses.fields(config)}
    return {name: next((m.n for m in found if isinstance(m, AtMost)), None) for name, found in marks.items()}


def _check_size(number: Any, stated: float | None, where: str) -> None:
    most = stated or (LARGEST if isinstance(number, float) else MOST_WHOLE)
    if isinstance(number, int) and number > most:
        raise ConfigError(f"{where} is {_short(number)}; use at most {most:,}.")
    if isinstance(number, int) and number < -max(most, MOST_WHOLE):
        raise ConfigError(f"{where} is {_short(number)}; use a number from {-MOST_WHOLE:,} on.")
    if isinstance(number, float) and not math.isfinite(number):
        raise ConfigError(f"{where} is {number}; use a finite number.")
    if isinstance(number, float) and number and not SMALLEST <= abs(number) <= most:
        raise ConfigError(f"{where} is {number}; use 0 or a size from {SMALLEST:g} to {most:g}.")


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _short(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 999:  # Python itself spells out no more than 4,300 digits
        return f"a number of {value.bit_length()} bits"
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _encode(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_json()
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value


def _flatten(data: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _flatten(value, f"{path}.{key}" if path else key)
    elif isinstance(data, list) and any(isinstance(item, dict) for item in data):
        for index, value in enumerate(data):
            yield from _flatten(value, f"{path}.{index}")
    else:
        yield path, data


def _decode(hint: Any, value: Any, where: str) -> Any:
    """`value`, a JSON value, as the type `hint`; the only place where types are checked."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        options = [a for a in arguments if a is not type(None)]
        if len(options) == 1:
            return _decode(options[0], value, where)
        for option in options:
            try:
                return _decode(option, value, where)
            except ConfigError:
                continue
        raise ConfigError(f"{where} is {_short(value)}; it must be one of {', '.join(map(str, options))}.")
    if origin is typing.Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        raise ConfigError(f"{where} is {_short(value)}; use one of {', '.join(map(repr, arguments))}.")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {_short(value)}; it must be a list.")
        return tuple(_decode(arguments[0], item, f"{where}.{index}") for index, item in enumerate(value))
    if isinstance(hint, type) and issubclass(hint, Config):
        return value if isinstance(value, hint) else hint._from_json(value, where)
    if hint is float and type(value) in (int, float) and _finite(value):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    name = getattr(hint, "__name__", str(hint))
    raise ConfigError(
        f"{where} is {_short(value)}; it must be {'a finite number' if hint is float else f'of type {name}'}."
    )


def _finite(number: int | float) -> bool:
    return abs(number) <= sys.float_info.max


def _put(tree: Any, config: Any, path: list[str], text: str, whole: str) -> None:
    """Write the text of an override into the JSON of `config`, at the place that `path` leads to."""
    head, rest = path[0], path[1:]
    if isinstance(config, tuple) and head.isdigit():
        if int(head) >= len(config):
            raise ConfigError(f"{whole}: there is no item {head}; the list has {len(config)}.")
        key: int | str = int(head)
        inside, hint = config[int(head)], None
    elif isinstance(config, Config):
        names = [field.name for field in dataclasses.fields(config)]
        if head not in names:
            raise ConfigError(f"--set {whole}: {config.kind} has no field {head!r}. {did_you_mean(head, names)}")
        key, inside, hint = head, getattr(config, head), typing.get_type_hints(type(config))[head]
    else:
        raise ConfigError(f"--set {whole} leads into {_short(config)}, which has no parts; set the part itself.")
    if rest:
        _put(tree[key], inside, rest, text, whole)
    else:
        tree[key] = _read(text, hint)


def _read(text: str, hint: Any) -> Any:
    """The text of an override as a JSON value: JSON where it parses and a plain string was not asked for."""
    if hint is str:
        return text
    if text in ("none", "None"):
        return None
    if text in ("True", "False"):
        return text == "True"
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, more digits than Python reads, or brackets without end
        return text
