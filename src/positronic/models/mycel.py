"""Family `mycel`: attention and colonies of growing tips, with stations among them and organs after the trunk.

tokens -> embedding -> [ + attention -> + colony(seed, stations) ] x L -> + HRM -> + MoE = hidden
hidden -> norm -> scale -> embedding^T -> logits            hidden -> drafts (tokens after the next), latents (training)
"""

from dataclasses import dataclass

from positronic.config import MixerConfig
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.colony import ColonyConfig
from positronic.mixers.moe import MoEConfig
from positronic.models.language_model import TINY, Anatomy, HeadedConfig, Layers, layered
from positronic.traits.fractal_phase import FractalPhaseConfig
from positronic.traits.hrm import HRMConfig
from positronic.traits.jepa import JEPAConfig
from positronic.traits.mtp import MTPConfig
from positronic.traits.stations import StationsConfig

__all__ = ["MycelConfig", "mycel_10m", "mycel_79m", "mycel_tiny"]


@dataclass(frozen=True, kw_only=True)
class MycelConfig(HeadedConfig, kind="mycel"):
    n_layers: Layers = 10
    """Pairs of token mixer and channel mixer."""
    attention: AttentionConfig = AttentionConfig()
    """Token mixer of every layer."""
    colony: ColonyConfig = ColonyConfig()
    """Channel mixer of every layer, with its organs."""
    refiners: tuple[MixerConfig, ...] = ()
    """Mixers behind the last layer, silent when new."""

    def anatomy(self) -> Anatomy:
        sections = layered(self.n_layers, self.attention, self.colony, refiners=self.refiners)
        return Anatomy(sections, self.drafts, self.latents)


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
        d_model=192,
        **TINY,
        n_layers=3,
        attention=AttentionConfig(n_heads=3, n_kv_heads=1, rank=96),
        colony=ColonyConfig(
            tips=24, centres=8, phase_seed=FractalPhaseConfig(levels=4), stations=StationsConfig(stations=4)
        ),
        refiners=(HRMConfig(hidden=320), MoEConfig(hidden=288)),
        drafts=MTPConfig(hidden=192),
        latents=JEPAConfig(hidden=192),
    )
