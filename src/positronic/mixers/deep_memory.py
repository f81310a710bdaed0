"""Deep memory: in each head a small network that is trained while it reads, and asked what it knows of a query.

    k, v = l2norm(n W_k), l2norm(n W_v)                          n: what the layer reads, normed by it
    theta, eta, alpha = theta_max sigmoid(.), sigmoid(.), sigmoid(.)  of n W_gates + b, one of each a head and token
    r_t  = RMSNorm_head(M_c(l2norm(q_t)))                        M(x) = W_2 silu(W_1 x), M_c at the beginning of a chunk

Every `chunk` tokens M takes `chunk` steps of gradient descent with momentum on |M(k) - v|^2 / 2, all at M_c (the rule
and its bounds: `kernels.deep_memory`). Chunks are counted over the real tokens of each document, from its first, where
M is M_0, which is learned, and momentum is 0 (`nn.chunks`). So a token reads what chunks before its own have said.

Shapes   n (B, T, D); q, r (B, T, H, K); M_0 and M (B, H, 2, F, K): W_1 and W_2^T, F = expand K.
State    M, momentum and a buffer of `chunk` tokens of 2 K + 4 numbers a head (k, v, gates, and 1 if it was written),
         float32 at any length. Frozen (`write_memory=False`), tokens go on to count but are not written, and a chunk
         that ends there is lost.
Cost     2 D (2 H K + 3 H) and 18 H F K operations a token, of which 4 F K a head are reading; training keeps M and
         momentum after every chunk. On the CPU a token that fills no chunk costs its reading alone.
Init     N(0, 0.02^2); M_0 as wide as keys ask for, N(0, 1 / K) and N(0, 1 / F), so that it says something from the
         start; theta -2, eta 0 and alpha -7 before their sigmoids: half of M is gone after some 760 tokens.
Source   Behrouz et al. 2025, "Titans: Learning to Memorize at Test Time", arXiv 2501.00663. There keys come from what
         attention has read, which makes all attention wait for the memory; here they come from what the layer reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from positronic.config import AtMost, Config
from positronic.errors import ConfigError
from positronic.kernels.autocast import without_autocast
from positronic.kernels.deep_memory import LOOP, Learned, learn, recall, recall_together
from positronic.nn import init
from positronic.nn.chunks import Chunks, Groups
from positronic.nn.linear import Router, linear
from positronic.nn.norm import RMSNorm, unit
from positronic.nn.real_tokens import take
from positronic.probe import Tap
from positronic.state import Memory, Step
from positronic.tree import Replayed

__all__ = ["DeepMemory", "DeepMemoryConfig", "DeepMemoryState", "Known"]

BIASES = (-2.0, 0.0, -7.0)
"""Of theta, eta and alpha at the start."""


@dataclass(frozen=True, kw_only=True)
class DeepMemoryConfig(Config, kind="deep_memory"):
    expand: Annotated[int, AtMost(64)] = 2
    """Width inside the memory, in widths of a head."""
    theta_max: float = 1 / 64
    """Largest step on one token."""
    chunk: Annotated[int, AtMost(65_536)] = 64
    """Tokens whose gradients are taken at the same weights: part of what a model has learned, not of its speed."""
    trust: float = 0.1
    """How far one chunk may move the memory, in norms of where it begins."""
    cap: float = 4.0
    """Largest norm of either matrix, in norms of where it begins."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expand < 1 or self.chunk < 1:
            raise ConfigError(
                f"deep_memory.expand is {self.expand} and chunk {self.chunk}; use 1 or more (2 and 64 are usual)."
            )
        if not (self.theta_max > 0 and self.trust > 0 and self.cap >= 1):
            raise ConfigError(
                f"deep_memory has theta_max {self.theta_max}, trust {self.trust} and cap {self.cap}; use steps and "
                f"trust above 0 (1/64 and 0.1 are usual) and a cap of 1 or more (4 is)."
            )

    def build(self, d_model: int, n_heads: int, head_dim: int) -> "DeepMemory":
        """The part of a layer with so many heads of this width."""
        return DeepMemory(self, d_model, n_heads, head_dim)


class Known(NamedTuple):
    """What a call's tokens may read; rows of it can be taken."""

    weights: Tensor
    """(B, G, H, 2, F, K): versions of the memory, the first as it was before the call."""
    version: Tensor
    """(B, T): which of them a token reads, where it does not read M_0."""
    first: Tensor | None
    """(B, T) bool: it reads M_0, as its document has begun in this call; None: none does."""
    groups: Groups | None
    """In long calls: who reads the same version."""


@dataclass(frozen=True)
class DeepMemoryState(Replayed, Memory):
    """A memory in the middle of a chunk."""

    weights: Tensor
    """(B, H, 2, F, K), float32, at the beginning of the chunk."""
    momentum: Tensor
    """(B, H, 2, F, K), float32."""
    buffer: Tensor
    """(B, C, H, 2 K + 4), float32: the chunk's tokens so far, then zeros."""
    trust: float
    cap: float
    rollback: "tuple[DeepMemoryState, tuple[Tensor, ...]] | None" = None
    """What stood before the last call; its tokens, their places, which begin a document, which are real; and M_0."""

    def carried(self) -> "DeepMemoryState":
        return replace(self, buffer=torch.zeros_like(self.buffer), rollback=None)

    def after(self, *rows: Tensor) -> "DeepMemoryState":
        tokens, place, fresh, valid, start = rows
        chunks = Chunks.of(place, fresh, valid, self.buffer.shape[1], continued=True)
        return self.advanced(tokens, chunks, start[:, 0])[1]

    def advanced(self, tokens: Tensor, chunks: Chunks, start: Tensor) -> tuple[Tensor, "DeepMemoryState"]:
        """Of the tokens of a call (B, T, H, 2 K + 4): all versions (B, n+1, H, 2, F, K), and the state after them.

        start (B or 1, H, 2, F, K): M_0."""
        known, versions = torch.cat([self.buffer, tokens], 1), self.weights[:, None]
        weights, momentum = self.weights, self.momentum
        if chunks.tokens.shape[1]:
            learned = learned_from(known, chunks, weights, momentum, start, self.trust, self.cap)
            versions, momentum = learned.weights, learned.momentum
            weights = versions[:, -1].clone()  # which keeps no version but its own in memory
        if chunks.forgets is not None:
            forgets = chunks.forgets[:, None, None, None, None]
            weights, momentum = torch.where(forgets, start, weights), momentum.masked_fill(forgets, 0.0)
        buffer = take(known, chunks.buffer).masked_fill(~chunks.held[..., None, None], 0.0)
        return versions, replace(self, weights=weights, momentum=momentum, buffer=buffer, rollback=None)


def learned_from(
    tokens: Tensor, chunks: Chunks, weights: Tensor, momentum: Tensor, start: Tensor, trust: float, cap: float
) -> Learned:
    """What the chunks that lie in the tokens (B, any, H, 2 K + 4) make of a memory."""
    width = weights.shape[-1]
    k, v, gates = take(tokens, chunks.tokens).split([width, width, 4], -1)  # (B, n, C, H, ...)
    learns = chunks.complete[..., None, None] * gates[:, :, -1:, :, 3]  # a chunk that ends frozen teaches nothing
    gates = torch.cat([gates[..., :3], (gates[..., 3] * learns)[..., None]], -1)
    return learn(k, v, gates, chunks.anew, weights, momentum, start, trust, cap)


class DeepMemory(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "current": Tap("what is read from the memory, (B, T, H, K)", torch.zeros_like),
        "gates": Tap("theta, eta and alpha, (B, T, H, 3)"),
        "memory": Tap("weights before the first and after every chunk, (B, n+1, H, 2, F, K)"),
        "share": Tap("what the trust region has left of each chunk's move in whole rows, (B, n, H); to be seen alone"),
    }

    def __init__(self, config: DeepMemoryConfig, d_model: int, n_heads: int, head_dim: int):
        super().__init__()
        self.config = config
        self.keys_values = linear(d_model, 2 * n_heads * head_dim, ternary=True)
        self.gates = Router(d_model, 3 * n_heads)
        self.gate_bias = nn.Parameter(torch.empty(3, n_heads))
        self.start = nn.Parameter(torch.empty(n_heads, 2, config.expand * head_dim, head_dim))
        self.norm = RMSNorm(head_dim)
        self.layout = f"chunks of {config.chunk}"
        """Name of what is shared in a call."""
        self.reset_parameters()

    def reset_parameters(self) -> None:
        heads, _, hidden, width = self.start.shape
        init.copy_(self.gate_bias, torch.tensor(BIASES)[:, None].expand(-1, heads))
        init.normal_(self.start, torch.tensor([width, hidden])[:, None, None] ** -0.5)

    def init_state(self, batch: int) -> DeepMemoryState:
        start, (heads, _, _, width) = self.start.detach().float(), self.start.shape
        weights = start.expand(batch, *start.shape).clone()
        buffer = start.new_zeros(batch, self.config.chunk, heads, 2 * width + 4)
        return DeepMemoryState(weights, torch.zeros_like(weights), buffer, self.config.trust, self.config.cap)

    def prepare(self, step: Step) -> dict[str, Any]:
        """Where documents begin and chunks lie, once a call."""
        return step.prepare_fresh() | {self.layout: self._chunks(step)}

    def write(self, n: Tensor, step: Step, state: DeepMemoryState | None) -> tuple[Known, DeepMemoryState | None]:
        """n (B, T, D) -> what is known to the call's tokens, and the state after them."""
        tokens = self._tokens(n, step)
        chunks: Chunks = step.shared[self.layout] if self.layout in step.shared else self._chunks(step)
        start = self.start.float()[None]
        if state is None:
            (versions, _, share), after = self._whole(tokens, chunks, start), None
            step.tap(self, "share", share)
        else:
            versions, after = state.advanced(tokens, chunks, start)
            if step.keep_rollback:
                after = _replayable(after, state, tokens, step, start)
        versions = step.tap(self, "memory", versions)
        return Known(versions, chunks.version, chunks.first, chunks.groups), after

    def read(self, q: Tensor, known: Known, step: Step) -> Tensor:
        """q (B, T, H, K) -> r (B, T, H, K)."""
        with without_autocast(q.device.type):
            asked = unit(q.float())
            read = self._each(asked, known) if known.groups is None else self._together(asked, known, known.groups)
            return step.tap(self, "current", self.norm(read)).to(q.dtype)

    def _chunks(self, step: Step) -> Chunks:
        grouped = step.tokens.shape[1] > LOOP and not step.keep_rollback
        fresh = None if step.began is None else step.fresh
        return Chunks.of(step.place, fresh, step.valid, self.config.chunk, step.reach > 0, grouped)

    def _tokens(self, n: Tensor, step: Step) -> Tensor:
        """(B, T, H, 2 K + 4): k, v, theta, eta, alpha and 1 where the token is written, else 0."""
        heads, _, _, width = self.start.shape
        k, v = unit(self.keys_values(n).float().unflatten(-1, (2, heads, width))).unbind(2)
        theta, eta, alpha = (self.gates(n).unflatten(-1, (3, heads)) + self.gate_bias.float()).sigmoid().unbind(-2)
        gates = step.tap(self, "gates", torch.stack([self.config.theta_max * theta, eta, alpha], -1))
        written = step.where_real(gates.new_full((1,), float(step.write_memory)), padding=0.0)  # (B, T, 1)
        return torch.cat([k, v, gates, written[..., None].expand(-1, -1, heads, 1)], -1)

    def _whole(self, tokens: Tensor, chunks: Chunks, start: Tensor) -> Learned:
        """What the chunks of whole rows make of where memories begin."""
        weights, c = start.expand(len(tokens), -1, -1, -1, -1), self.config
        momentum = torch.zeros_like(weights)
        if not chunks.tokens.shape[1]:
            return Learned(weights[:, None], momentum, weights.new_empty(len(tokens), 0, weights.shape[1]))
        return learned_from(tokens, chunks, weights, momentum, start, c.trust, c.cap)

    def _each(self, q: Tensor, known: Known) -> Tensor:
        """Every token by itself."""
        weights = known.weights if known.weights.shape[1] == 1 else take(known.weights, known.version)
        if known.first is not None:
            weights = torch.where(known.first[..., None, None, None, None], self.start.float(), weights)
        return recall(weights, q)

    def _together(self, q: Tensor, known: Known, groups: Groups) -> Tensor:
        """Those that share a version in one product."""
        members = take(q, groups.members).transpose(2, 3)  # (B, G, H, C, K)
        read = recall_together(known.weights, members).transpose(2, 3).flatten(1, 2)  # (B, G C, H, K)
        read = take(read, groups.member)
        if known.first is None:
            return read
        rows = q.permute(2, 0, 1, 3)  # (H, B, T, K)
        of_start = recall_together(self.start.float(), rows.flatten(1, 2)).view(rows.shape).permute(1, 2, 0, 3)
        return torch.where(known.first[..., None, None], of_start, read)


def _replayable(
    after: DeepMemoryState, before: DeepMemoryState, tokens: Tensor, step: Step, start: Tensor
) -> DeepMemoryState:
    """The state after a call of which a beginning may be read again."""
    rows = tokens, step.place, step.fresh, step.real, start[:, None].expand(*step.tokens.shape, *start.shape[1:])
    return replace(after, rollback=(replace(before, rollback=None), rows))
