"""What a shard computes: rows of a sample, or log-densities of rows of a file."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from toydiffusion import tables
from toydiffusion.errors import InputError, shown
from toydiffusion.jobs.job import Job, Shard
from toydiffusion.model import Block, Densities, Diffusion
from toydiffusion.solvers import SampleConfig
from toydiffusion.tables import Table
from toydiffusion.types import LabelArray


class Columns(NamedTuple):
    """The columns of a table that is written; see `tables.Writer`."""

    names: tuple[str, ...]
    label_column: str | None = None
    classes: LabelArray | None = None
    whole: tuple[str, ...] = ()


@dataclass
class Tally:
    """What is to be said about rows that were scored.

    - `skipped`: those with missing numbers.
    - `missed`: those whose error bar is wider than asked for, and `worst` the widest of these, in nats.
    """

    skipped: int = 0
    missed: int = 0
    worst: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.skipped + other.skipped, self.missed + other.missed, max(self.worst, other.worst))


@dataclass(frozen=True)
class Work:
    """The rows of one shard, made as they are asked for.

    - `columns`: what they are called.
    - `rows`: the rows, block by block.
    - `tally`: what is to be said about the rows made so far.
    """

    columns: Columns
    rows: Iterator[Block]
    tally: Tally = field(default_factory=Tally)


class Operation(Protocol):
    """From a model, a job and a shard to the rows of the shard."""

    def __call__(self, model: Diffusion, job: Job, shard: Shard) -> Work:
        """Return the work of this shard."""
        ...


def sampled(model: Diffusion, job: Job, shard: Shard) -> Work:
    """Return rows of a sample."""
    settings = job.settings
    blocks = model.sample_blocks(
        len(shard.rows),
        settings["label"],
        sampling=None if settings["sampling"] is None else SampleConfig(**settings["sampling"]),
        seed=settings["seed"],
        first_row=settings["first_row"] + shard.rows.start,
        batch_size=settings["batch_size"],
        device=settings["device"],
    )
    return Work(sample_columns(model), blocks)


def scored(model: Diffusion, job: Job, shard: Shard) -> Work:
    """Return log-densities of rows of a file."""
    assert shard.source is not None
    source = job.inputs[shard.source]
    settings = job.settings
    table = _table(source.path, source.size, shard.own, model, settings)
    tally = Tally()
    blocks = model.log_prob_blocks(
        table,
        settings["label"],
        tolerance=settings["tolerance"],
        first_row=shard.rows.start,
        batch_size=settings["batch_size"],
        device=settings["device"],
    )
    tally.skipped = int(table.missing.sum())
    return Work(log_prob_columns(model), log_prob_rows(blocks, tally), tally)


OPERATIONS: Mapping[str, Operation] = {"sample": sampled, "log-prob": scored}
"""The operations of jobs, by name."""


def sample_columns(model: Diffusion) -> Columns:
    """Return the columns of a sample."""
    codec = model.fitted.codec
    return Columns(codec.names, codec.label_name, codec.classes, codec.whole)


def log_prob_columns(model: Diffusion) -> Columns:
    """Return the columns of log-densities: value, error, and the probability of each class."""
    classes = [] if model.classes is None else tables.label_words(model.classes)
    return Columns(("log_density", "log_density_total_error", *(f"p_{word}" for word in classes)))


def log_prob_rows(blocks: Iterable[Densities], tally: Tally) -> Iterator[Block]:
    """Yield the rows of log-densities, and count in `tally` those that missed their tolerance."""
    for density, probabilities in blocks:
        parts = [density.value[:, None], density.total_error[:, None]]
        parts += [] if probabilities is None else [probabilities]
        yield Block(np.concatenate(parts, axis=1), None)
        tally.missed += int((~density.met).sum())
        tally.worst = max(tally.worst, float(density.error[~density.met].max(initial=0.0)))


def _table(path: str, size: int, own: range, model: Diffusion, settings: Mapping[str, Any]) -> Table:
    """Return rows of an input. One that can only be read whole is kept for the next shard."""
    if not os.path.isfile(path) or os.path.getsize(path) != size:
        raise InputError(f"{shown(path)} is gone or has changed since the job began")
    columns, label_column, on_bad = model.columns, settings["label_column"], settings["on_bad"]
    if tables.check_suffix(path) == ".parquet":
        return tables.read(path, columns=columns, label_column=label_column, on_bad=on_bad, rows=own)
    whole = _whole(path, columns, label_column, on_bad)
    return whole.rows(own)


@functools.lru_cache(maxsize=1)
def _whole(path: str, columns: tuple[str, ...] | None, label_column: str | None, on_bad: str) -> Table:
    return tables.read(path, columns=columns, label_column=label_column, on_bad=on_bad)
