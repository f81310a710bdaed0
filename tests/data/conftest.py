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


@pytest.fixture
def put(tmp_path):
    """put(name, text or bytes) writes a file, packed as its suffix says, and gives its path."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else content.encode()
        packed = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)(data)
        path.write_bytes(packed)
        return path

    return write
