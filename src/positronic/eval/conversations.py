"""Bits per byte of what the assistant says in conversations it has not seen: the score of a tuned model."""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from positronic.data import Conversation, TokenBatch
from positronic.errors import DataError
from positronic.eval.bits_per_byte import Score, scoring
from positronic.lm import LM
from positronic.text import Rendered, Tokenizer, render

__all__ = ["assistant_bits_per_byte", "scorable"]


def scorable(
    tokenizer: Tokenizer, conversations: Sequence[Conversation], seq_len: int, *, at_most: int
) -> list[Conversation]:
    """Of the conversations in which a row of `seq_len` tokens holds a word of the assistant, at most about so many."""
    found = []
    for conversation in conversations:
        ids, mask = render(tokenizer, conversation.messages)
        if any(counts and tokenizer.token_bytes[i] for i, counts in zip(ids[: seq_len + 1], mask, strict=False)):
            found.append(conversation)
    return found[:: max(1, len(found) // at_most)]


def assistant_bits_per_byte(
    model: LM,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    *,
    seq_len: int | None = None,
    batch_rows: int = 16,
) -> Score:
    """Score every token that carries loss in training: of each conversation what a row of `seq_len` tokens holds.

    seq_len: the model's context when not given.
    """
    room = (seq_len or model.config.context) + 1
    rendered = [render(tokenizer, conversation.messages) for conversation in conversations]
    ordered = sorted(rendered, key=lambda one: -len(one.ids))
    spelled = torch.tensor([len(token) for token in tokenizer.token_bytes])
    nats: list[float] = []
    size = 0
    with scoring(model) as device:
        for at in range(0, len(ordered), batch_rows):
            batch = _batch(ordered[at : at + batch_rows], room, model.config.boundary_id, spelled)
            size += batch.n_bytes
            moved = batch.to(device)
            counted = moved.loss_mask
            logits = model.logits(model(moved.tokens, options=moved.options()).hidden[counted]).float()
            nats += F.cross_entropy(logits, moved.targets[counted], reduction="none").tolist()
    if not size:
        raise DataError("The conversations to score hold no word of an assistant. Give some that do.")
    return Score(math.fsum(nats), len(nats), size)


def _batch(rows: Sequence[Rendered], room: int, boundary_id: int | None, spelled: torch.Tensor) -> TokenBatch:
    """Conversations as rows, padded at the end to the longest."""
    length = min(room, len(rows[0].ids))
    windows = torch.zeros(len(rows), length, dtype=torch.long)
    counted, real = torch.zeros(len(rows), length, dtype=torch.bool), torch.zeros(len(rows), length, dtype=torch.bool)
    for row, one in enumerate(rows):
        n = min(length, len(one.ids))
        windows[row, :n] = torch.tensor(one.ids[:n])
        counted[row, :n] = torch.tensor(one.loss_mask[:n])
        real[row, :n] = True
    return TokenBatch.of(windows, counted, real, boundary_id=boundary_id, spelled_bytes=spelled)
