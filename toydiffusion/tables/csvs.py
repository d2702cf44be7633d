"""Reading `.csv`: with Arrow where all is well, otherwise with Python, which says what is wrong."""

from __future__ import annotations

import codecs
import csv
import math
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from toydiffusion.errors import InputError, shown
from toydiffusion.tables.columns import Source, check_finite, comma_number, not_finite, number
from toydiffusion.tables.labels import FALSE_TRUE, MISSING, text_labels
from toydiffusion.tables.names import check_names, plan
from toydiffusion.tables.table import Table
from toydiffusion.types import FloatArray, LabelArray

if TYPE_CHECKING:
    import pyarrow as pa

_Body: TypeAlias = tuple[FloatArray, LabelArray | None, tuple[str, str]]
"""What is below the header: the points, the labels, and how false and true are written in these."""


def read_csv(path: Path, columns: Sequence[str] | None, label_column: str | None, source: Source) -> Table:
    """Read the columns. The header gives their names and the delimiter: comma, semicolon or tab."""
    import pyarrow as pa

    header = _read_header(path, source.name)
    names, chosen, label = plan(header.names, columns, label_column, source.name)
    job = _Job(path, header, chosen, label, source)
    try:
        points, labels, false_true = _read_fast(job)
    except (pa.ArrowInvalid, InputError):
        points, labels, false_true = _read_slowly(job)
    return Table(points, names, labels, label_column, source.name, false_true)


@dataclass(frozen=True)
class _Header:
    """The names, the delimiter, and the number of lines up to the end of the header."""

    names: list[str]
    delimiter: str
    lines: int


@dataclass(frozen=True)
class _Job:
    """What to read: the positions of the numeric columns, and of the label column."""

    path: Path
    header: _Header
    columns: list[int]
    label: int | None
    source: Source


def _read_rows(path: Path, delimiter: str, source: str) -> Generator[tuple[int, list[str]], None, None]:
    """Yield the rows, header included, each with the number of its last line.

    Blank lines are left out, but for those below a header of one column.
    """
    width = 0
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(_check_lines(file, source), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                blank = not row or (len(row) == 1 and row[0].isspace())
                if blank and width != 1:
                    continue
                width = width or len(row)
                yield reader.line_num, row or [""]
        except csv.Error as error:
            raise InputError(f"{source}, line {reader.line_num}: not valid CSV ({error})") from error


def _check_lines(lines: Iterable[str], source: str) -> Iterator[str]:
    for line_number, line in enumerate(lines, 1):
        try:
            line.isascii() or line.encode()
        except UnicodeEncodeError as error:
            byte = ord(line[error.start]) & 0xFF
            message = f"{source}, line {line_number}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"
            raise InputError(message) from error
        yield line


def _read_header(path: Path, source: str) -> _Header:
    """Return the header under the delimiter that gives most names.

    A name with a quote in it counts less: it is mostly a quoted name, cut at a delimiter inside the quotes.
    Names that all look like numbers are taken for the first row of a file without a header, unless they are
    quoted.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        quoted = file.read(1) == '"'
    best, failure = _Header([], ",", 0), InputError(f"{source} has no header line")
    for delimiter in (",", ";", "\t"):
        with closing(_read_rows(path, delimiter, source)) as rows:
            try:
                lines, row = next(rows, (0, []))
            except InputError as error:  # perhaps a quoted name that ends at another delimiter
                failure = error
                continue
        read = number if delimiter == "," else _either_number
        if row and not quoted and all(read(name) is not None for name in row):
            raise InputError(
                f"{source}, line {lines}: found the number {shown(row[0])} where a column name is needed; "
                "a CSV file begins with a header line such as x0,x1"
            )
        if _plausibility(row) > _plausibility(best.names):
            best = _Header(row, delimiter, lines)
    if not best.names:
        raise failure
    check_names(best.names, source)
    return best


def _plausibility(names: list[str]) -> tuple[bool, int]:
    return bool(names) and not any('"' in name for name in names), len(names)


def _either_number(text: str) -> float | None:
    """Return the number that `text` spells with a decimal point or a decimal comma, or None."""
    value = number(text)
    return comma_number(text) if value is None else value


def _read_fast(job: _Job) -> _Body:
    """Read with Arrow; any doubt is an error."""
    import pyarrow as pa

    source, names = job.source, job.header.names
    if not _is_plain(job.path, job.header.delimiter):
        raise InputError(f"{source.name}: a cell may be read in two ways")
    try:
        table = _read_arrow(job, ".")
    except pa.ArrowInvalid:
        if job.header.delimiter == ",":
            raise
        table = _read_arrow(job, ",")
    points = np.empty((table.num_rows, len(job.columns)))
    for j, column in enumerate(job.columns):
        points[:, j] = table[str(column)].to_numpy()
        if source.skip and np.isnan(points[:, j]).sum() != table[str(column)].null_count:
            raise InputError(f"{source.name}: Arrow reads words as NaN that are not in MISSING")
    check_finite(points, [names[j] for j in job.columns], source)
    if job.label is None:
        return points, None, FALSE_TRUE
    return points, *text_labels(table[str(job.label)], names[job.label], source)


def _read_arrow(job: _Job, decimal_point: str) -> pa.Table:
    """Return the needed columns, called by their positions, as Arrow reads them."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    names = [str(j) for j in range(len(job.header.names))]
    types = {str(j): pa.float64() for j in job.columns}
    if job.label is not None:
        types[str(job.label)] = pa.string()
    return pa_csv.read_csv(
        job.path,
        read_options=pa_csv.ReadOptions(column_names=names, skip_rows=job.header.lines),
        parse_options=pa_csv.ParseOptions(
            delimiter=job.header.delimiter, newlines_in_values=True, ignore_empty_lines=len(names) > 1
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=MISSING if job.source.skip else [],
            decimal_point=decimal_point,
        ),
    )


def _is_plain(path: Path, delimiter: str) -> bool:
    """Return whether all readers of CSV find the same cells in the file.

    They do if it is UTF-8 and each quote is at the border of a cell, or doubled within a quoted one. Where
    a quote stands elsewhere, Arrow takes for text what Python refuses. A quote that is never closed would
    swallow rows.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    edge = np.zeros(256, dtype=bool)  # whether a byte may stand beside a quote, outside of its cell
    edge[[*f'{delimiter}\r\n"'.encode()]] = True
    inside, before = False, b"\n"  # whether a quoted cell is open; the byte before the block
    with path.open("rb") as file:
        block = file.read(2**20).removeprefix(codecs.BOM_UTF8)
        while block:
            following = file.read(2**20)
            try:
                decoder.decode(block, final=not following)
            except UnicodeDecodeError:
                return False
            if b'"' in block:
                text = np.frombuffer(before + block + (following[:1] or b"\n"), np.uint8)
                quotes = np.flatnonzero(text[1:-1] == ord('"')) + 1
                opening, closing_ = quotes[int(inside) :: 2], quotes[int(not inside) :: 2]
                if not (edge[text[opening - 1]].all() and edge[text[closing_ + 1]].all()):
                    return False
                inside ^= len(quotes) % 2 == 1
            before, block = block[-1:], following
    return not inside


def _read_slowly(job: _Job) -> _Body:
    """Read with Python, in its own words for what is wrong."""
    import pyarrow as pa

    names, values, lines, texts = job.header.names, array("d"), array("q"), []
    source = replace(job.source, lines=lines)
    cells = _Cells(job, source, lines)
    with closing(_read_rows(job.path, job.header.delimiter, source.name)) as rows:
        next(rows)  # the header
        for line, row in rows:
            lines.append(line)
            if len(row) != len(names):
                fields = "1 field" if len(row) == 1 else f"{len(row)} fields"
                source.fail(None, len(lines) - 1, f"found {fields}, the header has {len(names)}")
            for j in job.columns:
                if len(lines) == 1 and cells.is_word(row[j]) and not _has_number(rows, j):
                    source.fail_text(names[j], row[j])
                values.append(cells.number(row[j], j, len(lines) - 1))
            if job.label is not None:
                texts.append(row[job.label])
    points = np.array(values).reshape(len(lines), len(job.columns))
    if job.label is None:
        return points, None, FALSE_TRUE
    return points, *text_labels(pa.chunked_array([texts], pa.string()), names[job.label], source)


class _Cells:
    """Reads the numbers of one file, all with a decimal point or all with a decimal comma."""

    def __init__(self, job: _Job, source: Source, lines: Sequence[int]):
        self._names, self._source, self._lines = job.header.names, source, lines
        self._comma_allowed = job.header.delimiter != ","
        self._first: tuple[str, str] | None = None
        """The first cell with a decimal mark: the mark, and the words for the cell."""

    def number(self, cell: str, j: int, row: int) -> float:
        """Return the number in `cell` of column j; one that is missing or infinite only where allowed."""
        value = number(cell)
        mark = "."
        if value is None and self._comma_allowed:
            value, mark = comma_number(cell), ","
        if value is None and self._source.skip and cell.strip() in MISSING:
            return math.nan
        if value is None or not (self._source.skip or math.isfinite(value)):
            self._source.fail(self._names[j], row, not_finite(cell))
        if mark in cell:
            self._check_mark(mark, cell, j, row)
        return value

    def is_word(self, cell: str) -> bool:
        """Return whether `cell` is neither blank nor a number, not even one with a decimal comma."""
        return bool(cell.strip()) and _either_number(cell) is None and not self._may_be_missing(cell)

    def _may_be_missing(self, cell: str) -> bool:
        return self._source.skip and cell.strip() in MISSING

    def _check_mark(self, mark: str, cell: str, j: int, row: int) -> None:
        if self._first is None:
            self._first = mark, f"{shown(cell)} in line {self._lines[row]}"
        elif self._first[0] != mark:
            found = f"found {shown(cell)} after {self._first[1]}: decimals have points or commas, not both"
            self._source.fail(self._names[j], row, found)


def _has_number(rows: Iterator[tuple[int, list[str]]], j: int) -> bool:
    """Return whether column j has a number in any of the rows."""
    return any(j < len(row) and _either_number(row[j]) is not None for _, row in rows)
