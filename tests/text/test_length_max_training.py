"""Training of length-max: the equations against their definition, worked examples, determinism, limits."""

import random
from collections import Counter

import numpy as np
import pytest

from positronic.errors import TokenizerError
from positronic.text import length_max as training
from positronic.text import train_length_max
from positronic.text.longest_match import WORD, longest_match_reference


def learned(tokenizer) -> list[bytes]:
    return list(tokenizer.definition.pieces[256:])


def n_tokens(words: Counter[bytes], pieces: set[bytes]) -> int:
    """Tokens of all words by the reference matcher."""
    ids = dict.fromkeys([*(bytes([b]) for b in range(256)), *pieces], 0)
    return sum(count * len(list(longest_match_reference(word, ids))) for word, count in words.items())


def test_a_worked_example():
    # "the" saves 2 tokens of 3 in each of 4 words, "th" and "he" 1 each: with "the" known, nothing else is used.
    # "then" stands once, so it is no candidate.
    text = "the\nthe\nthe\nthen\n"
    assert learned(train_length_max([text], 385)) == [b"the"]


def test_leading_spaces_belong_to_the_word_and_newlines_to_none():
    # Alone, " a" saves one token a use; "b\n" and "a b" would as well but are no candidates.
    assert learned(train_length_max(["b a b a\n\nb b a\n\n"], 387)) == [b"\n\n", b" a", b" b"]


def test_of_equal_gain_the_longer_then_the_lexicographically_first_is_kept():
    # xyz and pqr save as much; the vocabulary has room for one.
    assert learned(train_length_max(["xyz\npqr\nxyz\npqr"], 385)) == [b"pqr"]


def test_the_first_round_scores_count_times_length_less_one():
    words = Counter({b"banana": 3, b" bandana": 2})
    corpus = training._Corpus(words)
    gains = training._Segmentation(corpus, corpus.length == 1).gains()
    for piece, score in ((b"ban", 5 * 2), (b"ana", (2 * 3 + 2) * 2), (b"banana", 3 * 5), (b" bandana", 2 * 7)):
        node = next(n for n in range(256, len(corpus.length) - 1) if corpus.spell(n) == piece)
        assert gains[node] == score, piece


@pytest.mark.parametrize("seed", range(8))
def test_gain_of_one_more_piece_is_the_tokens_saved(seed):
    draw = random.Random(seed)
    # Words of distinct letters, so that a piece stands at most once in a word and gains add up exactly.
    words = Counter({bytes(draw.sample(b"abcdefgh", draw.randrange(2, 8))): draw.randrange(1, 5) for _ in range(12)})
    words = Counter({word: count + 1 for word, count in words.items()})
    corpus = training._Corpus(words)
    nodes = range(256, len(corpus.length) - 1)
    known = corpus.length == 1
    known[draw.sample(nodes, 6)] = True
    pieces = {corpus.spell(node) for node in np.flatnonzero(known)}
    segmented = training._Segmentation(corpus, known)
    gains, losses = segmented.gains(), segmented.losses()
    before = n_tokens(words, pieces)
    assert segmented.uses().sum() == before
    for node in nodes:
        piece = corpus.spell(node)
        if known[node]:
            assert losses[node] == n_tokens(words, pieces - {piece}) - before, piece
        else:
            assert gains[node] == before - n_tokens(words, pieces | {piece}), piece


def test_candidates_are_all_strings_of_2_to_16_bytes_that_stand_twice():
    draw = random.Random(0)
    words = Counter({bytes(draw.choices(b"ab", k=draw.randrange(1, 22))): draw.randrange(1, 3) for _ in range(20)})
    corpus = training._Corpus(words)
    counts: Counter[bytes] = Counter()
    for word, count in words.items():
        for at in range(len(word)):
            for end in range(at + 2, min(at + 16, len(word)) + 1):
                counts[word[at:end]] += count
    wanted = sorted((piece for piece, count in counts.items() if count >= 2), key=lambda piece: (len(piece), piece))
    assert [corpus.spell(node) for node in range(256, len(corpus.length) - 1)] == wanted


def test_equal_texts_give_equal_files_in_any_order(english):
    texts = english[:8]
    first = train_length_max(texts, 600)
    assert train_length_max(texts, 600).definition.to_bytes() == first.definition.to_bytes()
    assert train_length_max([text.encode() for text in reversed(texts)], 600).sha256 == first.sha256


def test_a_text_gives_the_same_file_on_every_machine():
    draw = random.Random(7)
    syllables = ["ka", "to", "mi", "ren", "s", "ul", "\u00e9a", "no", "x.", "0"]
    words = ["".join(draw.choices(syllables, k=draw.randrange(1, 5))) for _ in range(400)]
    text = " ".join(draw.choices(words, [1 / (k + 1) for k in range(400)], k=8_000))
    assert train_length_max([text], 600).sha256 == "286bdcfcc6e81513b344abdfeceffdfdfaad6bea85b05d5a4c6528651a59aef5"


def test_pieces_are_distinct_strings_of_2_to_16_bytes_within_words(spike):
    pieces = learned(spike)
    assert len(set(pieces)) == len(pieces) == spike.vocab_size - 384
    assert all(2 <= len(piece) <= 16 and WORD.fullmatch(piece) for piece in pieces)


def test_more_entries_need_fewer_tokens(english):
    sizes = [len(train_length_max(english[:5], size).encode("".join(english[:5]))) for size in (400, 500, 700, 1000)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


def test_a_tenth_more_pieces_given_back_serve_better_than_none(english, monkeypatch):
    text = "".join(english)
    grown_further = len(train_length_max([text], 1024).encode(text))
    monkeypatch.setattr(training, "_SURPLUS", 1.0)
    assert grown_further < len(train_length_max([text], 1024).encode(text))


@pytest.mark.parametrize(
    "text", ["the\nthe\nthe\nthen\n", "to be or not to be, that is the question " * 3, "aaaa" * 40]
)
def test_text_with_too_little_use_names_the_largest_vocabulary_and_all_up_to_it_work(text):
    with pytest.raises(TokenizerError, match="at most") as refused:
        train_length_max([text], 16_512)
    largest = int(str(refused.value).split("at most ")[1].split()[0])
    for size in range(385, largest + 1):
        assert train_length_max([text], size).vocab_size == size
    with pytest.raises(TokenizerError, match=f"at most {largest} "):
        train_length_max([text], largest + 1)


@pytest.mark.parametrize("texts", [[], [""], ["", b""], ["<|endoftext|>"]])
def test_no_text_is_refused_in_words(texts):
    with pytest.raises(TokenizerError, match="no text"):
        train_length_max(texts, 1024)


def test_a_vocabulary_without_room_for_pieces_is_refused():
    with pytest.raises(TokenizerError, match="more than 384"):
        train_length_max(["text"], 384)


def test_names_of_control_tokens_part_the_text_and_are_not_learned():
    tokenizer = train_length_max(["once<|endoftext|>upon<|endoftext|>once<|endoftext|>upon" * 9], 386)
    assert learned(tokenizer) == [b"once", b"upon"]


def test_bytes_that_are_no_text_are_learned_too():
    assert learned(train_length_max([b"\xff\xfe\n\xff\xfe"], 385)) == [b"\xff\xfe"]


def test_progress_rises_to_what_was_asked_for(english):
    seen = []
    train_length_max(english[:5], 500, progress=lambda entries, asked: seen.append((entries, asked)))
    entries = [entry for entry, _ in seen]
    assert entries == sorted(entries)
    assert entries[-1] == 500
    assert {asked for _, asked in seen} == {500}


def test_long_words_are_counted_in_parts():
    assert sum(map(len, training._count([b"a" * 1000], WORD).elements())) == 1000
    assert max(map(len, training._count([b"a" * 1000], WORD))) == 256
    assert learned(train_length_max(["ab" * 5_000], 385)) == [b"ab" * 8]


def test_of_too_many_words_the_frequent_ones_are_kept(monkeypatch):
    monkeypatch.setattr(training, "_MOST_BYTES", 30)
    words = Counter({f"word{n:02}".encode(): 1 + (n % 7 == 0) for n in range(20)})
    kept = training._most_frequent(words)
    assert kept == sorted(kept)
    assert sum(map(len, kept)) <= 30
    assert {b"word00", b"word07", b"word14"} <= set(kept)


@pytest.mark.parametrize("marks", ["\u0301", "\u0300\u0301\u0302", "".join(map(chr, range(0x300, 0x370)))])
def test_thousands_of_combining_marks_on_one_letter_are_learned_like_a_long_word(marks):
    draw = random.Random(0)
    tokenizer = train_length_max(["e" + "".join(draw.choices(marks, k=20_000)) + "\nplain words\n" * 9], 386)
    assert tokenizer.vocab_size == 386


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TokenizerError, match="half of a surrogate pair"):
        train_length_max(["ab ab \ud800"], 386)
