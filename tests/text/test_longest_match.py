"""Leftmost longest match: words are a way to find it, never a change of it."""

import random

import pytest

from positronic.text.definition import to_alphabet, trie_pattern
from positronic.text.longest_match import WORD, LongestMatch, is_within_words, longest_match_reference

BYTES = [bytes([b]) for b in range(256)]


def test_a_worked_example():
    ids = {piece: index for index, piece in enumerate([b"a", b"b", b"c", b"ab", b"abc", b"bcab"])}
    # abc is longer than ab; then nothing longer than a fits before c; greedy never goes back for bcab.
    assert list(longest_match_reference(b"abcacab", ids)) == [4, 0, 2, 3]
    assert LongestMatch(ids)(b"abcacab") == [4, 0, 2, 3]


@pytest.mark.parametrize("seed", range(20))
def test_any_vocabulary_is_matched_as_by_the_reference(seed):
    draw = random.Random(seed)
    letters = [b"a", b"b", b" ", b"\n", b"\r", b"\xc3", b"\xa9"]
    learned = {b"".join(draw.choices(letters, k=draw.randrange(2, 7))) for _ in range(60)}
    if seed % 2:  # half of the vocabularies may be matched word by word
        learned = {piece for piece in learned if WORD.fullmatch(piece)}
    pieces = [*BYTES, *sorted(learned)]
    ids = {piece: index for index, piece in enumerate(pieces)}
    match = LongestMatch(pieces)
    for _ in range(200):
        data = b"".join(draw.choices(letters, k=draw.randrange(40)))
        assert match(data) == match(data) == match.match(data) == list(longest_match_reference(data, ids))


def test_a_spike_tokenizer_matches_as_the_reference_does_on_text(spike, spike_of_lines, english):
    for tokenizer in (spike, spike_of_lines):
        ids = {piece: index for index, piece in enumerate(tokenizer.definition.pieces)}
        for text in english[::8]:
            assert tokenizer.encode(text) == list(longest_match_reference(text.encode(), ids))


def test_where_a_word_starts_follows_from_two_bytes_alone():
    draw = random.Random(0)
    starts: dict[bytes, bool] = {}
    for _ in range(3_000):
        data = bytes(draw.choices(b"ab \n\r\t.\xe9", k=20))
        found = {match.start() for match in WORD.finditer(data)}
        for at in range(1, len(data)):
            assert starts.setdefault(data[at - 1 : at + 1], at in found) == (at in found)
    assert len(starts) == 64


def test_words_are_all_of_the_text():
    draw = random.Random(1)
    for _ in range(1_000):
        data = bytes(draw.choices(b"ab \n\r\t\xff", k=draw.randrange(30)))
        assert b"".join(WORD.findall(data)) == data


def test_pieces_across_words_are_seen():
    assert is_within_words([*BYTES, b" the", b"  ", b"\n\n", b"\r\n", b"a.b", b"  if"])
    for piece in (b"a b", b"a ", b"\n ", b"\nthe", b".\n", b" \n"):
        assert not is_within_words([*BYTES, piece]), piece


def test_words_are_used_only_where_they_may_be(spike, spike_of_lines):
    assert is_within_words(spike.definition.pieces)
    assert not is_within_words(spike_of_lines.definition.pieces)


def test_remembered_words_are_forgotten_before_they_fill_the_memory(spike, monkeypatch):
    monkeypatch.setattr("positronic.text.longest_match._MOST_WORDS", 10)
    match = LongestMatch(spike.definition.pieces)
    texts = [f" word{n} and{n % 3}" for n in range(50)]
    assert [match(text.encode()) for text in texts] == spike.encode_batch(texts)
    assert len(match._words) <= 12


def test_the_pattern_branches_where_pieces_do():
    assert trie_pattern(["a", "b", "ab", "abc", "."]) == r"a(?:b(?:c)?)?|[\.b]|."


def test_no_character_of_the_alphabet_is_a_line_break():
    # "." in the runtime's expression matches all but a newline, so no byte may be spelt by one.
    alphabet = to_alphabet(bytes(range(256)))
    assert len(set(alphabet)) == 256
    assert len(alphabet.splitlines()) == 1
    assert alphabet.isprintable()
    assert " " not in alphabet
