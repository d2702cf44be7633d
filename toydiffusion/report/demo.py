"""The demo: train, measure, draw, write."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from toydiffusion import progress
from toydiffusion.distributions import ConcentricSquares, Square
from toydiffusion.errors import InputError
from toydiffusion.files import check_target, replacing
from toydiffusion.report import square
from toydiffusion.report.classes import classes
from toydiffusion.report.comparison import schedules, train_schedules
from toydiffusion.report.densities import densities
from toydiffusion.report.experiment import Learned, Part, learn
from toydiffusion.report.page import page
from toydiffusion.report.settings import DemoSettings

if TYPE_CHECKING:
    from rich.table import Table


def demo(
    out: Path, *, seed: int = 0, settings: DemoSettings | None = None, show: bool | None = None
) -> dict[str, Any]:
    """Train on the squares, measure against the truth and write it all into the folder `out`.

    There: `report.html` (one page, everything in it), every figure as PNG, the animation as GIF, `models/`,
    and `results.json` with every number of the report, which is also returned. Each file appears whole or not
    at all. `show` None draws progress where someone watches; the closing table goes to standard output.

    Raises `InputError` if `out` cannot be a folder that is written to, and for a seed below 0.
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
            "versions": _versions(),
            "cores": os.cpu_count() or 1,
            "seconds": round(monotonic() - began, 1),
        }
        # Read back what is written: the page then says what the file says.
        text = json.dumps(measured, indent=1)
        results: dict[str, Any] = json.loads(text)
        _write(folder / "results.json", text + "\n")
        _write(folder / "report.html", page(results, images))
        move(done + 1, "done")
    _print(_headlines(results), folder / "report.html")
    return results


def _measure(
    folder: Path, settings: DemoSettings, seed: int, stage: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Run every section in turn; write its models and images as they come; return numbers and images."""
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
    rings = learn(
        ConcentricSquares(),
        "default",
        points=settings.points,
        seed=seed,
        effort=settings.effort,
        schedule="lognormal",
        batch_size=1000,
        labelled=True,
    )
    rings.model.save(models / "concentric-squares.safetensors")
    scheduled = train_schedules(law, settings, seed=seed, stage=stage)
    for name, own in scheduled.items():
        for learned in own:
            learned.model.save(models / f"schedule-{name}-{learned.seed}.safetensors")

    stage("the forward process")
    keep("forward", square.forward(law, settings, seed=seed))
    stage("training beside the least possible loss")
    keep("training", square.training(recipes, settings, seed=seed))
    stage("samples from different seeds")
    keep("seeds", square.nine(recipes["default"], settings, seed=seed))
    stage("the reverse process, in few and many steps")
    keep("steps", square.steps(recipes, settings, seed=seed))
    stage("the three schedules")
    keep("schedules", schedules(scheduled, settings, seed=seed))
    stage("the conditional model")
    keep("classes", classes(rings, settings, seed=seed))
    stage("log-densities and the certificate")
    keep("densities", densities(recipes["default"], rings, settings, seed=seed))
    stage("inside the model")
    keep("fields", square.fields(recipes["default"], settings, seed=seed))
    return results, images


def _folder(out: Path) -> Path:
    """Make the folder; say what is wrong before any work is done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"cannot write into {str(out)!r}: a part of this path is a file") from error
    except PermissionError as error:
        raise InputError(f"cannot make the folder {str(out)!r}: permission denied") from error
    check_target(out / "any")
    return out


def _write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def _versions() -> dict[str, str]:
    import matplotlib
    import numpy
    import torch

    import toydiffusion

    return {
        "toydiffusion": toydiffusion.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "matplotlib": matplotlib.__version__,
    }


def _headlines(results: dict[str, Any]) -> Table:
    """Return the closing table: what was measured, the value, and what the truth gives."""
    from rich.table import Table

    table = Table(title="Toy-Diffusion on the squares")
    table.add_column("measured")
    table.add_column("value", justify="right")
    table.add_column("truth", justify="right")
    recipes, seeds, rings = results["training"]["recipes"], results["seeds"], results["classes"]
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
        error = results["schedules"]["std_error"]["tv"][name]
        table.add_row(
            f"schedule {name}: total variation, {results['schedules']['points']:,} points",
            f"{value:.3f} ± {error:.3f}",
            f"{results['schedules']['floor']:.3f}",
        )
    table.add_row("conditional: points in their own class", f"{rings['overall_accuracy']:.1%}", "100.0%")
    judged = results["densities"]
    table.add_row(
        "default: mean log-density of fresh points, nats",
        f"{judged['mean']['ode']:.3f}",
        f"{judged['mean']['exact']:.3f}",
    )
    mass = judged["certificate"]["masses"][0]
    table.add_row("default: total mass of the density", f"{mass['value']:.4f} ± {mass['error']:.0e}", "1")
    kinds = judged["points"]
    table.add_row(
        "conditional: right class > wrong > outside > far", f"{kinds['ordered']} of {kinds['number']}", "all"
    )
    table.add_row("conditional: border mass", f"{rings['border_mass']['value']:.3f}", "1")
    return table


def _print(table: Table, report: Path) -> None:
    from rich.console import Console

    console = Console()
    console.print(table)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
