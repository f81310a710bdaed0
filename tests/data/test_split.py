"""Training and held-out text have nothing in common, and together they are all there is."""

import pytest

from positronic.data import Document, Split, excerpt
from positronic.data.sources.split import boundary, text_hash
from positronic.errors import DataError


class Listed:
    name = "listed"
    fingerprint = "f"

    def __init__(self, *texts):
        self.texts = texts

    def __iter__(self):
        return (Document(text, f"d{i}") for i, text in enumerate(self.texts))


def sides(split):
    return [d.text for d in split.train], [d.text for d in split.held_out]


def test_of_many_documents_about_one_in_a_hundred_is_held_out_whole():
    texts = [f"document {i}" for i in range(5000)]
    train, held_out = sides(Split(Listed(*texts)))
    assert sorted(train + held_out) == sorted(texts)
    assert not set(train) & set(held_out)
    assert 30 < len(held_out) < 70
    assert all(text_hash(text) % 100 == 0 for text in held_out)


def test_equal_documents_fall_on_the_same_side():
    texts = [f"document {i % 500}" for i in range(2000)]
    train, held_out = sides(Split(Listed(*texts)))
    assert held_out
    assert not set(train) & set(held_out)


def test_a_document_stays_on_its_side_when_others_join():
    held_out = set(sides(Split(Listed(*(f"document {i}" for i in range(2000)))))[1])
    more = set(sides(Split(Listed(*(f"document {i}" for i in range(4000)))))[1])
    assert held_out < more


@pytest.mark.parametrize("n", [1, 2, 50])
def test_few_documents_are_cut_at_a_paragraph_near_their_ends(n):
    texts = [f"Document {i}.\n\n" + "\n\n".join(f"Paragraph {j} of {i}. " * 5 for j in range(60)) for i in range(n)]
    train, held_out = sides(Split(Listed(*texts)))
    assert [a + b for a, b in zip(train, held_out, strict=True)] == texts
    for text, tail in zip(texts, held_out, strict=True):
        assert tail.startswith("Paragraph")
        assert 0.01 * len(text) <= len(tail) < 0.1 * len(text)


def test_nothing_is_held_out_when_nothing_is_asked_for():
    assert sides(Split(Listed("a", "b"), one_in=None)) == (["a", "b"], [])


def test_holding_out_everything_is_refused():
    with pytest.raises(DataError, match="give 2 or more"):
        Split(Listed("a"), one_in=1)


def test_the_sides_have_fingerprints_of_their_own():
    split = Split(Listed("a"))
    prints = {split.train.fingerprint, split.held_out.fingerprint, Split(Listed("a"), 50).train.fingerprint}
    assert len(prints) == 3


def test_a_boundary_is_a_paragraph_or_else_a_line_or_else_a_word():
    text = "aa bb\ncc\n\ndd ee"
    assert text[boundary(text, 0, len(text)) :] == "dd ee"
    assert text[boundary(text, 0, 8) :].startswith("cc")
    assert text[boundary(text, 0, 5) :].startswith("bb")
    assert boundary("abcdef", 0, 4) == 4


def size(documents):
    return sum(len(d.text.encode()) for d in documents)


def test_an_excerpt_keeps_to_its_budget_and_is_the_same_every_time():
    texts = [f"Document {i}.\n\n" + "Ein Käfer. " * (i % 90) for i in range(400)]
    for budget in (10, 1000, 20_000, 10**9):
        once = excerpt(Listed(*texts), budget)
        assert once == excerpt(Listed(*texts), budget)
        assert size(once) <= budget
        again = excerpt(Listed(*reversed(texts)), budget)
        assert [d.text for d in again] == [d.text for d in once]
    assert sorted(d.text for d in excerpt(Listed(*texts), 10**9)) == sorted(texts)
    assert [d.text for d in excerpt(Listed(*texts), None)] == list(texts)


def test_an_excerpt_of_long_documents_takes_a_beginning_of_each():
    texts = [f"{i} " + "word and word\n\n" * 3000 for i in range(8)]
    chosen = excerpt(Listed(*texts), 80_000)
    assert len(chosen) == 8
    assert all(any(text.startswith(d.text) for text in texts) for d in chosen)
    assert size(chosen) > 75_000


def test_an_excerpt_of_short_documents_takes_whole_ones():
    texts = [f"Story {i}. " + "It ended. " * 40 for i in range(1000)]
    chosen = excerpt(Listed(*texts), 100_000)
    assert size(chosen) > 95_000
    assert sum(d.text in texts for d in chosen) > 0.9 * len(chosen)
