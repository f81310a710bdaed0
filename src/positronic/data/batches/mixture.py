"""A weighted mixture of row sources (`order.py` says in which order): a `BatchSource`.

State    rows taken from each source, nothing else: the place in the stream is one number a source.
Cost     a row: O(sources) and one read of T+1 tokens; an epoch: 8 bytes a row and one sort.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from positronic.data.batches.batch import TokenBatch
from positronic.data.batches.order import ORDER, permutation, schedule
from positronic.data.tokens.rows import Weighted, check, whole_weights
from positronic.errors import DataError
from positronic.text import Tokenizer

__all__ = ["Mixture"]


class Mixture:
    """A `BatchSource` over weighted rows of one length; deterministic, resumable, cheap to ask."""

    def __init__(self, sources: Sequence[Weighted], tokenizer: Tokenizer, *, seed: int = 0):
        check(sources)
        self.sources = tuple(source.rows for source in sources)
        self.seed = seed
        self._weights = whole_weights(sources)
        self._taken = [0] * len(sources)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # source: (epoch, its order)
        self._eot_id = tokenizer.eot_id
        spelled = [len(spelling) for spelling in tokenizer.token_bytes]
        spelled[tokenizer.eot_id] = 0
        self._spelled = torch.tensor(spelled)

    @property
    def seq_len(self) -> int:
        """T, tokens a row."""
        return self.sources[0].seq_len

    def next(self, rows: int) -> TokenBatch:
        """The next `rows` rows of the stream."""
        before = list(self._taken)
        picks = np.array(schedule(self._weights, self._taken, rows))
        shape = (rows, self.seq_len + 1)
        ids, counted, real = np.empty(shape, np.int64), np.ones(shape, bool), np.ones(shape, bool)
        for i, source in enumerate(self.sources):
            here = np.flatnonzero(picks == i)
            if len(here):
                found = source.read(self._places(i, before[i], len(here)))
                ids[here] = found.ids
                counted[here] = True if found.counted is None else found.counted
                real[here] = True if found.real is None else found.real
        return TokenBatch.of(
            torch.from_numpy(ids),
            torch.from_numpy(counted),
            torch.from_numpy(real) if any(source.pads for source in self.sources) else None,
            boundary_id=self._eot_id,
            spelled_bytes=self._spelled,
        )

    def position(self) -> dict[str, Any]:
        """Rows taken from each source, beside what the stream is, so that another stream is refused."""
        return {"stream": self._stream(), "taken": list(self._taken)}

    def seek(self, position: Mapping[str, Any]) -> None:
        """Go on where `position()` was read."""
        ours, theirs = self._stream(), position.get("stream")
        if _identity(ours) != _identity(theirs):
            raise DataError(f"This position belongs to other data: {_differences(theirs, ours)}. {_SAME_DATA}")
        taken = position.get("taken")
        counts = [n for n in taken if type(n) is int and n >= 0] if isinstance(taken, list) else []
        if taken != counts or len(counts) != len(self.sources):
            raise DataError(f"This position counts rows as {taken!r}, which is damaged. Resume an older checkpoint.")
        self._taken = counts

    def describe(self) -> dict[str, Any]:
        """Sources with their shares, sizes and epochs begun."""
        total = sum(self._weights)
        sources = [
            {
                "name": source.name,
                "share": weight / total,
                "rows": source.n_rows,
                "tokens": source.n_tokens,
                "epochs": taken / source.n_rows,
                "fingerprint": source.fingerprint,
                **source.notes,
            }
            for source, weight, taken in zip(self.sources, self._weights, self._taken, strict=True)
        ]
        return {"seed": self.seed, "seq_len": self.seq_len, "rows_taken": sum(self._taken), "sources": sources}

    def _places(self, i: int, first: int, n: int) -> np.ndarray:
        """Row numbers of draws first .. first+n-1 from source i."""
        size = self.sources[i].n_rows
        draws = np.arange(first, first + n)
        places = np.empty(n, np.int64)
        for epoch in range(first // size, (first + n - 1) // size + 1):
            now = draws // size == epoch
            places[now] = self._order(i, epoch)[draws[now] % size]
        return places

    def _order(self, i: int, epoch: int) -> np.ndarray:
        if i not in self._orders or self._orders[i][0] != epoch:
            self._orders[i] = epoch, permutation(self.seed, i, epoch, self.sources[i].n_rows)
        return self._orders[i][1]

    def _stream(self) -> dict[str, Any]:
        sources = [
            {"name": source.name, "weight": weight, "fingerprint": source.fingerprint}
            for source, weight in zip(self.sources, self._weights, strict=True)
        ]
        return {"order": ORDER, "seed": self.seed, "seq_len": self.seq_len, "sources": sources}


_SAME_DATA = (
    "Give the same files, --data, --seq-len, --tokenizer and --seed as the run that is resumed, or start a new run."
)


def _identity(stream: Any) -> Any:
    """The stream without the names of its sources: a file may be renamed between two runs."""
    if not isinstance(stream, Mapping) or not isinstance(stream.get("sources"), list):
        return stream
    unnamed = [{**source, "name": None} if isinstance(source, Mapping) else source for source in stream["sources"]]
    return {**stream, "sources": unnamed}


def _differences(theirs: Any, ours: dict[str, Any]) -> str:
    """What differs, in a few words."""
    if not isinstance(theirs, Mapping):
        return "it names no stream"
    parts = [_difference(key, theirs.get(key), ours[key]) for key in ours if theirs.get(key) != ours[key]]
    return "; ".join(part if len(part) < 600 else part[:597] + "..." for part in parts)


def _difference(key: str, there: Any, here: Any) -> str:
    if key == "sources" and isinstance(there, list) and len(there) == len(here):
        pairs = [(was, now) for was, now in zip(there, here, strict=True) if isinstance(was, Mapping)]
        changed = [now["name"] for was, now in pairs if {**was, "fingerprint": now["fingerprint"]} == now != was]
        if changed:
            return f"{', '.join(changed)} holds another text, or is read in another way"
    return f"{key} {there} there, {here} here"
