"""Bytes and text out of files, plain, .gz, .xz or .zst, with errors that name the file and the place.

All reading is in pieces of bounded size; whoever consumes the iterators decides what is kept.
"""

import codecs
import difflib
import gzip
import hashlib
import heapq
import lzma
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from positronic.data.sources.zst import ZstFile
from positronic.errors import DataError

__all__ = [
    "PACKED",
    "cache_folder",
    "chunks",
    "file_sha256",
    "files_below",
    "lines",
    "missing",
    "no_file",
    "plain_suffix",
    "text_chunks",
    "utf8_name",
    "written_whole",
]

CHUNK = 1 << 20
WHOLE = 1 << 27
"""Bytes of a line, and characters of a value of json, that are held at once; longer ones are refused."""
_OPENERS: dict[str, Callable[[Path, str], IO[bytes]]] = {
    ".gz": gzip.open,  # type: ignore[dict-item]
    ".xz": lzma.open,  # type: ignore[dict-item]
    ".zst": ZstFile,  # type: ignore[dict-item]
}
PACKED = "plain, .gz, .xz or .zst"
"""How a file may be stored, for messages."""


def cache_folder(cache: Path | str | None = None) -> Path:
    """Where shards and fetched rows are kept: `cache`, else $POSITRONIC_CACHE, else ~/.cache/positronic."""
    return Path(cache or os.environ.get("POSITRONIC_CACHE") or Path.home() / ".cache" / "positronic")


def plain_suffix(path: Path) -> str:
    """The suffix that says what the text is: `.jsonl` for both a.jsonl and a.jsonl.xz."""
    return (Path(path.stem) if path.suffix.lower() in _OPENERS else path).suffix.lower()


def chunks(path: Path, size: int = CHUNK) -> Iterator[bytes]:
    """The content of `path`, unpacked, `size` bytes at a time."""
    suffix = path.suffix.lower()
    try:
        with _OPENERS.get(suffix, open)(path, "rb") as file:
            yield from _pieces(file, size)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is no whole {suffix} file ({error}). Fetch or compress it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check the file and its rights.") from error


def _pieces(file: IO[bytes], size: int) -> Iterator[bytes]:
    while piece := file.read(size):
        yield piece


def text_chunks(path: Path, most: int | None = None) -> Iterator[str]:
    """The text of `path` in pieces, line ends as they are, without a byte order mark.

    most: so many characters of its beginning; what lies behind them is not unpacked.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    read, begun = 0, False
    for piece in chunks(path):
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(piece)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, read - held + error.start) from error
        text = text if begun else text.removeprefix("\ufeff")
        begun = begun or bool(text)
        read += len(piece)
        if most is not None and len(text) >= most:
            yield text[:most]
            return
        most = None if most is None else most - len(text)
        yield text
    if held := len(decoder.getstate()[0]):
        raise _not_utf8(path, read - held)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, from 1, without their line feed, split at line feeds only."""
    number, offset, held = 0, 0, 0
    rest: list[bytes] = []  # parts of a line that has not ended yet, `held` bytes
    for piece in chunks(path):
        *ended, last = piece.split(b"\n")
        for part in ended:
            line = b"".join((*rest, part))
            rest, held = [], 0
            number += 1
            yield number, _line(path, line, offset)
            offset += len(line) + 1
        rest.append(last)
        held += len(last)
        if held > WHOLE:
            raise DataError(f"{path}:{number + 1} is a line of more than {WHOLE >> 20} MiB. Part it into lines.")
    if line := b"".join(rest):
        yield number + 1, _line(path, line, offset)


def _line(path: Path, line: bytes, offset: int) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, offset + error.start) from error
    return text.removeprefix("\ufeff") if offset == 0 else text


def _not_utf8(path: Path, offset: int) -> DataError:
    return DataError(
        f"{path} is not UTF-8: the byte at offset {offset} of its content begins no character. "
        f"Convert it (iconv -f ENCODING -t UTF-8), or take it out."
    )


def files_below(folder: Path) -> list[Path]:
    """Where all that is no folder lies below `folder`; hidden ones are passed over.

    A folder is read once, however many links lead to it, and where it lies itself if that is below `folder` too. A link
    that leads nowhere is refused.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting = [(False, folder)]  # behind a link, and where; what is behind links comes last
    try:
        while waiting:
            linked, here = heapq.heappop(waiting)
            status = here.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            for entry in here.iterdir():
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    heapq.heappush(waiting, (linked or entry.is_symlink(), entry))
                elif entry.exists():
                    found.append(entry.relative_to(folder))
                else:
                    raise no_file(entry)
    except OSError as error:
        where = error.filename or folder
        raise DataError(f"{where} cannot be read: {error.strerror}. Check the folder and its rights.") from error
    return found


def utf8_name(path: Path | str) -> None:
    """Refuse a name that is not UTF-8: it could be neither shown nor written into what is made of the file."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise DataError(f"The name {shown} is not UTF-8. Rename it (mv, or convmv for many).") from error


def file_sha256(path: Path) -> str:
    """Hash of the file as it is stored."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check the file and its rights.") from error


@contextmanager
def written_whole(folder: Path, what: str) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` when the block ends well: that is whole or absent.

    It stands beside it until then. If another process was faster, its folder stays; `what` is for messages.
    """
    root = folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=root))
    except OSError as error:
        raise _unwritable(what, root, error) from error
    try:
        yield making
        try:
            making.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    except OSError as error:
        raise _unwritable(what, root, error) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _unwritable(what: str, root: Path, error: OSError) -> DataError:
    return DataError(
        f"{what} cannot be written to {root}: {error.strerror or error}. Free some space there, or set "
        f"POSITRONIC_CACHE to another folder."
    )


def no_file(path: Path) -> DataError:
    """The error for a path that is there, but is neither a file nor a folder."""
    if not path.exists():
        return DataError(f"{path} is a link to {os.readlink(path)}, which does not exist. Mend or delete it.")
    kind = _KINDS.get(stat.S_IFMT(path.stat().st_mode), "no file")
    return DataError(f"{path} is {kind}, and data is read several times over. Write it into a file, and name that.")


_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def missing(path: Path) -> DataError:
    """The error for a path that is neither a file nor a folder, with the nearest names where it was looked for."""
    if path.is_symlink() or path.exists():
        return no_file(path)
    folder = next(parent for parent in (path.parent, *path.parents) if parent.is_dir())
    wanted = path.relative_to(folder).parts[0]
    if (folder / wanted).exists():
        return DataError(f"{path} does not exist: {folder / wanted} is no folder. Check the path.")
    there = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    near = difflib.get_close_matches(wanted, there, n=3, cutoff=0.5)
    hint = f"Did you mean {', '.join(str(folder / name) for name in near)}?" if near else "Check the path."
    return DataError(f"{path} does not exist ({wanted!r} is not in {folder}). {hint}")
