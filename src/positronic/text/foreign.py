"""A `tokenizer.json` of another program's, read into a tokenizer of ours: byte-level BPE, as GPT-2 and Llama 3 have it.

    kept        every id, what it spells, the merges, the expression that cuts words, what stands in front of a text
    named       ids that spell nothing keep their names; the one that ends a document is called <|endoftext|> from then
                on, unless another is; ids of the model that the file does not know are <|unused_N|>
    added       our control tokens, those whose names are not there yet, behind all ids
    different   text never becomes a control token or another named id, whatever it spells: names in a text stay text

All else is refused in a sentence: vocabularies that cannot spell every byte, normalisation, which text does not come
back from, and SentencePiece's, whose pieces are characters.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from positronic.errors import TokenizerError
from positronic.text.definition import Definition, Foreign, from_alphabet
from positronic.text.special import CONTROL_TOKENS
from positronic.text.tokenizer import Tokenizer

__all__ = ["read_foreign"]

END = "<|endoftext|>"
WAY = "Convert a model whose vocabulary is byte-level BPE, as those of GPT-2 and Llama 3 are."
SILENT = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
"""Settings of a BPE that change its ids, and that byte-level ones leave empty."""


def read_foreign(path: str | Path, end: int | None = None, entries: int | None = None) -> Tokenizer:
    """The tokenizer that the file `path` describes.

    end: the id that ends a document; None: none does. entries: rows of the model's embedding; None: as many as the
    file names. What cannot be read so that all text has the same ids raises `TokenizerError`.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise TokenizerError(f"No tokenizer at {path} ({error.strerror}). Put its file there.") from None
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is damaged: it is not JSON ({error}). Copy it again.") from None
    try:
        return Tokenizer(_definition(data, end, entries))
    except TokenizerError as error:
        raise TokenizerError(f"{path} cannot be converted: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise TokenizerError(f"{path} has not the form of a tokenizer.json. Save it anew with Transformers.") from None


def _definition(data: Any, end: int | None, entries: int | None) -> Definition:
    model, added = data["model"], data.get("added_tokens") or []
    _check(data, model, added)
    spelt: dict[int, str] = {index: spelling for spelling, index in model["vocab"].items()}
    names: dict[int, str] = _named({token["id"]: token["content"] for token in added}, spelt.keys(), end, entries)
    ordinary = {spelling: index for index, spelling in spelt.items() if index not in names}
    clash = sorted(ordinary.keys() & {*CONTROL_TOKENS, *names.values()})
    if clash:
        raise TokenizerError(f"a piece of ordinary text is spelt as the control token {clash[0]}. {WAY}")
    try:
        spelling = {index: from_alphabet(text) for text, index in ordinary.items()}
        merges = tuple(_merges(model["merges"]))
    except KeyError:
        raise TokenizerError(
            f"its pieces are characters and not the 256 that stand for bytes, as SentencePiece's are. {WAY}"
        ) from None
    known = set(spelling.values())
    if not known.issuperset(bytes([b]) for b in range(256)):
        raise TokenizerError(f"it has no piece for some bytes, so that there is text which it cannot spell. {WAY}")
    if b"" in known or not known.issuperset(part for a, b in merges for part in (a, b, a + b)):
        raise TokenizerError("it merges what are no pieces, or has empty ones. Save it anew with Transformers.")
    pieces = tuple(spelling.get(index, b"") for index in range(len(spelling) + len(names)))
    lead = _lead(data.get("post_processor"))
    if lead is not None:
        lead = names[next(token["id"] for token in added if token["content"] == lead)]
    words, whole = _words(data["pre_tokenizer"]), bool(model.get("ignore_merges"))
    return Definition("bpe", pieces, merges, Foreign(tuple(sorted(names.items())), words, whole, lead))


def _check(data: Any, model: Any, added: Any) -> None:
    """Raise for what no byte-level BPE does, or does to text before it."""
    kind = model.get("type", "BPE" if "merges" in model else None)  # the oldest files do not say
    if kind != "BPE":
        raise TokenizerError(f"it is a vocabulary of type {str(kind)[:80]!r}. {WAY}")
    asked = [name for name in SILENT if model.get(name)]
    if asked:
        raise TokenizerError(f"it asks for {asked[0]}, which byte-level BPE has no use for. {WAY}")
    if data.get("normalizer") is not None:
        raise TokenizerError(f"it changes text before it is cut (normalizer), which would not come back whole. {WAY}")
    cutting = [token["content"] for token in added if not token["special"]]
    if cutting:
        raise TokenizerError(f"it cuts {cutting[0][:80]!r} out of any text before all else, as ours never do. {WAY}")


def _named(names: dict[int, str], spelt: Any, end: int | None, entries: int | None) -> dict[int, str]:
    """Every id that spells nothing, those that only the model has included, with the name it has from now on."""
    ids = spelt | names.keys()
    if ids != set(range(len(ids))):
        raise TokenizerError(f"ids between its first and its last have no meaning. {WAY}")
    if entries is not None and entries < len(ids):
        raise TokenizerError(
            f"it has {len(ids)} entries, and the model's embedding {entries} rows. Put the two together that belong so."
        )
    names = names | {index: f"<|unused_{index}|>" for index in range(len(ids), entries or 0)}
    if end is not None and END not in names.values():
        if end not in names:
            raise TokenizerError(
                f"id {end} is text, and the model's config says that it ends a document (eos_token_id). Put the two "
                f"together that belong so."
            )
        names[end] = END
    if len(set(names.values())) < len(names):
        raise TokenizerError("two of its ids have one name. Save it anew with Transformers.")
    return names


def _words(stage: Mapping[str, Any]) -> str | None:
    """The expression that cuts words; None: GPT-2's, which the stage for bytes brings along."""
    *before, last = stage["pretokenizers"] if stage["type"] == "Sequence" else [stage]
    if last["type"] == "ByteLevel" and not last["add_prefix_space"]:
        if not before and last.get("use_regex", True):
            return None
        if len(before) == 1 and not last.get("use_regex", True):
            (split,) = before
            if split["type"] == "Split" and split["behavior"] == "Isolated" and not split["invert"]:
                expression = split["pattern"].get("Regex")
                if isinstance(expression, str):
                    return expression
    raise TokenizerError(f"it cuts text otherwise than by one expression, then into bytes (pre_tokenizer). {WAY}")


def _merges(merges: Any) -> Iterator[tuple[bytes, bytes]]:
    """Pairs, or as older files have them, both with a space between."""
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield from_alphabet(left), from_alphabet(right)


def _lead(processor: Any) -> str | None:
    """The name of what stands in front of a text; None: nothing."""
    if processor is None or processor["type"] == "ByteLevel":
        return None
    if processor["type"] == "Sequence":
        found = [lead for lead in map(_lead, processor["processors"]) if lead is not None]
        if len(found) < 2:
            return found[0] if found else None
    elif processor["type"] == "TemplateProcessing":
        *before, text = processor["single"]
        if "Sequence" in text and len(before) < 2:
            return before[0]["SpecialToken"]["id"] if before else None
    raise TokenizerError(f"it puts more around a text than one token in front of it (post_processor). {WAY}")
