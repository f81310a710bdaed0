"""A call of Transformers in our words: where padding is, where documents begin, and what cannot be asked for.

Positions count on by one inside a document, and begin again at 0 where another does. A row may begin in the middle of
one: what stood before it is not there, and distances between its tokens are what they are, so nothing else follows.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from positronic.errors import GenerationError
from positronic.state import ForwardOptions

__all__ = ["longest_document", "next_place", "options_of", "refuse_unknown"]

SAID_BY_POSITIONS = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}
"""Where packed documents begin, in the words of other models' kernels; position_ids must say the same."""
NOT_RETURNED = {"output_router_logits"}


def options_of(
    tokens: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    begun: Tensor | None = None,
    place: Tensor | None = None,
) -> ForwardOptions:
    """What a call over tokens (B, T) wants: padding where the last T columns of the mask are 0, and a document wherever
    positions begin again at 0.

    begun (B,): real tokens that a cache holds, whose document the first ones here go on with, at positions place (B,).
    """
    valid = None
    if attention_mask is not None:
        if attention_mask.dim() != 2:
            raise GenerationError(
                f"attention_mask has {attention_mask.dim()} dimensions; give (rows, tokens), 0 at padding. Documents "
                f"of one row are told apart by position_ids that start again at 0."
            )
        valid = attention_mask[:, -tokens.shape[1] :].bool()
        valid = None if bool(valid.all()) else valid
    segments = None
    if position_ids is not None:
        places = position_ids.expand_as(tokens)
        real = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
        begins = (places == 0) & real
        goes_on = None if begun is None or place is None else torch.where(begun > 0, place, -1)
        _check_order(places, real, begins, goes_on)
        segments = _segments(begins, valid, begun) if bool(begins.any()) else None
    return ForwardOptions(valid=valid, segments=segments)


def _check_order(places: Tensor, real: Tensor, begins: Tensor, goes_on: Tensor | None) -> None:
    """Raise for positions that neither go on by one nor begin again; goes_on (B,): where a row must, -1: anywhere."""
    first = real & (real.cumsum(1) == 1)
    before = torch.cat([places[:, :1], places[:, :-1]], 1)
    follows = real & torch.cat([real[:, :1] & False, real[:, :-1]], 1)
    odd = follows & ~begins & (places != before + 1)
    if goes_on is not None:
        odd = odd | (first & ~begins & (goes_on >= 0)[:, None] & (places != goes_on[:, None]))
    if bool(odd.any()):
        row, column = odd.nonzero()[0].tolist()
        raise GenerationError(
            f"position_ids jump to {int(places[row, column])} in row {row}, column {column}. Positions count on by one "
            f"here, or begin again at 0 with another document; leave position_ids out, or mask what is not there."
        )


def next_place(
    position_ids: Tensor | None, attention_mask: Tensor | None, place: Tensor, columns: int
) -> Tensor | None:
    """(B,) the position behind the last real token of a call; None: positions were not given."""
    if position_ids is None:
        return None
    places = position_ids.expand(len(place), columns)
    if attention_mask is None:
        return places[:, -1] + 1
    real = attention_mask[:, -columns:].bool()
    last = (real * torch.arange(1, columns + 1, device=real.device)).argmax(1)
    return torch.where(real.any(1), places.gather(1, last[:, None])[:, 0] + 1, place)


def _segments(begins: Tensor, valid: Tensor | None, begun: Tensor | None) -> Tensor | None:
    """Documents (B, T) of a call, numbered from where each begins; None: one a row."""
    first = (torch.ones_like(begins) if valid is None else valid).cumsum(1) == 1
    if begun is not None and bool((begins & first & (begun > 0)[:, None]).any()):
        raise GenerationError(
            "position_ids begin a document with the first token of a call that goes on from past_key_values. "
            "Begin it with a cache of its own, or together with the end of the document before."
        )
    begins = begins & ~first
    return begins.cumsum(1) if bool(begins.any()) else None


def longest_document(tokens: Tensor, options: ForwardOptions) -> int:
    """Real tokens of the longest document in a call: a packed row may hold more of them than the model has positions,
    and a padded one more columns."""
    documents = torch.zeros_like(tokens) if options.segments is None else options.segments
    real = torch.ones_like(documents, dtype=torch.bool) if options.valid is None else options.valid
    return max(int(row[there].bincount(minlength=1).max()) for row, there in zip(documents, real, strict=True))


def refuse_unknown(others: Mapping[str, Any], position_ids: Tensor | None) -> None:
    """Raise for an argument that this model cannot honour."""
    cut = sorted(name for name in SAID_BY_POSITIONS if others.get(name) is not None)
    if cut and position_ids is None:
        raise GenerationError(
            f"{cut[0]} is given without position_ids, which say here where documents begin. Give them too "
            f"(DataCollatorWithFlattening makes them with return_position_ids=True)."
        )
    unknown = sorted(set(others) - SAID_BY_POSITIONS - NOT_RETURNED)
    if unknown:
        raise TypeError(f"forward() got an unexpected keyword argument {unknown[0]!r}; leave it out.")
    asked = sorted(name for name in NOT_RETURNED if others.get(name))
    if asked:
        raise GenerationError(
            f"{asked[0]} is not answered here: what passes inside a model is watched with positronic.probe.Probe. "
            f"Leave it out."
        )
