"""What a trainer is fed: rows of tokens with their targets, and the protocol of whatever feeds them.

    targets[b, t] = the token after tokens[b, t]; the loss counts it where loss_mask[b, t]

Shapes   tokens, targets, loss_mask, segments, valid (B, T); row_bytes (B,), on the CPU wherever the rest is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from positronic.state import ForwardOptions, Step

__all__ = ["BatchSource", "TokenBatch"]


@dataclass(frozen=True)
class TokenBatch:
    """B rows of T tokens to predict from, the tokens to predict, and which of these count."""

    tokens: Tensor
    """(B, T) int64."""
    targets: Tensor
    """(B, T) int64: the next token of the same row."""
    loss_mask: Tensor
    """(B, T) bool: True where the target counts."""
    segments: Tensor | None = None
    """(B, T) number of the document, as `Step.of` counts it, -1 at padding. None: one document a row."""
    valid: Tensor | None = None
    """(B, T) False at padding, which stands at the end of a row. None: no padding."""
    row_bytes: Tensor | None = None
    """(B,) int64: bytes that the counted targets of each row spell; control tokens spell none."""

    @staticmethod
    def of(
        windows: Tensor,
        counted: Tensor | None = None,
        real: Tensor | None = None,
        *,
        boundary_id: int | None = None,
        spelled_bytes: Tensor | None = None,
    ) -> "TokenBatch":
        """The batch that windows (B, T+1) hold: tokens are all but the last, targets all but the first.

        counted (B, T+1) says which tokens carry loss when they are targets, real (B, T+1) which are no padding; None
        means all. `boundary_id` ends a document; `spelled_bytes` (W,) is the number of bytes each token spells.
        """
        tokens, targets = windows[:, :-1], windows[:, 1:]
        loss_mask = torch.ones_like(targets, dtype=torch.bool) if counted is None else counted[:, 1:]
        valid = None if real is None else real[:, :-1]
        if real is not None:
            loss_mask = loss_mask & real[:, 1:] & real[:, :-1]
        segments = Step.of(tokens, options=ForwardOptions(valid=valid), boundary_id=boundary_id).segments
        spelled = None if spelled_bytes is None else (spelled_bytes[targets] * loss_mask).sum(1)
        return TokenBatch(tokens, targets, loss_mask, segments, valid, spelled)

    @property
    def n_targets(self) -> int:
        """Targets that count. Ask before the batch is moved to an accelerator; there it costs a wait."""
        return int(self.loss_mask.sum())

    @property
    def n_bytes(self) -> int:
        """Bytes that the counted targets spell: what bits per byte divides by."""
        assert self.row_bytes is not None, "this batch was made without spelled_bytes"
        return int(self.row_bytes.sum())

    def __len__(self) -> int:
        return len(self.tokens)

    def options(self) -> ForwardOptions:
        """What to tell the model beside the tokens: padding and documents."""
        return ForwardOptions(valid=self.valid, segments=self.segments)

    def rows(self, which: slice) -> Self:
        """These rows alone: a micro-batch, or a rank's share."""
        return replace(
            self,
            tokens=self.tokens[which],
            targets=self.targets[which],
            loss_mask=self.loss_mask[which],
            segments=None if self.segments is None else self.segments[which],
            valid=None if self.valid is None else self.valid[which],
            row_bytes=None if self.row_bytes is None else self.row_bytes[which],
        )

    def to(self, device: torch.device | str) -> Self:
        """The same batch on `device`; `row_bytes` stays where it can be read without waiting."""
        return replace(
            self,
            tokens=self.tokens.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            loss_mask=self.loss_mask.to(device, non_blocking=True),
            segments=None if self.segments is None else self.segments.to(device, non_blocking=True),
            valid=None if self.valid is None else self.valid.to(device, non_blocking=True),
        )


class BatchSource(Protocol):
    """An endless stream of rows whose place fits in a small JSON dict.

    The law: which row comes k-th depends on the source alone, not on how many were asked for per call; after
    `seek(position)` the stream goes on exactly as it did where `position()` was read.
    """

    def next(self, rows: int) -> TokenBatch:
        """The next `rows` rows. Ranks all ask for the global batch and each keeps its own `rows(slice)`."""
        ...

    def position(self) -> dict[str, Any]:
        """Where the stream stands: JSON values only."""
        ...

    def seek(self, position: Mapping[str, Any]) -> None:
        """Go to where `position()` was read. `DataError` if that was another stream."""
        ...

    def describe(self) -> dict[str, Any]:
        """What is in the stream, as JSON: for the log, the report and the checkpoint."""
        ...
