"""Family `mycel`: attention and colonies of growing tips, with stations among them and organs after the trunk.

tokens -> embedding -> [ + attention -> + colony(seed, stations) ] x L -> + HRM -> + MoE = hidden
hidden -> norm -> scale -> embedding^T -> logits            hidden -> drafts (tokens after the next), latents (training)
"""

from dataclasses import dataclass, replace
from typing import Annotated

from torch import Tensor, nn

from positronic.config import AtMost, MixerConfig, ModelConfig
from positronic.errors import ConfigError
from positronic.lm import LMOutput
from positronic.mixers.attention import AttentionConfig, Layout
from positronic.mixers.colony import ColonyConfig
from positronic.mixers.moe import MoEConfig
from positronic.nn.head import LMHead
from positronic.nn.linear import Embedding
from positronic.nn.stack import Residual, Stack
from positronic.state import DecodeState, Step
from positronic.traits.fractal_phase import FractalPhaseConfig
from positronic.traits.hrm import HRMConfig
from positronic.traits.jepa import JEPAConfig
from positronic.traits.mtp import MTPConfig
from positronic.traits.stations import StationsConfig

__all__ = ["Mycel", "MycelConfig", "mixer_only", "mycel_10m", "mycel_79m", "mycel_tiny"]


@dataclass(frozen=True, kw_only=True)
class MycelConfig(ModelConfig, kind="mycel"):
    n_layers: Annotated[int, AtMost(256)] = 10
    """Pairs of token mixer and channel mixer."""
    attention: AttentionConfig = AttentionConfig()
    """Token mixer of every layer."""
    colony: ColonyConfig = ColonyConfig()
    """Channel mixer of every layer, with its organs."""
    refiners: tuple[MixerConfig, ...] = ()
    """Mixers behind the last layer, silent when new."""
    drafts: MTPConfig | None = None
    """Heads that guess the tokens after the next."""
    latents: JEPAConfig | None = None
    """Head that guesses the trunk's own output, in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_layers < 1:
            raise ConfigError(f"n_layers is {self.n_layers}; use 1 or more.")
        for head in (self.drafts, self.latents):
            if head is not None:
                head.check_context(self.context)

    def build(self) -> "Mycel":
        return Mycel(self)


class Mycel(nn.Module):
    def __init__(self, config: MycelConfig):
        super().__init__()
        self.config = config
        d, layers = config.d_model, [config.attention, config.colony] * config.n_layers
        self.embed = Embedding(config.vocab_size, d)
        self.shared = config.colony.shared_parts(config.vocab_size)
        self.trunk = Stack(*(Residual(part.build(d, len(layers))) for part in (*layers, *config.refiners)))
        self.head = LMHead(d)
        self.drafts = None if config.drafts is None else config.drafts.build(d)
        self.latents = None if config.latents is None else config.latents.build(d)

    def init_state(self, batch: int, room: int = 0) -> DecodeState:
        layers = [*self.trunk.init_state(batch, room), *self.shared.init_state(batch, room)]
        return DecodeState.new(layers, batch, self.embed.weight.device)

    def forward(self, tokens: Tensor, state: DecodeState | None = None, step: Step | None = None) -> LMOutput:
        boundary, depth = self.config.boundary_id, len(self.trunk)
        step = Step.of(tokens, state, step, boundary)
        step = replace(step, shared={"attention": Layout.of(self.config.attention, step, state is None)})
        step, shared = self.shared(step, state and state.layers[depth:])
        x, layers, aux = self.trunk(self.embed(tokens), step, state and state.layers[:depth])
        return LMOutput(x, step.next_state(state, [*layers, *shared], boundary), aux)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden, self.embed)


def mycel_79m() -> MycelConfig:
    """79,423,838 parameters: the published model with every organ."""
    return MycelConfig(
        d_model=768,
        context=2048,
        colony=ColonyConfig(phase_seed=FractalPhaseConfig(levels=4), stations=StationsConfig()),
        refiners=(HRMConfig(), MoEConfig()),
        drafts=MTPConfig(),
        latents=JEPAConfig(),
    )


def mycel_10m() -> MycelConfig:
    """The same anatomy at 10 M parameters, which talk on a laptop."""
    return MycelConfig(
        d_model=256,
        context=1024,
        n_layers=6,
        attention=AttentionConfig(n_heads=4, n_kv_heads=2, rank=128),
        colony=ColonyConfig(phase_seed=FractalPhaseConfig(levels=4), stations=StationsConfig(stations=8)),
        refiners=(HRMConfig(hidden=320), MoEConfig(hidden=320)),
        drafts=MTPConfig(hidden=128),
        latents=JEPAConfig(hidden=128),
    )


def mycel_tiny() -> MycelConfig:
    """2.6 M parameters and the same anatomy, with a vocabulary of 2,048: trains in minutes on two CPU cores."""
    return MycelConfig(
        vocab_size=2048,
        d_model=192,
        context=256,
        max_positions=2048,
        n_layers=3,
        attention=AttentionConfig(n_heads=3, n_kv_heads=1, rank=96),
        colony=ColonyConfig(
            tips=24, centres=8, phase_seed=FractalPhaseConfig(levels=4), stations=StationsConfig(stations=4)
        ),
        refiners=(HRMConfig(hidden=320), MoEConfig(hidden=288)),
        drafts=MTPConfig(hidden=192),
        latents=JEPAConfig(hidden=192),
    )


def mixer_only(config: MycelConfig) -> MycelConfig:
    """The same trunk without organs, refiners and heads: what growth alone is worth."""
    bare = replace(config.colony, phase_seed=None, stations=None)
    return replace(config, colony=bare, refiners=(), drafts=None, latents=None)
