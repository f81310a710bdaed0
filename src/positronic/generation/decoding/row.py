"""One row of a batch while it is read and decoded, and what comes out of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from positronic.generation.decoding.accept import accept
from positronic.generation.decoding.forward import Mode
from positronic.generation.decoding.propose import NOTHING, Nothing, Proposer
from positronic.generation.decoding.writer import Text
from positronic.state import DecodeState

__all__ = ["Row", "TokenOutput"]


@dataclass(frozen=True)
class TokenOutput:
    """One token of the output, and how it came about."""

    token: int
    position: int
    """Its place in the sequence."""
    forwards: int
    """Model calls so far."""
    proposed: int
    """Draft tokens so far."""
    accepted: int
    """Of these, how many were kept: tokens so far = forwards + accepted, at the end of each round."""
    stop_reason: str | None = None
    """At the last token: "eot", "stop_token", "stop_string", "length" or "context"."""
    state: DecodeState | None = None
    """At the last token of a round of a row that is alone, and of any row at its last: what stood before that token."""
    hidden: Tensor | None = None
    """(1, D) with the state: what that token was read off."""


@dataclass(eq=False)
class Row:
    """A text that grows by one token or more with every round."""

    text: Text
    mode: Mode = field(default_factory=Mode)
    proposer: Proposer = NOTHING
    """Who drafts."""
    hidden: Tensor | None = None
    """(1, D) what the newest token was read off; None: not known."""
    unread: Sequence[int] = ()
    """Tokens of the prompt, all but its last, that are in no state yet."""
    wants_state: bool = True
    """Whether its last output comes with the state, of which a copy is made where rows stand together."""
    from_nothing: bool = False
    """Whether the state holds what `text.past` says and nothing else."""
    forwards: int = 0
    proposed: int = 0
    accepted: int = 0

    @property
    def alone(self) -> bool:
        """Whether no other row may stand beside it: how far a draft is right differs from row to row."""
        return not isinstance(self.proposer, Nothing) or self.mode.exact is not None

    @property
    def last(self) -> int:
        """The newest token, which is in no state yet."""
        return self.text.past[-1]

    def draft(self) -> Sequence[int]:
        """Guesses of the next tokens, no more than can be used."""
        width = self.text.left if self.mode.exact is None else min(self.text.left, self.mode.exact.width)
        return self.proposer.propose(self.hidden, self.text.past, width - 1).tokens[: width - 1] if width > 1 else ()

    def accept(self, draft: Sequence[int], draw: Callable[[int], int]) -> list[int]:
        """The tokens of a round that checked `draft`, taken down; one at least."""
        tokens = accept(draft, draw, self.text.write)
        self.forwards += 1
        self.proposed += len(draft)
        self.accepted += len(tokens) - 1
        return tokens

    def outputs(
        self, tokens: Sequence[int], state: DecodeState | None = None, hidden: Tensor | None = None
    ) -> list[tuple["Row", TokenOutput]]:
        """The newest tokens of the text as outputs, the last with the state."""
        first = self.text.position - len(tokens)
        self.hidden = hidden
        found: list[tuple[Row, TokenOutput]] = []
        for place, token in enumerate(tokens[:-1], first):
            found.append((self, TokenOutput(token, place, self.forwards, self.proposed, self.accepted)))
        counts = self.forwards, self.proposed, self.accepted
        place = first + len(tokens) - 1
        return [*found, (self, TokenOutput(tokens[-1], place, *counts, self.text.reason, state, hidden))]
