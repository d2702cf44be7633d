"""Reading a file, by its suffix."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from toydiffusion.errors import InputError, plain
from toydiffusion.files import file_digest
from toydiffusion.tables.columns import (
    Source,
    check_finite,
    check_suffix,
    column_numbers,
    index_columns,
)
from toydiffusion.tables.csvs import read_csv
from toydiffusion.tables.labels import column_labels, labels_of
from toydiffusion.tables.names import check_names, default_columns, name_of, names_of, plan
from toydiffusion.tables.table import Table
from toydiffusion.types import FloatArray

_MOST_COLUMNS = 1_000_000  # a name is made for each column, and a header may claim any number of them


def read(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    label_column: str | None = None,
    on_bad: str = "raise",
    rows: range | None = None,
) -> Table:
    """Read a table of points from a `.csv`, `.parquet` or `.npy` file.

    - `path`: str or path. The file.
    - `columns`: str each. The numeric columns to read, in this order. None (default): all but the label
      column. They name the columns of a `.npy` file, which are called x0, x1, ... otherwise.
    - `label_column`: str. The column of labels. None (default): there are none.
    - `on_bad`: "raise" (default) or "skip". With "skip" a row with a missing or infinite number stays in
      its place, as one of `Table.missing`.
    - `rows`: which rows, counted from 0. None (default): all. Of a Parquet file no more is read than needed.
      The table has no `digest` then.

    Numbers become the nearest float64. A file with a header and no rows is an empty table.

    CSV: the first line names the columns, which are separated by commas, semicolons or tabs. Names and labels
    keep their spaces. Where semicolons or tabs separate the columns, decimals may have a comma. A blank line
    is no row, except in a file of one column: there each line after the header is a row, and a blank one is
    a missing number, at the end of the file too. Labels are integers if all of them are written
    as Python writes integers, and booleans if all of them are true or false in one way of writing them
    (true, True or TRUE). Otherwise they are the text as it stands.

    Parquet: the index of a pandas frame is read only where it is named in `columns` or `label_column`.

    NumPy: the file holds an array of real numbers, `(n, d)`, or `(n,)` for one column.

    Raises `InputError`, in one line that names file, row and column, for what cannot be used. Rows of CSV are
    named by their line, others are counted from 1.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "points.csv"
    >>> _ = path.write_text("x;y;class\\n1;2.5;inner\\n3;1e-30;outer\\n")
    >>> table = read(path, label_column="class")
    >>> table.columns, table.points.tolist(), table.labels.tolist()
    (('x', 'y'), [[1.0, 2.5], [3.0, 1e-30]], ['inner', 'outer'])
    """
    path = Path(path)
    suffix = check_suffix(path)
    source = Source.of(repr(str(path)), on_bad)
    _check_file(path, source.name)
    names = None if columns is None else names_of(columns)
    label = None if label_column is None else name_of(label_column, "label_column")
    if suffix == ".parquet":
        table = _read_parquet(path, names, label, source, rows)
    else:
        table = (read_csv if suffix == ".csv" else _read_npy)(path, names, label, source)
        table = table if rows is None else table.rows(rows)
    return table if rows is not None else replace(table, digest=file_digest(path))


def count_rows(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    label_column: str | None = None,
) -> int:
    """Return the number of rows of a table in a file; of a Parquet file from its footer alone.

    - `columns`, `label_column`: as in `read`, for files that can only be read whole.

    Raises `InputError` for a file that is no table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    source = repr(str(path))
    if check_suffix(path) != ".parquet":
        return len(read(path, columns=columns, label_column=label_column, on_bad="skip").points)
    _check_file(path, source)
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source}: not a readable Parquet file ({plain(error)})") from error


def _check_file(path: Path, source: str) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{source} is a folder, a file is needed")
        if not path.exists():
            raise InputError(f"{source}: there is no such file")
        if not path.is_file():
            raise InputError(f"{source} is not a regular file")
        path.open("rb").close()
        if path.stat().st_size == 0:
            raise InputError(f"{source} is empty")
    except PermissionError as error:
        raise InputError(f"{source}: no permission to read the file") from error
    except OSError as error:  # such as a name that is too long
        raise InputError(f"{source} cannot be read ({plain(error.strerror)})") from error


def _read_npy(path: Path, columns: tuple[str, ...] | None, label_column: str | None, source: Source) -> Table:
    try:
        with path.open("rb") as file:
            _check_npy_header(file, path.stat().st_size, source.name)
            file.seek(0)
            values = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source.name}: not a NumPy file of numbers ({plain(error)})") from error
    if values.ndim == 1:
        values = values[:, None]
    names, chosen, label = plan(default_columns(values.shape[1]), columns, label_column, source.name)
    with np.errstate(over="ignore"):  # a long double may become infinite; check_finite tells
        points: FloatArray = values[:, chosen].astype(np.float64)
    check_finite(points, names, source)
    labels = None if label is None else labels_of(values[:, label], label_column, source)
    return Table(points, names, labels, label_column, source.name)


def _check_npy_header(file: IO[bytes], size: int, source: str) -> None:
    """Raise InputError before anything is allocated, if the header claims what cannot be read."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:  # (3, 0) is for names of fields, which an array of numbers has not
        raise ValueError(f"version {version[0]}.{version[1]} of the format")
    shape, _, kind = readers[version](file)
    if kind.hasobject:
        raise ValueError("it holds Python objects")
    if kind.kind not in "fiu" or len(shape) not in (1, 2):
        raise InputError(
            f"{source}: a real array (n, d) or (n,) is needed, "
            f"found an array of shape {shape} and type {plain(kind)}"
        )
    wanted, found = math.prod(shape) * kind.itemsize, size - file.tell()
    if wanted != found or min(shape) < 0:
        raise ValueError(f"its header claims {wanted:,} bytes of data, {found:,} follow")
    if len(shape) == 2 and shape[1] > _MOST_COLUMNS:
        raise InputError(f"{source}: found {shape[1]:,} columns, at most {_MOST_COLUMNS:,} can be read")


def read_blocks(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    label_column: str | None = None,
    wanted: NDArray[np.int64] | None = None,
) -> Iterator[Table]:
    """Yield the rows of a table, some at a time; the other arguments are those of `read`.

    - `wanted`: the numbers of the rows, from 0, which must ascend. None (default): all.
    """
    import pyarrow as pa

    path = Path(path)
    if check_suffix(path) != ".parquet":
        table = read(path, columns=columns, label_column=label_column)
        for first in range(0, len(table.points), _AT_ONCE):
            block = table.rows(range(first, min(first + _AT_ONCE, len(table.points))))
            if wanted is None:
                yield block
            elif len(own := _within(wanted, first, len(block.points))):
                yield block.at(own)
        return
    source = Source.of(repr(str(path)), "raise")
    _check_file(path, source.name)
    names = None if columns is None else names_of(columns)
    label = None if label_column is None else name_of(label_column, "label_column")
    with _parquet(path, names, label, source) as (file, chosen):
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        for group, size in enumerate(sizes):
            first = int(starts[group])
            if wanted is not None and not len(_within(wanted, first, size)):
                continue
            for batch in file.iter_batches(_AT_ONCE, row_groups=[group], columns=chosen):
                place = replace(source, first=first)
                if wanted is None:
                    yield _from_arrow(batch, chosen, label, place)
                elif len(few := _within(wanted, first, len(batch))):
                    yield _from_arrow(batch.take(pa.array(few)), chosen, label, place)
                first += len(batch)


def _within(wanted: NDArray[np.int64], first: int, size: int) -> NDArray[np.int64]:
    """Return which of the `size` rows from `first` on are wanted, counted from the first of them."""
    low, high = np.searchsorted(wanted, [first, first + size])
    return wanted[low:high] - first


@contextmanager
def _parquet(
    path: Path, columns: tuple[str, ...] | None, label_column: str | None, source: Source
) -> Iterator[tuple[Any, list[str]]]:
    """Yield an open Parquet file and the names of the columns to read: the numeric ones, then the labels'."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            # So pandas calls the row numbers it keeps of a filtered frame: not a coordinate.
            schema = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]
            check_names(schema, source.name)
            index = index_columns(file.schema_arrow)
            _, chosen, label = plan(schema, columns, label_column, source.name, index)
            yield file, [schema[j] for j in (chosen if label is None else [*chosen, label])]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source.name}: not a readable Parquet file ({plain(error)})") from error


def _from_arrow(data: Any, chosen: list[str], label_column: str | None, source: Source) -> Table:
    """Return a table from Arrow columns: those chosen, of which the labels' is the last."""
    import pyarrow as pa

    table = pa.table(data) if not isinstance(data, pa.RecordBatch) else pa.Table.from_batches([data])
    names = tuple(chosen if label_column is None else chosen[:-1])
    points = np.empty((table.num_rows, len(names)))
    for j, name in enumerate(names):
        points[:, j] = column_numbers(table[name], name, source)
    check_finite(points, names, source)
    labels = None if label_column is None else column_labels(table[label_column], label_column, source)
    return Table(points, names, labels, label_column, source.name)


def _read_parquet(
    path: Path,
    columns: tuple[str, ...] | None,
    label_column: str | None,
    source: Source,
    rows: range | None,
) -> Table:
    with _parquet(path, columns, label_column, source) as (file, chosen):
        data = file.read(chosen) if rows is None else _parquet_rows(file, chosen, rows)
    first = 0 if rows is None else rows.start
    table = _from_arrow(data, chosen, label_column, replace(source, first=first))
    # Unnamed columns that are asked for by other names, by position.
    return table if columns is None else replace(table, columns=columns)


def _parquet_rows(file: Any, columns: list[str], rows: range) -> Any:
    """Return these rows of a Parquet file as an Arrow table, from the row groups that hold them."""
    import pyarrow as pa

    sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
    ends = np.cumsum(sizes, dtype=np.int64)
    groups = [g for g, end in enumerate(ends) if end > rows.start and end - sizes[g] < rows.stop]
    at = int(ends[groups[0]]) - sizes[groups[0]] if groups else 0
    parts = []
    for batch in file.iter_batches(_AT_ONCE, row_groups=groups, columns=columns):
        first, last = max(rows.start - at, 0), min(rows.stop - at, len(batch))
        if first < last:
            parts.append(batch.slice(first, last - first))
        at += len(batch)
        if at >= rows.stop:
            break
    schema = pa.schema([file.schema_arrow.field(name) for name in columns])
    return pa.Table.from_batches(parts, schema=parts[0].schema if parts else schema)


_AT_ONCE = 2**16
"""The rows of a Parquet file that are decoded at once."""
