"""Tables in memory: arrays, lists, data frames."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from toydiffusion.errors import InputError, plain, shown
from toydiffusion.tables.columns import (
    Source,
    check_finite,
    column_numbers,
    index_columns,
    not_finite,
)
from toydiffusion.tables.labels import column_labels, labels_of
from toydiffusion.tables.names import check_names, default_columns, is_utf8, names_of
from toydiffusion.tables.table import Table, describe
from toydiffusion.types import FloatArray, LabelArray


@runtime_checkable
class _ArrowStream(Protocol):
    """Arrow's interface for tables and series: polars, pyarrow, DuckDB and others have it."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


def from_frame(
    x: object,
    y: object = None,
    *,
    columns: Sequence[str] | None = None,
    on_bad: str = "raise",
    name: str = "x",
) -> Table:
    """Return points and labels in memory as a Table.

    - `x`: `(n, d)`. An array, a dense or sparse tensor, nested lists, or a data frame of pandas, polars or
      anything with Arrow's stream interface. Columns have names only if `x` gives each one as text. The
      index of a pandas frame is not a column. Numbers become the nearest float64.
    - `y`: `(n,)`, whole numbers, booleans or text. An array, list, series or categorical of labels. None:
      there are no labels. The name of a series becomes the name of the label column.
    - `columns`: str each, default all. The columns to read, if `x` is a data frame that has all of them.
    - `on_bad`: "raise" (default) or "skip". With "skip" a row with a missing or infinite number stays in
      its place, as one of `Table.missing`.
    - `name`: what messages call `x`, by default "x".

    Raises `InputError`, in one line that names the row, counted from 1, and the column, for what cannot be
    used.

    >>> table = from_frame([[1, 2], [3, 4]], ["a", "b"])
    >>> table.columns, table.points.tolist(), table.labels.tolist()
    (None, [[1.0, 2.0], [3.0, 4.0]], ['a', 'b'])
    """
    x, y = _no_tensor(x, name), _no_tensor(y, "y")
    source = Source.of(name, on_bad, hint="give labels as y, and only numeric columns as x")
    points, names = _points(x, source, None if columns is None else names_of(columns))
    if y is None:
        return Table(points, names, source=name)
    labels = _labels(y, Source("y"))
    if len(labels) != len(points):
        raise InputError(f"{name} has {len(points)} rows but y has {len(labels)} labels")
    taken = names or default_columns(points.shape[1])
    return Table(points, names, labels, _series_name(y, taken), source=name)


def _series_name(y: object, columns: Sequence[str]) -> str | None:
    """Return the name of a pandas or polars series; None without one that can name a column of its own."""
    name = getattr(y, "name", None) if _is_series(y) else None
    usable = isinstance(name, str) and name.strip() and is_utf8(name) and name not in columns
    return str(name) if usable else None


def _no_tensor(x: object, name: str) -> object:
    """Return a tensor as an array, anything else as it is."""
    if not isinstance(x, torch.Tensor):
        return x
    for kind, found, advice in (
        ("a meta tensor, which has no values", x.is_meta, "give one that has"),
        ("a nested tensor", x.is_nested, "rows of one length are needed"),
        ("a quantized tensor", x.is_quantized, "give its dequantize()"),
        ("a complex tensor", x.is_complex(), "real numbers are needed"),
    ):
        if found:
            raise InputError(f"{name} is {kind}; {advice}")
    try:
        dense = x.detach().cpu().to_dense().resolve_neg()
        # NumPy lacks some floating types, such as bfloat16.
        return (dense.double() if dense.is_floating_point() else dense).numpy()
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{name} is a tensor that cannot be made an array ({plain(error)})") from error


def _points(
    x: object, source: Source, wanted: tuple[str, ...] | None
) -> tuple[FloatArray, tuple[str, ...] | None]:
    frame = _columns(x, wanted or ())
    if frame is None:
        return _array_points(x, source), None
    names, data = frame
    if names is not None and wanted is not None and set(wanted) <= set(names):
        check_names(names, source.name)
        names, data = wanted, [data[names.index(name)] for name in wanted]
    labels = names if names is not None else default_columns(len(data))
    check_names(labels, source.name)
    numbers = [column_numbers(column, name, source) for name, column in zip(labels, data, strict=True)]
    points = np.stack(numbers, axis=1) if numbers else np.empty((0, 0))
    check_finite(points, labels, source)
    return points, names


def _columns(x: object, wanted: tuple[str, ...]) -> tuple[tuple[str, ...] | None, list[Any]] | None:
    """Return names and Arrow columns of a data frame, None for anything else.

    An index that pandas wrote into an Arrow table is left out, but for the `wanted` columns.
    """
    pandas: Any = sys.modules.get("pandas")  # no object is of pandas unless pandas has been imported
    if pandas is not None and isinstance(x, pandas.DataFrame):
        frame: Any = x
        named = all(isinstance(name, str) for name in frame.columns)
        columns = [_series(frame.iloc[:, j]) for j in range(frame.shape[1])]
        return (names_of(frame.columns) if named else None), columns
    if isinstance(x, _ArrowStream) and not _is_series(x):
        import pyarrow as pa

        table = pa.table(x)
        index = set(index_columns(table.schema)).difference(wanted)
        kept = [j for j, name in enumerate(table.column_names) if name not in index]
        return tuple(table.column_names[j] for j in kept), [table.column(j) for j in kept]
    return None


def _is_series(x: object) -> bool:
    pandas: Any = sys.modules.get("pandas")
    polars: Any = sys.modules.get("polars")
    arrow: Any = sys.modules.get("pyarrow")
    return (
        (pandas is not None and isinstance(x, pandas.Series))
        or (polars is not None and isinstance(x, polars.Series))
        or (arrow is not None and isinstance(x, arrow.ChunkedArray))
    )


def _series(series: Any) -> Any:
    """Return a pandas series as an Arrow column; one of mixed objects as text, which will be refused."""
    import pyarrow as pa

    try:
        return _chunked(series)
    except pa.ArrowException:
        return _chunked(series.astype(str))


def _chunked(series: Any) -> Any:
    import pyarrow as pa

    array = pa.array(series, from_pandas=True)
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _array_points(x: object, source: Source) -> FloatArray:
    values = _array(x, source)
    if values.ndim != 2:
        advice = "; for one column use x.reshape(-1, 1)" if values.ndim == 1 else ""
        raise InputError(f"{source.name}: (n, d) points are needed, got {_describe(x, values)}{advice}")
    names = default_columns(values.shape[1])
    if values.dtype.kind not in "fiu":
        # Made anew from x: of [[1, "a"]] NumPy has made two texts.
        points = _object_points(np.array(x, dtype=object), names, source)
    else:
        with np.errstate(over="ignore"):  # a long double may become infinite; check_finite tells
            points = values.astype(np.float64)
    check_finite(points, names, source)
    return points


def _object_points(values: NDArray[Any], names: Sequence[str], source: Source) -> FloatArray:
    points = np.empty(values.shape)
    for (row, j), value in np.ndenumerate(values):
        if value is None and source.skip:
            points[row, j] = np.nan
        elif isinstance(value, bool | np.bool_) or not isinstance(value, Real):
            source.fail(names[j], row, not_finite(value))
        else:
            try:
                points[row, j] = float(value)
            except OverflowError:
                source.fail(names[j], row, f"found {shown(value)}, which is beyond the range of float64")
    return points


def _labels(y: object, source: Source) -> LabelArray:
    import pyarrow as pa

    pandas: Any = sys.modules.get("pandas")
    if pandas is not None and isinstance(
        y, pandas.Series | pandas.Index | pandas.api.extensions.ExtensionArray
    ):
        try:
            return column_labels(_chunked(y), None, source)
        except pa.ArrowException:  # mixed objects
            return labels_of(np.asarray(y, dtype=object), None, source)
    if _is_series(y):
        return column_labels(pa.chunked_array(y), None, source)
    values = _array(y, source)
    if values.ndim != 1:
        raise InputError(f"{source.name}: (n,) labels are needed, got {_describe(y, values)}")
    # Made anew from y: of [1, "a"] NumPy has made two texts.
    return labels_of(np.array(y, dtype=object) if values.dtype.kind == "U" else values, None, source)


def _describe(x: object, values: NDArray[Any]) -> str:
    return describe(values) if values.ndim else f"a {type(x).__name__}"


def _array(x: object, source: Source) -> NDArray[Any]:
    if np.ma.is_masked(x):
        raise InputError(f"{source.name} has masked entries; leave out their rows")
    try:
        return np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{source.name} cannot be made an array of one shape ({plain(error)})") from error
