"""At a fixed width, text, logits and state are those of plain decoding to the bit, whatever was drafted."""

import hashlib
import logging
from contextlib import contextmanager

import pytest
import torch
from drafting import PROMPT, Blind, Oracle, Wavering, ids, run, small
from torch import Tensor

from positronic import tree
from positronic.errors import GenerationError
from positronic.generation import GREEDY, Exact, NGram, SamplingParams, find_exact
from positronic.generation.decoding import exact as module
from positronic.generation.decoding.exact import rows_agree

N = 205


@contextmanager
def threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def digest(state):
    """Of every live row and every other tensor of a state."""
    sha = hashlib.sha256()

    def add(tensor: Tensor) -> None:
        sha.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        sha.update(tensor.contiguous().numpy().tobytes())

    for _, tensor, _ in tree.tensors(tree.extended(state, state.length)):
        add(tensor)
    return sha.hexdigest()


def bits(model, emissions):
    """The logits each round's last token was read off, by position."""
    return {e.position: model.logits(e.hidden) for e in emissions if e.hidden is not None}


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("sampler", [GREEDY, SamplingParams(temperature=0.9, seed=3)])
def test_drafts_change_no_bit(model, n_threads, sampler):
    with threads(n_threads):
        exact = find_exact(model, len(PROMPT) + N)
        plain = run(model, n=N, sampler=sampler, exact=exact)
        text, hidden = ids(plain), {e.position: e.hidden for e in plain}
        assert len(set(text)) > 40
        assert plain[-1].forwards == N
        halves = [(Oracle(text, wrong_from=i), i) for i in range(4)]
        for proposer, accepted in [(Oracle(text), 4), *(halves if n_threads == 1 else halves[2:3])]:
            drafted = run(model, n=N, sampler=sampler, exact=exact, proposer=proposer)
            assert ids(drafted) == text
            assert drafted[-1].forwards == -(-N // (accepted + 1))
            for e in drafted:
                assert e.hidden is None or torch.equal(e.hidden, hidden[e.position]), e.position
            assert digest(drafted[-1].state) == digest(plain[-1].state)
        drafted = run(model, n=N, sampler=sampler, exact=exact, proposer=Blind())
        assert ids(drafted) == text
        assert drafted[-1].accepted <= 0.03 * drafted[-1].proposed + 3


def test_after_any_pattern_of_acceptance_the_state_is_that_of_plain_decoding(model):
    with threads(1):
        exact = find_exact(model, len(PROMPT) + N)
        plain = run(model, n=N, exact=exact)
        text = ids(plain)
        at = {}
        state_of = {e.position: e for e in plain}
        for seed in range(4):
            drafted = run(model, n=N, exact=exact, proposer=Wavering(text, seed=seed))
            assert ids(drafted) == text
            at[seed] = digest(drafted[-1].state)
            for e in drafted:
                assert e.hidden is None or torch.equal(e.hidden, state_of[e.position].hidden)
        assert set(at.values()) == {digest(plain[-1].state)}


def test_logits_of_a_token_have_the_same_bits_in_every_row(model):
    """What the self-test claims, for other tokens and places than it looks at."""
    with threads(1):
        exact = find_exact(model, 300)
        plain = run(model, n=60, exact=exact)
        drafted = run(model, n=60, exact=exact, proposer=Wavering(ids(plain), seed=9))
        full = bits(model, plain)
        for position, logits in bits(model, drafted).items():
            assert torch.equal(logits, full[position])


def test_exact_text_is_the_fast_text_where_margins_are_wide(model):
    with threads(1):
        assert ids(run(model, n=100, exact=find_exact(model, 120))) == ids(run(model, n=100))


def test_drafts_never_outgrow_the_width(model):
    with threads(1):
        exact = find_exact(model, len(PROMPT) + N)
        text = ids(run(model, n=N, exact=exact))
        drafted = run(model, n=N, exact=exact, proposer=Oracle(text, k=50))
        assert ids(drafted) == text
        assert drafted[-1].forwards == -(-N // exact.width)
        assert ids(run(model, n=N, exact=exact, proposer=NGram(k=50))) == text


class Uneven:
    """A model whose rows depend on their place: what no width can mend."""

    def __init__(self, model, only_threads=None):
        self.model, self.config, self.drafts, self.only = model, model.config, None, only_threads
        self.latents = None

    def init_state(self, batch, capacity=0):
        return self.model.init_state(batch, capacity)

    def __call__(self, tokens, state=None, options=None):
        out = self.model(tokens, state, options)
        if self.only is not None and torch.get_num_threads() != self.only:
            return out
        ulp = 1 + 1e-6 * torch.arange(tokens.shape[1])[:, None]
        return out._replace(hidden=out.hidden * ulp)

    def logits(self, hidden):
        return self.model.logits(hidden)


def test_rows_that_depend_on_their_place_are_found_out(model):
    with threads(1):
        assert rows_agree(model, Exact(5, 1, 64))
        assert not rows_agree(Uneven(model), Exact(5, 1, 64))
        with pytest.raises(GenerationError, match="not possible here"):
            find_exact(Uneven(model), 64)


def test_where_many_threads_fail_one_is_taken_and_said(model, caplog):
    with threads(2), caplog.at_level(logging.WARNING, logger=module.__name__):
        exact = find_exact(Uneven(model, only_threads=2), 64)
        assert exact.threads == 1
        assert "one thread" in caplog.text
        text = ids(run(Uneven(model, only_threads=2), n=20, exact=exact))
        assert torch.get_num_threads() == 2, "the threads were not given back"
        assert ids(run(Uneven(model, only_threads=2), n=20, exact=exact, proposer=Oracle(text))) == text


def test_a_model_with_boundaries_is_exact_too():
    model = small(boundary_id=256)
    sampler = SamplingParams(temperature=1.0, biases={256: 6.0}, seed=4)
    with threads(1):
        exact = find_exact(model, 120)
        plain = run(model, sampler=sampler, exact=exact)
        assert ids(plain).count(256) > 5
        drafted = run(model, sampler=sampler, exact=exact, proposer=Wavering(ids(plain)))
        assert ids(drafted) == ids(plain)
        assert digest(drafted[-1].state) == digest(plain[-1].state)
