"""Reading `.csv`: Arrow where all is well; where it is not, a slow second look that decides and explains."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from toydiffusion.errors import InputError
from toydiffusion.tables.columns import (
    Labels,
    Points,
    Source,
    check_finite,
    has_decimal_comma,
    not_finite,
    number,
    text_labels,
)
from toydiffusion.tables.table import Table, check_names, plan


def read_csv(path: Path, columns: Sequence[str] | None, label_column: str | None, source: Source) -> Table:
    """Read the columns; the header gives names and delimiter (comma, semicolon or tab)."""
    import pyarrow as pa

    header = _read_header(path, source.name)
    names, chosen, label = plan(header.names, columns, label_column, source.name)
    job = _Job(path, header, chosen, label, source)
    try:
        points, labels = _read_fast(job)
    except (pa.ArrowInvalid, InputError):
        points, labels = _read_slowly(job)
    return Table(points, names, labels, label_column, source.name)


@dataclass(frozen=True)
class _Header:
    names: list[str]
    delimiter: str
    lines: int


@dataclass(frozen=True)
class _Job:
    path: Path
    header: _Header
    columns: list[int]
    label: int | None
    source: Source


def _read_rows(path: Path, delimiter: str, source: str) -> Generator[tuple[int, list[str]], None, None]:
    """Yield the rows that are not blank, header included, each with the number of its last line."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(_check_lines(file, source), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if row and not (len(row) == 1 and row[0].isspace()):
                    yield reader.line_num, row
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
    """Return the header under the delimiter that gives most names."""
    best, failure = _Header([], ",", 0), InputError(f"{source} has no header line")
    for delimiter in (",", ";", "\t"):
        with closing(_read_rows(path, delimiter, source)) as rows:
            try:
                lines, row = next(rows, (0, []))
            except InputError as error:  # perhaps a quoted name that ends at another delimiter
                failure = error
                continue
        if len(row) > len(best.names):
            best = _Header([name.strip() for name in row], delimiter, lines)
    if not best.names:
        raise failure
    values = [number(name) for name in best.names]
    decimal = [
        v is not None and math.isfinite(v) and not n.isdigit()
        for v, n in zip(values, best.names, strict=True)
    ]
    if None not in values or any(decimal):
        first = best.names[decimal.index(True) if any(decimal) else 0]
        raise InputError(
            f"{source}, line {best.lines}: found the number {first!r} where a column name is needed; "
            "a CSV file begins with a header line such as x0,x1"
        )
    check_names(best.names, source)
    return best


def _read_fast(job: _Job) -> tuple[Points, Labels | None]:
    """Read with Arrow, naming columns by position; any doubt is an error."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    names = [str(j) for j in range(len(job.header.names))]
    types = {str(j): pa.float64() for j in job.columns}
    if job.label is not None:
        types[str(job.label)] = pa.string()
    table = pa_csv.read_csv(
        job.path,
        read_options=pa_csv.ReadOptions(column_names=names, skip_rows=job.header.lines),
        parse_options=pa_csv.ParseOptions(delimiter=job.header.delimiter, newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=_MISSING if job.source.skip else []
        ),
    )
    points = np.empty((table.num_rows, len(job.columns)))
    for j, column in enumerate(job.columns):
        points[:, j] = table[str(column)].to_numpy()
    source = job.source
    if _may_span_lines(job.path, table.num_rows + job.header.lines):
        raise InputError(f"{source.name}: a quoted cell may span lines")
    check_finite(points, [job.header.names[j] for j in job.columns], source)
    if job.label is None:
        return points, None
    return points, text_labels(table[str(job.label)], job.header.names[job.label], source)


_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
"""How a missing number is written, where rows that have one are skipped; other words are errors."""


def _may_span_lines(path: Path, rows: int) -> bool:
    """Return whether a quoted cell may hold line ends: a quote never closed would swallow rows in silence."""
    quotes, lines, block = False, 0, b""
    with path.open("rb") as file:
        while following := file.read(2**20):
            block = following
            quotes = quotes or b'"' in block
            lines += block.count(b"\n")
    return quotes and lines + (not block.endswith(b"\n")) != rows


def _read_slowly(job: _Job) -> tuple[Points, Labels | None]:
    """Read with Python, in its own words for what is wrong."""
    import pyarrow as pa

    names, values, lines, texts = job.header.names, array("d"), array("q"), []
    source = replace(job.source, lines=lines)
    with closing(_read_rows(job.path, job.header.delimiter, source.name)) as rows:
        next(rows)  # the header
        for line, row in rows:
            lines.append(line)
            if len(row) != len(names):
                fields = "1 field" if len(row) == 1 else f"{len(row)} fields"
                source.fail(None, len(lines) - 1, f"found {fields}, the header has {len(names)}")
            for j in job.columns:
                value = number(row[j])
                if source.skip and (value is not None or row[j].strip() in _MISSING):
                    values.append(math.nan if value is None else value)
                    continue
                if value is None and len(lines) == 1 and _is_text(row[j], rows, j):
                    source.fail_text(names[j], row[j])
                if value is None or not math.isfinite(value):
                    source.fail(names[j], len(lines) - 1, not_finite(row[j]))
                values.append(value)
            if job.label is not None:
                texts.append(row[job.label])
    points = np.array(values).reshape(len(lines), len(job.columns))
    if job.label is None:
        return points, None
    return points, text_labels(pa.chunked_array([texts], pa.string()), names[job.label], source)


def _is_text(cell: str, later: Iterator[tuple[int, list[str]]], j: int) -> bool:
    """Return whether column j is all words: `cell`, not a number, is its first, and no later row has one."""
    if not cell.strip() or has_decimal_comma(cell):
        return False
    return not any(j < len(row) and number(row[j]) is not None for _, row in later)
