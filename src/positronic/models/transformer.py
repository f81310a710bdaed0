"""Family `transformer`, the control: attention and SwiGLU, the trunk every strange family is measured against.

tokens -> embedding -> [ + attention -> + SwiGLU ] x L -> norm -> scale -> embedding^T -> logits

With options that its own presets leave off it is GPT-2 or Llama: vectors of places beside the embedding, an MLP in
place of SwiGLU, another norm, vectors behind matrices, an output matrix of its own (`checkpoint.convert`).
"""

from dataclasses import dataclass, replace

from positronic.mixers.attention import AttentionConfig
from positronic.mixers.feed_forward import FeedForwardConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models.language_model import Anatomy, LayeredConfig
from positronic.nn.norm import NormConfig, RMSNormConfig

__all__ = [
    "TransformerConfig",
    "control_7m",
    "control_10m",
    "control_12m",
    "control_38m",
    "control_79m",
    "control_91m",
    "control_144m",
    "control_mycel_tiny",
    "control_mycel_tiny_mixer",
    "control_tiny",
    "control_tiny_mixer",
    "tinygpt_15m",
    "tinygpt_tiny",
]


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
        layer = self.attention, self.channel
        return Anatomy(layer, norm=self.norm, learned_positions=self.learned_positions, tied=self.tied)


def tinygpt_15m() -> TransformerConfig:
    """14.9 M parameters: trains in minutes on a GPU, talks on a laptop."""
    return TransformerConfig()


def tinygpt_tiny() -> TransformerConfig:
    """3.3 M parameters with a vocabulary of 2,048: trains in minutes on two CPU cores."""
    return TransformerConfig(
        vocab_size=2048,
        d_model=256,
        context=256,
        max_positions=2048,
        n_layers=4,
        attention=AttentionConfig(n_heads=4, n_kv_heads=2, rank=128),
        channel=SwiGLUConfig(hidden=640),
    )


def _control(hidden: int) -> TransformerConfig:
    """The trunk of the published models (10 layers of width 768) with SwiGLU in place of their mixers and organs."""
    return TransformerConfig(
        d_model=768, context=2024, n_layers=10, attention=AttentionConfig(), channel=SwiGLUConfig(hidden=hidden)
    )


def control_144m() -> TransformerConfig:
    """Matched to positronic-144m within 1 %: its mixers and organs spent on SwiGLU."""
    return _control(4992)


def control_12m() -> TransformerConfig:
    """Matched within 1 % to the oscillators of positronic-15m alone."""
    return replace(tinygpt_15m(), channel=SwiGLUConfig(hidden=488))


def control_tiny() -> TransformerConfig:
    """Matched within 1 % to positronic-tiny: its mixers and organs spent on SwiGLU."""
    return _tiny_control(1104)


def control_tiny_mixer() -> TransformerConfig:
    """Matched within 1 % to the oscillators of positronic-tiny alone."""
    return _tiny_control(232)


def _tiny_control(hidden: int) -> TransformerConfig:
    """The trunk of positronic-tiny and mycel-tiny with SwiGLU in place of their mixers."""
    return TransformerConfig(
        vocab_size=2048,
        d_model=192,
        context=256,
        max_positions=2048,
        n_layers=3,
        attention=AttentionConfig(n_heads=3, n_kv_heads=1, rank=96),
        channel=SwiGLUConfig(hidden=hidden),
    )


def control_91m() -> TransformerConfig:
    """Matched to the oscillator mixer alone: SwiGLU of the mixer's size, aligned to 128."""
    return _control(2688)


def control_79m() -> TransformerConfig:
    """Matched to mycel-79m within 1 %."""
    return replace(_control(2208), context=2048)


def control_38m() -> TransformerConfig:
    """Matched within 1 % to the colonies of mycel-79m alone."""
    return replace(_control(416), context=2048)


def control_10m() -> TransformerConfig:
    """Matched within 1 % to mycel-10m: its mixers and organs spent on SwiGLU."""
    return _small_control(992)


def control_7m() -> TransformerConfig:
    """Matched within 1 % to the colonies of mycel-10m alone."""
    return _small_control(416)


def _small_control(hidden: int) -> TransformerConfig:
    """The trunk of mycel-10m with SwiGLU in place of its mixers."""
    return TransformerConfig(
        d_model=256,
        attention=AttentionConfig(n_heads=4, n_kv_heads=2, rank=128),
        channel=SwiGLUConfig(hidden=hidden),
    )


def control_mycel_tiny() -> TransformerConfig:
    """Matched within 1 % to mycel-tiny: its mixers and organs spent on SwiGLU."""
    return _tiny_control(1096)


def control_mycel_tiny_mixer() -> TransformerConfig:
    """Matched within 1 % to the colonies of mycel-tiny alone."""
    return _tiny_control(104)
