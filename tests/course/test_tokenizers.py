"""Chapter 1: three ways to cut a text, none of which loses a byte."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from positronic_course import CourseError
from positronic_course.ch01_tokenizers import (
    BYTES,
    BPETokenizer,
    CharTokenizer,
    Tokenizer,
    WordTokenizer,
    from_json,
    learn_merges,
    unigram_bits_per_byte,
)

TEXT = "Anna lit the lamp on the hill. The lamp burnt, and the boats came home. Früh am Morgen: 日の出.\n" * 3
TOKENIZERS = {
    "bytes": Tokenizer(BYTES),
    "char": CharTokenizer.learn(TEXT),
    "word": WordTokenizer.learn(TEXT, 266),
    "bpe": BPETokenizer.learn(TEXT, 290),
}
ANY = (
    st.text()
    | st.text(alphabet="Anna lit the lmp.\n")
    | st.text(alphabet=st.characters(codec="utf-8", min_codepoint=0x0300))
)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=ANY)
def test_every_text_comes_back(kind, text):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_it_survives_json(kind):
    tokenizer = TOKENIZERS[kind]
    again = from_json(tokenizer.to_json())
    assert type(again) is type(tokenizer)
    assert again.pieces == tokenizer.pieces


def test_each_kind_cuts_where_its_name_says():
    cut = {kind: [t.decode([number]) for number in t.encode(" the lamp")] for kind, t in TOKENIZERS.items()}
    assert cut["char"] == list(" the lamp")
    assert cut["word"] == [" the", " lamp"]
    assert len(cut["bpe"]) < len(cut["bytes"])


def test_a_character_of_several_bytes_is_one_token_if_it_was_seen_and_its_bytes_if_not():
    assert len(TOKENIZERS["char"].encode("ü")) == 1
    assert len(TOKENIZERS["char"].encode("ö")) == 2


def test_merges_are_learnt_most_frequent_first_and_joined_from_the_left():
    assert learn_merges("aaab aaab", 259)[256:] == [b"aa", b"aaa", b"aaab"]
    assert learn_merges("xy xy xy zz zz", 300)[256:] == [b"xy", b" xy", b" z", b" zz"]


@given(st.text(alphabet="ab", max_size=60) | st.text(alphabet="abc de", max_size=80))
def test_no_piece_is_learnt_twice_and_encoding_repeats_the_merges_of_learning(text):
    pieces = learn_merges(text, 400)
    assert len(set(pieces)) == len(pieces)
    counts = np.bincount(BPETokenizer(pieces).encode(text), minlength=len(pieces))
    assert len(counts) == len(pieces)
    assert counts[-1] > 0 or len(pieces) == 256  # the last piece stands where learning has put it


def test_an_unknown_kind_is_named_with_those_there_are():
    with pytest.raises(CourseError, match="'syllables'; the course has bytes, char, word, bpe"):
        from_json('{"kind": "syllables", "pieces": []}')


@pytest.mark.parametrize("learn", [WordTokenizer.learn, BPETokenizer.learn])
@pytest.mark.parametrize("text", ["", "ab", "ab ab", TEXT])
def test_a_vocabulary_that_is_too_large_is_refused_with_the_largest_that_works(learn, text):
    with pytest.raises(CourseError, match=r"256 \(the bytes alone\) to \d+\. Use --vocab-size") as refusal:
        learn(text, 5000)
    largest = int(str(refusal.value).split("--vocab-size ")[1].split(",")[0])
    assert len(learn(text, largest)) == largest
    with pytest.raises(CourseError, match=f"A vocabulary of {largest + 1}"):
        learn(text, largest + 1)


@pytest.mark.parametrize("learn", [WordTokenizer.learn, BPETokenizer.learn])
def test_a_vocabulary_without_room_for_the_bytes_is_refused(learn):
    with pytest.raises(CourseError, match="--vocab-size 256"):
        learn(TEXT, 255)


@pytest.mark.parametrize("text", ["", "One line, and no more."])
def test_an_empty_or_one_line_corpus_still_gives_lossless_tokenizers(text):
    for tokenizer in (CharTokenizer.learn(text), WordTokenizer.learn(text, 256), BPETokenizer.learn(text, 256)):
        assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
        assert tokenizer.decode(tokenizer.encode("")) == ""


def test_bits_per_byte_of_a_model_that_knows_nothing_is_eight():
    tokenizer = Tokenizer(BYTES)
    assert unigram_bits_per_byte(tokenizer, "", "any text") == pytest.approx(8.0)


def test_bits_per_byte_are_the_probabilities_of_the_pieces():
    tokenizer = Tokenizer(BYTES)
    p = {"a": 4 / 260, "b": 2 / 260}  # seen 3 times and once, and once more each like every other byte
    expected = -(math.log2(p["a"]) + math.log2(p["b"])) / 2
    assert unigram_bits_per_byte(tokenizer, "aaab", "ab") == pytest.approx(expected)
