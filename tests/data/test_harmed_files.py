"""Harmed data files of every kind: what is read is text, what is refused is one sentence that names the file.

Bytes are flipped, cut, doubled and put in, inside archives and around them. A seed names its harm for good:
`pytest -k "zst and 17"`. `make test-slow` runs all of them, `make test` the first.
"""

import gzip
import io
import json
import lzma
import random

import pytest

from bounded import bounded
from positronic.data import open_chats, open_pairs, open_source
from positronic.data.chat.conversations import encode_chats
from positronic.data.chat.preferences import encode_pairs
from positronic.text import byte_tokenizer

TOKENIZER = byte_tokenizer()
TEXTS = [f"Lamp {n} was lit at {n % 12} o'clock; naïve 東京 🙂.\n" for n in range(40)]
RECORDS = {
    "text": [{"text": text, "n": n} for n, text in enumerate(TEXTS)],
    "chat": [{"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": "yes"}]} for t in TEXTS],
    "pairs": [{"prompt": t, "chosen": "yes", "rejected": "no"} for t in TEXTS],
}
READ = {
    "text": lambda path: [document.text for document in open_source(path)],
    "chat": lambda path: list(encode_chats(open_chats(path), TOKENIZER)),
    "pairs": lambda path: list(encode_pairs(open_pairs(path), TOKENIZER)),
}


def lines(records) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def zst(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


def parquet(records) -> bytes:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    made = io.BytesIO()
    files.write_table(arrow.Table.from_pylist(records), made)
    return made.getvalue()


FORMS = {
    "txt": lambda records: "".join(str(r.get("text", r.get("prompt", ""))) for r in records).encode(),
    "jsonl": lines,
    "json": lambda records: json.dumps(records).encode(),
    "jsonl.gz": lambda records: gzip.compress(lines(records), mtime=0),
    "jsonl.xz": lambda records: lzma.compress(lines(records)),
    "jsonl.zst": lambda records: zst(lines(records)),
    "parquet": parquet,
}
SEEDS = [pytest.param(seed, id=f"seed-{seed}", marks=[] if seed < 3 else pytest.mark.slow) for seed in range(25)]
NOISE = (
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\r",
    b'"',
    b"\\ud800",
    b"[[[[",
    b"null",
    b"NaN",
    b"}\n{",
)


def harmed(data: bytes, draw: random.Random) -> bytes:
    """One to four places flipped, cut out, doubled, filled with noise; or the file is cut short."""
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice([1, 2, 10, 300]))
        part = draw.choice([b"", data[at:end] * 3, draw.randbytes(end - at), bytes(b ^ 4 for b in data[at:end])])
        part = draw.choice([part, draw.choice(NOISE) * draw.choice([1, 1, 2000])])
        data = data[:at] + part + data[end if draw.random() < 0.9 else len(data) :]
    return data


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_harmed_file_is_read_as_text_or_refused_by_name(seed, kind, form, tmp_path):
    if form == "txt" and kind != "text":
        pytest.skip("no records in plain text")
    draw = random.Random(f"file {kind} {form} {seed}")
    data = FORMS[form](RECORDS[kind])
    if draw.random() < 0.5 and form in ("jsonl.gz", "jsonl.xz", "jsonl.zst"):
        pack = {"jsonl.gz": gzip.compress, "jsonl.xz": lzma.compress, "jsonl.zst": zst}[form]
        data = pack(harmed(lines(RECORDS[kind]), draw))  # whole outside, harmed inside
    else:
        data = harmed(data, draw)
    path = tmp_path / f"c.{form}"
    path.write_bytes(data)
    found = bounded(lambda: READ[kind](path))
    if isinstance(found, str):
        assert f"c.{form}" in found, found
        found.encode()
    elif kind == "text":
        "".join(found).encode()


@pytest.mark.parametrize("form", FORMS)
def test_what_is_whole_is_read(form, tmp_path):
    path = tmp_path / f"c.{form}"
    path.write_bytes(FORMS[form](RECORDS["text"]))
    assert "".join(READ["text"](path)).split() == "".join(TEXTS).split()
