"""The demo: train models, measure them, and write figures and report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from toydiffusion import progress
from toydiffusion.distributions import ConcentricSquares, Square
from toydiffusion.errors import InputError
from toydiffusion.files import check_target
from toydiffusion.report import square
from toydiffusion.report.classes import classes
from toydiffusion.report.comparison import schedules, train_schedules
from toydiffusion.report.densities import densities
from toydiffusion.report.experiment import Learned, Part, learn
from toydiffusion.report.page import page, versions, write
from toydiffusion.report.settings import DemoSettings

if TYPE_CHECKING:
    from rich.table import Table


SECTIONS = {
    "forward": "The data and the forward process",
    "training": "Training, and the least possible loss",
    "seeds": "Samples from different seeds",
    "steps": "The reverse process in few and many steps",
    "schedules": "sqrt, linear or exp?",
    "classes": "The conditional model and its borders",
    "densities": "How probable is a point?",
    "fields": "Inside the model",
    "made": "How this report was made",
}
"""The titles of the sections by anchor, in order."""


def demo(
    out: Path, *, seed: int = 0, settings: DemoSettings | None = None, show: bool | None = None
) -> dict[str, Any]:
    """Train models on the squares, compare them with the truth, write a report and return its numbers.

    - `out`: the folder. It will contain `report.html` (one self-contained page), every figure as PNG, the
      animation as GIF, the models in `models/`, and every number of the report in `results.json`.
    - `seed`: an integer >= 0, default 0.
    - `settings`: the sizes. None (default): those of `DemoSettings()`.
    - `show`: whether to show a progress bar. None (default): on a terminal or in a notebook.

    Each file appears complete or not at all. A table of the main results is printed to standard output.

    Raises `InputError` if `out` is not a folder and cannot be created or written to, and for a seed below 0.
    """
    settings = settings or DemoSettings()
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed must be an integer >= 0, got {seed!r}")
    folder = _folder(Path(out))
    for name in ("results.json", "report.html"):
        check_target(folder / name)
    began = monotonic()
    with progress.bar("demo", 12 + 3 * settings.schedule_seeds, show) as move:
        done = -1

        def stage(note: str) -> None:
            nonlocal done
            done += 1
            move(done, note)

        measured, images = _measure(folder, settings, seed, stage)
        stage("writing the report")
        measured["made"] = {
            "seed": seed,
            "settings": asdict(settings),
            "versions": versions(),
            "cores": os.cpu_count() or 1,
            "seconds": round(monotonic() - began, 1),
        }
        # The page is made from the text of the file, so both have the same numbers.
        text = json.dumps(measured, indent=1)
        results: dict[str, Any] = json.loads(text)
        write(folder / "results.json", text + "\n")
        write(folder / "report.html", page("squares.html.j2", results, images, SECTIONS))
        move(done + 1, "done")
    _print(_main_results(results), folder / "report.html")
    return results


def _measure(
    folder: Path, settings: DemoSettings, seed: int, stage: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Run every section, write its models and images, and return the numbers and the images."""
    law = Square()
    results: dict[str, Any] = {}
    images: dict[str, Path] = {}

    def keep(name: str, part: Part) -> None:
        results[name] = part.numbers
        images.update(part.write(folder))

    models = _folder(folder / "models")
    recipes: dict[str, Learned] = {}
    for preset in ("default", "original"):
        stage(f"training, recipe {preset}")
        recipes[preset] = learn(law, preset, points=settings.points, seed=seed, effort=settings.effort)
        recipes[preset].model.save(models / f"square-{preset}.safetensors")
    stage("training, concentric squares")
    concentric = learn(
        ConcentricSquares(),
        "default",
        points=settings.points,
        seed=seed,
        effort=settings.effort,
        schedule="lognormal",
        batch_size=1000,
        labelled=True,
    )
    concentric.model.save(models / "concentric-squares.safetensors")
    scheduled = train_schedules(law, settings, seed=seed, stage=stage)
    for name, own in scheduled.items():
        for learned in own:
            learned.model.save(models / f"schedule-{name}-{learned.seed}.safetensors")

    stage("the forward process")
    keep("forward", square.forward(law, settings, seed=seed))
    stage("training and least possible loss")
    keep("training", square.training(recipes, settings, seed=seed))
    stage("samples from different seeds")
    keep("seeds", square.different_seeds(recipes["default"], settings, seed=seed))
    stage("the reverse process in few and many steps")
    keep("steps", square.steps(recipes, settings, seed=seed))
    stage("the three schedules")
    keep("schedules", schedules(scheduled, settings, seed=seed))
    stage("the conditional model")
    keep("classes", classes(concentric, settings, seed=seed))
    stage("log-densities and the certificate")
    keep("densities", densities(recipes["default"], concentric, settings, seed=seed))
    stage("inside the model")
    keep("fields", square.fields(recipes["default"], settings, seed=seed))
    return results, images


def _folder(out: Path) -> Path:
    """Create the folder, or raise InputError before any long computation."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"cannot write into {str(out)!r}: a part of this path is a file") from error
    except PermissionError as error:
        raise InputError(f"cannot make the folder {str(out)!r}: permission denied") from error
    check_target(out / "any")
    return out


def _main_results(results: dict[str, Any]) -> Table:
    """Return the table of the main results: measure, value, and value of the truth."""
    from rich.table import Table

    table = Table(title="Toy-Diffusion on the squares")
    table.add_column("measured")
    table.add_column("value", justify="right")
    table.add_column("truth", justify="right")
    recipes, seeds, conditional = results["training"]["recipes"], results["seeds"], results["classes"]
    for name, one in recipes.items():
        table.add_row(
            f"{name}: loss at fresh points", f"{one['fresh']['value']:.4f}", f"{one['least']['value']:.4f}"
        )
        table.add_row(f"{name}: KL divergence, nats", f"{one['kl']['value']:.3f}", "0")
    table.add_row(
        f"default: total variation, {seeds['points']:,} points",
        f"{seeds['mean']['total_variation']:.3f}",
        f"{seeds['floor']:.3f}",
    )
    table.add_row("default: share inside the square", f"{seeds['mean']['inside']:.1%}", "100.0%")
    for name, one in results["steps"]["recipes"].items():
        steps, learned, exact = results["steps"]["steps"][-1], one["learned"], one["exact"]
        table.add_row(
            f"{name}: total variation, {steps:,} steps (truth: exact denoiser)",
            f"{learned['total_variation'][-1]:.3f}",
            f"{exact['total_variation'][-1]:.3f}",
        )
    for name, value in results["schedules"]["mean"]["tv"].items():
        std_error = results["schedules"]["std_error"]["tv"][name]
        table.add_row(
            f"schedule {name}: total variation, {results['schedules']['points']:,} points",
            f"{value:.3f} ± {std_error:.3f}",
            f"{results['schedules']['floor']:.3f}",
        )
    table.add_row(
        "conditional: points in their own class", f"{conditional['overall_accuracy']:.1%}", "100.0%"
    )
    density = results["densities"]
    table.add_row(
        "default: mean log-density of fresh points, nats",
        f"{density['mean']['ode']:.3f}",
        f"{density['mean']['exact']:.3f}",
    )
    mass = density["certificate"]["masses"][0]
    table.add_row("default: total mass of the density", f"{mass['value']:.4f} ± {mass['error']:.0e}", "1")
    ordered = density["points"]
    table.add_row(
        "conditional: right class > wrong > outside > far",
        f"{ordered['ordered']} of {ordered['number']}",
        "all",
    )
    table.add_row("conditional: border mass", f"{conditional['border_mass']['value']:.3f}", "1")
    return table


def _print(table: Table, report: Path) -> None:
    from rich.console import Console

    console = Console()
    console.print(table)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
