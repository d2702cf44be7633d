"""From cells to points and labels: what every reader shares, and the words for what is wrong."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from reprlib import repr as shorten
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from toydiffusion.errors import InputError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

Points: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[Any]

SUFFIXES = (".csv", ".npy", ".parquet")
ON_BAD = ("raise", "skip")
"""What to do with rows that have a missing or infinite number: refuse the table, or leave them in place."""


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of `path` in lower case; raise InputError unless it can be read and written.

    >>> check_suffix("points.CSV")
    '.csv'
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{str(path)!r}: unknown suffix {suffix!r}; {nearest(suffix, list(SUFFIXES))}")
    return suffix


@dataclass(frozen=True)
class Source:
    """Where cells come from, for messages; `lines[i]` is the line of row i, without it rows count from 1.

    With `skip` a number that is missing or not finite is NaN, and no error.
    """

    name: str
    hint: str = "name it with --label-column, or name the numeric columns with --columns"
    lines: Sequence[int] | None = None
    skip: bool = False

    @classmethod
    def of(cls, name: str, on_bad: str, **more: Any) -> Source:
        """Return the source for what the user wants done on bad numbers: "raise" or "skip"."""
        if on_bad not in ON_BAD:
            raise InputError(f"unknown on_bad {on_bad!r}: {nearest(str(on_bad), list(ON_BAD))}")
        return cls(name, skip=on_bad == "skip", **more)

    def fail(self, column: str | None, row: int, found: str) -> NoReturn:
        """Raise InputError for the cell in `row`, from 0, of `column` (None if it has no name)."""
        where = f"row {row + 1} (counted from 1)" if self.lines is None else f"line {self.lines[row]}"
        raise InputError(f"{self.name}, {where}{'' if column is None else f', column {column!r}'}: {found}")

    def fail_text(self, column: str, text: object) -> NoReturn:
        """Raise InputError for a column that holds no number at all."""
        raise InputError(
            f"{self.name}: column {column!r} holds text ({shorten(text)}), not numbers; {self.hint}"
        )


def number(text: str) -> float | None:
    """Return the number that `text` spells, or None.

    >>> number(" 1e-30 "), number("1,5"), number("1_000")
    (1e-30, None, None)
    """
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def has_decimal_comma(text: str) -> bool:
    """Return whether `text` is a number but for a comma in the place of the point."""
    return "," in text and number(text.replace(",", ".", 1)) is not None


def not_finite(found: object) -> str:
    """Return the words for a cell that should hold a finite number.

    >>> not_finite("1,5")
    "found '1,5', a finite number is needed (write decimals with a point)"
    """
    text = str(found).strip()
    if found is None or text == "":
        return "the cell is empty, a finite number is needed"
    point = " (write decimals with a point)" if has_decimal_comma(text) else ""
    return f"found {shorten(found)}, a finite number is needed{point}"


def check_finite(points: Points, columns: Sequence[str], source: Source) -> None:
    """Raise InputError for the first NaN or infinity, row by row, unless these are to be skipped."""
    if not source.skip and not (finite := np.isfinite(points)).all():
        row, j = divmod(int(np.argmin(finite)), points.shape[1])
        source.fail(columns[j], row, not_finite(float(points[row, j])))


def column_numbers(column: pa.ChunkedArray, name: str, source: Source) -> Points:
    """Return an Arrow column as float64; raise InputError if it is not numeric or has missing cells.

    Missing cells are NaN if they are to be skipped.
    """
    import pyarrow.types as kinds

    column = _plain(column)
    if len(column) and (kinds.is_string(column.type) or kinds.is_large_string(column.type)):
        texts = column.to_pylist()
        bad = [row for row, text in enumerate(texts) if text is None or number(text) is None]
        if len(bad) in (0, len(texts)):
            source.fail_text(name, texts[0])
        source.fail(name, bad[0], not_finite(texts[bad[0]]))
    if column.null_count and not source.skip:
        source.fail(name, _first_null(column), not_finite(None))
    if kinds.is_decimal(column.type):
        column = column.cast("float64")
    if not (kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_null(column.type)):
        raise InputError(f"{source.name}: column {name!r} holds {column.type}, not numbers; {source.hint}")
    values: Points = column.to_numpy().astype(np.float64)
    return values


def column_labels(column: pa.ChunkedArray, name: str | None, source: Source) -> Labels:
    """Return an Arrow column as labels."""
    column = _plain(column)
    if column.null_count:
        source.fail(name, _first_null(column), "the label is missing")
    return labels_of(column.to_numpy(), name, source)


def text_labels(column: pa.ChunkedArray, name: str, source: Source) -> Labels:
    """Return a column of CSV text as labels: integers, then booleans, if all of it is; text otherwise."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.utf8_trim_whitespace(column)
    for kind in (pa.int64(), pa.float64(), pa.bool_()):
        try:
            column = column.cast(kind)
            break
        except pa.ArrowInvalid:
            continue
    return labels_of(column.to_numpy(), name, source)


def labels_of(values: NDArray[Any], name: str | None, source: Source) -> Labels:
    """Return labels as int64, bool or str objects; floats must be whole numbers, and none may be missing.

    >>> labels_of(np.array([3.0, 1.0]), None, Source("y"))
    array([3, 1])
    """
    allowed = "labels are whole numbers of 64 bits, booleans or text"
    kind = values.dtype.kind
    if kind == "b":
        return values.copy()
    if kind == "f":
        good = (values == np.floor(values)) & (np.abs(values) < 2.0**63)
        if not good.all():
            row = int(np.argmin(good))
            nan = bool(np.isnan(values[row]))
            source.fail(
                name, row, "the label is missing" if nan else f"found {float(values[row])}; {allowed}"
            )
    if kind == "u" and (wide := values > np.iinfo(np.int64).max).any():
        row = int(np.argmax(wide))
        source.fail(name, row, f"found {values[row]}; {allowed}")
    if kind in "iuf":
        return values.astype(np.int64)
    if kind not in "UO":
        raise InputError(f"{source.name}: the labels are of type {values.dtype}; {allowed}")
    return _object_labels(values.astype(object), name, source, allowed)


def _object_labels(values: NDArray[Any], name: str | None, source: Source, allowed: str) -> Labels:
    types = set(map(type, values))
    if all(issubclass(t, str) for t in types):
        texts = np.array([str(value) for value in values], dtype=object)
        if (empty := texts == "").any():
            source.fail(name, int(np.argmax(empty)), "the label is missing")
        return texts
    for row, value in enumerate(values):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            source.fail(name, row, "the label is missing")
    if all(issubclass(t, bool | np.bool_) for t in types):
        return values.astype(bool)
    if any(issubclass(t, bool | np.bool_) or not issubclass(t, Real) for t in types):
        first = type(values[0])
        row = next((i for i, value in enumerate(values) if type(value) is not first), 0)
        kinds = f"{first.__name__} before it" if row else f"a {first.__name__}"
        source.fail(name, row, f"found {shorten(values[row])}, {kinds}; {allowed}, all of one kind")
    whole = all(issubclass(t, int | np.integer) for t in types)
    try:
        return labels_of(values.astype(np.int64 if whole else np.float64), name, source)
    except OverflowError:
        row = next(i for i, value in enumerate(values) if not -(2**63) <= value < 2**63)
        source.fail(name, row, f"found {values[row]}; {allowed}")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column without its encodings: dictionaries (categories) and string views."""
    import pyarrow as pa

    encoded = pa.types.is_dictionary(column.type)
    kind = column.type.value_type if encoded else column.type
    if pa.types.is_string_view(kind):
        kind = pa.large_string()
    if encoded:
        chunks = [chunk.dictionary.cast(kind).take(chunk.indices) for chunk in column.chunks]
        return pa.chunked_array(chunks, kind)
    return column.cast(kind)


def _first_null(column: pa.ChunkedArray) -> int:
    import pyarrow.compute as pc

    return int(pc.index(pc.is_null(column), value=True).as_py())
