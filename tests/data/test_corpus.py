"""From --data to a stream: training and held-out text never meet, and packing the files changes nothing."""

import json

import pytest

from positronic.data import heldout_documents, text_mixture
from positronic.errors import DataError


@pytest.fixture
def stories(put):
    return put("s.json", json.dumps([f"Story {i}: it was number {i}." for i in range(400)]))


def trained_texts(mixture):
    tokens = bytes(min(t, 255) for source in mixture.sources for t in source.shard.tokens.tolist())
    return set(tokens.split(b"\xff"))


def test_what_is_held_out_is_never_trained_on(stories, put, tokenizer, tmp_path):
    data = [f"{stories}:0.5", f"{put('n.txt', 'A long novel about one thing.' * 500)}:0.5"]
    trained = trained_texts(text_mixture(data, tokenizer, seq_len=16, cache=tmp_path / "c"))
    held_out = [document.text.encode() for document in heldout_documents(data)]
    assert 2 <= len(held_out) < 20
    assert not trained & set(held_out)
    assert len(trained) == 400 - (len(held_out) - 1) + 1 + 1  # stories, the novel, and what follows the last end


def test_weights_are_shares_of_the_stream(stories, put, tokenizer, tmp_path):
    data = [f"{stories}:0.75", f"{put('n.txt', 'one two three ' * 500)}:0.25"]
    mixture = text_mixture(data, tokenizer, seq_len=16, cache=tmp_path / "c")
    mixture.next(100)
    assert mixture.position()["taken"] == [75, 25]


def test_a_packed_or_renamed_source_gives_the_same_tokens_and_a_renamed_one_resumes(stories, put, tokenizer, tmp_path):
    packed = put("r.json.xz", stories.read_bytes())
    renamed = put("r.json", stories.read_bytes())
    kinds = [text_mixture([str(path)], tokenizer, seq_len=16, cache=tmp_path / "c") for path in (stories, packed)]
    assert kinds[0].describe()["sources"][0]["fingerprint"] == kinds[1].describe()["sources"][0]["fingerprint"]
    other = text_mixture([str(renamed)], tokenizer, seq_len=16, cache=tmp_path / "c")
    kinds[0].next(5)
    other.seek(kinds[0].position())
    assert other.next(1).tokens.equal(kinds[0].next(1).tokens)


def test_the_budget_is_shared_among_the_sources(stories, put):
    data = [str(stories), str(put("n.txt", "A long novel about one thing. " * 5000))]
    documents = heldout_documents(data, budget_bytes=1000)
    sizes = [sum(len(d.text.encode()) for d in documents if d.name.startswith(name)) for name in ("s", "n")]
    assert all(0 < size <= 500 for size in sizes)


def test_text_too_short_to_hold_any_out_says_so(put):
    with pytest.raises(DataError, match=r"too short to hold text out of it"):
        heldout_documents([str(put("a.txt", "x"))])
