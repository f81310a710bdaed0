"""The published configuration of Chimera 5.1, read as it stands: what it asks for, what waits, and what it claims.

    read(data).config      the model that its fields describe
    read(data).waiting     fields that nothing here reads yet
    read(data).unknown     fields that no edition of the format has
    declared(read(data))   every size that the file states beside what is computed from its own fields

A size agrees within 2 per cent, a count exactly. What the file says of programs and machines is not computed here.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Literal, NamedTuple, TypeVar, cast

from positronic.errors import ConfigError
from positronic.mixers.deep_memory import DeepMemoryConfig
from positronic.mixers.experts import ExpertsConfig
from positronic.mixers.gated_delta import GatedDeltaConfig
from positronic.mixers.mlstm import MLSTMConfig
from positronic.mixers.span_knot import SpanKnotConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.mixers.titans import TitansConfig
from positronic.models import outline
from positronic.models.chimera import ChimeraConfig, Kind
from positronic.nn.loop import LoopConfig
from positronic.nn.stack import Stack
from positronic.observe.describe import Description

__all__ = ["Declared", "Published", "declared", "is_published", "read"]

MODEL_TYPE = "chimera51"
ALIASES = {"GD": "gated_deltanet", "XM": "xlstm_m", "TM": "titans_mac", "SK": "tsp_span_knot"}
CONTEXT = 4096
GATE_RANK, KEY_HEADS, TRAINED_ABOVE = 128, 8, -10.0
"""What the file leaves open: rank of output gates, key heads of windows, start of mLSTM's input gates."""
TOLERANCE = 0.02
SUFFIXES = {"T": 10**12, "B": 10**9, "M": 10**6}
# fmt: off
WAITING = frozenset((
    "_name_or_path", "_v", "architectures", "auto_map", "token_ids", "torch_dtype", "use_cache",
    "transformers_version", "§", "quantization", "span_inference", "tsp_knot", "grammar", "semantic_memory",
    "entropy_valve", "debt_ledger", "self_evolution", "braid_state", "modes", "generation", "training", "byte_level",
    "memory_budget_mb", "deployment", "diagnostics", "context_tiers", "multimodal", "safety", "files", "params",
    "P3_ternary_compute",
))
# fmt: on
"""Fields that are kept: of programs, memories, training and claims."""
T = TypeVar("T")
Verdict = Literal["agrees", "contradicts", "not computed"]


class Published(NamedTuple):
    """A published configuration."""

    config: ChimeraConfig
    data: Mapping[str, Any]
    """The file as it was."""
    waiting: tuple[str, ...]
    """Fields at the top that are kept and not read."""
    unknown: tuple[str, ...]
    """Paths of fields that no edition has."""


class Declared(NamedTuple):
    """A size that the file states."""

    field: str
    declared: Any
    computed: Any
    verdict: Verdict


def is_published(data: Any) -> bool:
    """Whether a JSON value is such a file."""
    return isinstance(data, dict) and data.get("model_type") == MODEL_TYPE


def read(data: Mapping[str, Any]) -> Published:
    """The configuration; a wrong type, an unknown layer or counts that do not fit its pattern raise `ConfigError`."""
    fields = _Fields(data)
    fields.only("model_type", MODEL_TYPE)
    heads, width = fields.whole("num_heads"), fields.whole("head_dim")
    n_layers = fields.whole("num_hidden_layers")
    pattern = _pattern(fields, n_layers)
    looping, prelude, coda = _looping(fields, n_layers)
    efla = fields.flag("efla.enabled")
    delta: dict[str, Any] = {"n_heads": heads, "head_dim": width, "gate_rank": GATE_RANK}
    _check_memories(fields, width)
    fields.only("tie_word_embeddings", True)
    fields.only("rms_norm_before_every_linear", True)
    fields.only("rms_norm_eps", 1e-6)
    fields.only("hidden_act", "swiglu")
    config = ChimeraConfig(
        vocab_size=fields.whole("vocab_size"),
        d_model=fields.whole("hidden_size"),
        context=CONTEXT,
        max_positions=fields.whole("max_position_embeddings"),
        n_layers=n_layers,
        prelude=prelude,
        coda=coda,
        pattern=pattern,
        gated_delta=GatedDeltaConfig(**delta),
        mlstm=MLSTMConfig(**delta, input_bias=TRAINED_ABOVE),
        titans=_titans(fields, width),
        span_knot=SpanKnotConfig(**delta, efla=efla),
        channel=SwiGLUConfig(hidden=fields.whole("intermediate_size"), inner_norm=True),
        experts=_experts(fields, n_layers),
        looping=looping,
        init_std=fields.real("initializer_range"),
    )
    return Published(config, data, tuple(name for name in data if name in WAITING), tuple(fields.unread()))


class _Fields:
    """Fields by dotted path; each reading takes its field off the list of what is left."""

    def __init__(self, data: Mapping[str, Any]):
        self._data, self._read = data, set[str]()

    def get(self, path: str, fits: Callable[[Any], bool], what: str) -> Any:
        value: Any = self._data
        for name in path.split("."):
            if not isinstance(value, Mapping) or name not in value:
                raise ConfigError(f"The configuration lacks {path}; give the published file, or one of its form.")
            value = value[name]
        if not fits(value):
            raise ConfigError(f"{path} is {json.dumps(value)[:80]}; it must be {what}.")
        self._read.add(path)
        return value

    def whole(self, path: str) -> int:
        return int(self.get(path, lambda value: type(value) is int and value > 0, "a whole number above 0"))

    def real(self, path: str) -> float:
        return float(self.get(path, lambda value: type(value) in (int, float) and value > 0, "a number above 0"))

    def flag(self, path: str) -> bool:
        return bool(self.get(path, lambda value: isinstance(value, bool), "true or false"))

    def only(self, path: str, known: T) -> T:
        return cast(T, self.get(path, lambda value: value == known, f"{json.dumps(known)}: no other is built here"))

    def wholes(self, path: str, n: int | None = None) -> list[int]:
        fits: Callable[[Any], bool] = lambda value: (  # noqa: E731
            isinstance(value, list) and all(type(item) is int for item in value) and n in (None, len(value))
        )
        return list(self.get(path, fits, "a list of whole numbers" if n is None else f"a list of {n} whole numbers"))

    def unread(self) -> Iterator[str]:
        """Paths below the fields that are read here which nothing has read and no edition has."""
        for name, value in self._data.items():
            if name in WAITING:
                continue
            for path in _paths(value, name) if isinstance(value, Mapping) else [name]:
                known = path in self._read or path in IDLE or any(path.startswith(f"{one}.") for one in self._read)
                if not known and not path.endswith("§"):
                    yield path


# fmt: off
IDLE = frozenset((
    "backbone.type", "backbone.kv_cache", "backbone.moe.total_params", "backbone.moe.active_params_per_tok",
    "gated_deltanet.formulation", "gated_deltanet.alpha_gate", "gated_deltanet.beta_gate",
    "gated_deltanet.chunkwise_parallel", "gated_deltanet.chunk_size", "efla.target_layers", "xlstm.variant",
    "xlstm.exponential_gating", "xlstm.covariance_update", "xlstm.normalizer_state", "titans.surprise_metric",
    "titans.surprise_formula", "titans.forgetting_formula", "looping.method", "looping.stability_A",
    "looping.spectral_radius_bound", "looping.depth_selection", "looping.backward_truncation",
))
# fmt: on
"""Descriptions of what the layers are here in any case."""


def _paths(value: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, inside in value.items():
        if isinstance(inside, Mapping) and inside:
            yield from _paths(inside, f"{path}.{name}")
        else:
            yield f"{path}.{name}"


def _pattern(fields: _Fields, n_layers: int) -> tuple[Kind, ...]:
    text = fields.get(
        "backbone.layer_pattern", lambda value: isinstance(value, str) and bool(value.split()), "names of layers"
    )
    aliases = fields.get("backbone.layer_aliases", lambda value: isinstance(value, dict), "an object")
    for name, meant in aliases.items():
        if ALIASES.get(name) != meant:
            known = ", ".join(f"{short} for {long}" for short, long in ALIASES.items())
            raise ConfigError(f"backbone.layer_aliases has {name!r} for {meant!r}; this build knows {known}.")
    pattern = text.split()
    if strange := set(pattern) - set(aliases):
        raise ConfigError(f"backbone.layer_pattern names {min(strange)}, which backbone.layer_aliases lacks; add it.")
    counts = fields.get("backbone.layer_counts", lambda value: isinstance(value, dict), "an object")
    layers = [pattern[i % len(pattern)] for i in range(n_layers)]
    found = {name: layers.count(name) for name in dict.fromkeys(pattern)}
    if counts != found:
        raise ConfigError(
            f"backbone.layer_counts is {counts}, and the pattern makes {found} of {n_layers} layers; mend one."
        )
    repeat = fields.real("backbone.layer_pattern_repeat")
    if Fraction(repeat) * len(pattern) != n_layers:
        raise ConfigError(
            f"backbone.layer_pattern_repeat is {repeat}, and {len(pattern)} layers make {n_layers} when repeated "
            f"{n_layers / len(pattern)} times; mend one."
        )
    return cast(tuple[Kind, ...], tuple(pattern))


def _looping(fields: _Fields, n_layers: int) -> tuple[LoopConfig, int, int]:
    """How the loop is passed, and how many layers stand before and behind it."""
    fields.only("looping.enabled", True)
    spans = [fields.wholes(f"looping.{name}", 2) for name in ("prelude", "loop", "coda")]
    places = [i for first, last in spans for i in range(first, last + 1)]
    if places != list(range(n_layers)):
        raise ConfigError(
            f"looping has prelude, loop and coda {spans}, which are not the {n_layers} layers in order; mend them."
        )
    least, most = fields.wholes("looping.loop_range", 2)
    if least != 1:
        raise ConfigError(f"looping.loop_range begins with {least}; it must begin with 1.")
    usual, below = fields.whole("looping.loop_default"), fields.real("looping.adaptive_exit_threshold")
    config = LoopConfig(usual=usual, most=most, mean=float(usual), exit_below=below)
    return config, spans[1][0], n_layers - spans[2][0]


def _check_memories(fields: _Fields, width: int) -> None:
    """Sizes that the layers have from the heads."""
    fields.only("gated_deltanet.state_size", width)
    fields.only("gated_deltanet.key_norm", "l2")
    fields.only("xlstm.memory_size_per_head", [width, width])


def _titans(fields: _Fields, width: int) -> TitansConfig:
    fields.only("titans.memory_type", "MAC")
    fields.only("titans.memory_depth", 2)
    slots, window = fields.whole("titans.persistent_memory_slots"), fields.whole("titans.local_window_size")
    memory = DeepMemoryConfig(expand=1)
    return TitansConfig(n_kv_heads=KEY_HEADS, head_dim=width, slots=slots, window=window, memory=memory)


def _experts(fields: _Fields, n_layers: int) -> ExpertsConfig:
    fields.only("backbone.moe.enabled", True)
    fields.only("backbone.moe.n_shared_experts", 1)
    fields.only("backbone.moe.routing", "noaux_bias")
    fields.only("backbone.moe.layers", list(range(3, n_layers, 4)))
    return ExpertsConfig(
        experts=fields.whole("backbone.moe.n_routed_experts"),
        top=fields.whole("backbone.moe.num_experts_per_tok"),
        hidden=fields.whole("backbone.moe.moe_intermediate_size"),
    )


def declared(published: Published, found: Description) -> list[Declared]:
    """Every size that the file states, beside what its own fields make of it."""
    data, computed = published.data, _computed(published, found)
    sizes = [_judged(path, _at(data, path), value) for path, value in computed.items()]
    return sizes + [Declared(path, _at(data, path), None, "not computed") for path in NOT_COMPUTED]


NOT_COMPUTED = (
    "params.weight_mb",
    "span_inference.bank_memory_mb",
    "grammar.storage_mb",
    "semantic_memory.memory_mb",
    "modes.fast.tps",
    "modes.balanced.tps",
    "modes.reasoning.tps",
    "deployment.cold_start_s",
)
"""Sizes and speeds of what is not built here, or that only a machine can say."""


def _computed(published: Published, found: Description) -> dict[str, Any]:
    """What the fields make of each size, by the path of the size."""
    config, data = published.config, published.data
    experts = config.experts
    assert experts is not None, "published models have experts"
    layers = [config.pattern[i % len(config.pattern)] for i in range(config.n_layers)]
    with_experts = [i for i in range(config.n_layers) if isinstance(config.layer(i)[1], ExpertsConfig)]
    one = 3 * config.d_model * experts.hidden
    trunk = cast(Stack, outline(config).trunk)
    loop = sum(p.numel() for i in trunk.sections["loop"] for p in trunk[i].parameters())
    ring = 2 * config.titans.window * config.titans.n_kv_heads * config.titans.head_dim * 4
    budget = _at(data, "memory_budget_mb._vals")
    total = sum(budget) if budget else None
    growth = _at(data, "self_evolution.safety.max_growth_mb")
    return {
        "hidden_size": config.gated_delta.n_heads * config.gated_delta.head_dim,
        "quantization.group_size": math.gcd(config.d_model, config.channel.hidden, experts.hidden),
        "backbone.layer_counts": {name: layers.count(name) for name in dict.fromkeys(config.pattern)},
        "backbone.kv_cache": f"{ring * layers.count('TM') / 1e6:.1f} MB",
        "backbone.moe.total_params": found.groups["experts"],
        "backbone.moe.active_params_per_tok": (experts.top + 1) * one * len(with_experts),
        "self_evolution.tier1.ttt.target_layers": [
            i for i in _at(data, "self_evolution.tier1.ttt.target_layers") or [] if i not in with_experts
        ],
        "braid_state.per_stream_mb": found.state_fixed / 1e6,
        "braid_state.kv_growth_per_token": found.state_per_token,
        "memory_budget_mb.total": total,
        "memory_budget_mb.headroom_8gb": None if total is None else 8000 - total,
        "memory_budget_mb.growth_ceiling": sum(growth.values()) if growth else None,
        "deployment.per_stream_mb": found.state_fixed / 1e6,
        "params.base": found.total - found.groups["experts"],
        "params.moe_total": found.groups["experts"],
        "params.physical": found.total,
        "params.effective_2loops": found.total + loop,
        "params.effective_6loops": found.total + 5 * loop,
        "params.active_per_token": found.active,
        "params.total_mb": total,
    }


def _at(data: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    value: Any = data
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _judged(path: str, stated: Any, computed: Any) -> Declared:
    if stated is None or computed is None:
        return Declared(path, stated, computed, "not computed")
    size = _number(stated)
    if size is None or isinstance(stated, int):
        agrees = stated == computed or (isinstance(computed, float) and abs(computed - stated) <= TOLERANCE * stated)
    else:
        agrees = abs(computed - size) <= TOLERANCE * size
    return Declared(path, stated, computed, "agrees" if agrees else "contradicts")


def _number(stated: Any) -> float | None:
    """What "2.3B" means; None of what is no number with a suffix."""
    if not isinstance(stated, str) or stated[-1:] not in SUFFIXES:
        return None
    return float(stated[:-1]) * SUFFIXES[stated[-1]]
