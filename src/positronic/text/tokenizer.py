"""Tokenizer: text to ids and back without loss, whatever the kind (spike, bpe, bytes).

encode(text)        untrusted text; what looks like a control token stays text
encode_bytes(data)  any bytes; the ids of `encode` where they are UTF-8
decode_bytes(ids)   exactly those bytes; control tokens spell none
encoder()           the ids of `encode`, of text that comes in parts; decoder() is its counterpart

"""

import codecs
import errno
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import final

import numpy as np
import tokenizers

from positronic.errors import TokenizerError
from positronic.text.chat_template import CHAT_TEMPLATE
from positronic.text.definition import Definition, Kind, merged, read_definition, to_alphabet
from positronic.text.encode_stream import StreamEncoder, Words, all_bytes, utf8
from positronic.text.longest_match import LongestMatch
from positronic.text.special import CONTROL_TOKENS

__all__ = ["StreamDecoder", "Tokenizer", "byte_tokenizer"]

FILE = "tokenizer.json"
_BEHIND = 2
"""Characters behind a word that decide where it ends, by GPT-2's expression."""
PAD = "<|reserved_0|>"
"""What other programs pad with: the end of a document would be masked with the padding, in labels too."""


@final
class Tokenizer:
    """A vocabulary and the rule that cuts text by it. Immutable; equal files give equal tokenizers."""

    def __init__(self, definition: Definition):
        self.definition = definition
        """What `tokenizer.json` is written from."""
        self.kind: Kind = definition.kind
        """ "spike", "bpe" or "bytes"."""
        self.vocab_size: int = definition.vocab_size
        """Entries, the 128 control tokens included."""
        self.special: Mapping[str, int] = MappingProxyType({name: definition.named[name] for name in CONTROL_TOKENS})
        """Ids of the control tokens by name: the last 128 of the vocabulary, unless it is another program's."""
        self.token_bytes: tuple[bytes, ...] = definition.pieces + (b"",) * (self.vocab_size - len(definition.pieces))
        """What each id spells; nothing for control tokens."""
        self.eot_id: int = self.special["<|endoftext|>"]
        """Ends a document."""
        self.im_end_id: int = self.special["<|im_end|>"]
        """Ends a turn of a chat."""
        self.pad_id: int = self.special[PAD]
        """Fills up rows in other programs; it is in no text."""
        lead = None if definition.foreign is None else definition.foreign.lead
        self.lead: tuple[int, ...] = () if lead is None else (definition.named[lead],)
        """What stands in front of a text that begins a document: nothing, but in vocabularies of some programs."""
        self.begin_id: int = self.lead[0] if self.lead else self.eot_id
        """What the first token of a document is predicted from."""
        names = {index: name.encode() for name, index in definition.named.items()}
        self._shown = tuple(names.get(index, piece) for index, piece in enumerate(self.token_bytes))
        self._lengths = np.array([len(piece) for piece in self.token_bytes])
        self._cut = _cutter(definition)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer of a folder that holds `tokenizer.json`, or of that file itself."""
        path = Path(path)
        file = path / FILE if path.is_dir() else path
        try:
            if file.exists() and not file.is_file():  # to open a pipe would be to wait for its writer
                raise OSError(errno.EINVAL, "not a plain file")
            data = file.read_bytes()
        except OSError as error:
            raise TokenizerError(
                f"No tokenizer at {file} ({error.strerror}). Name a folder that holds {FILE}, or train one with "
                f"`positronic tokenizer train`."
            ) from None
        return cls(read_definition(data, str(file)))

    def save(self, folder: str | Path, longest: int | None = None) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`; transformers opens the folder.

        longest: tokens that a model beside it holds, for programs that cut what is longer.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(self.definition.to_file())
        settings = _TRANSFORMERS if longest is None else _TRANSFORMERS | {"model_max_length": longest}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")

    @cached_property
    def sha256(self) -> str:
        """Hash of `tokenizer.json` without what reads marks, in hexadecimal: what a checkpoint is bound to."""
        return hashlib.sha256(self._file).hexdigest()

    @cached_property
    def runtime(self) -> tokenizers.Tokenizer:
        """The same tokenizer as an object of `tokenizers`, which gives the same ids; control tokens stay text."""
        runtime = tokenizers.Tokenizer.from_buffer(self._file)
        runtime.encode_special_tokens = True
        return runtime

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. Never a control token, whatever it spells."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each; BPE uses every core."""
        data = [utf8(text) for text in texts]
        if self._cut is not None:
            return [self._cut(piece) for piece in data]
        return [found.ids for found in self.runtime.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes: those of `encode` if they are UTF-8; else BPE merges them as one long word."""
        if self._cut is not None:
            return self._cut(data)
        try:
            return self.encode(data.decode())
        except UnicodeDecodeError:
            return self._wordless.encode(to_alphabet(data), add_special_tokens=False).ids

    def encoder(self) -> StreamEncoder:
        """An encoder that takes text or bytes in parts, cut anywhere."""
        if isinstance(self._cut, LongestMatch):
            return StreamEncoder(self._cut.certain, self._cut)
        if self._cut is not None:
            return StreamEncoder(all_bytes, self._cut)
        known = self.definition.foreign is None or self.definition.foreign.words is None
        words = Words(self.runtime.pre_tokenizer.pre_tokenize_str, self._merge, _BEHIND if known else None)
        return StreamEncoder(words.certain, words.rest)

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of `ids`, with U+FFFD where bytes are not UTF-8. `special` shows control tokens by name."""
        return self._join(ids, self._shown if special else self.token_bytes).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that `ids` spell: the inverse of `encode_bytes`."""
        return self._join(ids, self.token_bytes)

    def decoder(self, special: bool = False) -> "StreamDecoder":
        """A decoder that takes ids one by one."""
        return StreamDecoder(self._shown if special else self.token_bytes)

    def n_bytes(self, ids: Sequence[int] | np.ndarray) -> int:
        """How many bytes `ids` spell: what bits per byte divides by."""
        return int(self._lengths[np.asarray(ids, dtype=np.int64)].sum())

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size}, sha256={self.sha256[:12]!r})"

    def __reduce__(self) -> tuple:
        return Tokenizer, (self.definition,)

    @cached_property
    def _file(self) -> bytes:
        return self.definition.to_bytes()

    @cached_property
    def _wordless(self) -> tokenizers.Tokenizer:
        """The runtime on text that is in the byte-level alphabet already."""
        runtime = tokenizers.Tokenizer.from_buffer(self._file)
        runtime.encode_special_tokens = True
        runtime.pre_tokenizer = None
        return runtime

    def _merge(self, words: Sequence[str]) -> list[int]:
        """The ids of words in the byte-level alphabet."""
        found = self._wordless.encode_batch_fast(list(words), add_special_tokens=False)
        return [index for word in found for index in word.ids]

    def _join(self, ids: Iterable[int], spelling: Sequence[bytes]) -> bytes:
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise TokenizerError(
                f"Ids from {min(ids)} to {max(ids)} are not all of this vocabulary of {self.vocab_size}; "
                f"decode with the tokenizer that encoded."
            )
        return b"".join([spelling[index] for index in ids])


@final
class StreamDecoder:
    """Decodes ids as they come: the texts of `push`, then `finish`, joined are `Tokenizer.decode` of all ids."""

    def __init__(self, spelling: Sequence[bytes]):
        self._spelling = spelling
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that this id completes."""
        return self._utf8.decode(self._spelling[token])

    def finish(self) -> str:
        """U+FFFD for what stayed incomplete."""
        return self._utf8.decode(b"", True)


def byte_tokenizer() -> Tokenizer:
    """Plain bytes: 256 of them and the control tokens, 384 entries; nothing to train."""
    return Tokenizer(merged(()))


_TRANSFORMERS = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|im_end|>",
    "pad_token": PAD,
    "clean_up_tokenization_spaces": False,
}


def _cutter(definition: Definition) -> Callable[[bytes], list[int]] | None:
    """How bytes become ids where we do it ourselves; None leaves it to `tokenizers`."""
    if definition.kind == "spike":
        return LongestMatch(definition.pieces)
    return list if definition.kind == "bytes" else None
