"""Text in parts, cut anywhere, gives the ids of the whole; what is held back is what could still change."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from positronic.errors import TokenizerError
from positronic.text import CONTROL_TOKENS, Tokenizer, train_bpe
from positronic.text.definition import Definition

MULTILINGUAL = (
    "The lamp's lit; they're sure I'd know it'll go out, and we've 1234 more.  Two spaces,   three.\r\n\r\n\n"
    "Größe: 3 µm, naïve café. Съешь ещё этих мягких французских булок, да выпей чаю!\n"
    "いろはにほへと ちりぬるを。色は匂へど散りぬるを\u3000\u3000我が世誰ぞ常ならむ\n"
    "\tنص حكيم له سر قاطع 🙂🏳️‍🌈 e\u0301 ﬁ\u0085\u2028\ufeff' 'r 're'' 'v 'l  \n  x\n"
    "<|im_end|><|endoftext|> <think>\n</think> <|im_<|im_end|>end|> "
)


def in_parts(tokenizer: Tokenizer, parts) -> list[int]:
    stream = tokenizer.encoder()
    return [index for part in parts for index in stream.feed(part)] + stream.finish()


def cut_at(data, places) -> list:
    places = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


def repeating() -> Tokenizer:
    """Pieces that begin each other, up to 16 bytes, so that nearly every match is in doubt for long."""
    pieces = [b"ab" * 8, b"abab", b"ba", b"a" * 16, b"a" * 15, b"aa", b"b" + b"a" * 14, b"\xe6\x97\xa5\xe6\x9c\xac"]
    return Tokenizer(Definition("spike", (*(bytes([b]) for b in range(256)), *pieces)))


@given(text=st.text(max_size=30), start=st.integers(0, len(MULTILINGUAL)), places=st.lists(st.integers(0), max_size=12))
@settings(max_examples=150)
def test_text_in_parts_is_encoded_as_the_whole(tokenizer, text, start, places):
    text += MULTILINGUAL[start:] + text
    ids = tokenizer.encode(text)
    assert in_parts(tokenizer, cut_at(text, places)) == ids
    assert in_parts(tokenizer, cut_at(text.encode(), places)) == ids
    assert not ids or max(ids) < tokenizer.eot_id, "a control token came from text"


@pytest.mark.parametrize("fixture", ["spike", "spike_of_lines", "repeating"])
@given(
    data=st.binary(max_size=40) | st.text("ab", max_size=80).map(str.encode),
    places=st.lists(st.integers(0), max_size=9),
)
@settings(max_examples=200)
def test_any_bytes_in_parts_are_encoded_as_the_whole(request, fixture, data, places):
    tokenizer = repeating() if fixture == "repeating" else request.getfixturevalue(fixture)
    assert in_parts(tokenizer, cut_at(data, places)) == tokenizer.encode_bytes(data)


def test_byte_by_byte_and_character_by_character(tokenizer, english):
    text = MULTILINGUAL + english[0][:3000]
    ids = tokenizer.encode(text)
    assert in_parts(tokenizer, [bytes([b]) for b in text.encode()]) == ids
    assert in_parts(tokenizer, text) == ids
    assert in_parts(tokenizer, [text]) == ids
    assert in_parts(tokenizer, ["", text[:9], b"", text[9:].encode(), ""]) == ids


@pytest.mark.parametrize("fixture", ["spike", "spike_of_lines", "repeating"])
def test_what_is_held_back_is_at_most_15_bytes_and_could_still_change(request, fixture, english):
    tokenizer = repeating() if fixture == "repeating" else request.getfixturevalue(fixture)
    draw = random.Random(0)
    data = MULTILINGUAL.encode() + english[1][:2000].encode() + b"ab" * 20 + bytes(draw.choices(b"ab", (9, 1), k=500))
    stream, n_fed, n_spelt, longest = tokenizer.encoder(), 0, 0, 0
    while n_fed < len(data):
        part = data[n_fed : n_fed + draw.randrange(1, 5)]
        n_fed, n_spelt = n_fed + len(part), n_spelt + tokenizer.n_bytes(stream.feed(part))
        held = data[n_spelt:n_fed]
        longest = max(longest, len(held))
        assert not held or any(piece != held and piece.startswith(held) for piece in tokenizer.token_bytes), held
    assert longest == 15 if fixture == "repeating" else 1 < longest <= 15


def test_bpe_holds_the_last_word_and_no_more(bpe):
    stream = bpe.encoder()
    assert stream.feed("every word") == bpe.encode("every")
    assert stream.feed("s are") == bpe.encode(" words")
    assert stream.feed(".") == []
    assert stream.feed("\n") == bpe.encode(" are")
    assert stream.finish() == bpe.encode(".\n")


def test_bpe_leaves_the_last_space_to_the_word_behind_it():
    tokenizer = train_bpe(["  \n  \n \nx're" * 50, "  x x " * 50], 256 + 128 + 7)
    for text in ("  \nx", "   x", "  \n x\n\n", "'r", "'re", "x'rex", " 'l'll"):
        assert in_parts(tokenizer, text) == tokenizer.encode(text), text


def test_bytes_are_never_held():
    from positronic.text import byte_tokenizer

    stream = byte_tokenizer().encoder()
    assert [stream.feed(part) for part in ("é", b"\xff", "")] == [[0xC3, 0xA9], [0xFF], []]
    assert stream.finish() == []


def test_a_finished_encoder_begins_another_text(tokenizer):
    stream = tokenizer.encoder()
    for text in ("the first", "", "he second"):
        assert stream.feed(text) + stream.finish() == tokenizer.encode(text)


def test_no_control_token_comes_from_parts_of_its_name(tokenizer):
    for name in CONTROL_TOKENS:
        assert max(in_parts(tokenizer, name)) < tokenizer.vocab_size - len(CONTROL_TOKENS)


def test_what_cannot_be_encoded_in_parts_is_refused_in_words(bpe, spike):
    with pytest.raises(TokenizerError, match="Character 1 of the text"):
        spike.encoder().feed("a\ud800")
    with pytest.raises(TokenizerError, match="0xff where UTF-8 has none"):
        bpe.encoder().feed(b"a word \xff")
    stream = bpe.encoder()
    stream.feed("é".encode()[:1])
    with pytest.raises(TokenizerError, match="use encode_bytes"):
        stream.finish()
