"""Configs: frozen values that rebuild what they describe.

A config is a frozen keyword-only dataclass registered under a `kind`. It turns into JSON and back without loss, takes
dotted overrides (`attention.n_heads=8`) and can be compared field by field. Fields hold numbers, strings, booleans,
other configs, and tuples of these; nothing else, so that any JSON reader can read a checkpoint's config.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from positronic.errors import ConfigError

__all__ = ["Config", "MixerConfig", "ModelConfig", "OrganConfig", "canonical_json", "did_you_mean", "diff", "override"]


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

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values; `kind` first, so that `from_json` knows the class."""
        body = {field.name: _encode(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"kind": self.kind, **body}

    @classmethod
    def from_json(cls, data: Any, where: str = "config") -> Self:
        """The config that `to_json` wrote. Unknown kinds, unknown keys and wrong types raise `ConfigError`."""
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

    vocab_size: int = 16_512
    """Entries of the vocabulary; a run takes it from its tokenizer."""
    d_model: int = 384
    """Width of the residual stream."""
    context: int = 1024
    """Tokens a row in training and evaluation."""
    max_positions: int = 4096
    """Tokens a sequence may ever have; longer prompts are refused."""
    boundary_id: int | None = None
    """Token that ends a document: what follows it starts afresh and sees nothing before. None: one document a row."""

    def __post_init__(self) -> None:
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

    def build(self) -> Any:
        """The module this config describes, an `LM`; parameters are not filled yet (see `nn.init.initialize`)."""
        raise NotImplementedError(f"{type(self).__name__} must say which module it builds")


@dataclass(frozen=True, kw_only=True)
class MixerConfig(Config):
    """A part of the trunk: it builds an `lm.Mixer`."""

    def build(self, d_model: int, n_branches: int = 1) -> Any:
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        raise NotImplementedError(f"{type(self).__name__} must say which module it builds")

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


_ABSENT = object()


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _short(value: Any) -> str:
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
        return value if isinstance(value, hint) else hint.from_json(value, where)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    name = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{where} is {_short(value)}; it must be {'a number' if hint is float else f'of type {name}'}.")


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
    except (json.JSONDecodeError, RecursionError):
        return text
