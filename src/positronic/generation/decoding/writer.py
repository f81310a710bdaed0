"""One row's output as it grows: what was said, what may come next, when it ends.

Tokens come here one at a time, in order, and none is ever taken back: a draft token counts only once the target has
drawn it. So what follows from the output so far (penalty, constraint, stop strings) needs no rollback.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, Self, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from positronic.errors import GenerationError
from positronic.generation.sampling.params import SamplingParams, not_finite

__all__ = ["FREE", "Constraint", "Free", "History", "Rows", "Stop", "Text", "Writer"]


class Constraint(Protocol):
    """Which tokens may come next: a value, so that trying a path costs nothing."""

    def allowed(self) -> Tensor | None:
        """(W,) bool; None: every token."""
        ...

    def advance(self, token: int) -> "Constraint":
        """The constraint after `token`."""
        ...


@dataclass(frozen=True)
class Free:
    """No constraint."""

    def allowed(self) -> None:
        return None

    def advance(self, token: int) -> Self:
        return self


FREE = Free()


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When a text ends. The token that ends it is emitted too."""

    tokens: Mapping[int, str] = field(default_factory=dict)
    """Stop tokens by id, each with the reason it stands for: "eot", "stop_token"."""
    max_new_tokens: int = 256
    """At most this many tokens; then the reason is "length", or "context" where the model holds no more."""
    heard: Callable[[int], bool] = lambda token: False
    """Hears every emitted token once, in order; True ends the text there, reason "stop_string"."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_new_tokens <= 2**20:
            raise GenerationError(f"max_new_tokens is {self.max_new_tokens}; use a number from 1 to {2**20}.")


class History(Sequence[int]):
    """All tokens so far, growing; an array of them costs nothing."""

    def __init__(self, tokens: Sequence[int] = ()):
        self._buffer = np.zeros(max(256, 2 * len(tokens)), np.int64)
        self._buffer[: len(tokens)] = tokens
        self._length = len(tokens)

    def append(self, token: int) -> None:
        if self._length == len(self._buffer):
            self._buffer = np.concatenate([self._buffer, np.zeros_like(self._buffer)])
        self._buffer[self._length] = token
        self._length += 1

    @property
    def array(self) -> NDArray[np.int64]:
        """(S,) a view."""
        return self._buffer[: self._length]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.array.astype(dtype or np.int64, copy=bool(copy))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        return self.array[index].tolist()


class Rows:
    """Logits (n, W) of one forward: their best tokens in one operation, their values on the host where needed."""

    def __init__(self, logits: Tensor):
        self.logits = logits

    @cached_property
    def best(self) -> list[int]:
        """Argmax of each row, ties to the lowest id."""
        values, ids = self.logits.max(-1)
        if not all(map(math.isfinite, values.tolist())):
            raise not_finite()
        return ids.tolist()

    @cached_property
    def host(self) -> NDArray[np.float32]:
        return self.logits.float().cpu().numpy()


class Text(Protocol):
    """One row's output as it grows: who draws its tokens, and when it ends."""

    @property
    def past(self) -> Sequence[int]:
        """Every token so far, of the prompt and of the output."""
        ...

    @property
    def position(self) -> int:
        """The place of the next token in its sequence."""
        ...

    @property
    def left(self) -> int:
        """How many tokens may still be said."""
        ...

    @property
    def reason(self) -> str | None:
        """Why the text has ended; None: it goes on."""
        ...

    @property
    def plain(self) -> SamplingParams | None:
        """How tokens are drawn where that follows from their logits alone; None: from what was said as well."""
        ...

    def draw(self, rows: Rows, row: int) -> int:
        """The next token, given that `rows` hold its logits at `row`."""
        ...

    def write(self, token: int) -> bool:
        """Take `token` down as the next one; whether the text ends with it."""
        ...


class Writer:
    """Draws tokens and takes them down, until `reason` says why the text has ended."""

    def __init__(
        self,
        sampler: SamplingParams,
        stop: Stop,
        constraint: Constraint,
        history: Sequence[int],
        position: int,
        held: int,
    ):
        """position is that of the next token; the model holds `held` tokens."""
        self.sampler, self.stop, self.constraint = sampler, stop, constraint
        self.past, self.position = History(history), position
        self.left = min(stop.max_new_tokens, held - position)
        self.out_of_room = "length" if self.left == stop.max_new_tokens else "context"
        self.reason: str | None = None if self.left > 0 else "context"

    @property
    def plain(self) -> SamplingParams | None:
        """How tokens are drawn where that follows from their logits alone; None: from what was said as well."""
        return self.sampler if self.sampler.alone and isinstance(self.constraint, Free) else None

    def draw(self, rows: Rows, row: int) -> int:
        """The next token, given that `rows` hold its logits at `row`."""
        allowed = self.constraint.allowed()
        if self.sampler.bare and allowed is None:
            return rows.best[row]
        mask = None if allowed is None else allowed.cpu().numpy()
        return self.sampler.pick(rows.host[row], self.position, self.past.array, mask)

    def write(self, token: int) -> bool:
        """Take `token` down as the next one; whether the text ends with it."""
        self.past.append(token)
        self.constraint = self.constraint.advance(token)
        self.position, self.left = self.position + 1, self.left - 1
        ended = self.stop.heard(token)
        self.reason = self.stop.tokens.get(token) or ("stop_string" if ended else None)
        if self.reason is None and self.left == 0:
            self.reason = self.out_of_room
        return self.reason is not None
