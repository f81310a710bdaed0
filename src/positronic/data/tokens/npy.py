"""A one-dimensional .npy file of unknown length, written piece by piece: the header is filled in at the end."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

__all__ = ["NpyWriter"]

HEADER_BYTES = 128


class NpyWriter:
    """`with NpyWriter(path, np.uint16) as out: out.append(values)`; on disk when the block ends."""

    def __init__(self, path: Path, dtype: type[np.generic]):
        self.length = 0
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._file = open(path, "wb")  # noqa: SIM115  closed by __exit__
        self._file.write(bytes(HEADER_BYTES))

    def append(self, values: np.ndarray) -> None:
        """Write values, which must fit the dtype."""
        self._file.write(np.ascontiguousarray(values, self.dtype).tobytes())
        self.length += len(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._file.write(_header(self.dtype, self.length))
                self._file.flush()
                os.fsync(self._file.fileno())


def _header(dtype: np.dtype, length: int) -> bytes:
    """Format 1.0 of NumPy's file: magic, version, length of what follows, a dict padded with spaces."""
    entry = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({length},), }}"
    body = entry.encode().ljust(HEADER_BYTES - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body
