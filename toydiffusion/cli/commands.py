"""The commands. Each reads its flags and calls `Diffusion`; `run` returns the exit code."""

from __future__ import annotations

import csv
import functools
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import numpy as np
import typer

from toydiffusion import __version__, tables
from toydiffusion.cli.flags import flag, flags, in_flags
from toydiffusion.cli.help import Command, Program
from toydiffusion.density import TOLERANCE
from toydiffusion.distillation import DistillationWarning, DistillConfig
from toydiffusion.distillation import distill as students_of
from toydiffusion.errors import InputError, nearest, printable, shown, whole_number
from toydiffusion.experts import TableConfig
from toydiffusion.files import check_target, file_digest
from toydiffusion.jobs import (
    Executor,
    Local,
    OnRay,
    Tally,
    WorkerError,
    log_prob_columns,
    log_prob_rows,
    sample_columns,
)
from toydiffusion.jobs import log_prob as log_prob_shards
from toydiffusion.jobs import sample as sample_shards
from toydiffusion.model import PRESETS, Diffusion, load
from toydiffusion.processes import processes
from toydiffusion.solvers import SampleConfig
from toydiffusion.sweeps import read_sweep, run_sweep
from toydiffusion.training import TrainConfig, TrainingError, check_checkpoint
from toydiffusion.views import text_table


def _examples(*lines: str) -> str:
    """Return the end of a help text. The mark at the start keeps its lines as they are."""
    return "\n  ".join(["\b\nExample:" if len(lines) == 1 else "\b\nExamples:", *lines])


app = typer.Typer(
    help="Diffusion models for points in a few dimensions.",
    epilog=_examples(
        "toydiffusion demo",
        "toydiffusion fit points.csv --label-column class --out model.safetensors",
        "toydiffusion sample model.safetensors -n 1000 --label 3 --out new.csv",
        "toydiffusion log-prob model.safetensors points.csv --out log_probs.csv",
        "toydiffusion report model.safetensors points.csv --out report.html",
        "toydiffusion distill model.safetensors --out quick.safetensors",
        "toydiffusion show model.safetensors",
        "toydiffusion lab model.safetensors",
    ),
    cls=Program,
    rich_markup_mode=None,
)

# The base of all usage errors, to which typer gives no public name.
_UsageError: Any = typer.BadParameter.__base__


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (None: the program's own arguments) and return its exit code.

    SIGTERM is taken like Ctrl-C, so that temporary files are removed and checkpoints kept.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _asked.clear()
    handlers = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        command: Any = typer.main.get_command(app)
        if "_TOYDIFFUSION_COMPLETE" in os.environ:  # the shell asks how a word can go on
            command.main(words, "toydiffusion")
        with command.make_context("toydiffusion", words or ["--help"], obj=words) as context:
            try:
                command.invoke(context)
            except InputError as error:
                given = command.commands[context.invoked_subcommand].params
                names = [one.name for one in given if one.param_type_name == "option"]
                raise InputError(in_flags(str(error), names)) from None
        if sys.stdout is not None:  # closed, as by >&-
            sys.stdout.flush()
    except typer.Exit as done:
        return done.exit_code
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 130)
    except _UsageError as error:
        where = "toydiffusion" if error.ctx is None else error.ctx.command_path
        return _fail(f"error: {error.format_message().rstrip('.')} (see {where} --help)", 2)
    except InputError as error:
        return _fail(f"error: {error}", 2)
    except BrokenPipeError:
        # Python flushes standard output once more as it ends, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _fail("error: out of memory", 1)
    except (OSError, TrainingError, WorkerError) as error:
        return _fail(f"error: {error}", 1)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


_asked: list[int] = []
"""The signals that asked to stop. A library may swallow a `KeyboardInterrupt` while it is imported."""


def _interrupt(number: int, frame: object) -> None:
    _asked.append(number)
    raise KeyboardInterrupt


def _stop_if_asked() -> None:
    """Interrupt the command if a signal asked for it, whatever became of the first exception."""
    if _asked:
        raise KeyboardInterrupt


def _warn(message: str) -> None:
    typer.echo(f"toydiffusion: warning: {message}", err=True)


def _fail(message: str, code: int) -> int:
    typer.echo(f"toydiffusion: {printable(' '.join(message.splitlines()))}", err=True)
    return code


# Commands --------------------------------------------------------------------------------------------

Model: TypeAlias = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model file, saved by the command fit.")
]
Table: TypeAlias = Annotated[
    Path, typer.Argument(metavar="POINTS", help="A table of points: .csv, .parquet or .npy.")
]


Fdr: TypeAlias = Annotated[
    float, flag(float, "The share of inliers among the rows selected, on average, at most.")
]
OnBad: TypeAlias = Annotated[
    str,
    flag(
        str,
        "Rows with missing or infinite numbers: raise stops with an error, skip leaves them out.",
        choices=tables.ON_BAD,
    ),
]


_SHARDS = "or a folder of many .parquet files, if it ends in a slash or is one."
Workers: TypeAlias = Annotated[
    int | None,
    flag(
        int,
        "Processes that compute at once, for a folder.",
        default="one for each processor",
    ),
]
Cluster: TypeAlias = Annotated[
    str | None,
    flag(
        str,
        "Compute on Ray, for a folder: local starts it here, HOST:PORT joins a cluster.",
        metavar="ADDRESS",
        default="processes of this machine",
    ),
]
ShardRows: TypeAlias = Annotated[
    int | None,
    flag(int, "Rows in each file, for a folder.", default="about a 64th of all"),
]


_DEVICE = "Where to compute: cpu, cuda (a GPU), cuda:1, or auto, which is a GPU if there is one."


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"toydiffusion {__version__}")
        raise typer.Exit


@app.callback()
def _toydiffusion(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


@app.command(
    cls=Command,
    epilog=_examples("toydiffusion fit points.csv --label-column class --out model.safetensors"),
)
@flags(TrainConfig)
def fit(
    context: typer.Context,
    points: Table,
    out: Annotated[Path, flag(Path, "Where the model goes: a .safetensors file.")],
    settings: dict[str, Any],
    label_column: Annotated[
        str | None, flag(str, "The column of labels. With labels the model also learns each class.")
    ] = None,
    columns: Annotated[
        str | None,
        flag(
            str,
            "The columns of numbers, separated by commas.",
            metavar="NAMES",
            default="all but the label column",
        ),
    ] = None,
    bounds: Annotated[
        str | None,
        flag(
            str,
            "What the values of columns lie between, as NAME=LOW:HIGH, separated by commas. LOW or HIGH may "
            "be left out. Only with --preset table.",
            metavar="BOUNDS",
        ),
    ] = None,
    grid: Annotated[
        str | None,
        flag(
            str,
            "The step to which the values of columns are rounded, as NAME=STEP, separated by commas; 0 for "
            "values that are not rounded. Only with --preset table.",
            metavar="STEPS",
            default="found in the columns",
        ),
    ] = None,
    seed: Annotated[int, flag(int, "Same seed, same model.")] = 0,
    preset: Annotated[
        str,
        flag(
            str,
            "The recipe. Each setting below, if given, replaces that of the recipe. The defaults shown are "
            "those of the recipe default. The recipe table is for tables of numbers, and knows some of them.",
            choices=list(PRESETS),
        ),
    ] = "default",
    resume: Annotated[
        bool, flag(bool, "Go on from the checkpoint of an interrupted run.", "--resume")
    ] = False,
    checkpoint_every: Annotated[float, flag(float, "Seconds from one checkpoint to the next.")] = 30.0,
    compare: Annotated[
        bool,
        flag(
            bool,
            "Compare with a kernel density and a Gaussian mixture, at a fifth of the rows, held out from a "
            "second model. The result is on the card.",
            "--compare",
        ),
    ] = False,
) -> None:
    """Learn the points of a table and save the model.

    Ctrl-C leaves a checkpoint beside the model. The same command with --resume goes on from there. It arrives
    at the same model as a run that was never interrupted.

    POINTS may also be a folder of tables with more rows than fit in memory. Each step takes rows drawn at
    random from all of them.
    """
    _check_model_file(out)
    tables.check_not_same(out, [points])
    checkpoint = out.with_suffix(".checkpoint")
    check_checkpoint(checkpoint)
    recipe = Diffusion(preset=preset)
    known = [field.name for field in fields(recipe.config)]
    for name in settings:
        if name not in known:
            raise InputError(f"{name} is no setting of preset {preset!r}: {nearest(name, known)}")
    config = replace(recipe.config, **settings)
    table: tables.Table | tables.TableFolder
    if points.is_dir():
        table = tables.TableFolder.open(points, columns=_names(columns), label_column=label_column)
    else:
        table = tables.read(points, columns=_names(columns), label_column=label_column)
    if isinstance(config, TableConfig):
        ends = _by_column(bounds, table.names, "--bounds", "NAME=0:1 or NAME=0:", _ends)
        steps = _by_column(grid, table.names, "--grid", "NAME=0.5 or NAME=0", float)
        config = replace(config, bounds=ends, steps_of_grid=steps)
    for option, given in (("--bounds", bounds), ("--grid", grid)):
        if given is not None and not isinstance(config, TableConfig):
            raise InputError(f"{option} needs --preset table")
    model = Diffusion(config, recipe.sampling)
    _stop_if_asked()
    try:
        model.fit_table(
            table,
            seed=seed,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
            compare=compare,
        )
    except KeyboardInterrupt:
        if not checkpoint.exists() or not processes().first:
            raise
        again = shlex.join(["toydiffusion", *context.obj, *([] if resume else ["--resume"])])
        raise KeyboardInterrupt(f"interrupted; to go on, run: {again}") from None
    if not processes().first:
        return
    model.save(out)
    checkpoint.unlink(missing_ok=True)
    _print_card(model)
    if isinstance(table, tables.TableFolder) and model.fitted.provenance.num_points < table.num_rows:
        learned = model.fitted.provenance.num_points
        typer.echo(f"fitted to {learned:,} of {table.num_rows:,} rows, chosen at random")
    typer.echo(f"wrote {out}")


def _check_model_file(out: Path) -> None:
    """Raise InputError unless a model can be written to `out`."""
    if out.suffix != ".safetensors":
        raise InputError(
            f"{shown(str(out))}: a model file ends in '.safetensors', not in {shown(out.suffix)}"
        )
    check_target(out)


_Value = TypeVar("_Value")


def _by_column(
    text: str | None, names: Sequence[str], option: str, like: str, read: Callable[[str], _Value]
) -> tuple[_Value | None, ...] | None:
    """Return what an option says of each column, from words such as `age=0:120,income=0:`, if it is given.

    - `option`: its name, and `like` what its words are like.
    - `read`: from what follows `=` to a value. It raises `ValueError` where it cannot.
    """
    if text is None:
        return None
    found: list[_Value | None] = [None] * len(names)
    for word in _names(text) or []:
        name, equals, value = word.rpartition("=")
        try:
            given = read(value)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(f"{option} must be like {like}, separated by commas, got {shown(word)}")
        if name not in names:
            raise InputError(f"{option}: there is no column {shown(name)}: {nearest(name, names)}")
        found[list(names).index(name)] = given
    return tuple(found)


def _ends(text: str) -> tuple[float | None, float | None]:
    """Return the numbers of `0:1`, `0:` or `:1`."""
    low, high = text.split(":")
    return float(low) if low.strip() else None, float(high) if high.strip() else None


def _names(text: str | None) -> list[str] | None:
    """Return the column names in `text`, a line of CSV."""
    if text is None:
        return None
    try:
        return next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error:
        raise InputError(f"--columns must be names separated by commas, got {shown(text)}") from None


@app.command(
    cls=Command,
    epilog=_examples("toydiffusion sample model.safetensors -n 1000 --label 3 --out new.csv"),
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
    device: Annotated[str, flag(str, _DEVICE)] = "auto",
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
        with _warnings_told():
            made = sample_shards(model, n, out, **how)
        typer.echo(f"wrote {made.rows:,} points to {len(made.shards):,} files in {out}")
        return
    _check_one_file(workers, cluster, shard_rows)
    file = Path(out)
    _check_not_the_source(file, loaded)
    blocks = loaded.sample_blocks(n, device=device, **how)
    names, label_column, classes, whole = sample_columns(loaded)
    with tables.Writer(file, names, label_column, classes, whole=whole, protect=[model]) as writer:
        for points, labels in blocks:
            writer.write(points, labels)
            _stop_if_asked()
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


def _executor(workers: int | None, cluster: str | None) -> Executor:
    """Return what computes pieces of work."""
    return Local(workers) if cluster is None else OnRay(None if cluster == "local" else cluster, workers)


def _bulk(device: str, workers: int | None, cluster: str | None, shard_rows: int | None) -> dict[str, Any]:
    """Return what only a folder of files needs. There `auto` is the CPU, of which each worker has a part."""
    executor = _executor(workers, cluster)
    return {"device": "cpu" if device == "auto" else device, "executor": executor, "shard_rows": shard_rows}


@contextmanager
def _warnings_told() -> Iterator[None]:
    """Print warnings of the block, once it is done, as those of the program."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        yield
    for one in found:
        _warn(str(one.message))


def _check_not_the_source(out: Path, model: Diffusion) -> None:
    """Raise InputError if `out` is the table that the model was fitted to, under any name."""
    source = model.fitted.provenance.source_digest
    if source is not None and out.is_file() and file_digest(out) == source:
        raise InputError(f"{shown(str(out))} is the table that the model was fitted to; give another name")


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
    cls=Command, epilog=_examples("toydiffusion outliers model.safetensors points.csv --out odd.csv")
)
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
    _stop_if_asked()
    _check_not_the_source(out, loaded)
    found = loaded.outliers(table, fdr=fdr)
    columns = ["row", "normality", "p_value", "outlier"]
    whole = ["row", "outlier"]
    with tables.Writer(out, columns, "reason", whole=whole, protect=[model, points]) as writer:
        numbers = [getattr(found, name).astype(np.float64) for name in columns]
        writer.write(np.stack(numbers, axis=1), found.reason)
    typer.echo(f"{int(found.outlier.sum()):,} of {len(found.row):,} rows selected, wrote {out}")


@app.command(
    cls=Command, epilog=_examples("toydiffusion report model.safetensors points.csv --out report.html")
)
def report(
    model: Model,
    points: Table,
    out: Annotated[Path, flag(Path, "Where the report goes: an .html file.")] = Path("report.html"),
    held_out: Annotated[
        Path | None,
        flag(
            Path,
            "Rows that the model has not seen, to judge it by.",
            default="a fifth of POINTS, by a second model fitted to the rest",
        ),
    ] = None,
    label_column: Annotated[
        str | None, flag(str, "The column of labels.", default="that of the model, if it has classes")
    ] = None,
    fdr: Fdr = 0.1,
    on_bad: OnBad = "raise",
    seed: Annotated[int, flag(int, "Same seed, same report.")] = 0,
) -> None:
    """Report on a model of a table, as one page.

    POINTS are the rows that the model was fitted to. The page shows data beside samples, held-out
    log-densities beside baselines, calibration, certificate, copies of training rows, and unusual rows with
    reasons. It is one file, and works without a network.
    """
    from toydiffusion.report import table_report

    loaded = load(model)
    column = label_column if label_column is not None else loaded.label_column
    asked = column if loaded.classes is not None else None

    def read(path: Path) -> tables.Table:
        return tables.read(path, columns=loaded.columns, label_column=asked, on_bad=on_bad)

    table, fresh = read(points), None if held_out is None else read(held_out)
    _stop_if_asked()
    table_report(loaded, table, out, held_out=fresh, fdr=fdr, seed=seed)
    source = loaded.fitted.provenance.source_digest
    if source is not None and source != table.digest:
        _warn(f"{shown(str(points))} is not the file that the model was fitted to")
    typer.echo(f"wrote {out}")


@app.command(
    "log-prob",
    cls=Command,
    epilog=_examples("toydiffusion log-prob model.safetensors points.csv --out log_probs.csv"),
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
    device: Annotated[str, flag(str, _DEVICE)] = "auto",
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
        with _warnings_told():
            made = log_prob_shards(model, points, out, label_column=label_column, on_bad=on_bad, **how)
        _tell(made.rows, made.tally, tolerance, f"{len(made.shards):,} files in {out}")
        return
    file, source = Path(out), points[0]
    table = tables.read(source, columns=loaded.columns, label_column=label_column, on_bad=on_bad)
    _stop_if_asked()
    _check_not_the_source(file, loaded)
    blocks = loaded.log_prob_blocks(table, device=device, **how)
    tally = Tally(skipped=int(table.missing.sum()))
    with tables.Writer(file, log_prob_columns(loaded).names, protect=[model, source]) as writer:
        for rows, _ in log_prob_rows(blocks, tally):
            writer.write(rows)
            _stop_if_asked()
    _tell(len(table.points), tally, tolerance, out)


def _tell(rows: int, tally: Tally, tolerance: float | None, where: str) -> None:
    """Say where log-densities went, and which of them are not as good as asked for."""
    if tally.missed:
        asked = TOLERANCE if tolerance is None else tolerance
        found = f"{tally.missed:,}; largest error {tally.worst:.2g} nats"
        _warn(f"points that missed the tolerance of {asked:g}: {found}")
    beside = f", {tally.skipped:,} of them empty" if tally.skipped else ""
    typer.echo(f"wrote the log-densities of {rows:,} points to {where}{beside}")


@app.command(cls=Command, epilog=_examples("toydiffusion sweep sweep.toml --out study/"))
def sweep(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The grid: a .toml file.")],
    out: Annotated[Path, flag(Path, "The folder of the results.", metavar="FOLDER")],
    workers: Workers = None,
    cluster: Cluster = None,
) -> None:
    """Compute a grid of settings, each cell held against the exact law.

    The grid is a file such as

    \b
    law = ["square", "spiral"]
    points = [300, 1000]
    seeds = 10
    [train]
    schedule = ["linear", "cosine"]
    [sample]
    steps = [1, 3, 5, 10, 100]
    solver = ["euler", "heun"]

    [train] takes the settings of fit, [sample] those of sample. A model is trained once, and shared by the
    cells that sample from it. Results are in results.csv and report.html. The same command again computes
    only cells that are missing or failed.
    """
    from toydiffusion.report import sweep_report

    grid = read_sweep(config)
    _stop_if_asked()
    found = run_sweep(grid, out, executor=_executor(workers, cluster), progress=None)
    sweep_report(found, out / "report.html")
    if found.failed:
        first = next(one.error for one in found.cells if one.error is not None)
        _warn(f"cells that failed: {found.failed:,}; the first error is {printable(first)}")
    typer.echo(f"computed {found.computed:,} of {len(found.cells):,} cells, wrote {found.table}")


@app.command("score", cls=Command, hidden=True, help="The old name of log-prob.")
@functools.wraps(log_prob)
def _score(**given: Any) -> None:
    _warn("the command score is now called log-prob; score will go")
    log_prob(**given)


@app.command(
    cls=Command,
    epilog=_examples("toydiffusion distill model.safetensors --out quick.safetensors"),
)
@flags(DistillConfig)
def distill(
    model: Model,
    out: Annotated[Path, flag(Path, "Where the distilled model goes: a .safetensors file.")],
    settings: dict[str, Any],
    seed: Annotated[int, flag(int, "Same seed, same students.")] = 0,
    device: Annotated[str, flag(str, _DEVICE)] = "auto",
) -> None:
    """Train students of a model, which answer in one call.

    They are saved with the model. The commands sample and log-prob then use them: log-densities are more than
    a hundred times faster, with error bars that hold for 99 % of points, and samples several times. The card
    says how near they come to the model, measured on fresh points. Points far from the training points are
    still answered by the model.
    """
    _check_model_file(out)
    loaded = load(model)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", DistillationWarning)
        distilled = students_of(loaded, DistillConfig(**settings), seed=seed, device=device)
    _stop_if_asked()
    for one in found:
        _warn(str(one.message))
    distilled.save(out)
    _print_card(distilled)
    typer.echo(f"wrote {out}")


@app.command(cls=Command)
def show(model: Model) -> None:
    """Show what a model was fitted to, and how."""
    _print_card(load(model))


def _print_card(model: Diffusion) -> None:
    typer.echo(text_table([(name, printable(value)) for name, value in model.card()]))


@app.command(
    cls=Command,
    epilog=_examples("toydiffusion lab", "toydiffusion lab model.safetensors"),
)
def lab(
    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help="A model of two columns to open in the page.")
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser, if there is one.")
    ] = True,
) -> None:
    """Open the interactive page in the browser.

    There a model is trained, sampled and scored step by step. The page is served on this machine only, until
    Ctrl-C. It sends nothing anywhere.
    """
    from toydiffusion import lab as pages

    with pages.Server(pages.page(model)) as server:
        typer.echo(f"the lab is at {server.url} (Ctrl-C ends it)")
        if browser:
            _open_browser(server.url)
        try:
            server.run()
        except KeyboardInterrupt:
            typer.echo("the lab is closed")


def _open_browser(url: str) -> None:
    """Open a page where there is a screen. A browser in the terminal would take it over."""
    import webbrowser

    if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)


@app.command(
    cls=Command,
    epilog=_examples("toydiffusion export model.safetensors --page model.html"),
)
def export(
    model: Model,
    page: Annotated[Path, flag(Path, "Where the page goes: an .html file.")],
) -> None:
    """Write the interactive page with a model inside.

    The page is one file. It works from disk, without a network.
    """
    from toydiffusion import lab as pages

    check_target(page)
    pages.export(model, page)
    typer.echo(f"wrote {page}")


@app.command(cls=Command)
def demo(
    out: Annotated[Path, flag(Path, "The folder for the report.", metavar="FOLDER")] = Path("demo"),
    seed: Annotated[int, flag(int, "Same seed, same report.")] = 0,
) -> None:
    """Fit the squares, compare with the exact answer, and report."""
    from toydiffusion import report

    report.demo(out, seed=seed)
