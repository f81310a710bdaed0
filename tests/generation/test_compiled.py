"""Rounds that PyTorch compiles or captures say what the model says as it stands."""

import logging
from dataclasses import replace

import pytest
import torch
from drafting import PROMPT, small
from family_example import BYTES, EOT, FAMILIES

from positronic.generation import GREEDY, Engine, Mode, Row, SamplingParams, Stop, Writer, generate
from positronic.generation.decoding.writer import FREE
from positronic.generation.sampling import device
from positronic.models import build
from positronic.text import byte_tokenizer
from remembering import remembering

TOKENS = byte_tokenizer()
SAMPLED = SamplingParams(temperature=0.9, top_p=1.0, seed=5)
CUT = SamplingParams(temperature=0.8, top_k=40, top_p=0.9, min_p=0.01, seed=6)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def row_of(model, prompt, params: SamplingParams = GREEDY, n: int = 60, **how) -> Row:
    text = Writer(params, Stop(max_new_tokens=n), FREE, prompt, len(prompt), model.config.max_positions)
    return Row(text, unread=prompt[:-1], **how)


def said(engine: Engine, row: Row) -> tuple[list[int], object]:
    tokens, state = [], None
    engine.add(row)
    while engine.busy:
        for _, output in engine.step():
            tokens.append(output.token)
            state = output.state
    return tokens, state


def families(device_name: str):
    models = {"attention": small(), "memories": remembering(max_positions=1024)}
    for name, family in FAMILIES.items():
        config = family.small(vocab_size=BYTES, boundary_id=EOT, max_positions=1024)
        models[name] = family.loud(family.opened(build(config, family.seed)))
    return {name: model.to(device_name) for name, model in models.items()}


def test_a_compiler_that_fails_is_named_and_nothing_changes(monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no compiler here\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    model = small()
    with caplog.at_level(logging.WARNING):
        found, state = said(Engine(model, compile="on"), row_of(model, PROMPT))
    assert "uncompiled, as PyTorch's compiler failed: no compiler here" in caplog.text
    plain, kept = said(Engine(model), row_of(model, PROMPT))
    assert found == plain
    assert state.position.tolist() == kept.position.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attention", "memories"])
def test_compiled_rounds_say_what_the_model_says(name):
    model = families("cpu")[name]
    engine = Engine(model, compile="on")
    for params in (GREEDY, SAMPLED):
        assert said(engine, row_of(model, PROMPT, params))[0] == said(Engine(model), row_of(model, PROMPT, params))[0]
    assert not engine.compiling.failed
    chunk = list(generate(model, TOKENS, "Hello", engine=engine, max_new_tokens=5))[-1]
    assert chunk.result.tokens == list(generate(model, TOKENS, "Hello", max_new_tokens=5))[-1].result.tokens


def test_what_a_device_draws_is_what_the_host_draws():
    """On any device: here the same operations run on the CPU."""
    logits = torch.randn(6, 501, generator=torch.Generator().manual_seed(0)) * 3
    position = torch.tensor([4, 9, 100, 7, 2, 1000])
    asked = [
        GREEDY,
        SAMPLED,
        CUT,
        replace(CUT, seed=2**64 - 1, stream=2**63 + 5),
        replace(SAMPLED, min_p=0.2),
        replace(SAMPLED, top_k=1),
    ]
    for form in ([0] * 6, [0, 1, 1, 1, 1, 1], range(6)):
        tokens = torch.zeros(6, 1, dtype=torch.long)
        sampling = device.DeviceSampling(logits, tokens, position, None)
        params = [asked[i] for i in form]
        for row, one in enumerate(params):
            sampling.put(row, one)
        sampling.upload()
        chosen = sampling.form()()
        expected = [
            one.pick(logits[row].numpy(), int(position[row]), torch.zeros(0, dtype=torch.long).numpy())
            for row, one in enumerate(params)
        ]
        assert chosen.tolist() == tokens[:, 0].tolist() == expected


def test_logits_that_are_not_finite_are_told_from_tokens():
    logits = torch.randn(2, 11)
    logits[1, 3] = torch.nan
    sampling = device.DeviceSampling(logits, torch.zeros(2, 1, dtype=torch.long), torch.tensor([1, 1]), None)
    for row in range(2):
        sampling.put(row, GREEDY)
    assert (sampling.form()() < 0).tolist() == [False, True]


@cuda
@pytest.mark.parametrize("params", [GREEDY, SAMPLED, CUT], ids=["greedy", "sampled", "cut"])
def test_graphs_say_what_the_uncaptured_model_says(params):
    """512 tokens each, over extents of 64, 128, 256 and 512."""
    for name, model in families("cuda").items():
        with torch.no_grad():
            captured, state = said(Engine(model), row_of(model, PROMPT, params, n=512))
            plain, kept = said(Engine(model, compile="off"), row_of(model, PROMPT, params, n=512))
        assert captured == plain, name
        assert state.position.tolist() == kept.position.tolist() == [len(PROMPT) + 511]


@cuda
def test_rows_join_and_leave_graphs_and_each_says_what_it_says_alone():
    for name, model in families("cuda").items():
        engine, rows = Engine(model, max_rows=5), []
        for number in range(12):
            params = replace([GREEDY, SAMPLED, CUT][number % 3], stream=number)
            prompt = list(range(40, 43 + 5 * number))
            rows.append((prompt, params, row_of(model, prompt, params, n=20 + 3 * number)))
            engine.add(rows[-1][2])
        while engine.busy:
            engine.step()
        for prompt, params, row in rows:
            single = row_of(model, prompt, params, n=row.forwards)
            said(Engine(model, compile="off"), single)
            assert list(row.text.past) == list(single.text.past), name


@cuda
def test_a_state_that_leaves_a_graph_goes_on_as_any_other():
    for name, model in families("cuda").items():
        first = list(generate(model, TOKENS, "Remember this", temperature=0, max_new_tokens=30))[-1].result
        plain_engine = Engine(model, compile="off")
        plain = list(generate(model, TOKENS, "Remember this", temperature=0, max_new_tokens=30, engine=plain_engine))
        for result in (first, plain[-1].result):
            later = list(generate(model, TOKENS, " and", temperature=0, max_new_tokens=30, state=result.state))
            assert later[-1].result.tokens, name
        assert first.tokens == plain[-1].result.tokens
        assert (first.state.hidden - plain[-1].result.state.hidden).abs().max() < 1e-3


@cuda
def test_five_thousand_tokens_take_no_more_memory_than_five_hundred():
    model = small().to("cuda")
    engine = Engine(model)
    said(engine, row_of(model, PROMPT, SAMPLED, n=500))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for number in range(10):
        said(engine, row_of(model, PROMPT, replace(SAMPLED, stream=number), n=500))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before + 2**16


@cuda
def test_a_penalty_draws_on_the_host_from_graphs():
    model = small().to("cuda")
    params = SamplingParams(temperature=0.9, repetition_penalty=1.3, seed=4)
    captured, _ = said(Engine(model), row_of(model, PROMPT, params))
    plain, _ = said(Engine(model, compile="off"), row_of(model, PROMPT, params))
    assert captured == plain


@cuda
def test_frozen_memories_stay_as_they_are_in_graphs():
    model = remembering().to("cuda")
    mode = Mode(write_memory=False)
    captured, state = said(Engine(model), row_of(model, PROMPT, mode=mode))
    plain, _ = said(Engine(model, compile="off"), row_of(model, PROMPT, mode=mode))
    assert captured == plain
    assert not state.layers[-1].memory.any()
