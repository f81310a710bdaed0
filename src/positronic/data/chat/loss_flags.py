"""Whether a turn, or a whole record, is learned from, in the spellings that public data has for it.

    loss, loss_weight, weight, train, trainable, training, learn, loss_mask     true or 1: learned; false or 0: not
    masked                                                                      false or 0: learned; true or 1: not
    label                                                                       of a record, true or false: the same

A null says nothing. Other values of these (a share such as 0.5, text, a list of places), two of them that contradict
each other, and other names that speak of losses, weights or masks are refused by name: nobody can tell what they mean.
"""

import re
from collections.abc import Mapping
from typing import Any

from positronic.errors import DataError
from positronic.text import shown
from positronic.text.chat_template import FLAGS

__all__ = ["FLAGS", "learned"]

_WORDS = {"loss", "losses", "weight", "weights", "train", "trainable", "learn", "learnable", "mask", "masks", "masked"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def learned(fields: Mapping[str, Any], what: str) -> tuple[str, bool] | None:
    """(field, whether what has these fields is learned from); None: they do not say."""
    said: dict[str, bool] = {}
    for name, value in fields.items():
        if value is None:
            continue
        if name in FLAGS or (name == "label" and isinstance(value, bool)):
            if not isinstance(value, bool | int | float) or value not in (0, 1):
                raise DataError(f"{what} has {name} {shown(value)}; it may be true or 1, false or 0")
            said[name] = bool(value) is not (name == "masked")
        elif not _WORDS.isdisjoint(word.lower() for word in _WORD.findall(name)):
            raise DataError(
                f"{what} has a field {shown(name)}, which may say what is not to be learned; say it as loss: false, "
                f"or take it out"
            )
    if len(set(said.values())) > 1:
        raise DataError(f"{what} has {' and '.join(said)}, which contradict each other")
    return next(iter(said.items()), None)
