"""The n-gram proposer copies what followed the longest suffix that occurred before; heads say what they guess."""

import numpy as np
import pytest
import torch
from drafting import EOT, VOCABULARY, ids, run, small
from torch import nn

from positronic.errors import GenerationError
from positronic.generation import Heads, NGram, Nothing, generate
from positronic.generation.decoding.writer import History
from positronic.text import byte_tokenizer
from positronic.traits.mtp import MTPConfig


def by_definition(history, longest, shortest, k):
    """The longest suffix with an earlier occurrence, its latest one, copied token by token, onto itself if need be."""
    for n in range(min(longest, len(history) - 1), shortest - 1, -1):
        for end in range(len(history) - 2, n - 2, -1):
            if history[end - n + 1 : end + 1] == history[len(history) - n :]:
                text = list(history)
                for i in range(k):
                    text.append(text[end + 1 + i])
                return tuple(text[len(history) :])
    return ()


@pytest.mark.parametrize(("longest", "shortest"), [(1, 1), (3, 1), (4, 2), (6, 3)])
def test_it_proposes_what_the_definition_says(longest, shortest):
    rng = np.random.default_rng(0)
    for symbols in (2, 4, 30):
        for length in range(40):
            history = rng.integers(0, symbols, length).tolist()
            found = NGram(longest=longest, shortest=shortest, k=5).propose(None, History(history), 9).tokens
            assert found == by_definition(history, longest, shortest, 5), history


def test_a_loop_is_continued_around_its_end():
    assert NGram(k=7).propose(None, [9, 1, 2, 3, 1, 2, 3, 1, 2], 7).tokens == (3, 1, 2, 3, 1, 2, 3)


def test_room_is_kept():
    assert NGram(shortest=1, k=7).propose(None, [1, 2, 3, 1], 2).tokens == (2, 3)
    assert NGram(shortest=1, k=7).propose(None, [1, 2, 3, 1], 0).tokens == ()
    assert Nothing().propose(None, [1, 1, 1], 5).tokens == ()


@pytest.mark.parametrize("settings", [{"k": 0}, {"shortest": 0}, {"shortest": 5, "longest": 4}])
def test_impossible_settings_are_errors(settings):
    with pytest.raises(GenerationError, match="NGram"):
        NGram(**settings)


def with_heads(k: int = 4, scale: float = 0.3):
    """A small model whose heads guess something of their own."""
    model = small()
    model.drafts = MTPConfig(heads=k, hidden=32).build(64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.drafts.parameters():
            if weight.dim() == 2:
                weight.normal_(std=scale, generator=generator)
    return model


@torch.no_grad()
@pytest.mark.parametrize("room", [0, 1, 3, 4, 9])
def test_heads_propose_the_best_token_of_each_of_the_first(room):
    model, hidden = with_heads(), torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    found = Heads(model).propose(hidden, [1, 2], room).tokens
    best = [int(model.logits(model.drafts[k](hidden))[0].argmax()) for k in range(min(room, 4))]
    assert list(found) == best
    assert room < 3 or len(set(found)) > 1, "heads that all say the same prove nothing"


def test_without_a_hidden_vector_heads_propose_nothing():
    assert Heads(with_heads()).propose(None, [1, 2], 4).tokens == ()


def test_ties_between_tokens_go_to_the_lowest_id():
    model = with_heads()
    nn.init.zeros_(model.embed.weight)
    assert Heads(model).propose(torch.ones(1, 64), [1], 4).tokens == (0, 0, 0, 0)


def test_heads_of_a_model_without_any_are_refused():
    with pytest.raises(GenerationError, match="no draft heads; use"):
        Heads(small())


def test_text_with_the_models_own_drafts_equals_text_without():
    model = with_heads()
    plain = run(model)
    drafted = run(model, proposer=Heads(model))
    assert ids(drafted) == ids(plain)
    assert drafted[-1].proposed > 200


class Foreseeing:
    """A model that counts upwards and whose heads know it."""

    def __init__(self, model, step: int = 1):
        self.model, self.config, self.latents = model, model.config, None
        self.drafts = nn.ModuleList([Onwards(k * step) for k in (1, 2, 3, 4)])
        self.drafts.forward = lambda hidden: torch.stack([head(hidden) for head in self.drafts], -2)

    def init_state(self, batch, capacity=0):
        return self.model.init_state(batch, capacity)

    def __call__(self, tokens, state=None, options=None):
        out = self.model(tokens, state, options)
        return out._replace(hidden=nn.functional.one_hot((tokens + 1) % EOT, VOCABULARY).float())

    def logits(self, hidden):
        return hidden


class Onwards(nn.Module):
    def __init__(self, k: int):
        super().__init__()
        self.k = k

    def forward(self, hidden):
        return hidden.roll(self.k, -1)


@pytest.mark.parametrize(("step", "forwards"), [(1, 12), (2, 60)])
def test_heads_that_are_right_give_five_tokens_a_forward_and_wrong_ones_one(step, forwards):
    model = Foreseeing(small(), step)
    pieces = generate(model, byte_tokenizer(), " !", max_new_tokens=60, temperature=0, speculative=True)
    result = list(pieces)[-1].result
    assert result.tokens == tuple(range(34, 94))
    assert result.forwards == forwards
