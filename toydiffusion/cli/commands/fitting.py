"""Commands that make a model, and show what it is."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from toydiffusion import tables
from toydiffusion.cli.arguments import DEVICE, Model, Table, check_model_file
from toydiffusion.cli.flags import flag, flags
from toydiffusion.cli.help import Command
from toydiffusion.cli.program import app, examples, stop_if_asked, warnings_told
from toydiffusion.distillation import DistillConfig
from toydiffusion.distillation import distill as students_of
from toydiffusion.errors import InputError, nearest, printable, shown
from toydiffusion.experts import TableConfig
from toydiffusion.model import PRESETS, Diffusion, load
from toydiffusion.processes import processes
from toydiffusion.training import TrainConfig, check_checkpoint
from toydiffusion.views import text_table


@app.command(
    cls=Command,
    epilog=examples("toydiffusion fit points.csv --label-column class --out model.safetensors"),
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
    check_model_file(out)
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
    stop_if_asked()
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
    epilog=examples("toydiffusion distill model.safetensors --out quick.safetensors"),
)
@flags(DistillConfig)
def distill(
    model: Model,
    out: Annotated[Path, flag(Path, "Where the distilled model goes: a .safetensors file.")],
    settings: dict[str, Any],
    seed: Annotated[int, flag(int, "Same seed, same students.")] = 0,
    device: Annotated[str, flag(str, DEVICE)] = "auto",
) -> None:
    """Train students of a model, which answer in one call.

    They are saved with the model. The commands sample and log-prob then use them: log-densities are more than
    a hundred times faster, with error bars that hold for 99 % of points, and samples several times. The card
    says how near they come to the model, measured on fresh points. Points far from the training points are
    still answered by the model.
    """
    check_model_file(out)
    loaded = load(model)
    with warnings_told():
        distilled = students_of(loaded, DistillConfig(**settings), seed=seed, device=device)
    stop_if_asked()
    distilled.save(out)
    _print_card(distilled)
    typer.echo(f"wrote {out}")


@app.command(cls=Command)
def show(model: Model) -> None:
    """Show what a model was fitted to, and how."""
    _print_card(load(model))


def _print_card(model: Diffusion) -> None:
    typer.echo(text_table([(name, printable(value)) for name, value in model.card()]))
