"""Causal attention: low-rank queries and outputs, grouped keys and values, normed heads, partly rotary positions.

    q = RMSNorm(x W_dq) W_uq     k = x W_k     v = x W_v      (x normed first; without a rank, q = x W_q)
    q, k = rotate(RMSNorm_head(q)), rotate(RMSNorm_head(k))
    o = softmax(q k^T / sqrt(K)) v, causal, inside one document       y = o W_do W_uo
    bias:        b_qkv is added to x W_dq, x W_k and x W_v together, b_o to y
    exclusive:   o <- o - (o . v_t) v_t / max(|v_t|^2, 1e-6)          v_t the token's own value, of its group
    score_cap:   scores s -> c erf(sqrt(pi) s / (2 c)) before the mask

Shapes   x, y (B, T, D); q (B, H, T, K); k, v (B, G, T, K), query head h reads group h // (H / G).
State    keys (normed and rotated) and values, 2 G K numbers a token: a growing buffer and a length.
Cost     O(T D rank) projections, 4 H K operations for each token and token it sees. A score cap runs inside the
         block-sparse kernel in training on CUDA, and with explicit (T, S) scores everywhere else.
Weights  W_dq, W_k and W_v are rows of one matrix `qkv`: one product reads x.
Init     N(0, 0.02^2), vectors 0; the output matrix N(0, (0.02 / sqrt(residual branches))^2).
Source   low rank: DeepSeek-V2, arXiv 2405.04434; groups: Ainslie et al. 2023, arXiv 2305.13245; normed heads:
         Dehghani et al. 2023, arXiv 2302.05442; exclusive: arXiv 2603.09078. Here keys and values stay full rank: only
         their groups are few. Derf, arXiv 2512.10938, puts an erf in place of a norm; the cap keeps the softmax and
         bounds what goes into it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from positronic.config import AtMost, MixerConfig
from positronic.errors import ConfigError
from positronic.kernels.attention import causal_attention, masked_attention
from positronic.lm import MixerOutput
from positronic.nn.documents import documents_of
from positronic.nn.kv import KVState, prepare_seen
from positronic.nn.linear import linear, residual_std
from positronic.nn.norm import NormConfig, RMSNorm, RMSNormConfig
from positronic.nn.rope import StretchConfig, rotate, rotation
from positronic.probe import Tap
from positronic.state import Step

__all__ = ["Attention", "AttentionConfig", "without_own"]

OWN_FLOOR = 1e-6
"""Smallest squared length of a value that is projected out whole."""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(MixerConfig, kind="attention"):
    n_heads: Annotated[int, AtMost(1024)] = 12
    """Query heads."""
    n_kv_heads: Annotated[int, AtMost(1024)] = 4
    """Key and value heads; each serves n_heads / n_kv_heads query heads."""
    head_dim: Annotated[int, AtMost(4096)] = 64
    """Width of a head."""
    rank: Annotated[int | None, AtMost(65_536)] = 384
    """Rank of the query and output maps; None: full rank, one matrix each."""
    rope_dims: Annotated[int, AtMost(4096)] = 32
    """Dimensions of a head that carry the position, counted from its end; even, 0 for none."""
    rope_base: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_stretch: StretchConfig | None = None
    """Slow rotations made slower for a longer context; None: none is."""
    norm: NormConfig = RMSNormConfig()
    """Of what the layer reads."""
    bias: bool = False
    """Add a learned vector to what queries, keys and values are read as, and to what the layer says."""
    qk_norm: bool = True
    """RMSNorm of each query and key head, before the rotation."""
    exclusive: bool = False
    """Remove from a head's output its part along the token's own value, so that it carries only what is new to it."""
    score_cap: float | None = None
    """Largest score, approached smoothly by an erf before the softmax (30 is usual); None: no bound."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_kv_heads < 1 or self.n_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"attention.n_heads is {self.n_heads} with n_kv_heads {self.n_kv_heads}; use a positive multiple of it."
            )
        if self.rope_dims % 2 or not 0 <= self.rope_dims <= self.head_dim:
            raise ConfigError(
                f"attention.rope_dims is {self.rope_dims}; use an even number from 0 to head_dim {self.head_dim}."
            )
        if self.rope_stretch is not None and not self.rope_dims:
            raise ConfigError("attention.rope_stretch slows rotations, and rope_dims is 0; give some, or no stretch.")
        if self.head_dim < 1 or (self.rank is not None and self.rank < 1) or self.rope_base <= 1:
            raise ConfigError("attention.head_dim and rank must be 1 or more, and rope_base above 1; raise them.")
        if self.score_cap is not None and not 0 < self.score_cap < math.inf:
            raise ConfigError(
                f"attention.score_cap is {self.score_cap}; use a finite bound above 0 (30 is usual), or none."
            )

    def build(self, d_model: int, n_branches: int = 1) -> "Attention":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return Attention(self, d_model, n_branches)


def without_own(o: Tensor, v: Tensor) -> Tensor:
    """What is left of o (B, H, T, K) across each token's own value, v (B, G, T, K); float32 inside."""
    own = v.float()[:, :, None]  # (B, G, 1, T, K)
    read = o.float().unflatten(1, (v.shape[1], -1))  # (B, G, H / G, T, K)
    share = (read * own).sum(-1, keepdim=True) / own.square().sum(-1, keepdim=True).clamp(min=OWN_FLOOR)
    return (read - share * own).flatten(1, 2).to(o.dtype)


class Attention(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "heads": Tap("what each head has read, (B, H, T, K)"),
    }

    def __init__(self, config: AttentionConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config = config
        d_query, d_group = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        out_std = residual_std(n_branches)
        self.norm = config.norm.build(d_model)
        self.widths = [config.rank or d_query, 2 * d_group]
        self.qkv = linear(d_model, sum(self.widths), bias=config.bias)
        if config.rank is None:
            self.query: nn.Module = nn.Identity()
            self.out: nn.Module = linear(d_query, d_model, out_std, config.bias)
        else:
            self.query = nn.Sequential(RMSNorm(config.rank), linear(config.rank, d_query))
            self.out = nn.Sequential(linear(d_query, config.rank), linear(config.rank, d_model, out_std, config.bias))
        self.query_norm = RMSNorm(config.head_dim) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(config.head_dim) if config.qk_norm else nn.Identity()
        self.turning = f"rotation {config.rope_dims} {config.rope_base} {config.rope_stretch}"
        """Name of what is shared in a call."""

    def init_state(self, batch: int, capacity: int = 0) -> KVState:
        return KVState.new(self.norm.weight, batch, self.config.n_kv_heads, self.config.head_dim, capacity)

    def forward(self, x: Tensor, step: Step, state: KVState | None = None) -> MixerOutput:
        q, k, v = self.heads(x, step)
        if state is None:
            o, after = causal_attention(q, k, v, documents_of(step), self.config.score_cap), None
        else:
            keys, values, allowed, after = state.extend(k, v, step)
            o = masked_attention(q, keys, values, allowed, self.config.score_cap)
        return MixerOutput(self.close(o, v, step), after)

    def prepare(self, step: Step) -> dict[str, Any]:
        """Cosines and sines, which all layers that turn alike share in a call, and who sees whom."""
        c = self.config
        return {self.turning: rotation(step.positions, c.rope_dims, c.rope_base, c.rope_stretch)} | prepare_seen(step)

    def heads(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """What meets in the scores: q (B, H, T, K) and k, v (B, G, T, K), normed and rotated."""
        latent, both = self.qkv(self.norm(x)).split(self.widths, dim=-1)
        q, (k, v) = self._heads(self.query(latent)), self._heads(both).chunk(2, 1)
        cos, sin = step.shared.get(self.turning) or self.prepare(step)[self.turning]
        return rotate(self.query_norm(q), cos, sin), rotate(self.key_norm(k), cos, sin), v

    def close(self, o: Tensor, v: Tensor, step: Step) -> Tensor:
        """(B, T, D): what the heads have read, o (B, H, T, K), beside the tokens' own values."""
        if self.config.exclusive:
            o = without_own(o, v)
        o = step.tap(self, "heads", o)
        return self.out(o.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, heads K) -> (B, heads, T, K)."""
        return x.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
