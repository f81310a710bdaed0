"""Benchmarks out of local files: which file a task's name means, and what its lines ask.

    pairs        sentence_good, sentence_bad            is the good one more likely, from a document's beginning?
    choices      query, choices, gold                   which text is the likeliest after the question?
    contexts     context_options, continuation, gold    after which context is the text the likeliest?
    completion   context, continuation                  would greedy decoding say it, and how likely is it?

A name stands for NAME.jsonl or NAME_anything.jsonl, plain, .gz, .xz or .zst, or for a folder or a .tar of such files,
each a part of the task. The form is read off the keys of the first line. One space joins a context and what follows it;
none begins a sentence of a pair, as none begins a document.

Source   BLiMP: Warstadt et al. 2020, arXiv 1912.00582; LAMBADA: Paperno et al. 2016, arXiv 1606.06031; the wording of
         questions is lm-eval's (ANSWERS below adds what the files leave out), so that its numbers can be compared.
"""

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from positronic.data.sources.documents import records
from positronic.data.sources.files import missing, plain_suffix
from positronic.errors import DataError

__all__ = ["FORMS", "Form", "Item", "Task", "find_task", "local_tasks", "open_task"]


class Item(NamedTuple):
    """One question; its candidates are the contexts or the texts, whichever are several."""

    contexts: tuple[str, ...]
    texts: tuple[str, ...]
    gold: int
    """Number of the right candidate."""


@dataclass(frozen=True)
class Form:
    """What the lines of a file hold, and what may be measured on them."""

    name: str
    keys: tuple[str, ...]
    delimiter: str
    """Between a context and a text."""
    metrics: tuple[str, ...]

    def candidates(self, item: Item) -> list[tuple[str, str]]:
        """(context, continuation) of each."""
        return [(context, self.delimiter + text) for context in item.contexts for text in item.texts]


PAIRS = Form("pairs", ("sentence_good", "sentence_bad"), "", ("acc",))
CHOICES = Form("choices", ("query", "choices", "gold"), " ", ("acc", "acc_norm", "acc_bytes"))
CONTEXTS = Form("contexts", ("context_options", "continuation", "gold"), " ", ("acc",))
COMPLETION = Form("completion", ("context", "continuation"), " ", ("acc", "perplexity"))
FORMS = (PAIRS, CHOICES, CONTEXTS, COMPLETION)

ANSWERS = {"arc_easy": "\nAnswer:", "arc_challenge": "\nAnswer:", "boolq": "\nAnswer:", "piqa": "Answer:"}
"""What follows a query of these tasks before its answer."""
FOUND_AT = {
    "blimp": "its .jsonl files, in a folder blimp or packed as blimp.tar.xz, are at github.com/alexwarstadt/blimp"
}
FOUND_AT |= dict.fromkeys(
    ("arc_", "boolq", "commonsense_qa", "copa", "lambada", "openbook_qa", "piqa", "siqa", "winogra"),
    "it is in scripts/eval/local_data of github.com/mosaicml/llm-foundry",
)
"""Where to download what, by how a task's name begins."""


@dataclass(frozen=True)
class Task:
    """A benchmark, read."""

    name: str
    form: Form
    parts: Mapping[str, Sequence[Item]]
    """By name: the paradigms of BLiMP; one part, of the task's name, where there is one file."""
    path: Path

    def first(self, limit: int | None) -> "Task":
        """The first `limit` items of each part."""
        return Task(self.name, self.form, {name: items[:limit] for name, items in self.parts.items()}, self.path)


def local_tasks(folder: Path) -> dict[str, Path]:
    """What may be asked for, by the longest name that means it."""
    if not folder.is_dir():
        raise missing(folder)
    return {_stem(path): path for path in sorted(folder.iterdir()) if _is_task(path)}


def find_task(name: str, folder: Path) -> Path | None:
    """The file or folder that `name` means, or None."""
    there = local_tasks(folder)
    found = [name] if name in there else [stem for stem in there if stem.startswith(f"{name}_")]
    if len(found) > 1:
        raise DataError(f"Task {name!r} may be {', '.join(found)} in {folder}; name one of these.")
    return there[found[0]] if found else None


def open_task(name: str, folder: Path) -> Task:
    """The task called `name`, of the files in `folder`; one that is not there is refused with where to find it."""
    path = find_task(name, folder)
    if path is None:
        where = next((where for task, where in FOUND_AT.items() if name.startswith(task)), None)
        there = ", ".join(local_tasks(folder)) or "no task"
        raise DataError(
            f"Task {name!r} is not in {folder}, which holds {there}. Put it there as {name}.jsonl"
            + (f" ({where})" if where else ", one object a line in a form that `positronic eval --help` names")
            + ", or ask for lm-eval's own with --harness lm-eval, which downloads its data."
        )
    answer = next((text for task, text in ANSWERS.items() if _stem(path).startswith(task)), "")
    form: Form | None = None
    parts: dict[str, list[Item]] = {}
    for part, place, record in _records(path, name):
        form = form or _form_of(record, place)
        parts.setdefault(part, []).append(_item(form, record, place, answer))
    if form is None:
        raise DataError(f"{path} holds no line. Fetch it again, or leave the task out.")
    return Task(name, form, parts, path)


def _is_task(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return any(plain_suffix(inner) == ".jsonl" for inner in path.iterdir())
    return plain_suffix(path) in (".jsonl", ".tar")


def _stem(path: Path) -> str:
    """The name without what says how it is packed."""
    return path.name if path.is_dir() else path.name[: path.name.lower().rindex(plain_suffix(path))]


def _records(path: Path, name: str) -> Iterator[tuple[str, str, Any]]:
    """(part, place, value) of every line."""
    if path.is_dir():
        for file in sorted(inner for inner in path.iterdir() if plain_suffix(inner) == ".jsonl"):
            yield from ((_stem(file), where, record) for where, record in records(file, str(file)))
    elif plain_suffix(path) == ".tar":
        yield from _packed(path)
    else:
        yield from ((name, where, record) for where, record in records(path, str(path)))


def _packed(path: Path) -> Iterator[tuple[str, str, Any]]:
    place = str(path)
    try:
        with tarfile.open(path) as tar:
            members = [member for member in tar if member.isfile() and member.name.endswith(".jsonl")]
            for member in sorted(members, key=lambda member: member.name):
                file = tar.extractfile(member)
                assert file is not None, "a member that is a file can be read"
                for number, line in enumerate(file, 1):
                    place = f"{path}:{member.name}:{number}"
                    yield Path(member.name).stem, place, json.loads(line)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
        raise DataError(f"{place} cannot be read: {error}. Fetch or pack the archive again.") from error


def _form_of(record: Any, place: str) -> Form:
    keys = set(record) if isinstance(record, dict) else set()
    for form in FORMS:
        if keys.issuperset(form.keys):
            return form
    known = "; ".join(f"{form.name}: {', '.join(form.keys)}" for form in FORMS)
    raise DataError(f"{place} has {', '.join(sorted(keys)) or 'no keys'}; a task's lines hold one of {known}.")


def _item(form: Form, record: Any, place: str, answer: str) -> Item:
    """What a line asks. Spaces at a border are taken off, for the delimiter stands there."""
    if not isinstance(record, dict) or not record.keys() >= set(form.keys):
        raise DataError(f"{place} lacks one of {', '.join(form.keys)}, which the first line has. Mend or delete it.")
    first, second = (_texts(record[key], f"{place} ({key})") for key in form.keys[:2])
    if form is PAIRS:
        item = Item(("",), second + first, gold=1)  # the bad one first: a tie is no win
    else:
        item = Item(first, second, record["gold"] if "gold" in form.keys else 0)
    n = len(form.candidates(item))
    if not (isinstance(item.gold, int) and 0 <= item.gold < n):
        raise DataError(f"{place} has {n} candidates, from 0, and says that {item.gold} is right. Mend or delete it.")
    contexts = tuple((context + answer).rstrip(" ") for context in item.contexts)
    texts = tuple(text.lstrip(" ") for text in item.texts)
    if not all(text.strip() for text in texts):
        raise DataError(f"{place} has an empty text to score. Mend or delete it.")
    return Item(contexts, texts, item.gold)


def _texts(value: Any, place: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{place} should be text, or a list of texts where there are candidates. Mend or delete it.")
    return tuple(texts)
