"""Build the table of fractal phases, or verify that one is what this build makes of its sizes.

Examples:
  positronic fractal build --vocab-size 16512 --columns 508 --out table.npy
  positronic fractal build --vocab-size 16512 --columns 288 --levels 4 --out colony.npy --json
  positronic fractal verify table.npy
  positronic fractal verify my-run/last
  positronic fractal verify my-run/last --sha256 9490d6e10f06d523ea4ccd26b778aa35e0fd10f863a70c5f30a87f28c44fa008
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from positronic.cli.console import print_json, say
from positronic.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from positronic.traits.fractal_phase import FractalPhase


@dataclass(frozen=True)
class Build:
    """Write the table as int16 angles (rows are tokens, the unit is pi / 2^13) and print its SHA-256."""

    vocab_size: int
    """Rows: entries of the vocabulary."""
    columns: int
    """Columns: oscillators of all rings together."""
    out: Annotated[Path, tyro.conf.arg(metavar="TABLE.npy")]
    """Where to write it, as NumPy's file."""
    levels: int = 1
    """Orbits a token; the columns are shared out evenly among them."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        import numpy as np

        from positronic.traits.fractal_phase import fractal_sha256, fractal_table

        if self.vocab_size < 1:
            raise ConfigError(f"--vocab-size is {self.vocab_size}; use 1 or more.")
        table = fractal_table(self.vocab_size, self.columns, self.levels)
        try:
            with open(self.out, "wb") as file:
                np.save(file, table)
        except OSError as error:
            raise DataError(f"{self.out} cannot be written ({error.strerror}); give another --out.") from None
        sha256 = fractal_sha256(table)
        if self.json:
            print_json(_described(self.vocab_size, self.columns, self.levels, sha256) | {"file": str(self.out)})
            return
        say(f"{self.vocab_size:,} x {self.columns:,} -> {self.out}")
        print(sha256)


@dataclass(frozen=True)
class Verify:
    """Make the table again and compare: with a file's numbers, or with the hash in a checkpoint's config."""

    place: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TABLE.npy|FOLDER")]
    """A table that `build` wrote, or a checkpoint folder."""
    sha256: str | None = None
    """Hash that the table must have, too."""
    levels: int | None = None
    """Levels that the table's file was built with, 1 if not said; a folder says its own."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        folder = self.place.is_dir()
        if folder and self.levels is not None:
            raise ConfigError(f"{self.place} is a checkpoint, whose config says its levels; leave out --levels.")
        found = [self._part(path, part) for path, part in _parts(self.place)] if folder else [self._file()]
        if self.json:
            print_json({"tables": found})
            return
        for table in found:
            print(f"{table['sha256']}  {table['name']}")
            if not table["pinned"]:
                say(f"The config of {self.place} stores no hash of {table['name']}; nothing was compared.")

    def _file(self) -> dict[str, object]:
        import numpy as np

        from positronic.traits.fractal_phase import fractal_sha256, fractal_table

        table, levels = _read(self.place), 1 if self.levels is None else self.levels
        vocab_size, columns = table.shape
        made = fractal_table(vocab_size, columns, levels)
        if not np.array_equal(table, made):
            row, column = np.argwhere(table != made)[0]
            raise CheckpointError(
                f"{self.place} is not the table of {vocab_size} tokens and {columns} columns with levels {levels}: "
                f"in row {row}, column {column} it has {table[row, column]}, which should be {made[row, column]}. "
                f"Build it again, or give the --levels it was built with."
            )
        sha256 = fractal_sha256(table)
        self._compare(sha256, self.sha256, "--sha256")
        return _described(vocab_size, columns, levels, sha256) | {"name": str(self.place), "pinned": True}

    def _part(self, path: str, part: "FractalPhase") -> dict[str, object]:
        """One table of a checkpoint; `part` has its extents and no numbers yet."""
        from positronic.traits.fractal_phase import fractal_sha256, fractal_table

        config, (vocab_size, columns) = part.config, part.table.shape
        sha256 = fractal_sha256(fractal_table(vocab_size, columns, config.levels))
        self._compare(sha256, config.sha256, "its config")
        self._compare(sha256, self.sha256, "--sha256")
        pinned = config.sha256 is not None or self.sha256 is not None
        return _described(vocab_size, columns, config.levels, sha256) | {"name": path, "pinned": pinned}

    def _compare(self, made: str, asked: str | None, by: str) -> None:
        if asked not in (None, made):
            raise CheckpointError(
                f"The table of {self.place} has SHA-256 {made} here, and {by} asks for {asked}. "
                f"Use the build of positronic, the vocabulary and the sizes that the other hash was taken with."
            )


Command = Build | Verify


def _read(path: Path) -> "np.ndarray":
    """The table in a file, which must look like one."""
    import numpy as np

    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); give a table's file or a checkpoint folder."
        ) from None
    except (ValueError, EOFError):
        raise DataError(f"{path} is no whole file of NumPy's; give what `positronic fractal build` wrote.") from None
    if not isinstance(table, np.ndarray) or table.dtype != np.int16 or table.ndim != 2 or not table.size:
        raise DataError(f"{path} holds no table of int16 angles; give what `positronic fractal build` wrote.")
    return table


def _parts(folder: Path) -> Iterator[tuple[str, "FractalPhase"]]:
    """The fractal tables of a checkpoint's model, by their path in it, extents only."""
    import torch

    from positronic.checkpoint import read_config
    from positronic.traits.fractal_phase import FractalPhase

    config = read_config(folder)
    with torch.device("meta"):
        model = config.build()
    found = [(path, part) for path, part in model.named_modules() if isinstance(part, FractalPhase)]
    if not found:
        raise CheckpointError(f"The model in {folder} has no fractal phases: there is nothing to verify.")
    yield from found


def _described(vocab_size: int, columns: int, levels: int, sha256: str) -> dict[str, object]:
    return {"vocab_size": vocab_size, "columns": columns, "levels": levels, "sha256": sha256}
