"""Reading a file, by its suffix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toydiffusion.errors import InputError
from toydiffusion.tables.columns import (
    Source,
    check_finite,
    check_suffix,
    column_labels,
    column_numbers,
    labels_of,
)
from toydiffusion.tables.csvs import read_csv
from toydiffusion.tables.table import Table, check_names, default_columns, describe, plan


def read(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    label_column: str | None = None,
    on_bad: str = "raise",
) -> Table:
    """Read a table of points from a `.csv`, `.parquet` or `.npy` file.

    `columns` are the numeric columns to read, by default all but the label column. A `.npy` file holds a
    numeric array `(n, d)`, or `(n,)` for one column; its columns are called x0, x1, ..., unless `columns`
    gives each a name. Labels of whole numbers come back as int64, true and false as bool, others as text.
    A file with a header and no rows is an empty table. `on_bad="skip"` keeps rows with numbers that are
    missing or infinite, as `Table.missing`. Raises InputError, in one line that names file,
    row and column, for anything that cannot be used: CSV rows by line number, others counted from 1.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "points.csv"
    >>> _ = path.write_text("x;y;class\\n1;2.5;inner\\n3;1e-30;outer\\n")
    >>> table = read(path, label_column="class")
    >>> table.columns, table.points.tolist(), table.labels.tolist()
    (('x', 'y'), [[1.0, 2.5], [3.0, 1e-30]], ['inner', 'outer'])
    """
    path = Path(path)
    suffix = check_suffix(path)
    _check_file(path)
    reader = {".csv": read_csv, ".npy": _read_npy, ".parquet": _read_parquet}[suffix]
    return reader(path, columns, label_column, Source.of(repr(str(path)), on_bad))


def _check_file(path: Path) -> None:
    source = repr(str(path))
    if path.is_dir():
        raise InputError(f"{source} is a folder, a file is needed")
    if not path.exists():
        raise InputError(f"{source}: there is no such file")
    if not path.is_file():
        raise InputError(f"{source} is not a regular file")
    try:
        path.open("rb").close()
    except PermissionError as error:
        raise InputError(f"{source}: no permission to read the file") from error
    if path.stat().st_size == 0:
        raise InputError(f"{source} is empty")


def _read_npy(path: Path, columns: Sequence[str] | None, label_column: str | None, source: Source) -> Table:
    try:
        with path.open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{source.name}: not a NumPy file of numbers ({_first_line(error)})") from error
    if values.dtype.kind not in "fiu" or values.ndim not in (1, 2):
        raise InputError(f"{source.name}: a real array (n, d) or (n,) is needed, found {describe(values)}")
    if values.ndim == 1:
        values = values[:, None]
    names, chosen, label = plan(default_columns(values.shape[1]), columns, label_column, source.name)
    points = values[:, chosen].astype(np.float64)
    check_finite(points, names, source)
    labels = None if label is None else labels_of(values[:, label], label_column, source)
    return Table(points, names, labels, label_column, source.name)


def _read_parquet(
    path: Path, columns: Sequence[str] | None, label_column: str | None, source: Source
) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            # So pandas calls the row numbers it keeps of a filtered frame: not a coordinate.
            schema = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]
            check_names(schema, source.name)
            names, chosen, label = plan(schema, columns, label_column, source.name)
            data = file.read([schema[j] for j in (chosen if label is None else [*chosen, label])])
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source.name}: not a readable Parquet file ({_first_line(error)})") from error
    points = np.empty((data.num_rows, len(names)))
    for j, name in enumerate(names):
        points[:, j] = column_numbers(data[name], name, source)
    check_finite(points, names, source)
    labels = None if label_column is None else column_labels(data[label_column], label_column, source)
    return Table(points, names, labels, label_column, source.name)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(". ")
