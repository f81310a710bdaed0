"""Family `quazimoto` (Positronic): attention and banks of coupled oscillators, with organs inside and after the trunk.

tokens -> embedding -> [ + attention -> + oscillators(injections, controller, seed) ] x L -> + HRM -> + MoE = hidden
hidden -> norm -> scale -> embedding^T -> logits            hidden -> drafts (tokens after the next), latents (training)
"""

from dataclasses import dataclass

from positronic.config import MixerConfig
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.kuramoto import KuramotoConfig
from positronic.mixers.moe import MoEConfig
from positronic.models.language_model import TINY, Anatomy, HeadedConfig, Layers, layered
from positronic.traits.engram import EngramConfig
from positronic.traits.fractal_phase import FractalPhaseConfig
from positronic.traits.hrm import HRMConfig
from positronic.traits.jepa import JEPAConfig
from positronic.traits.mtp import MTPConfig
from positronic.traits.phase_attention import PhaseAttentionConfig
from positronic.traits.ring_controller import RingControllerConfig
from positronic.traits.specialists import SpecialistsConfig

__all__ = [
    "QuazimotoConfig",
    "positronic_15m",
    "positronic_144m",
    "positronic_tiny",
]


@dataclass(frozen=True, kw_only=True)
class QuazimotoConfig(HeadedConfig, kind="quazimoto"):
    n_layers: Layers = 10
    """Pairs of token mixer and channel mixer."""
    attention: AttentionConfig = AttentionConfig()
    """Token mixer of every layer."""
    oscillators: KuramotoConfig = KuramotoConfig()
    """Channel mixer of every layer, with its organs."""
    refiners: tuple[MixerConfig, ...] = ()
    """Mixers behind the last layer, silent when new."""

    def anatomy(self) -> Anatomy:
        sections = layered(self.n_layers, self.attention, self.oscillators, refiners=self.refiners)
        return Anatomy(sections, self.drafts, self.latents)


def positronic_144m() -> QuazimotoConfig:
    """143,836,940 parameters: the published model with every organ."""
    return QuazimotoConfig(
        d_model=768,
        context=2024,
        oscillators=KuramotoConfig(
            phase_seed=FractalPhaseConfig(),
            controller=RingControllerConfig(),
            injections=(PhaseAttentionConfig(), EngramConfig(), SpecialistsConfig()),
        ),
        refiners=(HRMConfig(), MoEConfig()),
        drafts=MTPConfig(),
        latents=JEPAConfig(),
    )


def positronic_15m() -> QuazimotoConfig:
    """The same anatomy on the trunk of tinygpt-15m, matched to it within 1 %."""
    return QuazimotoConfig(
        d_model=384,
        context=1024,
        n_layers=6,
        attention=AttentionConfig(n_heads=6, n_kv_heads=2, rank=192),
        oscillators=KuramotoConfig(
            rings=(4, 8, 16, 32, 64),
            phase_seed=FractalPhaseConfig(),
            controller=RingControllerConfig(),
            injections=(
                PhaseAttentionConfig(slots=(1, 3)),
                EngramConfig(slots=(0, 2), heads=2, rows=1024, dim=8),
                SpecialistsConfig(per_ring=4, dim=16),
            ),
        ),
        refiners=(HRMConfig(hidden=192), MoEConfig(hidden=96)),
        drafts=MTPConfig(hidden=128),
        latents=JEPAConfig(hidden=128),
    )


def positronic_tiny() -> QuazimotoConfig:
    """2.6 M parameters and the same anatomy, with a vocabulary of 2,048: trains in minutes on two CPU cores."""
    return QuazimotoConfig(
        d_model=192,
        **TINY,
        n_layers=3,
        attention=AttentionConfig(n_heads=3, n_kv_heads=1, rank=96),
        oscillators=KuramotoConfig(
            rings=(4, 8, 16, 32),
            phase_seed=FractalPhaseConfig(),
            controller=RingControllerConfig(),
            injections=(
                PhaseAttentionConfig(slots=(1,), dim=16),
                EngramConfig(slots=(0, 2), heads=2, rows=1024, dim=8, width=16),
                SpecialistsConfig(per_ring=2, dim=16),
            ),
        ),
        refiners=(HRMConfig(hidden=256), MoEConfig(hidden=192)),
        drafts=MTPConfig(hidden=192),
        latents=JEPAConfig(hidden=192),
    )
