"""Commands that end in a page to look at: reports, a sweep, the lab, the demo."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from toydiffusion import tables
from toydiffusion.cli.arguments import Cluster, Fdr, Model, OnBad, Table, Workers, executor_of
from toydiffusion.cli.flags import flag
from toydiffusion.cli.help import Command
from toydiffusion.cli.program import app, examples, stop_if_asked, warn
from toydiffusion.errors import printable, shown
from toydiffusion.files import check_target
from toydiffusion.model import load
from toydiffusion.sweeps import read_sweep, run_sweep


@app.command(
    cls=Command, epilog=examples("toydiffusion report model.safetensors points.csv --out report.html")
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
    stop_if_asked()
    table_report(loaded, table, out, held_out=fresh, fdr=fdr, seed=seed)
    source = loaded.fitted.provenance.source_digest
    if source is not None and source != table.digest:
        warn(f"{shown(str(points))} is not the file that the model was fitted to")
    typer.echo(f"wrote {out}")


@app.command(cls=Command, epilog=examples("toydiffusion sweep sweep.toml --out study/"))
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
    grid = read_sweep(config)
    stop_if_asked()
    found = run_sweep(grid, out, executor=executor_of(workers, cluster), progress=None)
    page = out / "report.html"
    if not page.is_file() or page.stat().st_mtime_ns < found.table.stat().st_mtime_ns:
        from toydiffusion.report import sweep_report

        sweep_report(found, page)
    if found.failed:
        first = next(one.error for one in found.cells if one.error is not None)
        warn(f"cells that failed: {found.failed:,}; the first error is {printable(first)}")
    typer.echo(f"computed {found.computed:,} of {len(found.cells):,} cells, wrote {found.table}")


@app.command(
    cls=Command,
    epilog=examples("toydiffusion lab", "toydiffusion lab model.safetensors"),
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
    epilog=examples("toydiffusion export model.safetensors --page model.html"),
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
