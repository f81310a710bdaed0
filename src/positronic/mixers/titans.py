"""Titans, memory as context: a short window, a few learned slots, and what a deep memory recalls of all before.

    n = RMSNorm(x)     q, qm = n W_q, n W_qm     k, v = n W_k, n W_v       k and a copy of q are turned by their places
    r_t = memory at the beginning of t's chunk, asked for qm_t (`mixers.deep_memory`, which writes from n)
    o_t = softmax attention of q_t over
          the window     itself and the W - 1 real tokens before it, of its document; turned queries and keys
          the slots      learned keys and values, the same for all tokens; the query as it is
          what it recalls   one slot of its own: k, v of RMSNorm(r_t); the query as it is
    y = RMSNorm(o * (1 + tanh(c * r))) W_o

Shapes   x, y (B, T, D); q, r (B, T, H, K), H K = D; k, v (B, T, G, K), head h reads group h // (H / G); M slots;
         c (D,).
State    a ring of the window's keys and values, 2 G K W numbers, and the memory's: the same size at any length.
Cost     2 D (3 D + 4 G K) operations a token, and 4 D for each entry it meets: W + M + 1, and part of a block more.
         The memory's beside it.
Loops    `write` makes all that a token is met by, `read` asks again with other queries (`lm.Rereads`).
Weights  W_q and W_qm are rows of one matrix, W_k and W_v of another, which reads both n and what is recalled.
Init     N(0, 0.02^2), W_o N(0, (0.02 / sqrt(residual branches))^2); gains 1, of the last norm 0.1; c = 0, so that the
         memory is heard through its slot alone and scrambles nothing.
Source   Behrouz et al. 2025, "Titans: Learning to Memorize at Test Time", arXiv 2501.00663. There a segment's tokens
         share what is recalled; here each has its own, so that any cut is causal and the window is all that is kept.
         Turning: Su et al. 2021, arXiv 2104.09864.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from positronic.config import AtMost, MixerConfig
from positronic.errors import ConfigError
from positronic.lm import MixerOutput
from positronic.mixers.deep_memory import DeepMemory, DeepMemoryConfig, DeepMemoryState, Known
from positronic.nn import init
from positronic.nn.linear import INIT_STD, linear, residual_std
from positronic.nn.norm import QUIET, RMSNorm
from positronic.nn.real_tokens import in_front, in_place
from positronic.nn.ring import RingState, Sight
from positronic.nn.rope import rotate, rotation
from positronic.probe import Tap
from positronic.state import State, Step

__all__ = ["Titans", "TitansConfig", "TitansContext"]

ROPE_BASE = 10_000.0


@dataclass(frozen=True, kw_only=True)
class TitansConfig(MixerConfig, kind="titans"):
    n_kv_heads: Annotated[int, AtMost(1024)] = 2
    """Key and value heads; each serves as many query heads."""
    head_dim: Annotated[int, AtMost(4096)] = 64
    """Width of a head; even. Query heads, which are those of the memory, fill d_model."""
    window: Annotated[int, AtMost(2**20)] = 256
    """Tokens that a token attends to, itself among them."""
    slots: Annotated[int, AtMost(65_536)] = 64
    """Learned keys and values that every token attends to."""
    memory: DeepMemoryConfig | None = DeepMemoryConfig()
    """What is recalled from before the window; None: nothing is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_kv_heads < 1:
            raise ConfigError(f"titans.n_kv_heads is {self.n_kv_heads}; use 1 or more (2 are usual).")
        if self.head_dim < 2 or self.head_dim % 2:
            raise ConfigError(f"titans.head_dim is {self.head_dim}; use an even number from 2 on (64 is usual).")
        if self.window < 1 or self.slots < 1:
            raise ConfigError(
                f"titans.window is {self.window} and slots {self.slots}; use 1 or more (256 and 64 are usual)."
            )

    def build(self, d_model: int, n_branches: int = 1) -> "Titans":
        """The module; n_branches residual branches in the trunk set the scale of its output at the start."""
        if d_model % self.head_dim or d_model // self.head_dim % self.n_kv_heads:
            raise ConfigError(
                f"titans.head_dim is {self.head_dim} and n_kv_heads {self.n_kv_heads} beside d_model {d_model}; use a "
                f"head_dim that divides d_model, and key and value heads that divide the number of heads it gives."
            )
        return Titans(self, d_model, n_branches)


class Places(NamedTuple):
    """What follows from the places of a call's tokens alone."""

    sight: Sight
    cos: Tensor
    """(B, T, 1, K)"""
    sin: Tensor


class TitansContext(NamedTuple):
    """What a call's tokens meet; rows of it can be taken."""

    places: Places
    keys: Tensor
    """(B, G, n, L, K) of the tokens that each block may see."""
    values: Tensor
    known: Known | None
    """What the memory knows."""


@dataclass(frozen=True)
class TitansState(State):
    """What a layer remembers."""

    ring: RingState
    """Keys and values of the last tokens."""
    memory: DeepMemoryState | None


class Titans(nn.Module):
    taps: ClassVar[Mapping[str, Tap]] = {
        "heads": Tap("what each head has read, (B, T, H, K)"),
        "weights": Tap(
            "of the window, the slots and what is recalled, of blocks of tokens, (B, G, n, H / G C, L + M + 1)"
        ),
    }

    def __init__(self, config: TitansConfig, d_model: int, n_branches: int = 1):
        super().__init__()
        self.config, c = config, config
        self.n_heads = d_model // c.head_dim
        self.norm = RMSNorm(d_model)
        self.query = linear(d_model, d_model if c.memory is None else 2 * d_model, ternary=True)
        self.keys_values = linear(d_model, 2 * c.n_kv_heads * c.head_dim, ternary=True)
        self.slots = nn.Parameter(torch.empty(2, c.n_kv_heads, c.slots, c.head_dim))
        self.memory: DeepMemory | None = None
        self.recalled_norm, self.gate = None, None
        if c.memory is not None:
            self.memory = c.memory.build(d_model, self.n_heads, c.head_dim)
            self.recalled_norm = RMSNorm(d_model)
            self.gate = nn.Parameter(torch.empty(d_model))
        self.inner_norm = RMSNorm(d_model, start=QUIET)
        self.out = linear(d_model, d_model, residual_std(n_branches), ternary=True)
        self.layout = f"window {c.window} {c.head_dim}"
        """Name of what is shared in a call."""
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.slots, INIT_STD)
        if self.gate is not None:
            init.zeros_(self.gate)

    def init_state(self, batch: int, capacity: int = 0) -> TitansState:
        c = self.config
        ring = RingState.new(self.norm.weight, batch, c.window, 2 * c.n_kv_heads * c.head_dim)
        return TitansState(ring, None if self.memory is None else self.memory.init_state(batch))

    def prepare(self, step: Step) -> dict[str, Any]:
        """Who sees whom, how far keys and queries are turned, and where the memory's chunks lie."""
        found = {self.layout: self._places(step)}
        return found if self.memory is None else found | self.memory.prepare(step)

    def forward(self, x: Tensor, step: Step, state: TitansState | None = None) -> MixerOutput:
        context, after = self.write(x, step, state)
        return MixerOutput(self.read(x, context, step), after)

    def write(
        self, x: Tensor, step: Step, state: TitansState | None = None
    ) -> tuple[TitansContext, TitansState | None]:
        """x (B, T, D) -> what its tokens meet, and the state after them."""
        n = self.norm(x)
        places: Places = step.shared[self.layout] if self.layout in step.shared else self._places(step)
        keys, values, ring = self._seen(n, places, step, None if state is None else state.ring)
        known = memory = None
        if self.memory is not None:
            known, memory = self.memory.write(n, step, None if state is None else state.memory)
        return TitansContext(places, keys, values, known), None if ring is None else TitansState(ring, memory)

    def read(self, x: Tensor, context: TitansContext, step: Step) -> Tensor:
        """Queries of x (B, T, D) against what its tokens meet -> y (B, T, D)."""
        queries = self.query(self.norm(x)).unflatten(-1, (-1, self.n_heads, self.config.head_dim))
        q, *asked = queries.unbind(2)  # (B, T, H, K) each
        if self.memory is None or context.known is None:
            o = step.tap(self, "heads", self._attended(q, None, context, step)).flatten(2)
        else:
            assert self.recalled_norm is not None, "a memory comes with what it is heard through"
            assert self.gate is not None, "and by"
            recalled = self.memory.read(asked[0], context.known, step).flatten(2)  # (B, T, D)
            own = self.keys_values(self.recalled_norm(recalled))  # (B, T, 2 G K)
            o = step.tap(self, "heads", self._attended(q, own, context, step)).flatten(2)
            o = o * (1 + torch.tanh(self.gate.to(o.dtype) * recalled))
        return self.out(self.inner_norm(o))

    def _places(self, step: Step) -> Places:
        sight = Sight.of(step, self.config.window)
        cos, sin = rotation(step.positions, self.config.head_dim, ROPE_BASE, far=True)
        return Places(sight, cos.transpose(1, 2), sin.transpose(1, 2))

    def _seen(
        self, n: Tensor, places: Places, step: Step, ring: RingState | None
    ) -> tuple[Tensor, Tensor, RingState | None]:
        """Keys and values of what each block of tokens may see, (B, G, n, L, K) each, and the ring after the call."""
        c = self.config
        k, v = self.keys_values(n).unflatten(-1, (2, c.n_kv_heads, c.head_dim)).unbind(2)  # (B, T, G, K)
        rows = torch.cat([rotate(k, places.cos, places.sin), v], 2).flatten(2)
        if ring is None:
            all_rows, after = in_front(rows, places.sight.order), None
        else:
            all_rows, after = ring.extended(rows, places.sight, step)
        both = all_rows.to(rows.dtype).unflatten(-1, (2, c.n_kv_heads, c.head_dim)).permute(2, 0, 3, 1, 4)
        keys, values = (places.sight.windows(x, n.shape[1]) for x in both.contiguous().unbind())
        return keys, values, after

    def _attended(self, q: Tensor, own: Tensor | None, context: TitansContext, step: Step) -> Tensor:
        """What queries (B, T, H, K) read of the window, the slots and a slot of their own (B, T, 2 G K): as q."""
        sight, cos, sin = context.places
        tokens, q = q.shape[1], q * q.shape[-1] ** -0.5
        turned, q = (self._blocks(rotate(q, cos, sin), sight), self._blocks(q, sight))  # (B, G, n, H / G, C, K) each
        slot_keys, slot_values = self.slots.to(q.dtype)  # (G, M, K) each
        window = (turned.flatten(3, 4) @ context.keys.mT).view(*q.shape[:-1], -1)
        scores = [window + sight.bias[:, None, :, None], (q.flatten(2, 4) @ slot_keys.mT).view(*q.shape[:-1], -1)]
        if own is not None:
            own_keys, own_values = self._own_blocks(own, sight)
            scores.append((q * own_keys).sum(-1, keepdim=True))
        weights = step.tap(self, "weights", torch.cat(scores, -1).softmax(-1).to(q.dtype))
        window, slots, *alone = weights.split([x.shape[-1] for x in scores], -1)
        o = (window.flatten(3, 4) @ context.values).view(q.shape) + (slots.flatten(2, 4) @ slot_values).view(q.shape)
        if own is not None:
            o = torch.addcmul(o, alone[0], own_values)
        o = o.permute(0, 2, 4, 1, 3, 5).flatten(3, 4).flatten(1, 2)[:, :tokens]  # (B, T, H, K)
        return in_place(o, sight.order)

    def _blocks(self, x: Tensor, sight: Sight) -> Tensor:
        """(B, T, H, K) -> (B, G, n, H / G, C, K), real tokens in front."""
        return sight.blocks(x).unflatten(3, (self.config.n_kv_heads, -1)).permute(0, 3, 1, 4, 2, 5).contiguous()

    def _own_blocks(self, own: Tensor, sight: Sight) -> tuple[Tensor, ...]:
        """Keys and values (B, T, 2 G K) of each token alone -> (B, G, n, 1, C, K) each."""
        x = sight.blocks(own).unflatten(3, (2, self.config.n_kv_heads, self.config.head_dim))  # (B, n, C, 2, G, K)
        return x.permute(3, 0, 4, 1, 2, 5).unsqueeze(4).unbind()
