"""A job as a value: everything that decides the bytes of its files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from toydiffusion import tables
from toydiffusion.errors import InputError, shown, whole_number
from toydiffusion.files import file_digest

MOST_SHARDS = 999_999
_STEP = 8192
_FEW, _MANY = 64, 2**20
"""A job has about 64 shards, of whole steps of rows, and none of more than 1,048,576."""


@dataclass(frozen=True)
class Input:
    """A file of rows.

    - `path`: where it is; not part of the identity of a job.
    - `rows`, `size`, `digest`: its rows, its bytes and their SHA-256.
    """

    path: str
    rows: int
    size: int
    digest: str


@dataclass(frozen=True)
class Shard:
    """Rows that become one file.

    - `number`: counted from 0.
    - `rows`: their numbers among all rows of the job.
    - `source`, `own`: which input they come from and which of its rows they are; None and `rows` without
      inputs.
    """

    number: int
    rows: range
    source: int | None
    own: range

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"part-{self.number:06d}.parquet"

    @property
    def record(self) -> str:
        """The name of the file that says that the shard is finished."""
        return f"_part-{self.number:06d}.json"


@dataclass(frozen=True)
class Job:
    """An operation of a model on rows, cut into shards. A shard depends on the job and its rows alone.

    - `operation`: a name in `OPERATIONS`.
    - `model`: the model file, and `model_digest` its SHA-256.
    - `rows`: how many there are.
    - `shard_rows`: the rows in a shard, but for the last of each input.
    - `settings`: those of the operation, as JSON has them.
    - `inputs`: the files of rows, in order; none for an operation that makes rows.
    """

    operation: str
    model: str
    model_digest: str
    rows: int
    shard_rows: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Input, ...] = ()

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All shards, in order. None crosses from one input to the next."""
        sources: list[tuple[int | None, int]] = [(k, one.rows) for k, one in enumerate(self.inputs)]
        sources = sources or [(None, self.rows)]
        count = sum(-(-rows // self.shard_rows) for _, rows in sources)
        if count > MOST_SHARDS:
            raise InputError(f"{count:,} shards, at most {MOST_SHARDS:,} are possible; make them larger")
        found: list[Shard] = []
        first = 0
        for source, rows in sources:
            for start in range(0, rows, self.shard_rows):
                own = range(start, min(start + self.shard_rows, rows))
                found.append(Shard(len(found), range(first + own.start, first + own.stop), source, own))
            first += rows
        return tuple(found)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the bytes of the files, as JSON has it: everything but the places of files."""
        return {
            "operation": self.operation,
            "model": self.model_digest,
            "rows": self.rows,
            "rows of a shard": self.shard_rows,
            "input files": [[one.rows, one.digest] for one in self.inputs],
            **self.settings,
        }

    def as_json(self) -> dict[str, Any]:
        """Return the job as JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Job:
        """Return the job that `as_json` gave."""
        return cls(**{**found, "inputs": tuple(Input(**one) for one in found["inputs"])})


def rows_of_a_shard(rows: int, most: int = _MANY) -> int:
    """Return how many rows a shard has. It depends on the rows alone, so that other workers can go on.

    >>> rows_of_a_shard(1000), rows_of_a_shard(10**7), rows_of_a_shard(10**9)
    (8192, 163840, 1048576)
    """
    steps = -(-rows // (_FEW * _STEP))
    return max(_STEP, min(steps * _STEP, most))


def model_of(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the whole path of a model file and the digest of its bytes."""
    if not os.path.isfile(path):
        raise InputError(f"there is no model file {shown(os.fspath(path))}")
    return os.path.abspath(path), file_digest(path)


def inputs_of(
    paths: Iterable[str | os.PathLike[str]], columns: Sequence[str] | None, label_column: str | None
) -> tuple[Input, ...]:
    """Return the files of rows that `tables.files_of` finds; what to read of them is as in `tables.read`."""
    found = []
    for path in tables.files_of(paths):
        rows = tables.count_rows(path, columns=columns, label_column=label_column)
        found.append(Input(os.path.abspath(path), rows, path.stat().st_size, file_digest(path)))
    return tuple(found)


def checked_shard_rows(given: int | None, rows: int, most: int = _MANY) -> int:
    """Return the rows of a shard: what the user asked for, or what suits so many rows."""
    return rows_of_a_shard(rows, most) if given is None else whole_number("shard_rows", given, 1)
