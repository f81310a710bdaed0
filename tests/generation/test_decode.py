"""One loop: drafts change the number of forwards and nothing else; texts end where they should."""

from dataclasses import dataclass

import pytest
import torch
from drafting import PROMPT, VOCABULARY, Blind, Oracle, Wavering, ids, run, small

from positronic.errors import GenerationError
from positronic.generation import GREEDY, NGram, SamplingParams, Stop, Uncached, decode, prefill
from positronic.probe import Probe, capture

WARM = SamplingParams(temperature=0.8, seed=11)
SAMPLERS = [GREEDY, WARM, SamplingParams(temperature=1.2, top_k=40, repetition_penalty=1.3, seed=2)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_text_with_drafts_equals_text_without(model, sampler):
    plain = ids(run(model, sampler=sampler))
    assert len(set(plain)) > 30, "the text is too monotonous to prove anything"
    for proposer in (Oracle(plain), Oracle(plain, wrong_from=2), Blind(), NGram(), Wavering(plain)):
        assert ids(run(model, sampler=sampler, proposer=proposer)) == plain, proposer


@pytest.mark.parametrize("right", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("sampler", SAMPLERS[:2])
def test_a_draft_right_up_to_i_is_accepted_up_to_i(model, sampler, right):
    plain = ids(run(model, sampler=sampler))
    emissions = run(model, sampler=sampler, proposer=Oracle(plain, wrong_from=right))
    assert ids(emissions) == plain
    assert emissions[-1].forwards == -(-100 // (right + 1))
    assert emissions[-1].forwards + emissions[-1].accepted == 100


def test_blind_drafts_are_about_never_accepted(model):
    end = run(model, n=200, proposer=Blind())[-1]
    assert end.accepted <= 0.03 * end.proposed + 3, (end.accepted, end.proposed)
    assert end.forwards == 200 - end.accepted


def test_every_token_says_its_place_and_every_round_its_state(model):
    emissions = run(model, proposer=Wavering(ids(run(model))))
    assert [e.position for e in emissions] == list(range(len(PROMPT), len(PROMPT) + 100))
    for emission in emissions:
        if emission.state is not None:
            assert int(emission.state.position[0]) == emission.position
            best = model.logits(emission.hidden)[0].argmax()
            assert int(best) == emission.token, "hidden is not what the token was read off"
    rounds = [e for e in emissions if e.state is not None]
    assert [e.forwards for e in rounds] == list(range(1, len(rounds) + 1))


def test_cached_text_equals_text_read_anew_for_every_token():
    model, uncached = small(boundary_id=256), None
    uncached = Uncached(model)
    for prompt in ([7], PROMPT, [9, 256, 33, 4, 80, 256, 5]):
        assert ids(run(model, prompt, 256)) == ids(run(uncached, prompt, 256)), prompt


def test_a_model_read_anew_takes_drafts_too(model):
    plain = ids(run(model, n=40))
    end = run(Uncached(model), n=40, proposer=Oracle(plain, wrong_from=2))
    assert ids(end) == plain
    assert end[-1].forwards == 14


def test_a_stop_token_inside_an_accepted_run_ends_the_text_and_the_state(model):
    plain = run(model)
    text = ids(plain)
    first = next(i for i in range(20, 60) if text[i] not in text[:i] and i % 5 == 2)  # third of an oracle's run
    ended = run(model, proposer=Oracle(text), ends={text[first]: "stop_token"})
    assert ids(ended) == text[: first + 1]
    assert [e.stop_reason for e in ended] == [None] * first + ["stop_token"]
    state, after = ended[-1].state, plain[first].state
    assert state is not None
    assert int(state.position[0]) == len(PROMPT) + first == int(after.position[0])
    tail = list(decode(model, state, text[first], sampler=GREEDY, stop=Stop(max_new_tokens=20)))
    assert ids(tail) == text[first + 1 : first + 21]


def test_what_hears_a_stop_ends_the_text_inside_a_run(model):
    text = ids(run(model))
    heard = []

    def hears(token):
        heard.append(token)
        return len(heard) == 13

    ended = run(model, proposer=Oracle(text), stop=Stop(max_new_tokens=100, heard=hears))
    assert ids(ended) == heard == text[:13]
    assert ended[-1].stop_reason == "stop_string"


def test_length_and_context_end_a_text_exactly_there(model):
    text = ids(run(model, n=40))
    for proposer in (Oracle(text), Blind()):
        ended = run(model, n=13, proposer=proposer)
        assert (ids(ended), ended[-1].stop_reason) == (text[:13], "length")
        tight = small(max_positions=128)
        long = [5] * 120
        ended = run(tight, long, 40, proposer=proposer)
        assert (len(ended), ended[-1].stop_reason) == (8, "context")
        assert run(tight, [5] * 128, 40, proposer=proposer) == []


def test_eot_begins_afresh_inside_and_outside_drafts():
    """With a boundary, a draft that runs over an end of text sees what plain decoding would see."""
    model = small(boundary_id=256)
    sampler = SamplingParams(temperature=1.0, biases={256: 6.0}, seed=4)
    plain = ids(run(model, sampler=sampler))
    assert plain.count(256) > 5
    for proposer in (Oracle(plain), Wavering(plain), NGram()):
        assert ids(run(model, sampler=sampler, proposer=proposer)) == plain


@dataclass(frozen=True)
class Rising:
    """Each token must be above the one before, modulo 32."""

    last: int = -1

    def allowed(self):
        return torch.arange(VOCABULARY) > self.last

    def advance(self, token):
        return Rising(token if token < VOCABULARY - 200 else -1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_constraints_hold_with_drafts_and_without(model, sampler):
    plain = ids(run(model, sampler=sampler, constraint=Rising(), n=60))
    state = Rising()
    for token in plain:
        assert bool(state.allowed()[token])
        state = state.advance(token)
    drafted = run(model, sampler=sampler, constraint=Rising(), n=60, proposer=Wavering(plain))
    assert ids(drafted) == plain
    assert drafted[-1].forwards < 60


def test_prefill_in_any_chunks_leaves_the_same_state(model):
    prompt = [[(7 * i) % VOCABULARY for i in range(200)]]
    _, whole = prefill(model, model.init_state(1), prompt)
    for chunk in (1, 3, 64, 199):
        state, hidden = prefill(model, model.init_state(1), prompt, chunk=chunk)
        assert int(state.position[0]) == 200
        assert (model.logits(hidden) - model.logits(whole)).abs().max() < 1e-4, chunk


def test_nothing_to_read_is_read_without_a_call(model):
    state = model.init_state(1)
    assert prefill(model, state, [[]]) == (state, None)


def test_a_prompt_beyond_the_model_is_refused_with_numbers(model):
    with pytest.raises(GenerationError, match=r"1030 tokens; the model holds 1024.*Shorten it by 6"):
        prefill(model, model.init_state(1), [[5] * 1030])
    state, _ = prefill(model, model.init_state(1), [[5] * 1000])
    with pytest.raises(GenerationError, match="1025"):
        prefill(model, state, [[5] * 25])


def test_what_a_model_cannot_say_is_an_error():
    model = small()
    with torch.no_grad():
        model.head.scale.fill_(float("nan"))
    for sampler in (GREEDY, SamplingParams()):
        with pytest.raises(GenerationError, match="not finite"):
            run(model, sampler=sampler)


@pytest.mark.parametrize("n", [0, 2**20 + 1])
def test_max_new_tokens_has_a_range(n):
    with pytest.raises(GenerationError, match="max_new_tokens"):
        Stop(max_new_tokens=n)


def test_a_probe_sees_every_forward(model):
    probe = Probe(model, {"trunk.*:branch": capture})
    end = run(model, n=10, probe=probe)[-1]
    assert {len(records) for records in probe.seen.values()} == {end.forwards}
