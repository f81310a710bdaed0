"""Streaming: whole characters, and never a character of a stop string."""

import numpy as np
import pytest

from positronic.errors import GenerationError
from positronic.generation.requests.stream import TextStream
from positronic.text import byte_tokenizer

TOKENS = byte_tokenizer()


def pieces(text, stop=(), silent=()):
    stream = TextStream(TOKENS.decoder(), stop, silent)
    for token in text.encode() if isinstance(text, str) else text:
        if stream.hear(token):
            break
    stream.finish()
    return list(stream.released), stream.text


def test_only_whole_characters_come_out():
    found, text = pieces("aé漢🙂z")
    assert found[:11] == ["a", "", "é", "", "", "漢", "", "", "", "🙂", "z"]
    assert text == "aé漢🙂z"


def test_bytes_that_are_no_text_are_shown_at_the_end():
    assert pieces(b"a" + "漢".encode()[:2])[1] == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("stop", [["END"], ["ND", "END"], ["xx", "E"], "END"])
def test_text_ends_before_the_first_stop_string(stop):
    assert pieces("to the END of", stop)[1] == "to the "


def test_streamed_text_is_the_text_before_the_first_stop_string_whatever_the_strings():
    rng = np.random.default_rng(0)
    for _ in range(500):
        text = "".join(rng.choice(list("ab"), 30))
        stop = ["".join(rng.choice(list("abc"), rng.integers(1, 6))) for _ in range(3)]
        ends = [i for i in range(1, len(text) + 1) if any(s in text[:i] for s in stop)]
        heard = text[: ends[0]] if ends else text
        expected = heard[: min(at for s in stop if (at := heard.find(s)) >= 0)] if ends else text
        found, said = pieces(text, stop)
        assert "".join(found) == said == expected, (text, stop)


def test_what_could_begin_a_stop_string_waits():
    stream = TextStream(TOKENS.decoder(), ["</s>"])
    for token in b"a</":
        stream.hear(token)
    assert "".join(stream.released) == "a"
    stream.hear(ord("b"))
    assert "".join(stream.released) == "a</b"


def test_silent_tokens_say_nothing():
    assert pieces(b"abc", silent=[ord("b")])[1] == "ac"


def test_an_empty_stop_string_is_refused():
    with pytest.raises(GenerationError, match="empty"):
        TextStream(TOKENS.decoder(), ["x", ""])
