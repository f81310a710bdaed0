"""Family `transformer`, the control: attention and SwiGLU, the trunk every strange family is measured against.

tokens -> embedding -> [ + attention -> + SwiGLU ] x L -> norm -> scale -> embedding^T -> logits

With options that its own presets leave off it is GPT-2 or Llama: vectors of places beside the embedding, an MLP in
place of SwiGLU, another norm, vectors behind matrices, an output matrix of its own (`checkpoint.convert`).
"""

from dataclasses import dataclass

from positronic.mixers.attention import AttentionConfig
from positronic.mixers.feed_forward import FeedForwardConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models.language_model import TINY, Anatomy, LayeredConfig, layered
from positronic.nn.norm import NormConfig, RMSNormConfig

__all__ = ["CONTROLS", "TransformerConfig", "control", "tinygpt_15m", "tinygpt_tiny"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(LayeredConfig, kind="transformer"):
    attention: AttentionConfig = AttentionConfig(n_heads=6, n_kv_heads=2, rank=192)
    """Token mixer of every layer."""
    channel: FeedForwardConfig = SwiGLUConfig(hidden=896)
    """Channel mixer of every layer."""
    norm: NormConfig = RMSNormConfig()
    """Of what the head reads."""
    learned_positions: bool = False
    """Add a learned vector for each of `max_positions` places in a document to what tokens are embedded as."""
    tied: bool = True
    """The head multiplies by the embedding itself; otherwise by a matrix of its own."""

    def anatomy(self) -> Anatomy:
        sections = layered(self.n_layers, self.attention, self.channel)
        return Anatomy(sections, norm=self.norm, learned_positions=self.learned_positions, tied=self.tied)


def tinygpt_15m() -> TransformerConfig:
    """14.9 M parameters: trains in minutes on a GPU, talks on a laptop."""
    return TransformerConfig()


def tinygpt_tiny() -> TransformerConfig:
    """3.3 M parameters with a vocabulary of 2,048: trains in minutes on two CPU cores."""
    attention = AttentionConfig(n_heads=4, n_kv_heads=2, rank=128)
    return TransformerConfig(d_model=256, n_layers=4, attention=attention, channel=SwiGLUConfig(hidden=640), **TINY)


_NARROW = AttentionConfig(n_heads=3, n_kv_heads=1, rank=96)
_TINY = TransformerConfig(d_model=192, n_layers=3, attention=_NARROW, **TINY)
_NARROWEST = AttentionConfig(n_heads=2, n_kv_heads=1, rank=64)
_DEEP = TransformerConfig(d_model=128, n_layers=12, attention=_NARROWEST, **TINY)
_SMALL = TransformerConfig(d_model=256, attention=AttentionConfig(n_heads=4, n_kv_heads=2, rank=128))
_PUBLISHED = TransformerConfig(d_model=768, n_layers=10, context=2024, attention=AttentionConfig())
CONTROLS: dict[str, tuple[TransformerConfig, int]] = {
    "control-tiny": (_TINY, 1104),  # positronic-tiny
    "control-tiny-mixer": (_TINY, 232),  # its oscillators alone
    "control-mycel-tiny": (_TINY, 1096),  # mycel-tiny
    "control-mycel-tiny-mixer": (_TINY, 104),  # its colonies alone
    "control-chimera-tiny": (_DEEP, 560),  # chimera-tiny
    "control-7m": (_SMALL, 416),  # the colonies of mycel-10m
    "control-10m": (_SMALL, 992),  # mycel-10m
    "control-12m": (tinygpt_15m(), 488),  # the oscillators of positronic-15m
    "control-35m": (tinygpt_15m().replace(n_layers=12), 1696),  # chimera-35m
    "control-38m": (_PUBLISHED.replace(context=2048), 416),  # the colonies of mycel-79m
    "control-79m": (_PUBLISHED.replace(context=2048), 2208),  # mycel-79m
    "control-91m": (_PUBLISHED, 2688),  # the oscillators of positronic-144m, aligned to 128
    "control-144m": (_PUBLISHED, 4992),  # positronic-144m
}
"""Trunks of the strange families, and the width of SwiGLU that spends mixers and organs within 1 %."""


def control(name: str) -> TransformerConfig:
    """The control of that name."""
    trunk, hidden = CONTROLS[name]
    return trunk.replace(channel=SwiGLUConfig(hidden=hidden))
