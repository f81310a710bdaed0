"""GPT-2 as a model of family `transformer`: layer norms, vectors beside matrices, learned positions, an MLP.

Its matrices are stored as (inputs, outputs), ours as (outputs, inputs); queries, keys and values are one in both.
Source   Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; names as in Transformers.
"""

import re
from collections.abc import Iterator

from positronic.checkpoint.foreign import Architecture, Part, Settings
from positronic.errors import CheckpointError
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.mlp import MLPConfig
from positronic.models.transformer import TransformerConfig
from positronic.nn.norm import LayerNormConfig

__all__ = ["GPT2"]

CONTEXT = 1024
IDLE = (
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
)
"""Dropout, which only trains, and a head that language models lack."""


def _config(settings: Settings) -> TransformerConfig:
    d, n_heads, positions = settings.whole("n_embd"), settings.whole("n_head"), settings.whole("n_positions")
    if d % n_heads:
        raise CheckpointError(f"n_embd {d} is no multiple of n_head {n_heads}. Correct the config.json.")
    settings.only("activation_function", "gelu_new", "gelu_pytorch_tanh")
    settings.only("scale_attn_weights", True)
    settings.only("scale_attn_by_inverse_layer_idx", False)
    settings.only("reorder_and_upcast_attn", False)
    settings.only("add_cross_attention", False)
    settings.only("n_ctx", positions)
    norm = LayerNormConfig(epsilon=settings.real("layer_norm_epsilon", 1e-5))
    config = TransformerConfig(
        vocab_size=settings.whole("vocab_size"),
        d_model=d,
        context=min(positions, CONTEXT),
        max_positions=positions,
        n_layers=settings.whole("n_layer"),
        attention=AttentionConfig(
            n_heads=n_heads,
            n_kv_heads=n_heads,
            head_dim=d // n_heads,
            rank=None,
            rope_dims=0,
            norm=norm,
            bias=True,
            qk_norm=False,
        ),
        channel=MLPConfig(hidden=settings.whole("n_inner", 4 * d), norm=norm, bias=True),
        norm=norm,
        learned_positions=True,
        tied=settings.flag("tie_word_embeddings", True),
    )
    settings.done(IDLE)
    return config


def _parts(config: TransformerConfig) -> Iterator[Part]:
    d, hidden = config.d_model, config.channel.hidden

    def plain(ours: str, theirs: str, *shape: int) -> Part:
        return Part(ours, ((theirs, shape),), lambda found: found[0])

    def both(ours: str, theirs: str, n_in: int, n_out: int) -> Iterator[Part]:
        yield Part(f"{ours}.weight", ((f"{theirs}.weight", (n_in, n_out)),), lambda found: found[0].T)
        yield plain(f"{ours}.bias", f"{theirs}.bias", n_out)

    def norm(ours: str, theirs: str) -> Iterator[Part]:
        for name in ("weight", "bias"):
            yield plain(f"{ours}.{name}", f"{theirs}.{name}", d)

    yield plain("embed.weight", "wte.weight", config.vocab_size, d)
    yield plain("positions.weight", "wpe.weight", config.max_positions, d)
    for i in range(config.n_layers):
        attention, channel, theirs = f"trunk.{2 * i}.mixer", f"trunk.{2 * i + 1}.mixer", f"h.{i}"
        yield from norm(f"{attention}.norm", f"{theirs}.ln_1")
        yield from both(f"{attention}.qkv", f"{theirs}.attn.c_attn", d, 3 * d)
        yield from both(f"{attention}.out", f"{theirs}.attn.c_proj", d, d)
        yield from norm(f"{channel}.norm", f"{theirs}.ln_2")
        yield from both(f"{channel}.up", f"{theirs}.mlp.c_fc", d, hidden)
        yield from both(f"{channel}.down", f"{theirs}.mlp.c_proj", hidden, d)
    yield from norm("head.norm", "ln_f")
    if not config.tied:
        yield plain("unembed.weight", "lm_head.weight", config.vocab_size, d)


GPT2 = Architecture(_config, _parts, "transformer.", re.compile(r"h\.\d+\.attn\.(bias|masked_bias)"))
