"""Sweeps: the grid of a file, cells that are computed once, failures that stop nothing, and the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Page
from scipy import stats

import toydiffusion as td
from toydiffusion.jobs import Local
from toydiffusion.metrics import sliced_wasserstein, total_variation
from toydiffusion.report import sweep_report
from toydiffusion.report.sweep import interval
from toydiffusion.sweeps import Sweep, read_sweep, run_sweep, running

SMALL = Sweep(
    law=("square", "gaussian"),
    points=(50,),
    seeds=(0, 1),
    samples=100,
    train={"steps": (5,), "width": (8,), "edges": (4,), "schedule": ("linear", "cosine")},
    sample={"steps": (1, 3), "solver": ("euler", "heun")},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


# The grid --------------------------------------------------------------------------------------------


def test_the_grid_is_the_product_of_all_lists() -> None:
    cells = SMALL.cells
    assert (len(SMALL.trainings), len(cells)) == (8, 32)
    assert len({json.dumps(cell.as_json()) for cell in cells}) == 32
    assert [SMALL.training(number) for number in range(8)] == SMALL.trainings
    assert cells[0].as_json() == {
        "law": "square",
        "points": 50,
        "seed": 0,
        "labelled": False,
        "train.steps": 5,
        "train.width": 8,
        "train.edges": 4,
        "train.schedule": "linear",
        "sample.steps": 1,
        "sample.solver": "euler",
        "samples": 100,
    }


def test_a_file_is_the_same_as_its_values(folder: Path) -> None:
    (folder / "sweep.toml").write_text(
        'law = ["square", "gaussian"]\npoints = 50\nseeds = 2\nsamples = 100\n'
        '[train]\nsteps = 5\nwidth = 8\nedges = 4\nschedule = ["linear", "cosine"]\n'
        '[sample]\nsteps = [1, 3]\nsolver = ["euler", "heun"]\n'
    )
    assert read_sweep(folder / "sweep.toml") == SMALL


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("laws = ['square']", ["unknown field 'laws'", "'law'"]),
        ("law = ['sqare']", ["unknown law 'sqare'", "did you mean 'square'"]),
        ("[train]\nlearningrate = 1", ["[train]: unknown field 'learningrate'", "'learning_rate'"]),
        ("[sample]\nstep = 1", ["[sample]: unknown field 'step'", "'steps'"]),
        ("seeds = []", ["seeds is an empty list", "no cell"]),
        ("[sample]\nsteps = []", ["sample.steps is an empty list"]),
        ("seeds = [1, 1]", ["seeds has equal values", "there twice"]),
        ("[train]\nschedule = ['linear', 'linear']", ["train.schedule has equal values"]),
        ("seeds = 0", ["seeds must be a whole number >= 1"]),
        ("seeds = [-1]", ["seeds must be a whole number >= 0"]),
        ("points = [1]", ["points must be a whole number >= 2"]),
        ("samples = 1", ["samples must be a whole number >= 2"]),
        ("labelled = 1", ["labelled must be true or false"]),
        ("[train]\nlearning_rate = [0.1, -1.0]", ["learning_rate must be a finite number"]),
        ("[sample]\nsolver = 'rk5'", ["unknown solver 'rk5'"]),
        ("train = 3", ["train must be a table, [train]"]),
        ("[train]\nwidth = [[1]]", ["train.width must hold numbers, words"]),
        ("law = ", ["is not TOML"]),
        ("seeds = 1000000\npoints = [2, 3]", ["2,000,000 cells", "at most 1,000,000"]),
    ],
)
def test_bad_grids_get_one_line(folder: Path, refused, text: str, words: list[str]) -> None:
    (folder / "sweep.toml").write_text(text)
    refused("sweep sweep.toml --out study", ["'sweep.toml'", *words])


def test_bad_files_get_one_line(folder: Path, refused) -> None:
    refused("sweep none.toml --out study", ["there is no file 'none.toml'"])
    (folder / "bytes.toml").write_bytes(b"\xff\xfe")
    refused("sweep bytes.toml --out study", ["'bytes.toml' cannot be read"])
    (folder / "sweep.toml").write_text("samples = 10")
    (folder / "file").write_text("mine")
    refused("sweep sweep.toml --out file", ["is a file, a folder is needed"])


# Running ---------------------------------------------------------------------------------------------


def test_cells_are_measured_at_their_samples_and_trainings_are_shared(folder: Path, monkeypatch) -> None:
    trained: list[object] = []

    def train(training: Any) -> td.Diffusion:
        trained.append(training)
        return original(training)

    original = running.trained
    monkeypatch.setattr(running, "trained", train)
    found = run_sweep(SMALL, folder / "study", executor=Local(1))
    assert (found.computed, found.failed, len(trained)) == (32, 0, 8)
    # One cell by hand: the second training, its last cell.
    one = found.cells[7]
    law = td.distributions.Square()
    x, _ = law.sample(50, seed=1)
    model = td.Diffusion(td.TrainConfig(steps=5, width=8, edges=4, schedule="linear")).fit(x, seed=1)
    points = model.sample(100, steps=3, solver="heun", seed=1)
    assert one.measures["total_variation"] == pytest.approx(total_variation(points, law), abs=0.02)
    fresh = law.sample(100, seed=1 + 10**6)[0]
    assert one.measures["sliced_wasserstein"] == pytest.approx(
        sliced_wasserstein(points, fresh, seed=1), rel=1e-3
    )
    assert one.measures["nats_lost"] > 0
    # A Gaussian has no support to be inside of.
    assert found.cells[-1].measures["total_variation"] is None
    with found.table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32
    assert float(rows[7]["sliced_wasserstein"]) == one.measures["sliced_wasserstein"]
    assert rows[-1]["total_variation"] == rows[-1]["error"] == ""


class Stops(Local):
    """An executor that is stopped after some pieces."""

    def run(self, task: Callable[[int], Any], numbers: Sequence[int]) -> Iterator[Any]:
        yield from map(task, numbers[:3])
        raise KeyboardInterrupt


def test_a_rerun_computes_only_what_is_missing_or_failed(folder: Path, monkeypatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_sweep(SMALL, folder, executor=Stops(1))
    assert len(list((folder / "cells").iterdir())) == 12
    assert not (folder / "results.csv").exists()

    def measured(model: td.Diffusion, cell: Any) -> dict[str, Any]:
        if cell.sample["solver"] == "heun" and cell.training.law == "gaussian":
            raise ArithmeticError("too hot")
        return original(model, cell)

    original = running.measured
    with monkeypatch.context() as patch:
        patch.setattr(running, "measured", measured)
        found = run_sweep(SMALL, folder, executor=Local(1))
    assert (found.computed, found.failed) == (20, 8)
    assert {one.error for one in found.cells if one.error} == {"ArithmeticError: too hot"}
    assert "ArithmeticError: too hot" in found.table.read_text()
    # A file that is not whole counts as missing, and one of another sweep is left alone.
    first = next(iter((folder / "cells").iterdir()))
    first.write_text('{"cell": ')
    again = run_sweep(SMALL, folder, executor=Local(1))
    assert again.computed in (8, 9)
    assert again.failed == 0
    assert run_sweep(SMALL, folder, executor=Local(1)).computed == 0
    assert len(list((folder / "models").glob("*.safetensors"))) == 8


def test_a_training_that_fails_fails_all_its_cells_and_no_others(folder: Path, monkeypatch) -> None:
    def train(training: Any) -> td.Diffusion:
        if training.seed == 1:
            raise td.TrainingError("no longer finite")
        return original(training)

    original = running.trained
    monkeypatch.setattr(running, "trained", train)
    found = run_sweep(SMALL, folder, executor=Local(1))
    assert {one.cell.training.seed for one in found.cells if one.error} == {1}
    assert found.failed == 16


@pytest.mark.slow
def test_processes_compute_the_same_table(folder: Path) -> None:
    def table(at: Path) -> list[str]:
        # All but the last but one column, which is a time.
        return [",".join(line.split(",")[:-2]) for line in (at / "results.csv").read_text().splitlines()]

    run_sweep(SMALL, folder / "one", executor=Local(1))
    run_sweep(SMALL, folder / "two", executor=Local(2))
    assert table(folder / "one") == table(folder / "two")


# The measure and the report --------------------------------------------------------------------------


def test_the_sliced_distance_of_a_shift_and_of_gaussians() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(4000, 3))
    assert sliced_wasserstein(y + np.array([1.0, 2.0, -2.0]), y, directions=2000) == pytest.approx(
        3.0, rel=0.05
    )
    # Of N(0, 4 I) from N(0, I): 1 in each of d directions.
    assert sliced_wasserstein(2 * rng.normal(size=(4000, 3)), y) == pytest.approx(3**0.5, rel=0.05)
    assert sliced_wasserstein(y[::-1], y) == 0.0
    with pytest.raises(td.InputError, match="of one shape"):
        sliced_wasserstein(y, y[:5])


def test_intervals_are_those_of_scipy() -> None:
    values = [0.3, 0.1, 0.7, 0.4]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    found = interval(values)
    assert found.half is not None
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert interval([1.0]).half is None


def test_the_command_writes_a_page_that_says_what_the_table_says(folder: Path, run) -> None:
    (folder / "sweep.toml").write_text(
        "points = 50\nseeds = 3\nsamples = 100\n[train]\nsteps = 5\nwidth = 8\n"
        '[sample]\nsteps = [1, 4]\nsolver = ["euler", "heun"]\n'
    )
    code, out, _ = run("sweep sweep.toml --out study --workers 1")
    assert code == 0
    assert out.startswith("computed 12 of 12 cells, wrote ")
    made = (folder / "study" / "report.html").stat().st_mtime_ns
    assert run("sweep sweep.toml --out study --workers 1")[1].startswith("computed 0 of 12 cells")
    assert (folder / "study" / "report.html").stat().st_mtime_ns == made
    # Another table of the same cells needs another page.
    (folder / "sweep.toml").write_text((folder / "sweep.toml").read_text().replace("[1, 4]", "[4]"))
    assert run("sweep sweep.toml --out study --workers 1")[1].startswith("computed 0 of 6 cells")
    assert "A sweep of 6 cells" in Page((folder / "study" / "report.html").read_text()).words
    (folder / "sweep.toml").write_text((folder / "sweep.toml").read_text().replace("[4]", "[1, 4]"))
    assert run("sweep sweep.toml --out study --workers 1")[1].startswith("computed 0 of 12 cells")
    page = Page((folder / "study" / "report.html").read_text())
    with (folder / "study" / "results.csv").open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["sample.steps"] == "4" and row["sample.solver"] == "heun"
        ]
    mean = np.mean([float(row["sliced_wasserstein"]) for row in rows])
    assert any(value == pytest.approx(mean) for value, _ in page.data)
    assert "A sweep of 12 cells" in page.words


def test_failures_are_on_the_page(folder: Path, monkeypatch) -> None:
    def measured(model: td.Diffusion, cell: Any) -> dict[str, Any]:
        raise ArithmeticError("<too hot>")

    monkeypatch.setattr(running, "measured", measured)
    sweep = Sweep(points=(50,), samples=10, train={"steps": (2,)})
    found = sweep_report(run_sweep(sweep, folder, executor=Local(1)), folder / "page.html")
    assert (found["failed"], found["rows"], found["figures"]) == (1, [["square", 50, False, 2, 10]], [])
    assert "&lt;too hot&gt;" in (folder / "page.html").read_text()
    with pytest.raises(td.InputError, match=r"ends in '\.html'"):
        sweep_report(run_sweep(sweep, folder, executor=Local(1)), folder / "page.pdf")
