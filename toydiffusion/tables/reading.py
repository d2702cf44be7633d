"""Reading a file, by its suffix."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from toydiffusion.errors import InputError
from toydiffusion.files import file_digest
from toydiffusion.tables.columns import (
    Source,
    check_finite,
    check_suffix,
    column_numbers,
    index_columns,
    plain,
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
) -> Table:
    """Read a table of points from a `.csv`, `.parquet` or `.npy` file.

    - `path`: str or path. The file.
    - `columns`: str each. The numeric columns to read, in this order. None (default): all but the label
      column. They name the columns of a `.npy` file, which are called x0, x1, ... otherwise.
    - `label_column`: str. The column of labels. None (default): there are none.
    - `on_bad`: "raise" (default) or "skip". With "skip" a row with a missing or infinite number stays in
      its place, as one of `Table.missing`.

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
    reader = {".csv": read_csv, ".npy": _read_npy, ".parquet": _read_parquet}[suffix]
    table = reader(
        path,
        None if columns is None else names_of(columns),
        None if label_column is None else name_of(label_column, "label_column"),
        source,
    )
    return replace(table, digest=file_digest(path))


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


def _read_parquet(
    path: Path, columns: tuple[str, ...] | None, label_column: str | None, source: Source
) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            # So pandas calls the row numbers it keeps of a filtered frame: not a coordinate.
            schema = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]
            check_names(schema, source.name)
            index = index_columns(file.schema_arrow)
            names, chosen, label = plan(schema, columns, label_column, source.name, index)
            data = file.read([schema[j] for j in (chosen if label is None else [*chosen, label])])
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source.name}: not a readable Parquet file ({plain(error)})") from error
    points = np.empty((data.num_rows, len(names)))
    for j, name in enumerate(names):
        points[:, j] = column_numbers(data[name], name, source)
    check_finite(points, names, source)
    labels = None if label_column is None else column_labels(data[label_column], label_column, source)
    return Table(points, names, labels, label_column, source.name)
