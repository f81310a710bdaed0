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

A vocabulary of another program's (`text.foreign`) keeps its ids: names that it has for tokens that spell nothing stand
among its pieces, at their ids, and the control tokens whose names it lacks behind all of them. Its file says so by the
decoder, whose `use_regex`, which no decoder reads, is false.

A saved file also takes out the marks of the chat template (`text.special`); ids of all other text are the same.
Source   the published models (layout); Radford et al. 2019, GPT-2 (alphabet).
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from positronic.config import canonical_json
from positronic.errors import TokenizerError
from positronic.text.special import APART, CONTROL_TOKENS, ITSELF, MARK, N_CONTROL, NOTHING

__all__ = [
    "LONGEST_PIECE",
    "Definition",
    "Foreign",
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
"""Bytes of the longest piece of a length-max vocabulary."""


@dataclass(frozen=True)
class Foreign:
    """What a byte-level BPE of another program's has beside pieces and merges."""

    names: tuple[tuple[int, str], ...] = ()
    """Ids that spell nothing, ascending, and what they are called; the pieces there are empty."""
    words: str | None = None
    """The expression that cuts words; None: GPT-2's."""
    whole: bool = False
    """A word that is a piece is taken whole, whatever the merges make of it."""
    lead: str | None = None
    """The name of what stands in front of every text; None: nothing."""


@dataclass(frozen=True)
class Definition:
    """All there is to know of a tokenizer. `pieces[id]` is what the id spells; `merges` are pairs of them, in order."""

    kind: Kind
    pieces: tuple[bytes, ...]
    merges: tuple[tuple[bytes, bytes], ...] = ()
    foreign: Foreign | None = None
    """None: a vocabulary in our own layout."""

    def __post_init__(self) -> None:
        longest = max(map(len, self.pieces), default=0)
        if self.kind == "spike" and longest > LONGEST_PIECE:
            raise TokenizerError(
                f"A piece has {longest:,} bytes, and those of spike have at most {LONGEST_PIECE}. "
                f"Train one with `positronic tokenizer train`."
            )

    @property
    def vocab_size(self) -> int:
        return len(self.pieces) + N_CONTROL - len(set(CONTROL_TOKENS) & self._own.keys())

    @cached_property
    def named(self) -> dict[str, int]:
        """The ids that spell nothing, by name, ascending: control tokens, and what a foreign vocabulary has of them."""
        lacking = [name for name in CONTROL_TOKENS if name not in self._own]
        return self._own | {name: len(self.pieces) + k for k, name in enumerate(lacking)}

    @cached_property
    def _own(self) -> dict[str, int]:
        return {} if self.foreign is None else {name: index for index, name in self.foreign.names}

    def to_json(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""
        vocab = {to_alphabet(piece): index for index, piece in enumerate(self.pieces) if piece} | self._own
        control = [
            {"id": index, "content": name, "normalized": False, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for name, index in self.named.items()
        ]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": control,
            "normalizer": None,
            "pre_tokenizer": self._splitting(),
            "post_processor": self._leading(),
            "decoder": _byte_level(use_regex=self.foreign is None),
            "model": self._word_level(vocab) if self.kind == "spike" else self._merging(vocab),
        }

    def to_bytes(self) -> bytes:
        """`tokenizer.json` without what reads marks; its SHA-256 names the tokenizer."""
        return canonical_json(self.to_json()).encode()

    def to_file(self) -> bytes:
        """`tokenizer.json` as it is saved."""
        return canonical_json(_marked(self.to_json())).encode()

    def _splitting(self) -> dict[str, Any]:
        if self.foreign is not None and self.foreign.words is not None:
            return _sequence_of(_split(self.foreign.words), _byte_level(use_regex=False))
        if self.kind != "spike":
            return _byte_level(use_regex=self.kind == "bpe")
        return _sequence_of(_byte_level(use_regex=False), _split(trie_pattern(map(to_alphabet, self.pieces))))

    def _leading(self) -> dict[str, Any] | None:
        """What puts the lead in front of a text where another program encodes it whole."""
        if self.foreign is None or self.foreign.lead is None:
            return None
        lead = self.foreign.lead
        special = {lead: {"id": lead, "ids": [self.named[lead]], "tokens": [lead]}}
        before = [{"SpecialToken": {"id": lead, "type_id": n}} for n in (0, 1)]
        single = [before[0], _sequence("A", 0)]
        pair = [*single, before[1], _sequence("B", 1)]
        return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}

    def _word_level(self, vocab: dict[str, int]) -> dict[str, Any]:
        return {"type": "WordLevel", "vocab": vocab, "unk_token": _NO_SUCH_PIECE}

    def _merging(self, vocab: dict[str, int]) -> dict[str, Any]:
        absent = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
        off = dict.fromkeys(("fuse_unk", "byte_fallback"), False)
        off["ignore_merges"] = self.foreign is not None and self.foreign.whole
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


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _sequence_of(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(stages)}


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _derive(data: Any) -> Definition:
    model = data["model"]
    if data["decoder"]["use_regex"] is False:
        return _derive_foreign(data)
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


def _derive_foreign(data: Any) -> Definition:
    model, vocab = data["model"], data["model"]["vocab"]
    by_id = {index: spelling for spelling, index in vocab.items()}
    names = {token["id"]: token["content"] for token in data["added_tokens"] if token["id"] < len(vocab)}
    pieces = tuple(b"" if index in names else from_alphabet(by_id[index]) for index in range(len(vocab)))
    merges = tuple((from_alphabet(left), from_alphabet(right)) for left, right in model["merges"])
    if not set(pieces).issuperset([*(bytes([b]) for b in range(256)), *(part for merge in merges for part in merge)]):
        raise ValueError("a byte is no piece, or a merge is one of what are none")
    stages = _unmarked(data)["pre_tokenizer"].get("pretokenizers")
    template = data.get("post_processor")
    lead = template["single"][0]["SpecialToken"]["id"] if template and template != _IDLE else None
    words = stages[0]["pattern"]["Regex"] if stages else None
    foreign = Foreign(tuple(sorted(names.items())), words, model["ignore_merges"], lead)
    return Definition("bpe", pieces, merges, foreign)


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
