"""A tokenizer small enough to check by eye, and ways to write files in every form."""

import gzip
import lzma

import pytest


class ByteTokens:
    """One token a byte, and 256, which ends a document. Counts the texts it was asked for."""

    eot_id = 256
    vocab_size = 257
    sha256 = "of the byte tokens"
    token_bytes = (*(bytes([i]) for i in range(256)), b"<|endoftext|>")

    def __init__(self):
        self.asked = 0

    def encode(self, text):
        return list(text.encode())

    def encode_batch(self, texts):
        self.asked += len(texts)
        return [self.encode(text) for text in texts]


@pytest.fixture
def tokenizer():
    return ByteTokens()


def zst(data):
    return pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(data)


@pytest.fixture
def put(tmp_path):
    """put(name, text or bytes) writes a file, packed as its suffix says, and gives its path."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else content.encode()
        packed = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zst}.get(path.suffix, bytes)(data)
        path.write_bytes(packed)
        return path

    return write


@pytest.fixture
def table(tmp_path):
    """table(name, records, ...) writes a parquet file of them, and gives its path."""
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(name, records, **how):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(records), path, **how)
        return path

    return write
