"""Harmed tokenizer files: each is refused in a sentence, or is a tokenizer that loses no byte.

Values are changed as in `mutations_of_json`, and bytes are flipped, cut, doubled and put in. A seed names its harm for
good: `pytest -k "spike and 17"`. `make test-slow` runs all of them, `make test` the first.
"""

import json
import pydoc_data.topics
import random

import pytest
from mutations_of_json import harmed

from bounded import bounded
from positronic.text import Tokenizer, byte_tokenizer, train_bpe, train_length_max

ENGLISH = [text for _, text in sorted(pydoc_data.topics.topics.items())][:20]
TEXT = "The lamp is lit: naïve café, 東京, 🙂🙂 \t\r\n  0123 <|im_end|> x" + "a" * 50
MADE = {
    "spike": lambda: train_length_max(ENGLISH, 640),
    "bpe": lambda: train_bpe(ENGLISH, 640),
    "bytes": byte_tokenizer,
}
SEEDS = [pytest.param(seed, id=f"seed-{seed}", marks=[] if seed < 6 else pytest.mark.slow) for seed in range(100)]


@pytest.fixture(scope="module", params=MADE)
def whole(request):
    return MADE[request.param]()


def harmed_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to three places flipped, cut out, doubled, or filled with noise."""
    for _ in range(draw.choice([1, 1, 2, 3])):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice([1, 2, 10, 1000]))
        part = draw.choice([b"", data[at:end] * 2, draw.randbytes(end - at), bytes(b ^ 1 for b in data[at:end])])
        data = data[:at] + part + data[end:]
    return data


def others(value: str, draw: random.Random) -> str:
    """A key of a vocabulary spelled otherwise."""
    return draw.choice([value + value, value[:-1], value.upper(), "", "\ud800", "\x00", "<|im_end|>", value * 3000])


def harmed_vocabulary(data: dict, draw: random.Random) -> dict:
    """Pieces and merges changed as whoever edits a file by hand would."""
    vocabulary = data["model"]["vocab"]
    key = draw.choice(sorted(vocabulary))
    what = draw.randrange(4)
    if what == 0:
        vocabulary[others(key, draw)] = vocabulary.pop(key)
    elif what == 1:
        vocabulary[others(key, draw)] = draw.choice([len(vocabulary), 0, -1, 2**40, len(vocabulary) + 128])
    elif what == 2 and data["model"].get("merges"):
        merges = data["model"]["merges"]
        draw.choice([merges.reverse, merges.pop, lambda: merges.append([key, key]), lambda: merges.extend(merges)])()
    else:
        token = draw.choice(data["added_tokens"])
        token[draw.choice(["id", "content", "special", "normalized"])] = draw.choice([key, 0, True, False, "", 2**40])
    return data


@pytest.mark.parametrize("seed", SEEDS)
def test_a_harmed_tokenizer_is_refused_or_loses_nothing(seed, whole, tmp_path):
    draw = random.Random(f"tokenizer {whole.kind} {seed}")
    data = whole.definition.to_file()
    file = tmp_path / "tokenizer.json"
    if draw.random() < 0.3:
        file.write_bytes(harmed_bytes(data, draw))
    else:
        change = draw.choice([harmed, harmed_vocabulary, harmed_vocabulary])
        file.write_bytes(json.dumps(change(json.loads(data), draw)).encode())
    found = bounded(lambda: Tokenizer.load(tmp_path))
    if not isinstance(found, str):
        ids = bounded(lambda: found.encode(TEXT))
        assert found.decode_bytes(ids) == TEXT.encode()
        if found.sha256 == whole.sha256:
            assert ids == whole.encode(TEXT)
