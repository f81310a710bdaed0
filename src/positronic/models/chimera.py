"""Family `chimera`: a recurrent hybrid without a growing cache, whose middle is passed as often as asked.

tokens -> embedding -> prelude -> loop x R -> coda = hidden    each a run of layers [ + token mixer -> + channel mixer ]
hidden -> norm -> scale -> embedding^T -> logits            hidden -> drafts (tokens after the next), latents (training)

Token mixers repeat a pattern: gated delta (GD, a matrix), mLSTM (XM, an exponential gate), Titans (TM, a network
trained while it reads, beside a window), span knot (SK, a matrix). Every fourth layer mixes channels by experts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from positronic.config import MixerConfig
from positronic.errors import ConfigError
from positronic.mixers.deep_memory import DeepMemoryConfig
from positronic.mixers.experts import ExpertsConfig
from positronic.mixers.gated_delta import GatedDeltaConfig
from positronic.mixers.mlstm import MLSTMConfig
from positronic.mixers.span_knot import SpanKnotConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.mixers.titans import TitansConfig
from positronic.models.language_model import TINY, Anatomy, HeadedConfig, LanguageModel, Layers
from positronic.nn.linear import INIT_STD
from positronic.nn.loop import SECTIONS, LoopConfig, Looped
from positronic.nn.ternary import TernaryConfig, convert

__all__ = ["PRESETS", "ChimeraConfig"]

Kind = Literal["GD", "XM", "TM", "SK"]
EIGHT: tuple[Kind, ...] = ("GD", "XM", "GD", "TM", "GD", "XM", "GD", "SK")
"""The published pattern."""


@dataclass(frozen=True, kw_only=True)
class ChimeraConfig(HeadedConfig, kind="chimera"):
    n_layers: Layers = 12
    """Pairs of token mixer and channel mixer, those of prelude, loop and coda together."""
    prelude: Layers = 4
    """Layers before the loop."""
    coda: Layers = 4
    """Layers behind the loop."""
    pattern: tuple[Kind, ...] = EIGHT
    """Token mixers of the layers, repeated: GD gated delta, XM mLSTM, TM Titans, SK span knot."""
    gated_delta: GatedDeltaConfig = GatedDeltaConfig(n_heads=6, gate_rank=64)
    mlstm: MLSTMConfig = MLSTMConfig(n_heads=6, gate_rank=64, input_bias=-3.0)
    titans: TitansConfig = TitansConfig(n_kv_heads=2)
    span_knot: SpanKnotConfig = SpanKnotConfig(n_heads=6, gate_rank=64)
    channel: SwiGLUConfig = SwiGLUConfig(hidden=1152, inner_norm=True)
    """Channel mixer of the layers without experts."""
    experts: ExpertsConfig | None = ExpertsConfig(experts=8, hidden=256)
    """Channel mixer of every `experts_every`-th layer; None: of none."""
    experts_every: Layers = 4
    """Distance between layers with experts; the last of so many has them."""
    looping: LoopConfig = LoopConfig()
    """How the loop is passed."""
    init_std: float = INIT_STD
    """Standard deviation of matrices at the start."""
    weights: TernaryConfig | None = None
    """Round the trunk's matrices to three values; None: floats."""

    def build(self) -> LanguageModel:
        model = super().build()
        return model if self.weights is None else convert(model, self.weights)

    def _check(self) -> None:
        strange = set(self.pattern) - set(self._mixers)
        if strange or not self.pattern:
            raise ConfigError(
                f"chimera.pattern is {self.pattern}; name one mixer or more, each of {', '.join(self._mixers)}."
            )
        if self.prelude < 0 or self.coda < 0 or self.prelude + self.coda >= self.n_layers:
            raise ConfigError(
                f"chimera has {self.n_layers} layers, {self.prelude} in the prelude and {self.coda} in the coda, which "
                f"leaves none to the loop; raise n_layers or lower the others."
            )
        if self.experts_every < 1:
            raise ConfigError(f"chimera.experts_every is {self.experts_every}; use 1 or more (4 is usual).")

    @property
    def _mixers(self) -> dict[str, MixerConfig]:
        return {"GD": self.gated_delta, "XM": self.mlstm, "TM": self.titans, "SK": self.span_knot}

    def layer(self, i: int) -> tuple[MixerConfig, MixerConfig]:
        """Token mixer and channel mixer of layer i."""
        token = self._mixers[self.pattern[i % len(self.pattern)]]
        experts = self.experts if (i + 1) % self.experts_every == 0 else None
        return token, experts or self.channel

    @property
    def loop_depths(self) -> Sequence[int]:
        return self.looping.depths

    @property
    def usual_depth(self) -> int:
        return self.looping.usual

    def check_loops(self, loops: Any) -> None:
        self.looping.check(loops, least=1)

    def anatomy(self) -> Anatomy:
        self._check()
        runs = range(self.prelude), range(self.prelude, self.n_layers - self.coda)
        spans = dict(zip(SECTIONS, (*runs, range(self.n_layers - self.coda, self.n_layers)), strict=True))
        sections = {name: tuple(mixer for i in span for mixer in self.layer(i)) for name, span in spans.items()}
        passed = self.prelude + self.coda + len(spans["loop"]) * self.looping.mean_depth
        walk = partial(Looped, self.looping, self.d_model)
        return Anatomy(sections, self.drafts, self.latents, walk=walk, branches=round(2 * passed))


def _chimera(
    heads: int,
    hidden: int,
    experts: tuple[int, int],
    vocab_size: int,
    *,
    rank: int = 64,
    kv_heads: int = 1,
    window: int = 256,
    expand: int = 2,
    input_bias: float = -3.0,
    n_layers: int = 12,
    context: int = 1024,
    max_positions: int = 4096,
    init_std: float = INIT_STD,
) -> ChimeraConfig:
    titans = TitansConfig(n_kv_heads=kv_heads, window=window, memory=DeepMemoryConfig(expand=expand))
    return ChimeraConfig(
        d_model=64 * heads,
        n_layers=n_layers,
        vocab_size=vocab_size,
        context=context,
        max_positions=max_positions,
        gated_delta=GatedDeltaConfig(n_heads=heads, gate_rank=rank),
        mlstm=MLSTMConfig(n_heads=heads, gate_rank=rank, input_bias=input_bias),
        titans=titans,
        span_knot=SpanKnotConfig(n_heads=heads, gate_rank=rank),
        channel=SwiGLUConfig(hidden=hidden, inner_norm=True),
        experts=ExpertsConfig(experts=experts[0], hidden=experts[1]),
        init_std=init_std,
    )


def _rounded(made: Callable[[], ChimeraConfig]) -> ChimeraConfig:
    return made().replace(weights=TernaryConfig())


_LARGE: dict[str, Any] = {
    "context": 4096,
    "max_positions": 4_194_304,
    "window": 1024,
    "input_bias": -10.0,
    "n_layers": 28,
}
_FULL: dict[str, Any] = {"rank": 128, "kv_heads": 8, "expand": 1, **_LARGE}
PRESETS: dict[str, Callable[[], ChimeraConfig]] = {
    "chimera-tiny": lambda: _chimera(2, 384, (4, 128), window=64, **TINY),
    "chimera-10m": lambda: _chimera(4, 640, (4, 128), 384),
    "chimera-35m": lambda: _chimera(6, 1152, (8, 256), 16_512, kv_heads=2),
    "chimera-150m": lambda: _chimera(10, 1792, (16, 256), 32_768, kv_heads=2, n_layers=20, input_bias=-10.0),
    "chimera-700m": lambda: _chimera(20, 3456, (16, 256), 65_536, rank=128, kv_heads=4, **_LARGE),
    "chimera-2.7b": lambda: _chimera(40, 6912, (16, 384), 200_073, **_FULL),
    "chimera-seed": lambda: _chimera(40, 6912, (16, 1728), 200_073, init_std=0.006, **_FULL),
}
"""From 3.4 M parameters, which train in minutes on two cores, to the published configuration; three also rounded."""
PRESETS |= {
    f"{name}-ternary": partial(_rounded, PRESETS[name]) for name in ("chimera-tiny", "chimera-35m", "chimera-150m")
}
