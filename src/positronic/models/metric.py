"""Family `metric`: convolution, attention by distance and a channel mixer side by side, softly mixed for each token.

tokens -> embedding -> [ + mixture(local conv, metric MHA, channel mix, metric MQA) -> + HyperFFN ] x L = hidden
hidden -> norm -> scale -> embedding^T -> logits            hidden -> drafts (tokens after the next), latents (training)
"""

from dataclasses import dataclass, replace

from positronic.mixers.channel_mix import ChannelMixConfig
from positronic.mixers.hyper_ffn import HyperFFNConfig
from positronic.mixers.local_conv import LocalConvConfig
from positronic.mixers.metric_attention import MetricAttentionConfig, MetricMHAConfig, MetricMQAConfig
from positronic.mixers.metric_scores import ScoreConfig
from positronic.mixers.mixture import MixtureConfig
from positronic.mixers.value_projector import ValueProjectorConfig
from positronic.models.language_model import TINY, Anatomy, HeadedConfig, Layers, layered

__all__ = ["MetricConfig", "moa_20m", "moa_400m", "moa_metric_150m", "moa_tiny", "scored_by"]


@dataclass(frozen=True, kw_only=True)
class MetricConfig(HeadedConfig, kind="metric"):
    n_layers: Layers = 12
    """Pairs of mixture and channel mixer."""
    mixture: MixtureConfig = MixtureConfig()
    """Token mixer of every layer."""
    channel: HyperFFNConfig = HyperFFNConfig()
    """Channel mixer of every layer."""

    def anatomy(self) -> Anatomy:
        return Anatomy(layered(self.n_layers, self.mixture, self.channel), self.drafts, self.latents)


def scored_by(config: MetricConfig, score: ScoreConfig) -> MetricConfig:
    """The same model whose heads find keys by another score; triangles only where there is a distance."""
    heads = tuple(
        replace(head, score=score, triangles=head.triangles if score.metric else 0)
        if isinstance(head, MetricAttentionConfig)
        else head
        for head in config.mixture.heads
    )
    return replace(config, mixture=replace(config.mixture, heads=heads))


def _moa(
    d_model: int, n_layers: int, n_heads: int, head_dim: int = 64, *, swiglu: int, projector: int, router: int
) -> MetricConfig:
    """The anatomy at a width: one feature gate a head and 64 channels, channel mixers as wide as the stream."""
    mixture = MixtureConfig(
        heads=(
            LocalConvConfig(),
            MetricMHAConfig(
                n_heads=n_heads,
                n_kv_heads=n_heads,
                head_dim=head_dim,
                projector=ValueProjectorConfig(hidden=projector),
            ),
            ChannelMixConfig(hidden=d_model),
            MetricMQAConfig(n_heads=n_heads, head_dim=head_dim),
        ),
        hidden=router,
        groups=d_model // 64,
    )
    return MetricConfig(
        d_model=d_model, context=2048, n_layers=n_layers, mixture=mixture, channel=HyperFFNConfig(hidden=swiglu)
    )


def moa_metric_150m() -> MetricConfig:
    """151,086,013 parameters: the published model."""
    return _moa(768, 12, 12, swiglu=1920, projector=256, router=128)


def moa_400m() -> MetricConfig:
    """397,813,960 parameters: the same anatomy, 1,024 wide and 19 layers deep."""
    return _moa(1024, 19, 16, swiglu=2432, projector=344, router=168)


def moa_20m() -> MetricConfig:
    """The same anatomy at 20 M parameters, which talk on a laptop."""
    return replace(_moa(320, 7, 5, swiglu=800, projector=104, router=56), context=1024)


def moa_tiny() -> MetricConfig:
    """3.6 M parameters and the same anatomy, with a vocabulary of 2,048: trains in minutes on two CPU cores."""
    tiny = _moa(256, 4, 4, 32, swiglu=256, projector=64, router=32)
    return replace(tiny, **TINY)
