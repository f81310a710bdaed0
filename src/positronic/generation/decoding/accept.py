"""Acceptance: draw the token at each row of a verified draft, and follow the draft as long as it agrees.

The token at a row is drawn from the target alone, with noise that belongs to its position. A draft token is kept if it
is that token. So, where rows have the bits of plain decoding, the emitted tokens are its own, by induction: row 0
follows committed tokens only, and row j + 1 is read only if the draft's token j is the one that plain decoding emits.
No rejection arithmetic is needed, since a draft is a fixed chain.

Source   drafter-invariant decoding: Daliri et al. 2024, arXiv 2408.07978.
"""

from collections.abc import Callable, Sequence

__all__ = ["accept"]


def accept(draft: Sequence[int], draw: Callable[[int], int], ended: Callable[[int], bool]) -> list[int]:
    """The tokens emitted in one round, from one to len(draft) + 1 of them; the last one is not in the state yet.

    draw(row) gives the target's token after `draft[:row]`; ended(token) hears every emitted token once, in order, and
    says whether the text ends there. The rows to commit are the first len(result).
    """
    emitted: list[int] = []
    for row in range(len(draft) + 1):
        token = draw(row)
        emitted.append(token)
        if ended(token) or row == len(draft) or token != draft[row]:
            break
    return emitted
