"""Writing a file block by block, whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np

from toydiffusion.errors import InputError
from toydiffusion.files import check_target, replacing
from toydiffusion.tables.columns import Source, check_suffix
from toydiffusion.tables.labels import labels_of
from toydiffusion.tables.names import check_names
from toydiffusion.tables.table import describe
from toydiffusion.types import FloatArray, LabelArray

BLOCK = 2**17
"""Rows in a row group of a Parquet file: the most that is held back in memory."""


class Writer:
    """Write rows to a `.csv`, `.parquet` or `.npy` file in constant memory, in as many blocks as you like.

    What is in the file does not depend on the blocks. The file appears, whole, when the `with` block
    ends; after an exception there is none. CSV holds the shortest decimals that give the same floats.
    NaN is an empty cell of CSV and Parquet.
    `.npy` is one float64 array `(n, d)`, with integer labels as its last column. `classes` are values
    of the labels' kind; without them the first block tells the kind.

    Raises InputError when made, before any work, for an unknown suffix, a folder that cannot be written
    to, equal names, or labels that `.npy` cannot hold.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "points.csv"
    >>> with Writer(path, ["x", "y"], label_column="class") as writer:
    ...     writer.write(np.array([[0.1, 1e30]]), np.array([3]))
    ...     writer.write(np.array([[2.0, -1.5]]), np.array([4]))
    >>> path.read_text()
    'x,y,class\\n0.1,1e+30,3\\n2,-1.5,4\\n'
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        columns: Sequence[str],
        label_column: str | None = None,
        classes: LabelArray | None = None,
    ) -> None:
        self._suffix = check_suffix(path)
        self._path = path
        self._columns = tuple(columns)
        self._label_column = label_column
        self._source = Source(repr(os.fspath(path)))
        check_names([*columns, *([] if label_column is None else [label_column])], self._source.name)
        self._classes: LabelArray | None = None
        if classes is not None:
            self._set_classes(classes)
        check_target(path)
        self._stack = ExitStack()
        self._sink: _Sink | None = None

    def __enter__(self) -> Writer:
        with ExitStack() as stack:
            part = stack.enter_context(replacing(self._path))
            self._file = stack.enter_context(part.open("wb"))
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, points: FloatArray, labels: LabelArray | None = None) -> None:
        """Append points `(n, d)` and, if the file has a label column, their labels `(n,)`."""
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != len(self._columns):
            raise InputError(f"{self._source.name}: (n, {len(self._columns)}) needed, got {describe(points)}")
        if (labels is None) != (self._label_column is None):
            raise InputError(f"{self._source.name}: labels and a label column go together, one is missing")
        if labels is not None:
            labels = labels_of(np.asarray(labels), self._label_column, self._source)
            if labels.shape != (len(points),):
                raise InputError(f"{self._source.name}: {len(points)} points, labels {describe(labels)}")
            if self._classes is None:
                self._set_classes(labels)
            elif labels.dtype != self._classes.dtype:
                raise InputError(
                    f"{self._source.name}: labels of type {labels.dtype} after {self._classes.dtype}"
                )
            if self._suffix == ".npy" and ((labels < -(2**53)) | (labels > 2**53)).any():
                raise InputError(
                    f"{self._source.name}: .npy holds labels exactly up to 2**53; write .csv or .parquet"
                )
        self._open_sink().write(points, labels)

    def _set_classes(self, classes: LabelArray) -> None:
        self._classes = labels_of(np.asarray(classes), self._label_column, self._source)[:0]
        if self._suffix == ".npy" and self._classes.dtype != np.int64:
            what = "true and false" if self._classes.dtype == bool else "text"
            raise InputError(
                f"{self._source.name}: .npy holds integer labels only, not {what}; write .csv or .parquet"
            )

    def _schema(self) -> Any:
        import pyarrow as pa

        fields = [(name, pa.float64()) for name in self._columns]
        if self._label_column is not None:
            kinds = {"i": pa.int64(), "b": pa.bool_(), "O": pa.string()}
            fields.append(
                (self._label_column, kinds["i" if self._classes is None else self._classes.dtype.kind])
            )
        return pa.schema(fields)

    def _open_sink(self) -> _Sink:
        if self._sink is None:
            self._sink = (
                _NpySink(self._file, len(self._columns) + (self._label_column is not None))
                if self._suffix == ".npy"
                else _ArrowSink(self._file, self._suffix, self._schema())
            )
        return self._sink

    def _finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._open_sink().close()
        elif self._sink is not None:
            try:
                self._sink.close()
            except Exception as second:  # the first error is the one to raise; this one goes with it
                error.add_note(f"closing the file then failed too: {second}")


class _Sink(Protocol):
    def write(self, points: FloatArray, labels: LabelArray | None) -> None: ...
    def close(self) -> None: ...


class _NpySink:
    """A `.npy` file whose header is written again when the number of rows is known."""

    def __init__(self, file: IO[bytes], width: int):
        self._file, self._rows, self._width = file, 0, width
        file.write(self._header())

    def _header(self) -> bytes:
        """Return the header for the rows so far; NumPy leaves room for the number to grow."""
        buffer = io.BytesIO()
        shape = (self._rows, self._width)
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, header)
        return buffer.getvalue()

    def write(self, points: FloatArray, labels: LabelArray | None) -> None:
        block = np.empty((len(points), self._width), dtype="<f8")
        block[:, : points.shape[1]] = points
        if labels is not None:
            block[:, -1] = labels
        self._file.write(block.tobytes())
        self._rows += len(block)

    def close(self) -> None:
        self._file.seek(0)
        self._file.write(self._header())


class _ArrowSink:
    """A CSV or Parquet file, to which rows go in blocks of one size."""

    def __init__(self, file: IO[bytes], suffix: str, schema: Any):
        self._schema, self._rows = schema, 0
        self._pending: list[Any] = []
        self._writer = (_open_csv if suffix == ".csv" else _open_parquet)(file, schema)

    def write(self, points: FloatArray, labels: LabelArray | None) -> None:
        import pyarrow as pa

        # A copy: Arrow keeps the memory it is given, and the caller may fill it again. The labels are one.
        columns = [*np.array(points.T, order="C"), *([] if labels is None else [labels])]
        data = [
            pa.array(column, field.type, from_pandas=True)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._pending.append(pa.Table.from_arrays(data, schema=self._schema))
        self._rows += len(points)
        if self._rows >= BLOCK:
            table = pa.concat_tables(self._pending)
            full = self._rows - self._rows % BLOCK
            self._writer.write_table(table.slice(0, full), BLOCK)
            self._pending, self._rows = [table.slice(full)], self._rows - full

    def close(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.concat_tables(self._pending), BLOCK)
        self._writer.close()


def _open_csv(file: IO[bytes], schema: Any) -> Any:
    import pyarrow.csv as pa_csv

    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(schema.names)  # Arrow's would quote every name
    file.write(header.getvalue().encode())
    return pa_csv.CSVWriter(file, schema, write_options=pa_csv.WriteOptions(include_header=False))


def _open_parquet(file: IO[bytes], schema: Any) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetWriter(file, schema, use_dictionary=False)
