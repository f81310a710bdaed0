"""What the library SentencePiece learns, in our file: nothing is lost, and the ids are its own pieces."""

import sys
from importlib.resources import files

import pytest

from positronic.errors import TokenizerError
from positronic.text import Tokenizer, train_sentencepiece

STORIES = files("positronic_course").joinpath("corpus.txt").read_text("utf-8")
STRANGE = [
    "  two  spaces,\ttabs\r\n and a last line \n\n",
    "Fr\u00fch am Morgen: \u65e5\u306e\u51fa \U0001f305 e\u0301 \ufb01 \u2581 \u00a0.",
    "x = {'a': 1234567890} <|im_end|>",
    "",
]


@pytest.fixture(scope="module")
def learned():
    pytest.importorskip("sentencepiece", reason="install positronic[sentencepiece]")
    return train_sentencepiece([STORIES, STRANGE[1] * 3], 700)


@pytest.mark.parametrize("text", [*STRANGE, STORIES], ids=range(5))
def test_every_text_comes_back_to_the_byte(learned, text):
    assert learned.decode_bytes(learned.encode(text)) == text.encode()


def test_bytes_that_are_no_text_come_back_too(learned):
    assert learned.decode_bytes(learned.encode_bytes(bytes(range(256)))) == bytes(range(256))


def test_the_file_is_one_of_ours(learned, tmp_path):
    learned.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.kind, again.vocab_size, again.sha256) == ("bpe", 700, learned.sha256)
    assert again.encode(STORIES) == learned.encode(STORIES)


def test_words_of_the_text_are_single_pieces_with_their_space(learned):
    assert [learned.decode([token]) for token in learned.encode(" the lamp and the boats")] == [
        " the",
        " lamp",
        " and",
        " the",
        " boats",
    ]
    assert len(learned.encode(STORIES)) < len(STORIES) / 2.5


@pytest.mark.parametrize(
    ("size", "says"), [(384, "SentencePiece needs more than 384"), (60_000, "The text has use for at most")]
)
def test_a_vocabulary_that_cannot_be_is_refused(size, says):
    pytest.importorskip("sentencepiece", reason="install positronic[sentencepiece]")
    with pytest.raises(TokenizerError, match=says):
        train_sentencepiece([STORIES], size)


def test_without_the_library_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(TokenizerError, match=r"Install positronic\[sentencepiece\]"):
        train_sentencepiece([STORIES], 700)
