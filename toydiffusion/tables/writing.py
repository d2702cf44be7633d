"""Writing a file block by block, whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np

from toydiffusion.errors import InputError, plain
from toydiffusion.files import check_target, replacing
from toydiffusion.tables.columns import Source, check_suffix, number
from toydiffusion.tables.labels import labels_of
from toydiffusion.tables.names import check_names, name_of, names_of
from toydiffusion.tables.table import describe
from toydiffusion.types import FloatArray, LabelArray

BLOCK = 2**17
"""Rows in a row group of a Parquet file: the most that is held back in memory."""


def check_not_same(path: str | os.PathLike[str], protect: Sequence[str | os.PathLike[str]]) -> None:
    """Raise InputError if writing to `path` would overwrite a file that is still needed.

    - `path`: str or path. The file to write.
    - `protect`: str or path each. The files to keep. Symbolic and hard links to them count as the same file.

    >>> check_not_same("new.csv", ["model.safetensors", "./new.csv"])
    Traceback (most recent call last):
    toydiffusion.errors.InputError: 'new.csv' is the same file as './new.csv', which would be overwritten
    """
    for other in protect:
        both = os.path.exists(path) and os.path.exists(other)
        if os.path.samefile(path, other) if both else os.path.realpath(path) == os.path.realpath(other):
            raise InputError(
                f"{os.fspath(path)!r} is the same file as {os.fspath(other)!r}, which would be overwritten"
            )


class Writer:
    """Write rows to a `.csv`, `.parquet` or `.npy` file in constant memory, in as many blocks as you like.

    The contents of the file do not depend on the blocks. The file appears, whole, when the `with` block
    ends. After an exception there is no file, and an older one stays as it was.

    - `path`: str or path. The file to write.
    - `columns`: str each. The names of the numeric columns.
    - `label_column`: str. The name of the labels' column. None (default): the rows have no labels.
    - `classes`: `(K,)`, int, bool or str. Values of the labels' kind. None (default): the first block tells
      the kind.
    - `whole`: the names of columns of whole numbers, default none. In Parquet they are int64.
    - `protect`: str or path each, default none. Files that `path` must not be; see `check_not_same`.

    CSV holds the shortest decimals that give the same floats. NaN is an empty cell of CSV and Parquet, so in
    a CSV file of one column it is a blank line. CSV does not tell text from numbers: labels given as the str
    "1" or "true" come back from `read` as integers or booleans; see `label_words`. All other
    text comes back as it is. `.npy` is one float64 array `(n, d)`, with integer labels as its last column.

    Raises `InputError` when made, before any work, for an unknown suffix, a folder that cannot be written
    to, a protected file, names that are equal or blank, and labels that `.npy` cannot hold. `write` raises it
    for blocks of another shape or kind. A full disk is an `OSError` that names the file.

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
        *,
        whole: Sequence[str] = (),
        protect: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        self._suffix = check_suffix(path)
        self._path = path
        self._columns = names_of(columns)
        self._whole = frozenset(whole)
        self._label_column = None if label_column is None else name_of(label_column, "label_column")
        self._source = Source(repr(os.fspath(path)))
        more = () if self._label_column is None else (self._label_column,)
        check_names(self._columns + more, self._source.name)
        check_not_same(path, protect)
        self._classes: LabelArray | None = None
        if classes is not None:
            self._set_classes(classes)
        with _naming(path):
            check_target(path)
        self._stack = ExitStack()
        self._sink: _Sink | None = None

    def __enter__(self) -> Writer:
        with _naming(self._path), ExitStack() as stack:
            part = stack.enter_context(replacing(self._path))
            self._file = stack.enter_context(part.open("wb"))
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An error of the block itself is not raised again here, so it keeps its own file name.
        with _naming(self._path):
            self._stack.__exit__(kind, error, trace)

    def write(self, points: FloatArray, labels: LabelArray | None = None) -> None:
        """Append a block of rows.

        - `points`: `(n, d)`.
        - `labels`: `(n,)`, whole numbers, booleans or text. None (default) if the file has no label column.

        Raises `InputError` for another shape or kind; then nothing of the block is written.
        """
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
        with _naming(self._path):
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

        fields = [(name, pa.int64() if name in self._whole else pa.float64()) for name in self._columns]
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


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give an OSError of writing the name of the file that is written, not of its temporary."""
    try:
        yield
    except OSError as error:
        name = os.fspath(path)
        if error.errno is None:  # Arrow's own errors; without a number Python would not show the file name
            raise OSError(f"cannot write {name!r}: {plain(error)}") from error
        raise OSError(error.errno, error.strerror, name) from error


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

        # In place of a part without rows, some versions of Arrow write the rows before it once more.
        if not len(points):
            return
        # A copy: Arrow keeps the memory it is given, and the caller may fill it again. The labels are one.
        columns = [*np.array(points.T, order="C"), *([] if labels is None else [labels])]
        fields = list(self._schema)
        for j in range(points.shape[1]):
            if fields[j].type == pa.int64():
                columns[j] = columns[j].astype(np.int64)
        data = [
            pa.array(column, field.type, from_pandas=True)
            for column, field in zip(columns, fields, strict=True)
        ]
        self._pending.append(pa.Table.from_arrays(data, schema=self._schema))
        self._rows += len(points)
        if self._rows >= BLOCK:
            table = pa.concat_tables(self._pending)
            full = self._rows - self._rows % BLOCK
            self._writer.write_table(table.slice(0, full), BLOCK)
            self._rows -= full
            self._pending = [table.slice(full)] if self._rows else []

    def close(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.concat_tables(self._pending), BLOCK)
        self._writer.close()


_SPECIAL = set(',;\t"\r\n\ufeff')


def _open_csv(file: IO[bytes], schema: Any) -> Any:
    import pyarrow.csv as pa_csv

    # Arrow would quote every name. Python's csv would leave characters unquoted that change how the file is
    # read: other delimiters, a carriage return, and the byte order mark, which readers drop at the start.
    # Names that all look like numbers are quoted too, or they would be taken for the first row.
    quoted = all(number(name) is not None for name in schema.names)
    names = [
        f'"{name.replace(chr(34), 2 * chr(34))}"' if quoted or _SPECIAL & set(name) else name
        for name in schema.names
    ]
    file.write((",".join(names) + "\n").encode())
    return pa_csv.CSVWriter(file, schema, write_options=pa_csv.WriteOptions(include_header=False))


def _open_parquet(file: IO[bytes], schema: Any) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetWriter(file, schema, use_dictionary=False)
