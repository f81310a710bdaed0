"""The rows of a parquet file as records: of the columns that are asked for, a batch of rows at a time.

Row groups are read one after the other, so that no more than one and a batch of it are in memory. A null stays a null.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from positronic.data.sources.fields import columns
from positronic.errors import DataError

__all__ = ["rows"]

BATCH = 256
"""Rows that become Python values together."""


def rows(path: Path, field: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, record), with the columns that `field` reads, or all of them."""
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError:
        raise DataError(f"Reading {path} needs pyarrow: pip install 'positronic[data]', or convert it.") from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            wanted = None if field is None else columns(field, file.schema_arrow.names, path)
            for batch in file.iter_batches(BATCH, columns=wanted):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        where = f" behind row {number}" if number else ""
        raise DataError(f"{path} is no whole parquet file{where} ({reason}). Fetch or write it again.") from error
