"""A table in many files, of which a part at a time is in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toydiffusion.errors import InputError, shown
from toydiffusion.tables.columns import check_suffix
from toydiffusion.tables.reading import count_rows, read, read_blocks
from toydiffusion.tables.table import Table

MOST_WHOLE = 2**28
"""The most bytes of a file that can only be read whole: 256 MB of CSV or NumPy."""


def files_of(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the files of tables: those given, and of a folder its tables in the order of their names.

    Names that begin with a point or an underscore are left out of folders. Raises `InputError` for other
    files in a folder, for none at all, and for large files that can only be read whole.
    """
    found: list[Path] = []
    for given in map(Path, paths):
        if not given.is_dir():
            found.append(given)
            continue
        own = sorted(one for one in given.iterdir() if not one.name.startswith((".", "_")))
        if not own:
            raise InputError(f"{shown(str(given))} is a folder that holds no table")
        found += own
    for path in found:
        whole = check_suffix(path) != ".parquet"
        if whole and path.is_file() and path.stat().st_size > MOST_WHOLE:
            raise InputError(
                f"{shown(str(path))} has {path.stat().st_size:,} bytes; beyond {MOST_WHOLE:,} only Parquet "
                "can be read in parts, so write it as .parquet"
            )
    return found


@dataclass(frozen=True)
class TableFolder:
    """The rows of all tables in a folder, in the order of the names of the files.

    - `path`: the folder.
    - `files`: its tables.
    - `sizes`: how many rows each has.
    - `columns`: the names of the numeric columns. All files have them.
    - `label_column`: the name of the labels' column, or None.
    """

    path: Path
    files: tuple[Path, ...]
    sizes: tuple[int, ...]
    columns: tuple[str, ...]
    label_column: str | None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        columns: Sequence[str] | None = None,
        label_column: str | None = None,
    ) -> TableFolder:
        """Return the table in a folder; the arguments are those of `read`. No row is read yet."""
        files = files_of([path])
        first = read(files[0], columns=columns, label_column=label_column, rows=range(1))
        if first.columns is None:
            raise InputError(f"{first.source}: its columns have no names")
        sizes = tuple(count_rows(file, columns=first.columns, label_column=label_column) for file in files)
        if sum(sizes) < 2:
            raise InputError(
                f"folder {shown(os.fspath(path))}: at least 2 points are needed, found {sum(sizes)}"
            )
        return cls(Path(path), tuple(files), sizes, first.columns, label_column)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, as of a `Table`."""
        return self.columns

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return sum(self.sizes)

    def blocks(self) -> Iterator[Table]:
        """Yield all rows, some at a time."""
        for file in self.files:
            yield from read_blocks(file, columns=self.columns, label_column=self.label_column)

    def taken(self, rows: NDArray[np.int64]) -> Iterator[Table]:
        """Yield these rows, by their numbers from 0, which must ascend, some at a time.

        Raises `InputError` for a file that has fewer rows than it had.
        """
        first = 0
        for file, size in zip(self.files, self.sizes, strict=True):
            low, high = np.searchsorted(rows, [first, first + size])
            wanted = rows[low:high] - first
            found = 0
            if len(wanted):
                for block in read_blocks(
                    file, columns=self.columns, label_column=self.label_column, wanted=wanted
                ):
                    yield block
                    found += len(block.points)
            if found != len(wanted):
                raise InputError(f"{shown(str(file))} has changed since it was opened")
            first += size

    def take(self, rows: NDArray[np.int64]) -> Table:
        """Return these rows as one table; see `taken`."""
        parts = list(self.taken(rows))
        labels = [part.labels for part in parts if part.labels is not None]
        return Table(
            np.concatenate([part.points for part in parts]),
            self.columns,
            np.concatenate(labels) if labels else None,
            self.label_column,
            source=shown(str(self.path)),
        )

    def sample(self, n: int, *, seed: int) -> Table:
        """Return n rows chosen at random, or all of them, in their order."""
        if n >= self.num_rows:
            return self.take(np.arange(self.num_rows))
        rng = np.random.default_rng([seed, 2])
        return self.take(np.sort(rng.choice(self.num_rows, n, replace=False, shuffle=False)))
