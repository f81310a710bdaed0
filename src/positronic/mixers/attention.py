"""Causal attention: low-rank queries and outputs, grouped keys and values, normed heads, partly rotary positions.

    q = RMSNorm(x W_dq) W_uq     k = x W_k     v = x W_v      (x normed first; without a rank, q = x W_q)
    q, k = rotate(RMSNorm_head(q)), rotate(RMSNorm_head(k))
    o = softmax(q k^T / sqrt(K)) v, causal, inside one document       y = o W_do W_uo

Shapes   x, y (B, T, D); q (B, H, T, K); k, v (B, G, T, K), query head h reads group h // (H / G).
State    keys (normed and rotated) and values, 2 G K numbers a token: a growing buffer and a length.
Cost     O(T D rank) projections, 4 H K operations for each token and token it sees.
Weights  W_dq, W_k and W_v are rows of one matrix `qkv`: one product reads x.
Init     N(0, 0.02^2); the output matrix N(0, (0.02 / sqrt(residual branches))^2).
Source   low rank: DeepSeek-V2, arXiv 2405.04434; groups: Ainslie et al. 2023, arXiv 2305.13245; normed heads:
         Dehghani et al. 2023, arXiv 2302.05442. Here keys and values stay full rank: only their groups are few.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from positronic.config import Config
from positronic.errors import ConfigError, StateError
from positronic.kernels.attention import Documents, causal_attention, masked_attention
from positronic.lm import MixerOutput
from positronic.nn.linear import Linear, residual_std
from positronic.nn.norm import RMSNorm
from positronic.nn.rope import rotate, rotation
from positronic.state import Step

__all__ = ["Attention", "AttentionConfig", "KVState", "Layout"]


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(Config, kind="attention"):
    n_heads: int = 12
    """Query heads."""
    n_kv_heads: int = 4
    """Key and value heads; each serves n_heads / n_kv_heads query heads."""
    head_dim: int = 64
    """Width of a head."""
    rank: int | None = 384
    """Rank of the query and output maps; None: full rank, one matrix each."""
    rope_dims: int = 32
    """Dimensions of a head that carry the position, counted from its end; even, 0 for none."""
    rope_base: float = 10_000.0
    """Base of the rotary frequencies."""
    qk_norm: bool = True
    """RMSNorm of each query and key head, before the rotation."""

    def __post_init__(self) -> None:
        if self.n_kv_heads < 1 or self.n_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"attention.n_heads is {self.n_heads} with n_kv_heads {self.n_kv_heads}; use a positive multiple of it."
            )
        if self.rope_dims % 2 or not 0 <= self.rope_dims <= self.head_dim:
            raise ConfigError(
                f"attention.rope_dims is {self.rope_dims}; use an even number from 0 to head_dim {self.head_dim}."
            )
        if self.head_dim < 1 or (self.rank is not None and self.rank < 1) or self.rope_base <= 1:
            raise ConfigError("attention.head_dim and rank must be 1 or more, and rope_base above 1; raise them.")

    def build(self, d_model: int, n_branches: int = 1) -> "Attention":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        return Attention(self, d_model, n_branches)


@dataclass(frozen=True)
class Layout:
    """What all attention layers of one call share: computed once by the model, or by a layer that runs alone."""

    cos: Tensor
    """(B, 1, T, rope_dims / 2)"""
    sin: Tensor
    documents: Documents | None
    """Who sees whom in whole rows; None: one document a row, or a cached call, whose state knows."""

    @staticmethod
    def of(config: AttentionConfig, step: Step, whole_rows: bool) -> "Layout":
        cos, sin = rotation(step.positions, config.rope_dims, config.rope_base)
        return Layout(cos, sin, Documents.of(step.segments) if whole_rows else None)


@dataclass
class KVBuffer:
    """Keys and values of all tokens so far, shared by the states of one conversation."""

    keys: Tensor
    """(B, G, capacity, K)"""
    values: Tensor
    """(B, G, capacity, K)"""
    segments: Tensor
    """(B, capacity) document numbers, -1 at padding."""
    writes: list[tuple[int, int, object]] = field(default_factory=list)
    """(first row, end, stamp) of each call whose rows still stand, in order: which rows are whose."""

    def writer(self, length: int) -> object:
        """The stamp of the call that wrote the last of `length` rows; None before the first row."""
        return next((stamp for first, end, stamp in reversed(self.writes) if first < length <= end), None)

    def write(self, at: int, keys: Tensor, values: Tensor, segments: Tensor) -> object:
        """Put (B, G, T, K) keys and values at row `at`, over whatever stood there; returns the new stamp."""
        end = at + keys.shape[2]
        self.grow(end)
        self.keys[:, :, at:end], self.values[:, :, at:end] = keys, values
        self.segments[:, at:end] = segments
        while self.writes and self.writes[-1][0] >= at:
            self.writes.pop()
        if self.writes:
            first, _, mark = self.writes[-1]
            self.writes[-1] = (first, at, mark)
        stamp = object()
        self.writes.append((at, end, stamp))
        return stamp

    def grow(self, rows: int) -> None:
        """Room for `rows` tokens, doubling so that appending stays cheap."""
        capacity = self.keys.shape[2]
        if rows <= capacity:
            return
        more = max(rows, 2 * capacity, 64) - capacity
        self.keys = torch.cat([self.keys, self.keys.new_zeros(*self.keys.shape[:2], more, self.keys.shape[3])], 2)
        self.values = torch.cat(
            [self.values, self.values.new_zeros(*self.values.shape[:2], more, self.keys.shape[3])], 2
        )
        self.segments = torch.cat([self.segments, self.segments.new_full((len(self.segments), more), -1)], 1)


@dataclass(frozen=True)
class KVState:
    """The first `length` rows of a buffer. Continuing from an older state takes the buffer over from the newer ones."""

    buffer: KVBuffer
    length: int = 0
    start: int = 0
    """Length before the last call."""
    stamp: object = None
    """The call that wrote the last rows."""
    fixed: bool = False
    """Read the whole buffer under a mask, so that no bit of a row depends on the length or on the calls before."""

    def commit(self, path: Sequence[int]) -> "KVState":
        """Keep the first rows of the last call; the rows after them are dead and will be written over."""
        self.check()
        kept = self.start + len(path)
        return KVState(self.buffer, kept, self.start, self.buffer.writer(kept), self.fixed)

    def select(self, rows: Tensor) -> "KVState":
        """A copy with these rows and a buffer of its own."""
        self.check()
        keep = self.buffer.keys.shape[2] if self.fixed else self.length
        stamp = object()
        buffer = KVBuffer(
            self.buffer.keys[rows, :, :keep],
            self.buffer.values[rows, :, :keep],
            self.buffer.segments[rows, :keep],
            [(0, self.length, stamp)],
        )
        return KVState(buffer, self.length, self.start, stamp, self.fixed)

    def check(self) -> None:
        """Raise if another continuation has overwritten rows of this state."""
        if self.buffer.writer(self.length) is not self.stamp:
            raise StateError(
                "This state's keys were overwritten when an older state of the same conversation was continued. "
                "Branch with state.select(rows) before continuing twice."
            )


class Attention(nn.Module):
    def __init__(self, config: AttentionConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config = config
        d_query, d_group = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        out_std = residual_std(n_branches)
        self.norm = RMSNorm(d_model)
        self.widths = [config.rank or d_query, d_group, d_group]
        self.qkv = Linear(d_model, sum(self.widths))
        if config.rank is None:
            self.query: nn.Module = nn.Identity()
            self.out: nn.Module = Linear(d_query, d_model, out_std)
        else:
            self.query = nn.Sequential(RMSNorm(config.rank), Linear(config.rank, d_query))
            self.out = nn.Sequential(Linear(d_query, config.rank), Linear(config.rank, d_model, out_std))
        self.query_norm = RMSNorm(config.head_dim) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(config.head_dim) if config.qk_norm else nn.Identity()

    def init_state(self, batch: int, room: int = 0) -> KVState:
        weight, c = self.qkv.weight, self.config
        shape = (batch, c.n_kv_heads, room, c.head_dim)
        segments = torch.full((batch, room), -1, dtype=torch.long, device=weight.device)
        return KVState(KVBuffer(weight.new_zeros(shape), weight.new_zeros(shape), segments), fixed=room > 0)

    def forward(self, x: Tensor, step: Step, state: KVState | None = None) -> MixerOutput:
        latent, k, v = self.qkv(self.norm(x)).split(self.widths, dim=-1)
        q, k, v = self._heads(self.query(latent)), self._heads(k), self._heads(v)
        layout = step.shared.get("attention") or Layout.of(self.config, step, state is None)
        q = rotate(self.query_norm(q), layout.cos, layout.sin)  # (B, H, T, K)
        k = rotate(self.key_norm(k), layout.cos, layout.sin)  # (B, G, T, K)
        if state is None:
            o, after = causal_attention(q, k, v, layout.documents), None
        else:
            o, after = self._cached(q, k, v, step, state)
        o = step.tap(self, "heads", o)
        return MixerOutput(self.out(o.transpose(1, 2).flatten(2)), after)

    def _cached(self, q: Tensor, k: Tensor, v: Tensor, step: Step, state: KVState) -> tuple[Tensor, KVState]:
        state.check()
        assert step.segments is not None, "a step that continues a state knows its documents"
        n, tokens, buffer = state.length, q.shape[2], state.buffer
        stamp = buffer.write(n, k.to(buffer.keys.dtype), v.to(buffer.keys.dtype), step.segments)
        extent = buffer.keys.shape[2] if state.fixed else n + tokens
        ahead = torch.arange(extent, device=q.device) - n > torch.arange(tokens, device=q.device)[:, None]  # (T, S)
        allowed = (step.segments[:, :, None] == buffer.segments[:, None, :extent]) & ~ahead  # (B, T, S)
        keys, values = buffer.keys[:, :, :extent].to(q.dtype), buffer.values[:, :, :extent].to(q.dtype)
        o = masked_attention(q, keys, values, allowed[:, None])
        return o, KVState(buffer, n + tokens, n, stamp, state.fixed)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, heads K) -> (B, heads, T, K)."""
        return x.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
