"""What every reader shares: where a cell is, the words for what is wrong with it, and columns of numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from toydiffusion.errors import InputError, choice, nearest, plain, shown
from toydiffusion.types import FloatArray

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".npy", ".parquet")
"""The suffixes of files that are tables."""
ON_BAD = ("raise", "skip")
"""What to do with rows that have a missing or infinite number: refuse the table, or leave them in place."""


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a table's file in lower case.

    - `path`: str or path. The file; it need not exist.

    Raises `InputError` if the suffix is none of `.csv`, `.npy` and `.parquet`.

    >>> check_suffix("points.CSV")
    '.csv'
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{str(path)!r}: unknown suffix {shown(suffix)}; {nearest(suffix, SUFFIXES)}")
    if "\0" in str(path):  # the system's own error for it is a ValueError without a file name
        raise InputError(f"{str(path)!r}: a file name cannot hold the character '\\x00'")
    return suffix


@dataclass(frozen=True)
class Source:
    """Where cells come from, for messages.

    - `name`: str. What messages call the table.
    - `hint`: str. The advice where a column holds text.
    - `lines`: the line of each row in the file. None: rows are counted from 1.
    - `first`: the number, from 0, of the first row at hand.
    - `skip`: bool. Whether a missing or infinite number is NaN instead of an error.
    """

    name: str
    hint: str = "name it with --label-column, or name the numeric columns with --columns"
    lines: Sequence[int] | None = None
    skip: bool = False
    first: int = 0

    @classmethod
    def of(cls, name: str, on_bad: str, **more: Any) -> Source:
        """Return the source for what the user wants done on bad numbers: "raise" or "skip"."""
        return cls(name, skip=choice("on_bad", on_bad, ON_BAD) == "skip", **more)

    def fail(self, column: str | None, row: int, found: str) -> NoReturn:
        """Raise InputError for the cell in `row`, from 0, of `column` (None if it has no name)."""
        where = (
            f"row {self.first + row + 1} (counted from 1)"
            if self.lines is None
            else f"line {self.lines[row]}"
        )
        place = "" if column is None else f", column {shown(column)}"
        raise InputError(f"{self.name}, {where}{place}: {found}")

    def fail_text(self, column: str, text: object) -> NoReturn:
        """Raise InputError for a column that holds no number at all."""
        raise InputError(
            f"{self.name}: column {shown(column)} holds text ({shown(text)}), not numbers; {self.hint}"
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


def comma_number(text: str) -> float | None:
    """Return the number that `text` spells with a comma in the place of the point, or None.

    >>> comma_number("1,5"), comma_number("1.5"), comma_number("1,234,567")
    (1.5, None, None)
    """
    return number(text.replace(",", ".", 1)) if "," in text else None


def not_finite(found: object) -> str:
    """Return the words for a cell that should hold a finite number.

    >>> not_finite("1,5")
    "found '1,5', a finite number is needed (write decimals with a point)"
    """
    text = str(found).strip()
    if found is None or text == "":
        return "the cell is empty, a finite number is needed"
    point = "" if comma_number(text) is None else " (write decimals with a point)"
    return f"found {shown(found)}, a finite number is needed{point}"


def check_finite(points: FloatArray, columns: Sequence[str], source: Source) -> None:
    """Raise InputError for the first NaN or infinity, row by row, unless these are to be skipped."""
    if not source.skip and not (finite := np.isfinite(points)).all():
        row, j = divmod(int(np.argmin(finite)), points.shape[1])
        source.fail(columns[j], row, not_finite(float(points[row, j])))


def column_numbers(column: pa.ChunkedArray, name: str, source: Source) -> FloatArray:
    """Return an Arrow column as float64: each number becomes the nearest one.

    Missing cells are NaN if they are to be skipped. Raises `InputError` for them otherwise, and for a
    column that is not numeric.
    """
    import pyarrow.types as kinds

    column = decoded(column)
    if len(column) and (kinds.is_string(column.type) or kinds.is_large_string(column.type)):
        texts = column.to_pylist()
        bad = [row for row, text in enumerate(texts) if text is None or number(text) is None]
        if len(bad) in (0, len(texts)):
            source.fail_text(name, texts[0])
        source.fail(name, bad[0], not_finite(texts[bad[0]]))
    if column.null_count and not source.skip:
        source.fail(name, first_null(column), not_finite(None))
    if kinds.is_decimal(column.type):
        column = column.cast("float64")
    if not (kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_null(column.type)):
        kind = plain(column.type)
        raise InputError(f"{source.name}: column {shown(name)} holds {kind}, not numbers; {source.hint}")
    values: FloatArray = column.to_numpy().astype(np.float64)
    return values


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return an Arrow column without its encodings: dictionaries (categories) and string views."""
    import pyarrow as pa

    encoded = pa.types.is_dictionary(column.type)
    kind = column.type.value_type if encoded else column.type
    if pa.types.is_string_view(kind):
        kind = pa.large_string()
    if encoded:
        chunks = [chunk.dictionary.cast(kind).take(chunk.indices) for chunk in column.chunks]
        return pa.chunked_array(chunks, kind)
    return column.cast(kind)


def first_null(column: pa.ChunkedArray) -> int:
    """Return the position of the first missing cell of an Arrow column that has one."""
    import pyarrow.compute as pc

    return int(pc.index(pc.is_null(column), value=True).as_py())


def index_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of an Arrow schema that are the index of the pandas frame it was made from.

    pandas names them in a JSON object of the schema's metadata; a range of row numbers is an object there
    and no column. Metadata that is not pandas' names none.
    """
    import json

    try:
        about = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    except ValueError:
        return []
    found = about.get("index_columns") if isinstance(about, dict) else None
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
