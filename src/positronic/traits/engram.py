"""Engram rings: what stood in the last few tokens, looked up in tables by a hash of their ids.

    c_t   = canon[id_t] + 1,  0 before the document                   canon: one id for all spellings of a piece
    acc   = sum_{i<o} c_{t-i} A[slot, o, j, i]                         order o = 1 .. orders, head j; all mod 2^64
    acc  ^= acc >> 29;  acc *= M[slot, o, j];  row = acc >> 64 - log2(rows)          A, M odd, from SplitMix64(seed)
    m_t   = the rows of all orders and heads, side by side             one table an order, head and slot
    s_t   = <RMS(x_t W_q), RMS(m_t W_k)> / sqrt(width)                 RMS without weights
    y_t   = tanh(g) (1 + erf(a s_t + b)) / 2 RMSNorm(m_t) W_o          on the rings s and s + 1 of slot s, 0 elsewhere

The hash reads ids and no vectors: a bucket can hang neither on a rounding nor on what was learned so far. The tables
and the lookup belong to the whole model (`EngramTables`, once a call), the gate and its maps to a layer (`Engram`).

Shapes   x (B, T, D); canon (W,); m (B, T, slots, V), V = orders heads dim; gate (B, T, slots); y (B, T, N), float32.
State    the last orders - 1 codes of real tokens, and their document: 8 orders bytes a row.
Cost     orders heads slots rows of dim numbers a token, once for all layers; a layer 2 (D + V) width operations a slot
         and 2 V for each oscillator it drives.
Weights  W_q of all slots are rows of one matrix. The tables are a bare parameter: weight decay leaves them alone.
Init     N(0, 0.02^2), tables too; a = 1, b = 0; the gate is closed; canon is the identity until `fit_vocabulary`.
Source   Cheng et al. 2026, "Conditional Memory via Scalable Lookup", arXiv 2601.07372 (canonical ids, hashed n-grams of
         several orders and heads, a gate that compares with the context). Here single tokens are looked up too, rows
         are a power of two, the gate is an erf, no convolution follows, and the output is a current on two rings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from positronic.config import AtMost, OrganConfig
from positronic.errors import ConfigError, TokenizerError
from positronic.lm import MixerOutput
from positronic.nn import init
from positronic.nn.gate import Gate
from positronic.nn.linear import INIT_STD, linear
from positronic.nn.norm import EPSILON, RMSNorm
from positronic.probe import Tap
from positronic.state import State, Step

__all__ = ["Engram", "EngramConfig", "EngramTables", "EngramWindow", "hash_constants", "hashed_rows"]


@dataclass(frozen=True, kw_only=True)
class EngramConfig(OrganConfig, kind="engram"):
    slots: Annotated[tuple[int, ...], AtMost(64)] = (0, 2, 4)
    """Gaps between rings that get a lookup; slot s drives the rings s and s + 1."""
    orders: Annotated[int, AtMost(16)] = 3
    """Longest n-gram, in tokens; all lengths from 1 on are looked up."""
    heads: Annotated[int, AtMost(64)] = 4
    """Hashes an order: n-grams that share a row in one table rarely do in another."""
    rows: Annotated[int, AtMost(2**24)] = 8192
    """Rows of a table; a power of two."""
    dim: Annotated[int, AtMost(4096)] = 24
    """Width of a row."""
    width: Annotated[int, AtMost(4096)] = 32
    """Width of the queries and keys that open the gate."""
    seed: Annotated[int, AtMost(2**64)] = 0
    """Of the hash constants."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("orders", "heads", "dim", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"engram.{name} is {getattr(self, name)}; use 1 or more.")
        if self.rows < 2 or self.rows & (self.rows - 1):
            raise ConfigError(f"engram.rows is {self.rows}; use a power of two, 2 or more (8192 is usual).")
        if not self.slots or len(set(self.slots)) < len(self.slots) or min(self.slots) < 0:
            raise ConfigError(f"engram.slots is {list(self.slots)}; name each slot once, counted from 0.")

    @property
    def value_width(self) -> int:
        """Numbers that one slot looks up for a token."""
        return self.orders * self.heads * self.dim

    def build(self, d_model: int, rings: tuple[int, ...]) -> "Engram":
        """The part of one layer, for rings of these sizes."""
        self._check(rings)
        return Engram(self, d_model, rings)

    def build_shared(self, vocab_size: int, rings: tuple[int, ...]) -> "EngramTables":
        """The part of the model, whose value the layers read as `step.shared["engram"]`."""
        self._check(rings)
        return EngramTables(self, vocab_size)

    def _check(self, rings: tuple[int, ...]) -> None:
        if max(self.slots) >= len(rings) - 1:
            raise ConfigError(
                f"engram.slots names slot {max(self.slots)}, and between {len(rings)} rings there are "
                f"{len(rings) - 1} slots; name slots below that, or add rings."
            )


@dataclass(frozen=True)
class EngramWindow(State):
    """The end of the token list, as far back as an n-gram reaches."""

    codes: Tensor
    """(B, orders - 1) codes of the last real tokens, newest first; 0 where their document had not begun."""
    rollback: tuple[Tensor] | None = None
    """(B, T+1, orders - 1): the same before the last call and after each of its tokens."""


def hash_constants(config: EngramConfig) -> tuple[Tensor, Tensor]:
    """A (slots, orders heads, orders), 0 where i >= o, and M (slots, orders heads): odd, mod 2^64, as int64.

    They are numbers of one SplitMix64 stream, M after the A of its hash, at a place that follows from the slot's
    number: the hashes of a slot are the same whatever other slots there are.
    """
    orders, heads = config.orders, config.heads
    factors = torch.zeros(len(config.slots), orders * heads, orders, dtype=torch.int64)
    last = torch.zeros(len(config.slots), orders * heads, dtype=torch.int64)
    for row, slot in enumerate(config.slots):
        for table in range(orders * heads):
            first = (slot * orders * heads + table) * (orders + 1)
            for i in range(table // heads + 1):
                factors[row, table, i] = _odd(config.seed, first + i)
            last[row, table] = _odd(config.seed, first + orders)
    return factors, last


def hashed_rows(codes: Tensor, factors: Tensor, last: Tensor, rows: int) -> Tensor:
    """codes (..., orders), newest first -> (..., slots, orders heads), the row of each table.

    int64 sums and products wrap mod 2^64 as unsigned ones do; its shifts drag the sign along, which the masks remove.
    """
    acc = (codes[..., None, None, :] * factors).sum(-1)
    acc = acc ^ ((acc >> 29) & (2**35 - 1))
    return ((acc * last) >> (65 - rows.bit_length())) & (rows - 1)


class EngramTables(nn.Module):
    """The tables of all slots and their lookup: `(step, state)` -> m (B, T, slots, V), the state after the call."""

    factors: Tensor
    last: Tensor
    canon: Tensor

    def __init__(self, config: EngramConfig, vocab_size: int):
        super().__init__()
        self.config = config
        slots, tables = len(config.slots), config.orders * config.heads
        self.table = nn.Parameter(torch.empty(slots, tables, config.rows, config.dim))
        self.register_buffer("canon", torch.empty(vocab_size, dtype=torch.int32))
        self.register_buffer("factors", torch.empty(slots, tables, config.orders, dtype=torch.int64), persistent=False)
        self.register_buffer("last", torch.empty(slots, tables, dtype=torch.int64), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.table, INIT_STD)
        init.copy_(self.canon, torch.arange(len(self.canon), dtype=torch.int32))
        factors, last = hash_constants(self.config)
        init.copy_(self.factors, factors)
        init.copy_(self.last, last)

    def fit_vocabulary(self, canon: Sequence[int]) -> None:
        """Take the tokenizer's `normalized_ids`: once, before training; a checkpoint keeps them."""
        found = len(self.canon)
        if len(canon) != found or not all(0 <= c < found for c in canon):
            raise TokenizerError(
                f"The {len(canon)} canonical ids do not fit a model of {found} tokens, each in need of one below "
                f"{found}; give those of the tokenizer that the model was built for."
            )
        init.copy_(self.canon, torch.tensor(canon, dtype=torch.int32))

    def init_state(self, batch: int, capacity: int = 0) -> EngramWindow:
        zero = self.canon.new_zeros(batch, dtype=torch.int64)
        return EngramWindow(zero[:, None].repeat(1, self.config.orders - 1))

    def forward(self, step: Step, state: EngramWindow | None = None) -> tuple[Tensor, EngramWindow | None]:
        before = self.init_state(len(step.tokens)) if state is None else state
        codes = _windows(self.canon[step.tokens].long() + 1, step, before)  # (B, T, orders)
        rows = hashed_rows(codes, self.factors, self.last, self.config.rows)  # (B, T, slots, orders heads)
        tables = torch.arange(self.last.numel(), device=rows.device).view_as(self.last)
        value = F.embedding(rows + self.config.rows * tables, self.table.flatten(0, 2)).flatten(-2)
        if state is None:
            return value, None
        after = torch.cat([before.codes[:, None], codes[..., :-1]], 1)  # (B, T+1, orders - 1)
        return value, EngramWindow(after[:, -1], (after,) if step.keep_rollback else None)


class Engram(nn.Module):
    """The gates and maps of one layer: an `Injection`, which keeps no state of its own."""

    taps: ClassVar[Mapping[str, Tap]] = {
        "gate": Tap("how far each lookup is let in, (B, T, slots)"),
        "current": Tap("current on the bank, (B, T, N)", torch.zeros_like),
    }

    def __init__(self, config: EngramConfig, d_model: int, rings: tuple[int, ...]):
        super().__init__()
        self.config = config
        slots, width, value = config.slots, config.width, config.value_width
        sizes = [rings[s] + rings[s + 1] for s in slots]
        self.margins = [(sum(rings[:s]), sum(rings[s + 2 :])) for s in slots]
        """Oscillators before and behind the two rings of each slot."""
        self.query = linear(d_model, width * len(slots))
        self.keys = nn.ModuleList(linear(value, width) for _ in slots)
        self.norms = nn.ModuleList(RMSNorm(value) for _ in slots)
        self.outs = nn.ModuleList(linear(value, size) for size in sizes)
        self.gates = nn.ModuleList(Gate() for _ in slots)
        self.a = nn.Parameter(torch.empty(len(slots)))
        self.b = nn.Parameter(torch.empty(len(slots)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.constant_(self.a, 1.0)
        init.zeros_(self.b)

    def init_state(self, batch: int, capacity: int = 0) -> None:
        return None

    def forward(self, x: Tensor, phases: Tensor, step: Step, state: None = None) -> MixerOutput:
        looked_up: Tensor = step.shared["engram"]
        values = looked_up.unbind(2)  # slots times (B, T, V)
        queries = self.query(x).unflatten(-1, (len(values), -1))  # (B, T, slots, width)
        keys = torch.stack([key(value) for key, value in zip(self.keys, values, strict=True)], 2)
        q, k = _rms(torch.stack([queries, keys])).unbind()
        score = torch.addcmul(self.b.float(), self.a.float(), (q * k).sum(-1), value=1 / math.sqrt(self.config.width))
        relevance = step.tap(self, "gate", (1 + torch.erf(score)) / 2)
        scales = torch.stack(list(self.norms.parameters())).float()  # (slots, V), of the norms of all values
        normed = (_rms(looked_up) * scales).to(looked_up.dtype).unbind(2)
        parts = zip(self.outs, self.gates, normed, relevance.split(1, -1), self.margins, strict=True)
        currents = [F.pad(gate(r * out(value)), margin) for out, gate, value, r, margin in parts]
        return MixerOutput(step.tap(self, "current", torch.stack(currents).sum(0)))  # (B, T, N)


def _windows(codes: Tensor, step: Step, before: EngramWindow) -> Tensor:
    """codes (B, T) -> (B, T, orders): the code of each real token and of the real tokens before it.

    Newest first, 0 outside the token's document; padding has the window of the token before it.
    """
    past = before.codes.shape[1]
    codes = torch.cat([before.codes.flip(1), codes], 1)  # (B, past + T), as all that follows
    newest = torch.arange(codes.shape[1], device=codes.device).expand_as(codes)
    if step.valid is not None:
        newest = newest.masked_fill(~F.pad(step.valid, (past, 0), value=True), 0).cummax(1).values
    at = newest[:, past:]
    places = [at]
    for _ in range(past):
        at = newest.gather(1, (at - 1).clamp(min=0))
        places.append(at)
    place = step.place
    reached = [codes.gather(1, p) * (place >= back) for back, p in enumerate(places)]
    return torch.stack(reached, -1)


def _rms(x: Tensor) -> Tensor:
    return F.rms_norm(x.float(), x.shape[-1:], eps=EPSILON)


def _odd(seed: int, index: int) -> int:
    """Number `index` of the stream SplitMix64(seed) with its lowest bit set, as the int64 of the same bits.

    Source   Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    z = (z ^ (z >> 31)) | 1
    return z - 2**64 if z >= 2**63 else z
