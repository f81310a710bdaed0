"""Training of BPE: our layout, determinism, limits."""

import random

import pytest

from positronic.errors import TokenizerError
from positronic.text import train_bpe


def test_a_worked_example():
    # "ab" is the most frequent pair, then "ab" + "c".
    tokenizer = train_bpe(["abc abc abc ab"], 256 + 128 + 2)
    assert tokenizer.definition.merges == ((b"a", b"b"), (b" ", b"ab"))
    assert tokenizer.encode("abc ab") == [256, 99, 257]


def test_every_merge_makes_the_piece_of_its_id(bpe):
    made = list(dict.fromkeys(left + right for left, right in bpe.definition.merges))
    assert list(bpe.definition.pieces[256:]) == made


def test_equal_texts_give_equal_files(english):
    assert train_bpe(english[:8], 600).sha256 == train_bpe(english[:8], 600).sha256


@pytest.mark.parametrize("texts", [[], [""], ["<|endoftext|>"], [b"\xff"]])
def test_no_text_is_refused_in_words(texts):
    with pytest.raises(TokenizerError, match="no text"):
        train_bpe(texts, 1024)


def test_text_with_too_little_use_names_the_largest_vocabulary_and_that_one_works():
    with pytest.raises(TokenizerError, match="at most") as refused:
        train_bpe(["to be or not to be"], 16_512)
    largest = int(str(refused.value).split("at most ")[1].split()[0])
    assert train_bpe(["to be or not to be"], largest).vocab_size == largest


def test_a_vocabulary_without_room_for_merges_is_refused():
    with pytest.raises(TokenizerError, match="more than 384"):
        train_bpe(["text"], 384)


def test_bytes_that_are_not_utf8_are_left_out():
    assert train_bpe([b"abab\xff abab"], 386).definition.merges[0] == (b"a", b"b")


def test_words_longer_than_256_bytes_are_counted_in_parts():
    # In parts of 256 letters, "ab" stands 128 times in each of 4 and "ba" 127 times: no merge reaches over a border.
    text = "ab" * 512
    assert train_bpe([text], 386).definition.merges == ((b"a", b"b"), (b"ab", b"ab"))
    parts = ["ab" * 128] * 4
    assert train_bpe([text], 390).sha256 == train_bpe(parts, 390).sha256


@pytest.mark.parametrize("letters", ["ACDEFGHIKLMNPQRSTVWY", "日本語文字列", "\u0300\u0301\u0302\u0303", "-=_"])
def test_text_without_spaces_is_learned_in_time_in_proportion_to_it(letters):
    # One word of so many letters would take the square of its length: minutes, where parts of it take a second.
    draw = random.Random(0)
    text = "".join(draw.choices(letters, k=400_000))
    assert train_bpe([text], 450).vocab_size == 450


def test_progress_names_what_is_there_before_and_behind_the_merges(english):
    seen = []
    train_bpe(english[:5], 500, progress=lambda entries, asked: seen.append((entries, asked)))
    assert seen == [(384, 500), (500, 500)]


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TokenizerError, match="half of a surrogate pair"):
        train_bpe(["ab ab \ud800"], 386)
