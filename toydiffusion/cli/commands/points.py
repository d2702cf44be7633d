"""Commands that draw points and judge points, into tables."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from toydiffusion import tables
from toydiffusion.cli.arguments import (
    DEVICE,
    Cluster,
    Fdr,
    Model,
    OnBad,
    ShardRows,
    Table,
    Workers,
    check_not_the_source,
    executor_of,
)
from toydiffusion.cli.flags import flag, flags
from toydiffusion.cli.help import Command
from toydiffusion.cli.program import app, examples, stop_if_asked, warn, warnings_told
from toydiffusion.density import TOLERANCE
from toydiffusion.errors import InputError, nearest, shown, whole_number
from toydiffusion.files import check_target
from toydiffusion.jobs import Tally, log_prob_columns, log_prob_rows, sample_columns
from toydiffusion.jobs import log_prob as log_prob_shards
from toydiffusion.jobs import sample as sample_shards
from toydiffusion.model import Diffusion, load
from toydiffusion.solvers import SampleConfig

_SHARDS = "or a folder of many .parquet files, if it ends in a slash or is one."


@app.command(
    cls=Command,
    epilog=examples("toydiffusion sample model.safetensors -n 1000 --label 3 --out new.csv"),
)
@flags(SampleConfig, "Settings, instead of the model's own (defaults shown: of the recipe default)")
def sample(
    model: Model,
    n: Annotated[int, flag(int, "How many points.", "-n")],
    out: Annotated[str, flag(str, f"Where the points go: .csv, .parquet or .npy, {_SHARDS}", metavar="FILE")],
    settings: dict[str, Any],
    label: Annotated[
        str | None,
        flag(str, "One class, for all points.", metavar="CLASS", default="as frequent as in training"),
    ] = None,
    seed: Annotated[int, flag(int, "Same seed, same points.")] = 0,
    first_row: Annotated[
        int, flag(int, "The number of the first row, in the endless sample of the seed.")
    ] = 0,
    batch_size: Annotated[int, flag(int, "Points in memory at once.")] = 8192,
    device: Annotated[str, flag(str, DEVICE)] = "auto",
    workers: Workers = None,
    cluster: Cluster = None,
    shard_rows: ShardRows = None,
) -> None:
    """Sample new points from a model into a table.

    The columns are called as in training. A model with labels adds a column of labels. The points are written
    in blocks, so any number of them fits in memory.

    A folder gets many files, part-000000.parquet and so on. The same command again skips those that are
    finished, so it goes on after a kill, with any number of workers.
    """
    loaded = load(model)
    n = whole_number("-n", n, 1)
    how: dict[str, Any] = {
        "label": None if label is None else _class_called(label, loaded, model),
        "sampling": replace(loaded.sampling, **settings) if settings else None,
        "seed": seed,
        "first_row": first_row,
        "batch_size": batch_size,
        "progress": None,
    }
    if _is_folder(out):
        how |= _bulk(device, workers, cluster, shard_rows)
        with warnings_told():
            made = sample_shards(model, n, out, **how)
        typer.echo(f"wrote {made.rows:,} points to {len(made.shards):,} files in {out}")
        return
    _check_one_file(workers, cluster, shard_rows)
    file = Path(out)
    check_not_the_source(file, loaded)
    blocks = loaded.sample_blocks(n, device=device, **how)
    names, label_column, classes, whole = sample_columns(loaded)
    with tables.Writer(file, names, label_column, classes, whole=whole, protect=[model]) as writer:
        for points, labels in blocks:
            writer.write(points, labels)
            stop_if_asked()
    typer.echo(f"wrote {n:,} points to {out}")


def _is_folder(out: str) -> bool:
    """Whether shards are asked for: a place that ends in a slash, a folder that exists, or a URI.

    A folder called like a table is more likely a mistake.
    """
    folder = os.path.isdir(out) and Path(out).suffix.lower() not in tables.SUFFIXES
    return out.endswith(("/", os.sep)) or "://" in out or folder


def _check_one_file(workers: int | None, cluster: str | None, shard_rows: int | None) -> None:
    """Raise `InputError` for options that only a folder has a use for."""
    for option, given in (("--workers", workers), ("--cluster", cluster), ("--shard-rows", shard_rows)):
        if given is not None:
            raise InputError(f"{option} needs a folder of files: end --out in a slash")


def _bulk(device: str, workers: int | None, cluster: str | None, shard_rows: int | None) -> dict[str, Any]:
    """Return what only a folder of files needs. There `auto` is the CPU, of which each worker has a part."""
    executor = executor_of(workers, cluster)
    return {"device": "cpu" if device == "auto" else device, "executor": executor, "shard_rows": shard_rows}


def _class_called(text: str, model: Diffusion, path: Path) -> Any:
    """Return the class that is written `text` in a file; True is also found as "True"."""
    words = _class_words(model)
    if not words:
        raise InputError(
            f"{shown(str(path))} was fitted without labels, so --label {shown(text)} cannot be asked for"
        )
    word = text.lower() if words.keys() <= {"true", "false"} else text
    if word not in words:
        raise InputError(f"{shown(str(path))} has no class {shown(text)}: {nearest(text, list(words))}")
    return words[word]


def _class_words(model: Diffusion) -> dict[str, Any]:
    """Return the classes by how they are written; there are none in a model without labels."""
    return {} if model.classes is None else tables.label_words(model.classes)


@app.command(
    "log-prob",
    cls=Command,
    epilog=examples("toydiffusion log-prob model.safetensors points.csv --out log_probs.csv"),
)
def log_prob(
    model: Model,
    points: Annotated[
        list[Path],
        typer.Argument(
            metavar="POINTS",
            help="A table of points: .csv, .parquet or .npy. With a folder as --out also several, or "
            "folders.",
        ),
    ],
    out: Annotated[
        str, flag(str, f"Where the log-densities go: .csv, .parquet or .npy, {_SHARDS}", metavar="FILE")
    ],
    label: Annotated[
        str | None,
        flag(
            str,
            "Log-densities under this class, for all points.",
            metavar="CLASS",
            default="of all classes, as frequent as in training",
        ),
    ] = None,
    label_column: Annotated[
        str | None, flag(str, "The points' own labels: log-densities under each point's own class.")
    ] = None,
    on_bad: Annotated[
        str,
        flag(
            str,
            "Rows with missing or infinite numbers: raise stops with an error, skip leaves them empty.",
            choices=tables.ON_BAD,
        ),
    ] = "raise",
    tolerance: Annotated[
        float | None,
        flag(
            float,
            "The error bar asked for, in nats. The student of a distilled model answers where its bar is "
            "within it.",
            default=f"{TOLERANCE:g}; of a distilled model, what its student gives",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, flag(int, "Points computed at once.", default="8192 in two columns, fewer in more")
    ] = None,
    device: Annotated[str, flag(str, DEVICE)] = "auto",
    workers: Workers = None,
    cluster: Cluster = None,
    shard_rows: ShardRows = None,
) -> None:
    """Compute log-densities with error bars, and class probabilities.

    The table has a row for each point, and these columns:

    \b
    log_density              in nats, of the learned law smoothed at sigma_min
    log_density_total_error  its numerical error plus the mismatch of the prior
    p_<class>                for each class of a model with labels

    A row skipped with --on-bad skip stays in place, and is empty.
    """
    if label is not None and label_column is not None:
        raise InputError("--label asks for one class for all points, --label-column for their own; give one")
    folder = _is_folder(out)
    if not folder:
        _check_one_file(workers, cluster, shard_rows)
        if len(points) != 1 or points[0].is_dir():
            raise InputError(
                "a folder, or more than one table, needs a folder for the answers: end --out in a slash"
            )
        tables.check_suffix(out)
        check_target(out)
    loaded = load(model)
    how: dict[str, Any] = {
        "label": None if label is None else _class_called(label, loaded, model),
        "tolerance": tolerance,
        "batch_size": batch_size,
        "progress": None,
    }
    if folder:
        how |= _bulk(device, workers, cluster, shard_rows)
        with warnings_told():
            made = log_prob_shards(model, points, out, label_column=label_column, on_bad=on_bad, **how)
        _tell(made.rows, made.tally, tolerance, f"{len(made.shards):,} files in {out}")
        return
    file, source = Path(out), points[0]
    table = tables.read(source, columns=loaded.columns, label_column=label_column, on_bad=on_bad)
    stop_if_asked()
    check_not_the_source(file, loaded)
    blocks = loaded.log_prob_blocks(table, device=device, **how)
    tally = Tally(skipped=int(table.missing.sum()))
    with tables.Writer(file, log_prob_columns(loaded).names, protect=[model, source]) as writer:
        for rows, _ in log_prob_rows(blocks, tally):
            writer.write(rows)
            stop_if_asked()
    _tell(len(table.points), tally, tolerance, out)


def _tell(rows: int, tally: Tally, tolerance: float | None, where: str) -> None:
    """Say where log-densities went, and which of them are not as good as asked for."""
    if tally.missed:
        asked = TOLERANCE if tolerance is None else tolerance
        found = f"{tally.missed:,}; largest error {tally.worst:.2g} nats"
        warn(f"points that missed the tolerance of {asked:g}: {found}")
    beside = f", {tally.skipped:,} of them empty" if tally.skipped else ""
    typer.echo(f"wrote the log-densities of {rows:,} points to {where}{beside}")


@app.command("score", cls=Command, hidden=True, help="The old name of log-prob.")
@functools.wraps(log_prob)
def _score(**given: Any) -> None:
    warn("the command score is now called log-prob; score will go")
    log_prob(**given)


@app.command(cls=Command, epilog=examples("toydiffusion outliers model.safetensors points.csv --out odd.csv"))
def outliers(
    model: Model,
    points: Table,
    out: Annotated[Path, flag(Path, "Where the rows go: .csv or .parquet.")],
    fdr: Fdr = 0.1,
    on_bad: OnBad = "raise",
) -> None:
    """Find unusual rows, with p-values and reasons.

    It needs a model fitted with --preset table. The rows come the oddest first, with these columns:

    \b
    row        its number in the table, counted from 1
    normality  log-density of the standardised row, at a little noise
    p_value    conformal: the share of inliers that are as odd
    outlier    1 if the row is selected at --fdr, else 0
    reason     the columns that do not fit the others, with the usual range
    """
    if tables.check_suffix(out) == ".npy":
        raise InputError(f"{shown(str(out))}: a .npy file cannot hold the reasons, which are text; use .csv")
    check_target(out)
    loaded = load(model)
    table = tables.read(points, columns=loaded.columns, on_bad=on_bad)
    stop_if_asked()
    check_not_the_source(out, loaded)
    found = loaded.outliers(table, fdr=fdr)
    columns = ["row", "normality", "p_value", "outlier"]
    whole = ["row", "outlier"]
    with tables.Writer(out, columns, "reason", whole=whole, protect=[model, points]) as writer:
        numbers = [getattr(found, name).astype(np.float64) for name in columns]
        writer.write(np.stack(numbers, axis=1), found.reason)
    typer.echo(f"{int(found.outlier.sum()):,} of {len(found.row):,} rows selected, wrote {out}")
