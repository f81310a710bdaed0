"""What a `tokenizer.json` of ours says, and the one way to write and to read it.

A tokenizer is its kind, the byte string each id spells, and for BPE the merges; all else in the file follows from
these. Reading derives them from the file, writes the file anew and compares: what loads is what we would have saved.

    ids 0..255              the bytes, in order
    ids 256..W-129          learned pieces
    ids W-128..W-1          control tokens, `text.special`

Runtime forms, all on the byte-level alphabet (256 printable characters standing for the 256 bytes):
    spike   Split by a trie-shaped expression that matches the longest piece, then look the piece up
    bpe     GPT-2's word expression, then merges
    bytes   BPE with no merges and no word expression
A saved file also takes out the marks of the chat template (`text.special`); ids of all other text are the same.
Source   family.md 9 (layout), ECOSYSTEM.md 5 (runtime form of spike); Radford et al. 2019, GPT-2 (alphabet).
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from positronic.config import canonical_json
from positronic.errors import TokenizerError
from positronic.text.special import APART, CONTROL_TOKENS, ITSELF, MARK, N_CONTROL, NOTHING

__all__ = [
    "LONGEST_PIECE",
    "Definition",
    "Kind",
    "from_alphabet",
    "merged",
    "read_definition",
    "to_alphabet",
    "trie_pattern",
]

Kind = Literal["spike", "bpe", "bytes"]
SHOWN = 100
"""Characters of a place in a file that an error names, where pieces are keys."""
LONGEST_PIECE = 16
"""Bytes of the longest piece of a spike vocabulary."""


@dataclass(frozen=True)
class Definition:
    """All there is to know of a tokenizer. `pieces[id]` is what the id spells; `merges` are pairs of them, in order."""

    kind: Kind
    pieces: tuple[bytes, ...]
    merges: tuple[tuple[bytes, bytes], ...] = ()

    def __post_init__(self) -> None:
        longest = max(map(len, self.pieces), default=0)
        if self.kind == "spike" and longest > LONGEST_PIECE:
            raise TokenizerError(
                f"A piece has {longest:,} bytes, and those of spike have at most {LONGEST_PIECE}. "
                f"Train one with `positronic tokenizer train`."
            )

    @property
    def vocab_size(self) -> int:
        return len(self.pieces) + N_CONTROL

    def to_json(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""
        vocab = {to_alphabet(piece): index for index, piece in enumerate(self.pieces)}
        control = [
            {"id": len(self.pieces) + k, "content": name, "normalized": False, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for k, name in enumerate(CONTROL_TOKENS)
        ]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": control,
            "normalizer": None,
            "pre_tokenizer": self._splitting(),
            "post_processor": None,
            "decoder": _byte_level(use_regex=True),
            "model": self._word_level(vocab) if self.kind == "spike" else self._merging(vocab),
        }

    def to_bytes(self) -> bytes:
        """`tokenizer.json` without what reads marks; its SHA-256 names the tokenizer."""
        return canonical_json(self.to_json()).encode()

    def to_file(self) -> bytes:
        """`tokenizer.json` as it is saved."""
        return canonical_json(_marked(self.to_json())).encode()

    def _splitting(self) -> dict[str, Any]:
        if self.kind != "spike":
            return _byte_level(use_regex=self.kind == "bpe")
        longest = {"Regex": trie_pattern(map(to_alphabet, self.pieces))}
        split = {"type": "Split", "pattern": longest, "behavior": "Isolated", "invert": False}
        return {"type": "Sequence", "pretokenizers": [_byte_level(use_regex=False), split]}

    def _word_level(self, vocab: dict[str, int]) -> dict[str, Any]:
        return {"type": "WordLevel", "vocab": vocab, "unk_token": _NO_SUCH_PIECE}

    def _merging(self, vocab: dict[str, int]) -> dict[str, Any]:
        absent = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
        off = dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)
        merges = [[to_alphabet(left), to_alphabet(right)] for left, right in self.merges]
        return {"type": "BPE", **absent, **off, "vocab": vocab, "merges": merges}


def merged(merges: Sequence[tuple[bytes, bytes]]) -> Definition:
    """BPE with these merges, or plain bytes with none: the bytes, then what the merges make, each once."""
    pieces = dict.fromkeys([*(bytes([b]) for b in range(256)), *(left + right for left, right in merges)])
    return Definition("bpe" if merges else "bytes", tuple(pieces), tuple(merges))


def read_definition(text: str | bytes, where: str) -> Definition:
    """The definition that a `tokenizer.json` holds; anything but a file of ours raises `TokenizerError`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{where} is damaged: it is not JSON ({error}). Restore it or train a new one.") from None
    try:
        definition = _derive(data)
    except TokenizerError as error:
        raise TokenizerError(f"{where} is damaged or another program's tokenizer: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TokenizerError(
            f"{where} is damaged or another program's tokenizer: it lacks the byte-level pieces that ours have. "
            f"Train one with `positronic tokenizer train`."
        ) from None
    place = _first_difference(definition.to_json(), _as_we_write(data), "")
    if place:
        raise TokenizerError(
            f"{where} is damaged or another program's tokenizer: {place[:SHOWN]} is not what its pieces and control "
            f"tokens imply. Restore the file or train a new one with `positronic tokenizer train`."
        )
    return definition


def to_alphabet(data: bytes) -> str:
    """Bytes as the characters that stand for them, one each."""
    return data.decode("latin-1").translate(_TO_ALPHABET)


def from_alphabet(text: str) -> bytes:
    """The inverse of `to_alphabet`; a character outside the alphabet raises `KeyError`."""
    return bytes(_FROM_ALPHABET[character] for character in text)


def trie_pattern(pieces: Iterable[str]) -> str:
    """An expression that matches the longest piece at a position: alternatives branch where the pieces do."""
    root: dict[str, Any] = {}
    for piece in sorted(pieces):
        node = root
        for character in piece:
            node = node.setdefault(character, {})
        node[_END] = {}
    return _alternatives(root) + "|."


def _marked(data: dict[str, Any]) -> dict[str, Any]:
    """The content of a file with what takes marks out, those inside names before those in front of texts."""
    splitting = data["pre_tokenizer"]
    parts = splitting["pretokenizers"] if splitting["type"] == "Sequence" else [splitting]
    return data | {"normalizer": _UNMARK, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_PART, *parts]}}


def _unmarked(data: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `_marked`; other files are left as they are."""
    splitting = data.get("pre_tokenizer")
    parts = splitting.get("pretokenizers") if isinstance(splitting, dict) else None
    if data.get("normalizer") != _UNMARK or not isinstance(parts, list) or parts[:1] != [_PART] or len(parts) < 2:
        return data
    own = parts[1] if len(parts) == 2 else {"type": "Sequence", "pretokenizers": parts[1:]}
    return data | {"normalizer": None, "pre_tokenizer": own}


def _replace(mark: str, text: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": mark}, "content": text}


_UNMARK = {"type": "Sequence", "normalizers": [_replace(NOTHING, ""), _replace(ITSELF, MARK)]}
_PART = {"type": "Split", "pattern": {"Regex": rf"(?<=\A\n){APART}"}, "behavior": "Removed", "invert": False}
_END = ""
_NO_SUCH_PIECE = "<unk>"  # never asked for: every byte is a piece. Were it, the runtime would refuse, not lose text.


def _alternatives(node: dict[str, Any]) -> str:
    leaves = [character for character, below in node.items() if character != _END and below.keys() == {_END}]
    branches = [
        re.escape(character) + _continuation(below)
        for character, below in node.items()
        if character != _END and below.keys() != {_END}
    ]
    if leaves:
        branches.append(re.escape(leaves[0]) if len(leaves) == 1 else f"[{''.join(map(re.escape, leaves))}]")
    return "|".join(branches)


def _continuation(node: dict[str, Any]) -> str:
    return f"(?:{_alternatives(node)}){'?' if _END in node else ''}"


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _derive(data: Any) -> Definition:
    model = data["model"]
    by_id = {index: spelling for spelling, index in model["vocab"].items()}
    pieces = tuple(from_alphabet(by_id[index]) for index in range(len(model["vocab"])))
    if pieces[:256] != tuple(bytes([b]) for b in range(256)):
        raise ValueError("the first 256 ids are not the bytes")
    if model["type"] == "WordLevel":
        return Definition("spike", pieces)
    if model["type"] != "BPE":
        raise ValueError(f"no runtime form is a {model['type']}")
    merges = tuple((from_alphabet(left), from_alphabet(right)) for left, right in model["merges"])
    if not set(pieces).issuperset(part for merge in merges for part in merge):
        raise ValueError("a merge of what are no pieces")
    return merged(merges)


def _as_we_write(data: dict[str, Any]) -> dict[str, Any]:
    """Without what transformers leaves in a file: truncation and padding of its last batch, an idle post-processor."""
    found = _unmarked(data) | {"version": "1.0", "truncation": None, "padding": None}
    return found | {"post_processor": None} if data.get("post_processor") == _IDLE else found


def _sequence(name: str, segment: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": segment}}


_IDLE = {
    "type": "TemplateProcessing",
    "single": [_sequence("A", 0)],
    "pair": [_sequence("A", 0), _sequence("B", 1)],
    "special_tokens": {},
}


def _first_difference(expected: Any, found: Any, path: str) -> str:
    """Where `found` says other than `expected`; keys we do not write may stand there empty. "" when nowhere."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key, value in expected.items():
            place = _first_difference(value, found[key], f"{path}{key}.") if key in found else f"{path}{key}"
            if place:
                return place
        return next((f"{path}{key}" for key, value in found.items() if key not in expected and value), "")
    return "" if type(expected) is type(found) and expected == found else path.rstrip(".")


def _alphabet() -> list[str]:
    """Character of each byte: printable Latin-1 stands for itself, the others follow from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]


_TO_ALPHABET = dict(enumerate(_alphabet()))
_FROM_ALPHABET = {character: byte for byte, character in _TO_ALPHABET.items()}
