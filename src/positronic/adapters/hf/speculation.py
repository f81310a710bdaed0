"""Exact self-speculation behind `generate`: `model.generate(..., custom_generate=speculative)`.

Drafts come from the model's own heads where it has any, else by prompt lookup; one forward reads the last token and the
draft; at each row the next token is chosen from the target's processed scores as `generate` chooses it, and the draft
is followed as long as it agrees. So greedy text is the text of `generate`, and sampled text that of the same seed: one
draw a token, in order. (A near-tie may fall otherwise where rows of another number round otherwise.)
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput

from positronic.adapters.hf.cache import StateCache
from positronic.errors import GenerationError
from positronic.generation.accept import accept
from positronic.generation.prefill import prefill
from positronic.generation.propose import Heads, NGram, Proposer
from positronic.generation.room import check_room
from positronic.state import ForwardOptions

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
    text = _Text(input_ids, logits_processor, stopping_criteria, generation_config)
    cache = _state_of(input_ids, generation_config, model_kwargs)
    lm, held = model.lm, model.config.max_position_embeddings
    proposer = proposer or (NGram() if lm.drafts is None else Heads(lm))
    state, hidden = prefill(lm, cache.state, [text.past[cache.length : -1]])
    while not text.ended:
        check_room(len(text.past), held)
        room = min(held, (stopping_criteria.max_length or held) - 1) - len(text.past)
        draft = proposer.propose(hidden, text.past, room).tokens[:room] if room > 0 else ()
        block = torch.tensor([[text.past[-1], *draft]], device=text.ids.device)
        out = lm(block, state, ForwardOptions(keep_trail=bool(draft)))
        assert out.state is not None, "a call with a state returns one"
        tokens = accept(draft, partial(text.draw, lm.logits(out.hidden[0])), text.write)
        state = out.state.commit(range(len(tokens))) if draft else out.state
        hidden = out.hidden[:, len(tokens) - 1]
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
    ):
        self.ids, self.past = ids, ids[0].tolist()
        self.processor, self.criteria, self.config = processor, criteria, config
        self.scores: list[Any] = []
        self.logits: list[Any] = []
        self.ended = False

    def draw(self, logits: Tensor, row: int) -> int:
        """The next token by a row of logits (P, W)."""
        raw: Any = logits[row : row + 1].float()
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
        self.ended = bool(self.criteria(self.ids, self.scores[-1] if self.scores else None))
        return self.ended

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
