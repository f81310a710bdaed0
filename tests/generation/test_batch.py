"""Rows of a batch say what each says alone."""

import pytest
import torch
from drafting import EOT, small

from positronic.errors import GenerationError
from positronic.generation import GREEDY, SamplingParams, Stop, decode, generate, generate_batch, prefill
from positronic.state import ForwardOptions
from positronic.text import Message, byte_tokenizer

TOKENS = byte_tokenizer()
PROMPTS = ["Hello", "a", "", "What is the third one about, and why is it longer than all others?", "Two words"]


def alone(model, prompt, **how):
    return list(generate(model, TOKENS, prompt, **how))[-1].result


def test_greedy_rows_equal_single_runs(model):
    results = generate_batch(model, TOKENS, PROMPTS, params=GREEDY, max_new_tokens=60)
    for prompt, result in zip(PROMPTS, results, strict=True):
        single = alone(model, prompt, temperature=0, max_new_tokens=60)
        assert result.tokens == single.tokens, prompt
        assert (result.text, result.prompt_tokens) == (single.text, single.prompt_tokens)


def test_logits_of_rows_equal_single_runs():
    model = small()
    rows = [TOKENS.encode(prompt) or [EOT] for prompt in PROMPTS]
    state, _ = prefill(model, model.init_state(len(rows)), [row[:-1] for row in rows], chunk=16)
    for forced in range(3):
        block = torch.tensor([[row[-1]] if forced == 0 else [forced] for row in rows])
        out = model(block, state, ForwardOptions())
        state = out.state
        for i, row in enumerate(rows):
            whole = torch.tensor([[*row, *range(1, forced + 1)]])
            single = model.logits(model(whole).hidden[0, -1])
            assert (model.logits(out.hidden[i, -1]) - single).abs().max() < 1e-5 * single.abs().max(), (forced, i)


def test_rows_draw_from_streams_of_their_own_and_equal_single_runs(model):
    results = generate_batch(model, TOKENS, ["Hello"] * 3, SamplingParams(seed=8, max_new_tokens=30))
    assert len({result.tokens for result in results}) == 3
    prompt = list(b"Hello")
    for i, result in enumerate(results):
        state, _ = prefill(model, model.init_state(1), [prompt[:-1]])
        said = decode(model, state, prompt[-1], sampler=SamplingParams(seed=8, stream=i), stop=Stop(max_new_tokens=30))
        assert tuple(emission.token for emission in said) == result.tokens


def test_rows_end_independently(model):
    singles = [alone(model, prompt, temperature=0, max_new_tokens=60) for prompt in PROMPTS]
    ends = ["\n", singles[1].text[5:8], singles[3].text[9:10]]
    results = generate_batch(model, TOKENS, PROMPTS, params=GREEDY, max_new_tokens=60, stop=ends)
    reasons = set()
    for prompt, result in zip(PROMPTS, results, strict=True):
        single = alone(model, prompt, temperature=0, max_new_tokens=60, stop=ends)
        assert (result.tokens, result.text, result.stop_reason) == (single.tokens, single.text, single.stop_reason)
        assert result.forwards == len(result.tokens)
        reasons.add((result.stop_reason, len(result.tokens)))
    assert len(reasons) > 2, reasons


def test_what_one_row_says_does_not_touch_another(model):
    base = generate_batch(model, TOKENS, PROMPTS, params=GREEDY, max_new_tokens=20)
    changed = generate_batch(model, TOKENS, [*PROMPTS[:4], "Any words"], params=GREEDY, max_new_tokens=20)
    assert [r.tokens for r in base[:4]] == [r.tokens for r in changed[:4]]


def test_chats_and_texts_share_a_batch(model):
    chat = [Message("user", "Hello")]
    results = generate_batch(model, TOKENS, [chat, "Hello"], params=GREEDY, max_new_tokens=20)
    for prompt, result in zip([chat, "Hello"], results, strict=True):
        assert result.tokens == alone(model, prompt, temperature=0, max_new_tokens=20).tokens


def test_a_full_row_says_nothing_and_leaves_the_others_alone():
    model = small(max_positions=128)
    full, other = generate_batch(model, TOKENS, ["a" * 128, "Hello"], params=GREEDY, max_new_tokens=10)
    assert (full.tokens, full.stop_reason) == ((), "context")
    assert other.tokens == alone(model, "Hello", temperature=0, max_new_tokens=10).tokens


def test_no_prompts_give_no_results(model):
    assert generate_batch(model, TOKENS, []) == []


def test_one_prompt_too_long_is_refused(model):
    with pytest.raises(GenerationError, match="1030"):
        generate_batch(model, TOKENS, ["a", "b" * 1030])
