"""Bits per byte: exact on what is known exactly, and indifferent to how the work is cut."""

import math

import pytest
import torch
from torch.nn import functional as F

from positronic.data import Document
from positronic.errors import ConfigError, DataError
from positronic.eval import Score
from positronic.eval import bits_per_byte as scored
from positronic.mixers.attention import AttentionConfig
from positronic.mixers.swiglu import SwiGLUConfig
from positronic.models import build
from positronic.models.transformer import TransformerConfig
from positronic.text.tokenizer import byte_tokenizer

TEXTS = ["Ein Wort.", "", "a" * 100, "Größe: 3 µm, naïve café", "x", "the quick brown fox " * 7]


def bits_per_byte(model, tokenizer, texts, **settings):
    return scored(model, tokenizer, [Document(text, "here") for text in texts], **settings)


class Pairs:
    """A tokenizer that takes two bytes a token, so that tokens and bytes differ."""

    eot_id = begin_id = 0
    lead, vocab_size = (), 1 + 256 + 65_536

    def encode_batch(self, texts):
        return [self._encode(text.encode()) for text in texts]

    def _encode(self, data):
        pairs = [257 + 256 * a + b for a, b in zip(data[::2], data[1::2], strict=False)]
        return pairs + ([1 + data[-1]] if len(data) % 2 else [])


@pytest.fixture(params=["bytes", "pairs"])
def tokenizer(request):
    return byte_tokenizer() if request.param == "bytes" else Pairs()


def small_model(tokenizer, seed=3):
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=16,
        context=16,
        max_positions=64,
        boundary_id=tokenizer.eot_id,
        n_layers=1,
        attention=AttentionConfig(n_heads=2, n_kv_heads=1, head_dim=8, rank=None, rope_dims=4),
        channel=SwiGLUConfig(hidden=24),
    )
    model = build(config, seed=seed)
    with torch.no_grad():  # far from uniform, so that every choice of context shows
        for p in model.parameters():
            p.mul_(4)
    return model


def test_a_uniform_model_needs_log2_of_the_vocabulary_for_every_token(tokenizer):
    model = small_model(tokenizer)
    with torch.no_grad():
        model.embed.weight.zero_()
    score = bits_per_byte(model, tokenizer, TEXTS)
    n_bytes = sum(len(t.encode()) for t in TEXTS)
    n_tokens = sum(map(len, tokenizer.encode_batch(TEXTS)))
    assert (score.bytes, score.tokens) == (n_bytes, n_tokens)
    assert score.bits_per_byte == pytest.approx(math.log2(tokenizer.vocab_size) * n_tokens / n_bytes, rel=1e-6)


def test_the_size_of_batches_and_their_padding_change_nothing():
    tokenizer = byte_tokenizer()
    model = small_model(tokenizer)
    scores = [bits_per_byte(model, tokenizer, TEXTS, batch_tokens=n).nats for n in (1, 40, 100, 100_000)]
    assert scores == pytest.approx([scores[0]] * 4, rel=1e-6)


def test_documents_add_up():
    tokenizer = byte_tokenizer()
    model = small_model(tokenizer)
    together = bits_per_byte(model, tokenizer, TEXTS)
    apart = [bits_per_byte(model, tokenizer, [text]) for text in TEXTS if text]
    assert together.nats == pytest.approx(sum(s.nats for s in apart), rel=1e-6)
    assert Score.total(apart).bits_per_byte == pytest.approx(together.bits_per_byte, rel=1e-6)
    assert together.bytes == Score.total(apart).bytes


@pytest.mark.parametrize(("context", "stride"), [(16, 8), (16, 16), (12, 5), (7, 1), (16, None)])
def test_every_token_is_scored_once_from_the_context_the_windows_promise(context, stride):
    """Against a loop over tokens: token i sees the tokens since its window's start, and the end-of-text before it."""
    tokenizer = byte_tokenizer()
    model = small_model(tokenizer)
    text = "A document of some length, longer than two windows."
    ids, step = [tokenizer.eot_id, *tokenizer.encode(text)], stride or context // 2
    nats = 0.0
    for i in range(1, len(ids)):
        windows_before = 0 if i <= context else -(-(i - context) // step)
        end = min(len(ids) - 1, context + windows_before * step)
        seen = torch.tensor([ids[max(0, end - context) : i]])
        with torch.no_grad():
            logits = model.logits(model(seen).hidden[0, -1])
        nats += F.cross_entropy(logits.double(), torch.tensor(ids[i])).item()
    score = bits_per_byte(model, tokenizer, [text], context=context, stride=stride)
    assert score.tokens == len(ids) - 1
    assert score.nats == pytest.approx(nats, rel=1e-5)


def test_text_without_a_byte_and_windows_that_do_not_fit_are_refused():
    tokenizer = byte_tokenizer()
    model = small_model(tokenizer)
    with pytest.raises(DataError, match="no text"):
        bits_per_byte(model, tokenizer, ["", ""])
    with pytest.raises(ConfigError, match="stride"):
        bits_per_byte(model, tokenizer, TEXTS, context=8, stride=9)
    with pytest.raises(ConfigError, match="64 positions"):
        bits_per_byte(model, tokenizer, TEXTS, context=65)


def test_scoring_leaves_the_model_in_the_mode_it_was_in():
    tokenizer = byte_tokenizer()
    model = small_model(tokenizer).train()
    bits_per_byte(model, tokenizer, ["abc"])
    assert model.training
