"""A language model of any family: what all are made of, in the order in which a token passes it.

tokens -> embedding (+ learned places) -> [ + mixer + mixer ] x L -> + refiners = hidden
hidden -> head -> logits            hidden -> drafts (tokens after the next), latents (training)

A family says which mixers make a layer and what stands behind them, its `Anatomy`; `embed`, `trunk`, `head`, `drafts`
and `latents` are found under these names by optimizers, checkpoints, adapters, health and ablation. Beside the trunk
stand the parts that layers share, and what mixers want computed once a call rides in `Step.shared`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar

from torch import Tensor, nn

from positronic.config import AtMost, MixerConfig, ModelConfig
from positronic.errors import ConfigError
from positronic.lm import DraftHeads, LatentHead, LMOutput
from positronic.nn.head import LMHead
from positronic.nn.linear import Embedding, linear
from positronic.nn.norm import NormConfig, RMSNormConfig
from positronic.nn.positions import LearnedPositions
from positronic.nn.stack import Residual, SharedParts, Stack, Straight, Walk
from positronic.state import DecodeState, ForwardOptions, Step
from positronic.traits.jepa import JEPAConfig
from positronic.traits.mtp import MTPConfig

__all__ = ["TINY", "Anatomy", "HeadedConfig", "LanguageModel", "LayeredConfig", "Layers", "layered", "mixer_only"]

TINY: Mapping[str, Any] = {"vocab_size": 2048, "context": 256, "max_positions": 2048}
"""Of presets that train in minutes on two CPU cores."""

Layers = Annotated[int, AtMost(256)]
"""How often a layer is repeated."""


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model, in the order of its figure."""

    sections: Mapping[str, tuple[MixerConfig, ...]]
    """Mixers of the trunk, by section in order; token mixers first in every layer."""
    drafts: MTPConfig | None = None
    latents: JEPAConfig | None = None
    norm: NormConfig = RMSNormConfig()
    """Of what the head reads."""
    learned_positions: bool = False
    tied: bool = True
    """Whether the head multiplies by the embedding itself."""
    walk: Callable[[], Walk] = Straight
    """Makes the way through the trunk."""
    branches: int | None = None
    """How many residual branches a token passes, which sets the scale of each at the start; None: the first section."""


def layered(
    n_layers: int, *layer: MixerConfig, refiners: tuple[MixerConfig, ...] = ()
) -> dict[str, tuple[MixerConfig, ...]]:
    """The sections of a trunk whose layers are all alike, with what stands behind the last."""
    return {"layers": layer * n_layers, "refiners": refiners}


@dataclass(frozen=True, kw_only=True)
class LayeredConfig(ModelConfig):
    """The parent of all families."""

    n_layers: Layers = 6
    """Layers of a token mixer and a channel mixer each."""

    def anatomy(self) -> Anatomy:
        """What the model is made of."""
        raise NotImplementedError(f"{type(self).__name__} must say what its model is made of")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_layers < 1:
            raise ConfigError(f"n_layers is {self.n_layers}; use 1 or more.")
        parts = self.anatomy()
        for head in (parts.drafts, parts.latents):
            if head is not None:
                head.check_context(self.context)

    def build(self) -> "LanguageModel":
        return LanguageModel(self)


@dataclass(frozen=True, kw_only=True)
class HeadedConfig(LayeredConfig):
    """The parent of families whose models guess ahead."""

    drafts: MTPConfig | None = None
    """Heads that guess the tokens after the next."""
    latents: JEPAConfig | None = None
    """Head that guesses the trunk's own output, in training."""


H = TypeVar("H", bound=HeadedConfig)


def mixer_only(config: H) -> H:
    """The same trunk without organs, refiners and heads: what a family's mixers alone are worth."""
    parts = {field.name: getattr(config, field.name) for field in fields(config)}
    bare = {name: part.without_organs() for name, part in parts.items() if isinstance(part, MixerConfig)}
    silent = {"refiners": (), "drafts": None, "latents": None}
    return config.replace(**bare, **{name: part for name, part in silent.items() if name in parts})


class LanguageModel(nn.Module):
    def __init__(self, config: LayeredConfig):
        super().__init__()
        self.config = config
        d, parts = config.d_model, config.anatomy()
        mixers = [mixer for section in parts.sections.values() for mixer in section]
        branches = parts.branches or len(next(iter(parts.sections.values())))
        self.embed = Embedding(config.vocab_size, d)
        self.positions = LearnedPositions(config.max_positions, d) if parts.learned_positions else None
        self.shared = SharedParts.of(mixers, config.vocab_size)
        self.trunk = Stack(
            *(Residual(mixer.build(d, branches)) for mixer in mixers),
            sections={name: len(section) for name, section in parts.sections.items()},
        )
        self.walk = parts.walk()
        self.head = LMHead(d, parts.norm)
        self.unembed = None if parts.tied else linear(d, config.vocab_size)
        self.drafts: DraftHeads | None = None if parts.drafts is None else parts.drafts.build(d)
        self.latents: LatentHead | None = None if parts.latents is None else parts.latents.build(d)

    def init_state(self, batch: int, capacity: int = 0) -> DecodeState:
        layers = [*self.walk.init_state(self.trunk, batch, capacity), *self.shared.init_state(batch, capacity)]
        return DecodeState.new(layers, batch, self.embed.weight.device, capacity)

    def forward(
        self, tokens: Tensor, state: DecodeState | None = None, options: ForwardOptions | None = None
    ) -> LMOutput:
        boundary = self.config.boundary_id
        step = self.trunk.prepared(Step.of(tokens, state, options, boundary), whole_rows=state is None)
        of_shared = None if state is None else len(state.layers) - len(self.shared)
        trunk, shared = (None, None) if state is None else (state.layers[:of_shared], state.layers[of_shared:])
        step, shared_after = self.shared(step, shared)
        x = self.embed(step.tokens)
        if self.positions is not None:
            x = x + self.positions(step)
        x, trunk_after, aux = self.walk(self.trunk, x, step, trunk)
        return LMOutput(x, step.next_state(state, [*trunk_after, *shared_after], boundary), aux)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden, self.embed) if self.unembed is None else self.unembed(self.head.scaled(hidden))
