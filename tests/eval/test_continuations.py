"""Likelihoods of continuations: many at once are those of each alone, read off a plain forward call."""

import math

import pytest
import torch
from family_example import FAMILIES
from torch.nn import functional as F

from positronic.errors import ConfigError, DataError
from positronic.eval import Request, encode_pairs, likelihoods
from positronic.models import build, preset
from positronic.text import byte_tokenizer
from positronic.text.definition import Definition
from positronic.text.tokenizer import Tokenizer

PAIRS = [
    ("", "Nobody was there."),
    ("", "Nobody were there."),
    ("Question: Who lit the lamp?\nAnswer:", " A"),
    ("Question: Who lit the lamp?\nAnswer:", " B"),
    ("Question: Who lit the lamp?\nAnswer:", " A man whom nobody knew"),
    ("Question: Who?\nAnswer: ", "A"),
    ("The lamp " * 5, "was lit."),
    ("Größe:", " 3 µm"),
]


def speaking(family):
    if family == "control":
        model = build(preset("tinygpt-tiny").replace(vocab_size=384, context=64, max_positions=512, boundary_id=256), 3)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(3 if p.dim() == 2 else 1)
        return model
    return FAMILIES[family].speaking()


@pytest.fixture(scope="module", params=["control", *FAMILIES])
def model(request):
    return speaking(request.param)


@pytest.fixture(scope="module")
def control():
    return speaking("control")


def one_by_one(model, request, window):
    """The definition: one forward call, no padding, nothing shared."""
    tokens = [*request.context, *request.continuation]
    seen = torch.tensor([tokens[:-1][-window:]])
    with torch.no_grad():
        logits = model.logits(model(seen).hidden[0]).double()[-len(request.continuation) :]
    wanted = torch.tensor(list(request.continuation))
    return -F.cross_entropy(logits, wanted, reduction="sum").item(), bool((logits.argmax(-1) == wanted).all())


def test_many_at_once_are_each_alone(model):
    requests = encode_pairs(byte_tokenizer(), PAIRS)
    found = likelihoods(model, requests)
    assert len({round(one.log_p, 3) for one in found}) == len(PAIRS), "the model tells these texts apart"
    for request, (log_p, greedy) in zip(requests, found, strict=True):
        alone = one_by_one(model, request, model.config.context)
        assert log_p == pytest.approx(alone[0], abs=1e-4, rel=1e-4)
        assert greedy == alone[1]


@pytest.mark.parametrize("batch_tokens", [1, 60, 150])
def test_the_size_of_batches_changes_nothing(control, batch_tokens):
    requests = encode_pairs(byte_tokenizer(), PAIRS)
    small = [one.log_p for one in likelihoods(control, requests, batch_tokens=batch_tokens)]
    assert small == pytest.approx([one.log_p for one in likelihoods(control, requests)], rel=1e-5)


def test_what_the_model_would_say_is_greedy_and_nothing_else_is(control):
    tokens = [256]
    for _ in range(12):
        with torch.no_grad():
            tokens.append(int(control.logits(control(torch.tensor([tokens])).hidden[0, -1]).argmax()))
    said, other = tokens[1:], [*tokens[1:-1], (tokens[-1] + 1) % 256]
    found = likelihoods(control, [Request([256], said), Request([256], other), Request([256, *said[:5]], said[5:])])
    assert [one.greedy for one in found] == [True, False, True]


def test_requests_that_begin_each_other_share_a_row(control, monkeypatch):
    """Single letters after one question cost one row, whose length is that of the longest text."""
    read, forward = [], type(control).forward
    monkeypatch.setattr(type(control), "forward", lambda *a, **k: read.append(a[1].shape) or forward(*a, **k))
    question = list(b"Question: A or B or C?\nAnswer:")
    requests = [Request(question, [*b" ", letter]) for letter in b"ABC"] + [Request(question, list(b" Bach"))]
    likelihoods(control, requests)
    assert read == [torch.Size([1, len(question) + 4])]


def test_a_text_longer_than_the_window_loses_its_beginning(control):
    request = Request(list(b"x" * 40), list(b"yz"))
    other = Request(list(b"q" * 20 + b"x" * 20), list(b"yz"))
    short = likelihoods(control, [request, other], context=16)
    assert short[0] == short[1]
    assert short[0].log_p == pytest.approx(one_by_one(control, request, 16)[0], rel=1e-5)
    longer = Request(list(b"x" * 40), list(b"yz" * 10))
    assert likelihoods(control, [longer], context=16)[0].log_p == pytest.approx(
        one_by_one(control, longer, 20)[0], rel=1e-5
    )
    whole = likelihoods(control, [request, other])
    assert abs(whole[0].log_p - whole[1].log_p) > 1e-3


def test_a_uniform_model_gives_every_token_the_same():
    model = build(preset("tinygpt-tiny").replace(vocab_size=384), 1)
    with torch.no_grad():
        model.embed.weight.zero_()
    found = likelihoods(model, [Request([256], [1, 2, 3]), Request([5, 6], [7])])
    assert [one.log_p for one in found] == pytest.approx([-3 * math.log(384), -math.log(384)], rel=1e-6)


def test_a_border_is_cut_by_the_number_of_tokens():
    pieces = [bytes([b]) for b in range(256)] + [b"the", b" rap", b"therap"]
    tokenizer = Tokenizer(Definition("spike", tuple(pieces)))
    spelled = tokenizer.token_bytes

    def cut(context, continuation):
        (request,) = encode_pairs(tokenizer, [(context, continuation)])
        parts = [b"".join(spelled[i] for i in ids) for ids in (request.context, request.continuation)]
        return parts[0].decode(), parts[1].decode(), request.stable

    assert cut("the", " rap") == ("the", " rap", True)
    assert cut("the ", "rap") == ("the", " rap", True), "white space belongs to the continuation"
    assert cut("a the", "rapist") == ("a the", "ist", False), "`a`, ` `, `the`; then the whole's fourth token and on"
    assert cut("the", "rap") == ("the", "therap", False), "one token at least is scored, here the only one"
    assert cut("", "the") == ("", "the", True), "a document's beginning: the end-of-text token spells nothing"


def test_what_cannot_be_scored_is_refused(control):
    with pytest.raises(DataError, match="not empty"):
        encode_pairs(byte_tokenizer(), [("A question", "")])
    with pytest.raises(ConfigError, match="use 1 to"):
        likelihoods(control, [Request([1], [2])], context=513)
    with pytest.raises(DataError, match="513 tokens and the model holds 512"):
        likelihoods(control, [Request([1], [2] * 513)])
