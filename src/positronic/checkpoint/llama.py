"""Llama as a model of family `transformer`: whole heads rotated, grouped keys and values, SwiGLU, RMS norms.

It turns the same pairs of a head as we do, so no row moves; its three matrices of an attention layer are one here.
Source   Touvron et al. 2023, "LLaMA", arXiv 2302.13971; Llama 3, arXiv 2407.21783; names as in Transformers.
"""

import re
from collections.abc import Iterator

import torch

from positronic.checkpoint.foreign import Architecture, Part, Settings
from positronic.errors import CheckpointError
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models.transformer import TransformerConfig
from positronic.nn.norm import RMSNormConfig
from positronic.nn.rope import StretchConfig

__all__ = ["LLAMA"]

CONTEXT = 1024
IDLE = ("attention_dropout", "pretraining_tp")
"""Dropout, which only trains, and into how many products one was cut while training."""
PLAIN, STRETCHED = "default", "llama3"


def _config(settings: Settings) -> TransformerConfig:
    d, n_heads, positions = (
        settings.whole(name) for name in ("hidden_size", "num_attention_heads", "max_position_embeddings")
    )
    head_dim, n_kv_heads = settings.whole("head_dim", d // n_heads or 1), settings.whole("num_key_value_heads", n_heads)
    if head_dim % 2:
        raise CheckpointError(f"head_dim is {head_dim}, and rotations need pairs. Correct the config.json.")
    if n_heads % n_kv_heads:
        raise CheckpointError(
            f"num_attention_heads {n_heads} is no multiple of num_key_value_heads {n_kv_heads}. Correct the "
            f"config.json."
        )
    settings.only("hidden_act", "silu", "swish")
    settings.only("partial_rotary_factor", 1.0)
    base, stretch = _rotation(settings)
    norm = RMSNormConfig(epsilon=settings.real("rms_norm_eps", 1e-6))
    config = TransformerConfig(
        vocab_size=settings.whole("vocab_size"),
        d_model=d,
        context=min(positions, CONTEXT),
        max_positions=positions,
        n_layers=settings.whole("num_hidden_layers"),
        attention=AttentionConfig(
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            rank=None,
            rope_dims=head_dim,
            rope_base=base,
            rope_stretch=stretch,
            norm=norm,
            bias=settings.flag("attention_bias", False),
            qk_norm=False,
        ),
        channel=SwiGLUConfig(
            hidden=settings.whole("intermediate_size"), norm=norm, bias=settings.flag("mlp_bias", False)
        ),
        norm=norm,
        tied=settings.flag("tie_word_embeddings", False),
    )
    settings.done(IDLE)
    return config


def _rotation(settings: Settings) -> tuple[float, StretchConfig | None]:
    """Base and stretch, which newer files have in one setting and older ones in two."""
    base = settings.real("rope_theta", 10_000.0)
    older, newer = settings.part("rope_scaling"), settings.part("rope_parameters")
    base = newer.real("rope_theta", base)
    stretches = [found for found in map(_stretch, (older, newer)) if found is not None]
    return base, stretches[0] if stretches else None


def _stretch(rope: Settings) -> StretchConfig | None:
    kinds = [rope.only(name, PLAIN, STRETCHED) for name in ("rope_type", "type")]
    stretch = None
    if STRETCHED in kinds:
        stretch = StretchConfig(
            factor=rope.real("factor"),
            slow_turns=rope.real("low_freq_factor"),
            fast_turns=rope.real("high_freq_factor"),
            trained=rope.whole("original_max_position_embeddings"),
        )
    rope.done()
    return stretch


def _parts(config: TransformerConfig) -> Iterator[Part]:
    d, hidden, heads = config.d_model, config.channel.hidden, config.attention
    d_query, d_group = heads.n_heads * heads.head_dim, heads.n_kv_heads * heads.head_dim

    def plain(ours: str, theirs: str, *shape: int) -> Part:
        return Part(ours, ((theirs, shape),), lambda found: found[0])

    def linear(ours: str, theirs: dict[str, int], n_in: int, bias: bool) -> Iterator[Part]:
        """One matrix of several, each with so many outputs."""
        yield Part(f"{ours}.weight", tuple((f"{name}.weight", (n, n_in)) for name, n in theirs.items()), torch.cat)
        if bias:
            yield Part(f"{ours}.bias", tuple((f"{name}.bias", (n,)) for name, n in theirs.items()), torch.cat)

    yield plain("embed.weight", "embed_tokens.weight", config.vocab_size, d)
    for i in range(config.n_layers):
        attention, channel, theirs = f"trunk.{2 * i}.mixer", f"trunk.{2 * i + 1}.mixer", f"layers.{i}"
        read = {f"{theirs}.self_attn.{name}_proj": n for name, n in (("q", d_query), ("k", d_group), ("v", d_group))}
        yield plain(f"{attention}.norm.weight", f"{theirs}.input_layernorm.weight", d)
        yield from linear(f"{attention}.qkv", read, d, heads.bias)
        yield from linear(f"{attention}.out", {f"{theirs}.self_attn.o_proj": d}, d_query, heads.bias)
        yield plain(f"{channel}.norm.weight", f"{theirs}.post_attention_layernorm.weight", d)
        for name, n_in, n_out in (("gate", d, hidden), ("up", d, hidden), ("down", hidden, d)):
            yield from linear(f"{channel}.{name}", {f"{theirs}.mlp.{name}_proj": n_out}, n_in, config.channel.bias)
    yield plain("head.norm.weight", "norm.weight", d)
    if not config.tied:
        yield plain("unembed.weight", "lm_head.weight", config.vocab_size, d)


LLAMA = Architecture(_config, _parts, "model.", re.compile(r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq"))
