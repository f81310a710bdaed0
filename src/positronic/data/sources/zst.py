"""The content of a .zst file, as a file that is read from its beginning to its end.

All frames of the file are read, also those of `--long` windows. zstandard's own reader takes a file that was cut off
for one that ends there; this one counts it as broken.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

from positronic.errors import DataError

__all__ = ["ZstFile"]

PACKED = 1 << 9
"""Packed bytes that are unpacked together: at most a block of 128 KiB for each 4 of them, so 16 MiB."""
WINDOW = 1 << 31
"""The largest window that is accepted: what `zstd --long=31` writes."""


class ZstFile:
    """`with ZstFile(path) as file: file.read(size)`; `EOFError` where the file is broken or ends too early."""

    def __init__(self, path: Path, mode: str = "rb"):
        try:
            import zstandard
        except ImportError:
            raise DataError(f"Reading {path} needs zstandard: pip install 'positronic[data]', or unpack it.") from None
        self._error = zstandard.ZstdError
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        self._frame = self._unpacker.decompressobj()
        self._begun = False
        """Whether bytes of this frame were read."""
        self._frames = 0
        self._packed = b""
        self._unpacked = bytearray()
        self._file = open(path, mode)  # noqa: SIM115  closed by __exit__

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end of the file."""
        while len(self._unpacked) < size and self._more():
            pass
        piece = bytes(self._unpacked[:size])
        del self._unpacked[:size]
        return piece

    def _more(self) -> bool:
        self._packed = self._packed or self._file.read(PACKED)
        if not self._packed:
            if self._begun or not self._frames:
                raise EOFError("it ends before its last frame does")
            return False
        try:
            self._unpacked += self._frame.decompress(self._packed)
        except self._error as error:
            raise EOFError(str(error)) from error
        self._begun, self._packed = not self._frame.eof, self._frame.unused_data
        if self._frame.eof:
            self._frames += 1
            self._frame = self._unpacker.decompressobj()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
