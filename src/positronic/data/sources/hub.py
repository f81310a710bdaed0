"""Data sets of the Hugging Face hub, and local ones in its forms, as one file of records.

    hf:NAME[@CONFIG][:SPLIT][?take=N][&revision=SHA][&files=PATTERN]

    NAME        owner/name on the hub; or a folder: a copy of such a repository, data files, what `save_to_disk` wrote
    CONFIG      needed where the data set has several
    SPLIT       when not given "train", or the only one whose name begins so, or the only one there is
    take        the first N rows; without it all rows, so a bound is needed where all do not fit on this disk
    revision    a commit of the hub; files: those of the repository to read

Rows are streamed once, into POSITRONIC_CACHE/hub/NAME-HASH/rows.jsonl.gz, of text only the columns that are read. All
that comes after (splits, shards, validation, a run that is resumed) reads that file and needs no network, and does not
notice when the data set changes on the hub: the file is the data until it is deleted. A folder that changes is another
data set. Nothing is shuffled on the way, because a shuffled stream loses rows when it is resumed; the rows of a mixture
are permuted later (`batches/order.py`).
"""

import gzip
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from positronic.config import canonical_json, did_you_mean
from positronic.data.sources.fields import Opaque, columns, kind
from positronic.data.sources.files import cache_folder, files_below, missing, no_file, utf8_name, written_whole
from positronic.errors import DataError

__all__ = ["NO_TEXT", "PREFIX", "HubSet", "fetch", "held_at", "opaque"]

PREFIX = "hf:"
"""What a data set in the forms of the hub begins with, where paths are named too."""
FORMAT = 2
ROWS, MANIFEST = "rows.jsonl.gz", "manifest.json"
NO_TEXT = "positronic: no JSON"
"""The one field of an object that stands for a value which JSON does not have; it says what that was."""
REPORTED = 50_000
"""Rows between two lines that say how far the reading has come."""
_FORM = "Write hf:NAME[@CONFIG][:SPLIT][?take=ROWS&revision=SHA&files=PATTERN]."
_EMPTY = "{} is empty: it has no rows. Name another data set or split."
_PARTS = re.compile(r"(?P<name>[^?]+?)(?:@(?P<config>[^:@?/]+))?(?::(?P<split>[^:@?/]+))?(?:\?(?P<options>.*))?")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubSet:
    """Which rows of which data set."""

    name: str
    """owner/name, or a folder."""
    config: str | None = None
    split: str | None = None
    take: int | None = None
    """The first so many rows; None: all."""
    revision: str | None = None
    files: str | None = None
    """Those of the repository that are read; None: what its card says, or all."""

    @staticmethod
    def parse(text: str) -> "HubSet":
        """Of the form above, with or without `hf:`."""
        found = _PARTS.fullmatch(text.removeprefix(PREFIX))
        if found is None:
            raise DataError(f"{text!r} names no data set. {_FORM}")
        given = (found["options"] or "").split("&")
        options: dict[str, Any] = {name: value for name, _, value in (each.partition("=") for each in given) if name}
        known = ("take", "revision", "files")
        if unknown := [name for name in options if name not in known]:
            raise DataError(f"{text!r} has an option {unknown[0]!r}. {did_you_mean(unknown[0], known)} {_FORM}")
        if "take" in options:
            if not options["take"].isdecimal() or int(options["take"]) == 0:
                raise DataError(
                    f"{text!r} takes {options['take']!r} rows; give a whole number from 1 on: ?take=100000."
                )
            options["take"] = int(options["take"])
        return HubSet(found["name"], found["config"], found["split"], **options)

    def __str__(self) -> str:
        options = "&".join(
            f"{name}={value}" for name in ("take", "revision", "files") if (value := getattr(self, name)) is not None
        )
        return (
            f"{PREFIX}{self.name}"
            + (f"@{self.config}" if self.config else "")
            + (f":{self.split}" if self.split else "")
            + (f"?{options}" if options else "")
        )


def fetch(data: HubSet, field: str | None = None) -> Path:
    """The file of its rows, made now or found: those columns that `field` reads, or all."""
    what: dict[str, Any] = {"format": FORMAT, "field": field, "state": _state(data), **asdict(data)}
    key = hashlib.sha256(canonical_json(what).encode()).hexdigest()[:16]
    folder = cache_folder() / "hub" / f"{'--'.join(Path(data.name).parts[-2:])}-{key}"
    if not folder.is_dir():
        with written_whole(folder, "The rows of data sets") as making:
            _write(making, data, field, what)
    return folder / ROWS


def held_at(path: Path) -> str | None:
    """The data set whose rows lie at `path`, the file or its folder; None: no rows of one do."""
    folder = path.parent if path.name == ROWS else path
    if folder.parent.name != "hub" or not (folder / ROWS).is_file():
        return None
    try:
        return json.loads((folder / MANIFEST).read_text("utf-8"))["data"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder} is damaged: {error!r}. Delete that folder; the data set will be read again."
        ) from error


def opaque(found: dict[str, Any]) -> Any:
    """The object of a row, or what it stands for."""
    return Opaque(found[NO_TEXT]) if found.keys() == {NO_TEXT} else found


def _state(data: HubSet) -> str | None:
    """Hash of the names, sizes and times of a local data set's files; None: it is on the hub."""
    path = Path(data.name).expanduser()
    if path.is_dir():
        state = sorted(_state_of_file(path, place) for place in files_below(path))
        return hashlib.sha256(canonical_json(state).encode()).hexdigest()
    if path.is_file():
        raise DataError(f"{data} is a file, and not a data set. Name it without {PREFIX} to read it.")
    if path.exists() or path.is_symlink() or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", data.name):
        raise missing(path)
    return None


def _state_of_file(root: Path, place: Path) -> list[str | int]:
    path = root / place
    utf8_name(path)
    if not path.is_file():
        raise no_file(path)
    for folder in (root / part for part in place.parents if part.name):
        if folder.is_symlink():
            raise DataError(
                f"{folder} is a link to a folder, which the reader of data sets passes over. Name {folder.resolve()} "
                f"itself, or read {root} without {PREFIX}."
            )
    status = path.stat()
    return [place.as_posix(), status.st_size, status.st_mtime_ns]


def _write(folder: Path, data: HubSet, field: str | None, what: dict[str, Any]) -> None:
    with _explaining(data):
        found, commit = _opened(data)
        if field is not None and found.column_names:
            found = found.select_columns(columns(field, found.column_names, data))
        rows = iter(islice(found, data.take))
    log.warning("%s is read once, into %s", data, folder.parent)
    number = 0
    with (
        open(folder / ROWS, "wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=3, fileobj=raw, mtime=0) as packed,
    ):
        while (row := _next(data, rows)) is not None:
            if number == 0 and field is not None:
                columns(field, row.keys(), data)
            number += 1
            packed.write(_line(row, f"{data}, row {number}"))
            if number % REPORTED == 0:
                log.warning("%s: %d rows so far", data, number)
    if number == 0:
        raise DataError(_EMPTY.format(data))
    manifest = json.dumps({**what, "data": str(data), "commit": commit, "rows": number}, indent=1)
    (folder / MANIFEST).write_text(manifest + "\n", "utf-8")


def _line(row: dict[str, Any], where: str) -> bytes:
    """A row as it is kept: what JSON does not have is marked, so that whoever reads it refuses it."""
    try:
        return json.dumps(row, ensure_ascii=False, default=lambda value: {NO_TEXT: kind(value)}).encode() + b"\n"
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where} cannot be kept as JSON ({error}). Mend or delete it.") from error


def _next(data: HubSet, rows: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    with _explaining(data):
        return next(rows, None)
    return None


def _opened(data: HubSet) -> tuple[Any, str | None]:
    """The data set of the split, and the commit of the hub that was found."""
    import datasets
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as READERS

    path = Path(data.name).expanduser()
    commit = None
    if not path.is_dir() and data.name in READERS:
        raise DataError(
            f"{data} names no folder here, and {data.name} is how datasets calls a reader of files. Name a folder or a "
            f"data set."
        )
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        found = datasets.load_from_disk(str(path))
        if isinstance(found, datasets.Dataset):
            found = {data.split or "train": found}  # one that was saved alone has no splits
    else:
        name = str(path.absolute()) if path.is_dir() else data.name  # by itself, "json" is a reader of all files here
        builder = datasets.load_dataset_builder(name, data.config, data_files=data.files, revision=data.revision)
        commit = re.search(r"@([0-9a-f]{40})", builder.base_path or "")
        found = builder.as_streaming_dataset()
    split = data.split or _usual_split(list(found))
    if split not in found:
        raise DataError(f"{data} has no split {split!r}; its splits are {', '.join(found)}. Name one: hf:NAME:SPLIT.")
    return found[split], commit and commit[1]


def _usual_split(there: list[str]) -> str:
    training = [name for name in there if name.startswith("train")]
    few = there if len(there) == 1 else training
    return few[0] if len(few) == 1 else "train"


@contextmanager
def _explaining(data: HubSet) -> Iterator[None]:
    """Says in one sentence what kept a data set from being read."""
    try:
        from datasets.exceptions import DatasetsError
        from huggingface_hub.errors import HTTPError
    except ImportError:
        raise DataError(f"Reading {data} needs datasets: pip install 'positronic[data]'.") from None
    try:
        yield
    except (IndexError, StopIteration) as error:  # how the library fails at a folder or jsonl file without rows
        raise DataError(_EMPTY.format(data)) from error
    except (OSError, ValueError, DatasetsError, HTTPError) as error:
        raise DataError(_explanation(data, error)) from error


def _explanation(data: HubSet, error: Exception) -> str:
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    name, said = data.name, " ".join(str(error).split()).rstrip(".")
    page = f"https://huggingface.co/datasets/{name}"
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, GatedRepoError) or "gated" in said:
        return f"{name} is gated: its owners ask who reads it. Accept their terms at {page}, then {log_in}."
    unanswered = isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError)
    if unanswered or isinstance(error, ConnectionError | LocalEntryNotFoundError):
        return (
            f"{name} cannot be fetched from the Hugging Face hub: there is no network, or HF_HUB_OFFLINE is set "
            f"({said}). Connect and try again; or copy it elsewhere with `hf download {name} --repo-type dataset "
            f"--local-dir FOLDER/{name}` and read hf:FOLDER/{name} here (a blend: with --data FOLDER)."
        )
    if isinstance(error, DatasetNotFoundError) and data.revision is not None and data.revision in said:
        return f"{name} has no revision {data.revision!r}. Take one of {page}/commits/main, or leave it out."
    if isinstance(error, DatasetNotFoundError | RepositoryNotFoundError):
        return f"The Hugging Face hub knows no data set {name}, or it is private. Check the name; or {log_in}."
    if "BatchSize must be greater than 0" in said:  # and at a parquet file without rows
        return _EMPTY.format(data)
    if isinstance(error, EmptyDatasetError | DataFilesNotFoundError):
        return f"{data} holds no data files that can be read ({said}). Name another data set, or its ?files=PATTERN."
    if found := re.search(r"Config name is missing.*\[(.*?)\]|BuilderConfig .* not found.*\[(.*?)\]", said):
        configs = (found[1] or found[2]).replace("'", "")
        asked = f"no configuration {data.config!r}" if data.config else "several configurations"
        return f"{name} has {asked}; there are {configs}. Name one: hf:{name}@CONFIG."
    return f"{data} cannot be read: {said} ({type(error).__name__}). Mend it, or name another data set."
