"""Rows join, leave, end and are cancelled in any order, and each says what it says alone."""

import random
from dataclasses import dataclass, replace

import pytest
import torch
from drafting import PROMPT, Oracle, ids, run, small

from positronic import tree
from positronic.errors import GenerationError
from positronic.generation import (
    GREEDY,
    Engine,
    Mode,
    NGram,
    Row,
    SamplingParams,
    Stop,
    Writer,
    find_exact,
    generate,
    generate_choices,
)
from positronic.generation.decoding.writer import FREE, Rows
from positronic.text import byte_tokenizer
from remembering import remembering

TOKENS = byte_tokenizer()
SETTINGS = (
    GREEDY,
    SamplingParams(temperature=0.9, seed=3),
    SamplingParams(temperature=0.8, top_k=20, top_p=0.8, seed=5),
    SamplingParams(temperature=0.7, repetition_penalty=1.3, seed=7),
    SamplingParams(temperature=0, biases={65: 2.0}),
)


class Heard(Writer):
    """A writer that takes down the logits it draws from."""

    def draw(self, rows: Rows, row: int) -> int:
        self.logits = [*getattr(self, "logits", []), rows.logits[row].clone()]
        return super().draw(rows, row)


@dataclass(frozen=True, eq=False)
class Request:
    prompt: tuple[int, ...]
    params: SamplingParams
    n: int
    frozen: bool = False

    def row(self, model, **how) -> Row:
        held = model.config.max_positions
        text = Heard(self.params, Stop(max_new_tokens=self.n), FREE, self.prompt, len(self.prompt), held)
        how = {"mode": Mode(write_memory=not self.frozen)} | how
        return Row(text, unread=self.prompt[:-1], **how)


def finish(engine: Engine) -> dict[Row, list[int]]:
    said: dict[Row, list[int]] = {}
    while engine.busy:
        for row, output in engine.step():
            said.setdefault(row, []).append(output.token)
    return said


def alone(model, request: Request, **how) -> Row:
    engine, row = Engine(model), request.row(model, **how)
    engine.add(row)
    finish(engine)
    return row


def requests(n: int, seed: int, longest: int = 90) -> list[Request]:
    draw = random.Random(seed)
    found = []
    for number in range(n):
        prompt = tuple(draw.randrange(32, 127) for _ in range(draw.randint(1, longest)))
        params = replace(draw.choice(SETTINGS), stream=number)
        found.append(Request(prompt, params, draw.randint(1, 25), draw.random() < 0.3))
    return found


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("make", [small, remembering], ids=["attention", "memories"])
def test_forty_requests_that_join_and_leave_at_random_say_what_each_says_alone(make):
    model, asked, draw = make(), requests(40, seed=1), random.Random(2)
    engine, rows, waiting, cancelled = Engine(model, max_rows=7, chunk=16), {}, list(asked), set()
    while waiting or engine.busy:
        for _ in range(draw.randint(0, 3)):
            if waiting:
                request = waiting.pop()
                rows[request] = request.row(model)
                engine.add(rows[request])
        for row, _ in engine.step():
            if draw.random() < 0.01 and row.text.reason is None:
                cancelled.add(row)
                engine.cancel(row)
        assert sum(len(lane.rows) for lane in engine.lanes) <= 7
    assert len(rows) == 40
    for request, row in rows.items():
        single = alone(model, request)
        heard, expected = torch.stack(row.text.logits), torch.stack(single.text.logits)
        assert relative_error(heard, expected[: len(heard)]) < 1e-5
        assert list(row.text.past) == list(single.text.past)[: len(row.text.past)]
        assert row in cancelled or row.text.reason == single.text.reason


def test_exact_and_drafted_rows_beside_others_say_what_they_say_alone(model):
    exact = find_exact(model, 200)
    plain = ids(run(model, n=60, exact=exact))
    engine = Engine(model)
    asked = [Request((*PROMPT,), GREEDY, 60) for _ in range(3)]
    rows = [
        asked[0].row(model, mode=Mode(exact), proposer=Oracle(plain, k=3)),
        asked[1].row(model, mode=Mode(exact)),
        asked[2].row(model, proposer=NGram()),
    ]
    others = [request.row(model) for request in requests(5, seed=4)]
    for row in [*rows, *others]:
        engine.add(row)
    said = finish(engine)
    assert said[rows[0]] == said[rows[1]] == plain
    assert said[rows[2]] == ids(run(model, n=60))
    assert rows[0].accepted > 0


def test_a_long_prompt_stalls_nobody(model):
    engine = Engine(model, chunk=16)
    talking = Request((*PROMPT,), GREEDY, 40).row(model)
    engine.add(talking)
    engine.step()
    long = Request(tuple(range(32, 112)) * 4, GREEDY, 3).row(model)
    engine.add(long)
    rounds = 0
    while not long.forwards:
        assert next(row for row, _ in engine.step()) is talking
        rounds += 1
    assert rounds == 20, "319 tokens in pieces of 16, a word of the other beside each"


def test_a_cancelled_row_leaves_wherever_it_stands(model):
    engine = Engine(model, max_rows=2, chunk=8)
    rows = [request.row(model) for request in requests(4, seed=9, longest=60)]
    for row in rows:
        engine.add(row)
    engine.step()
    for row in rows:
        engine.cancel(row)
    assert not engine.busy
    assert not engine.ledger()


def test_a_ledger_counts_what_each_row_holds(model):
    engine = Engine(model)
    rows = [Request(tuple(range(40, 40 + n)), GREEDY, 8).row(model) for n in (10, 30)]
    for row in rows:
        engine.add(row)
    engine.step()
    held = engine.ledger()
    assert held.keys() == set(rows)
    assert sum(held.values()) == sum(tree.n_bytes(lane.state) for lane in engine.lanes)


def test_choices_are_one_prompt_read_once_and_a_stream_each(model, monkeypatch):
    params = SamplingParams(seed=8, max_new_tokens=20)
    read = []
    engine = Engine(model)
    monkeypatch.setattr("positronic.generation.decoding.engine.prefill", _counting(read))
    choices = generate_choices(model, TOKENS, "Hello there", 3, params, engine=engine)
    assert sum(read) == len("Hello there") - 1
    for stream, choice in enumerate(choices):
        single = list(generate(model, TOKENS, "Hello there", replace(params, stream=stream)))[-1].result
        assert (choice.tokens, choice.text, choice.stop_reason) == (single.tokens, single.text, single.stop_reason)
    assert len({choice.tokens for choice in choices}) == 3


def _counting(read: list[int]):
    from positronic.generation.decoding import forward

    def counted(model, state, rows, *how, **more):
        read.extend(map(len, rows))
        return forward.prefill(model, state, rows, *how, **more)

    return counted


@pytest.mark.parametrize("gone", [0, 1])
def test_when_one_choice_is_cancelled_the_others_still_speak(model, gone):
    prompt = tuple(b"Hello there, you")
    rows = [Request(prompt, SamplingParams(seed=8, stream=i), 6).row(model) for i in range(3)]
    engine = Engine(model, chunk=4)
    engine.add_choices(rows)
    engine.step()
    engine.cancel(rows[gone])
    said = finish(engine)
    assert set(said) == set(rows) - {rows[gone]}
    for stream, row in enumerate(rows):
        if row in said:
            assert list(row.text.past) == list(
                alone(model, Request(prompt, SamplingParams(seed=8, stream=stream), 6)).text.past
            )


def test_a_row_that_drafts_is_read_beside_others_and_decoded_alone(model):
    plain = ids(run(model, n=40))
    engine = Engine(model)
    rows = [
        Request((*PROMPT,), GREEDY, 40).row(model),
        Request((*PROMPT,), GREEDY, 40).row(model, proposer=Oracle(plain, k=3)),
        Request((*PROMPT,), GREEDY, 40).row(model),
    ]
    for row in rows:
        engine.add(row)
    said = finish(engine)
    assert said[rows[0]] == said[rows[1]] == said[rows[2]] == plain
    assert rows[1].forwards < 40 == rows[0].forwards


@pytest.mark.parametrize("make", [small, remembering], ids=["attention", "memories"])
def test_a_kept_beginning_is_not_read_again_and_changes_nothing(make, monkeypatch):
    model, read = make(), []
    engine = Engine(model, prefix_bytes=2**24)
    first = Request(tuple(b"The lamp is lit, and "), GREEDY, 12).row(model)
    engine.add(first)
    finish(engine)
    second = Request((*first.text.past, *b" then?"), GREEDY, 12)
    monkeypatch.setattr("positronic.generation.decoding.engine.prefill", _counting(read))
    row = second.row(model)
    engine.add(row)
    finish(engine)
    assert sum(read) == len(b" then?"), "its own tokens, and the last of what was said"
    monkeypatch.undo()
    single = alone(model, second)
    assert list(row.text.past) == list(single.text.past)
    assert relative_error(torch.stack(row.text.logits), torch.stack(single.text.logits)) < 1e-5
    again = second.row(model)
    engine.add(again)
    finish(engine)
    assert list(again.text.past) == list(single.text.past), "what was kept does not move with those who go on from it"


def test_frozen_requests_neither_keep_nor_use_what_is_kept():
    model = remembering()
    engine = Engine(model, prefix_bytes=2**24)
    frozen = Request(tuple(b"The lamp is lit"), GREEDY, 4, frozen=True)
    engine.add(frozen.row(model))
    finish(engine)
    assert not engine.prefixes.states
    engine.add(replace(frozen, frozen=False).row(model))
    finish(engine)
    assert engine.prefixes.states
    row = frozen.row(model)
    engine.add(row)
    finish(engine)
    assert list(row.text.past) == list(alone(model, frozen).text.past)


def test_what_is_kept_stays_within_its_bytes_the_least_used_first_out(model):
    engine = Engine(model, prefix_bytes=60_000)
    for number in range(6):
        request = Request((40 + number, *range(50, 90)), GREEDY, 4)
        engine.add(request.row(model))
        finish(engine)
        assert engine.prefixes.n_bytes <= 60_000
        engine.prefixes.longest(next(iter(engine.prefixes.states)))
    firsts = [key[0] for key in engine.prefixes.states]
    assert 1 < len(firsts) < 6
    assert 45 in firsts


def test_a_prompt_that_the_model_cannot_hold_is_refused_when_it_is_added(model):
    with pytest.raises(GenerationError, match="1030"):
        Engine(model).add(Request((65,) * 1030, GREEDY, 4).row(model))
