"""Exact self-speculation behind `generate`: `model.generate(..., custom_generate=speculative)`.

Drafts come from the model's own heads where it has any, else by prompt lookup; one forward reads the last token and the
draft; at each row the next token is chosen from the target's processed scores as `generate` chooses it, and the draft
is followed as long as it agrees. So greedy text is the text of `generate`, and sampled text that of the same seed: one
draw a token, in order. (A near-tie may fall otherwise where rows of another number round otherwise.)
"""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput

from positronic.adapters.hf.cache import StateCache
from positronic.errors import GenerationError
from positronic.generation.decoding.context import check_context
from positronic.generation.decoding.engine import Engine
from positronic.generation.decoding.forward import Mode
from positronic.generation.decoding.propose import Proposer
from positronic.generation.decoding.row import Row
from positronic.generation.decoding.writer import Rows
from positronic.generation.requests.generate import own_drafts

__all__ = ["speculative"]


def speculative(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    proposer: Proposer | None = None,
    **model_kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """The decoding loop of `generate` for one row; proposer: who drafts, None: as said above.

    `generate` hands no streamer to a loop that it was given.
    """
    cache = _state_of(input_ids, generation_config, model_kwargs)
    lm, held = model.lm, model.config.max_position_embeddings
    most = min(held, stopping_criteria.max_length or held)
    text = _Text(input_ids, logits_processor, stopping_criteria, generation_config, most)
    mode, unread = Mode(loops=model_kwargs.get("loops", model.config.loops)), text.past[cache.length : -1]
    row = Row(text, mode, proposer or own_drafts(lm), unread=unread)
    engine, state = Engine(lm), None
    engine.add(row, cache.state)
    while engine.busy:
        check_context(len(text.past), held)
        for _, said in engine.step():
            state = said.state
    assert state is not None, "generate asks for a token at least, and the last comes with the state before it"
    cache.advance(state, len(text.past) - 1 - cache.length)
    return text.result(cache)


class _Text:
    """One row as it grows, its tokens chosen and ended by what `generate` was asked."""

    def __init__(
        self,
        ids: Any,
        processor: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        config: GenerationConfig,
        most: int,
    ):
        """most: tokens of the whole text."""
        self.ids, self.past, self.most = ids, ids[0].tolist(), most
        self.processor, self.criteria, self.config = processor, criteria, config
        self.scores: list[Any] = []
        self.logits: list[Any] = []
        self.reason: str | None = None
        self.plain = None
        """What was said counts, as the processors of `generate` read it."""

    @property
    def position(self) -> int:
        return len(self.past)

    @property
    def left(self) -> int:
        return self.most - len(self.past)

    def draw(self, rows: Rows, row: int) -> int:
        """The next token, given that `rows` hold its logits at `row`."""
        raw: Any = rows.logits[row : row + 1].float()
        scores = self.processor(self.ids, raw.clone())
        if self.config.output_scores:
            self.scores.append(scores)
        if self.config.output_logits:
            self.logits.append(raw)
        chosen = torch.multinomial(scores.softmax(-1), 1) if self.config.do_sample else scores.argmax(-1)
        return int(chosen)

    def write(self, token: int) -> bool:
        """Take a token down; whether the text ends with it."""
        self.past.append(token)
        self.ids = torch.cat([self.ids, self.ids.new_tensor([[token]])], 1)
        ended = bool(self.criteria(self.ids, self.scores[-1] if self.scores else None))
        self.reason = "criteria" if ended else None
        return ended

    def result(self, cache: StateCache) -> Tensor | GenerateDecoderOnlyOutput:
        if not self.config.return_dict_in_generate:
            return self.ids
        scores: Any = tuple(self.scores) or None
        logits: Any = tuple(self.logits) or None
        return GenerateDecoderOnlyOutput(sequences=self.ids, scores=scores, logits=logits, past_key_values=cache)


def _state_of(ids: Tensor, config: GenerationConfig, given: dict[str, Any]) -> StateCache:
    """The cache that `generate` prepared, if this is a request that drafts can serve."""
    mask, cache = given.get("attention_mask"), given.get("past_key_values")
    if len(ids) != 1 or config.num_beams != 1 or (mask is not None and not bool(mask.all())):
        raise GenerationError(
            f"Speculation reads one row at a time and these are {len(ids)} rows of {config.num_beams} beams, or "
            f"padded; call generate for each, or leave custom_generate out."
        )
    if not isinstance(cache, StateCache):
        raise GenerationError("Speculation goes on from a state; leave use_cache=False out.")
    return cache
