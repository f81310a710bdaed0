"""What is recorded of a generation is what that generation computed."""

import pytest
import torch

from positronic.errors import GenerationError
from positronic.generation import SamplingParams, generate
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import build
from positronic.models.transformer import TransformerConfig
from positronic.observe.record import record
from positronic.probe import Probe, capture
from positronic.state import ForwardOptions
from positronic.text import byte_tokenizer

TOKENIZER = byte_tokenizer()
PROMPT = "The lamp"
SAMPLER = SamplingParams(temperature=0.9, seed=5)
TAPS = ("trunk.*.mixer:hidden", "trunk.*:branch")


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig(
        vocab_size=TOKENIZER.vocab_size,
        d_model=24,
        context=32,
        max_positions=48,
        n_layers=2,
        attention=AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=8, rank=None, rope_dims=4),
        channel=SwiGLUConfig(hidden=32),
    )
    model = build(config, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(6 if p.dim() == 2 else 1)
    return model.eval()


@pytest.fixture(scope="module")
def recording(model):
    return record(model, TOKENIZER, PROMPT, dict.fromkeys(TAPS, capture), tokens=12, sampler=SAMPLER)


def test_the_recorded_text_is_what_generate_says(model, recording):
    result = list(generate(model, TOKENIZER, PROMPT, max_new_tokens=12, temperature=0.9, seed=5))[-1].result
    prompt = TOKENIZER.encode(PROMPT)
    assert [m.read for m in recording.moments] == [*prompt, *result.tokens[:-1]]
    assert [m.next for m in recording.moments] == [*prompt[1:], *result.tokens]
    assert [m.drawn for m in recording.moments] == [False] * (len(prompt) - 1) + [True] * len(result.tokens)
    assert recording.stop_reason == result.stop_reason == "length"


@torch.no_grad()
def test_expectations_and_taps_are_those_of_one_forward_over_the_whole_text(model, recording):
    tokens = torch.tensor([[m.read for m in recording.moments]])
    probe = Probe(model, dict.fromkeys(TAPS, capture))
    log_p = model.logits(model(tokens, options=ForwardOptions(probe=probe)).hidden)[0].log_softmax(-1)
    assert set(probe.seen) == set(recording.moments[0].seen)
    for address, whole in probe.seen.items():
        assert torch.allclose(recording.tapped(address), whole[0][0], atol=1e-4), address
    for moment, row in zip(recording.moments, log_p, strict=True):
        best = row.topk(8)
        assert [a.token for a in moment.alternatives] == best.indices.tolist()
        assert [a.probability for a in moment.alternatives] == pytest.approx(best.values.exp().tolist(), rel=1e-3)
        assert moment.probability == pytest.approx(float(row[moment.next].exp()), rel=1e-3)
        entropy = torch.distributions.Categorical(logits=row).entropy() / torch.log(torch.tensor(2.0))
        assert moment.entropy_bits == pytest.approx(float(entropy), rel=1e-4)


def test_the_end_of_room_ends_the_recording(model):
    found = record(model, TOKENIZER, "x" * 46, {}, tokens=20)
    assert found.stop_reason == "context"
    assert [m.drawn for m in found.moments].count(True) == 2


def test_an_empty_prompt_and_one_that_is_too_long_are_refused(model):
    with pytest.raises(GenerationError, match="empty after tokenizing"):
        record(model, TOKENIZER, "", {}, tokens=2)
    with pytest.raises(GenerationError, match="Shorten it by 2"):
        record(model, TOKENIZER, "x" * 50, {}, tokens=2)


def test_nothing_is_left_in_the_probe_or_the_model(model, recording):
    """A second recording starts from nothing: the same moments again."""
    again = record(model, TOKENIZER, PROMPT, dict.fromkeys(TAPS, capture), tokens=12, sampler=SAMPLER)
    for address in recording.moments[0].seen:
        assert torch.equal(again.tapped(address), recording.tapped(address))
