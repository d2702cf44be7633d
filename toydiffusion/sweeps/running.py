"""Running a sweep: each cell is one file, so that a rerun computes only what is missing or failed."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toydiffusion.errors import InputError
from toydiffusion.files import replacing
from toydiffusion.jobs import Executor, Local, folder_at
from toydiffusion.model import Diffusion, load
from toydiffusion.progress import bar
from toydiffusion.sweeps.config import Cell, Sweep, Training, key_of
from toydiffusion.sweeps.measuring import MEASURES, measured, nats_lost, trained
from toydiffusion.threads import one_thread

TABLE = "results.csv"


@dataclass(frozen=True)
class CellResult:
    """What became of a cell.

    - `cell`: the cell.
    - `measures`: the value of each measure, or None without one; empty after a failure.
    - `error`: what went wrong, or None.
    """

    cell: Cell
    measures: Mapping[str, float | None]
    error: str | None


@dataclass(frozen=True)
class SweepResults:
    """All cells of a sweep.

    - `sweep`: the sweep.
    - `cells`: what became of each cell, in the order of the grid.
    - `computed`: how many of them were computed in this run; the others were there.
    - `table`: the file that holds them all.
    """

    sweep: Sweep
    cells: tuple[CellResult, ...]
    computed: int
    table: Path

    @property
    def failed(self) -> int:
        """How many cells failed."""
        return sum(one.error is not None for one in self.cells)


@dataclass(frozen=True)
class _Task:
    """Computes the cells of one training. Its model is trained once, and kept in a file."""

    sweep: Sweep
    folder: str

    def __call__(self, number: int) -> int:
        training = self.sweep.training(number)
        todo = [cell for cell in self.sweep.cells_of(training) if not _is_done(Path(self.folder), cell)]
        model: Diffusion | Exception | None = None
        with one_thread():
            for cell in todo:
                try:
                    if model is None:
                        model = self._model(training)
                    if isinstance(model, Exception):
                        raise model
                    found = measured(model, cell)
                    found["nats_lost"] = self._nats_lost(model, training)
                    content: dict[str, Any] = {"cell": cell.as_json(), "measures": found, "error": None}
                except Exception as error:  # whatever it is, the other cells go on
                    if model is None:
                        model = error
                    text = f"{type(error).__name__}: {error}"
                    content = {"cell": cell.as_json(), "measures": {}, "error": text}
                _write(_file(Path(self.folder), cell), content)
        return len(todo)

    def _model(self, training: Training) -> Diffusion:
        path = Path(self.folder) / "models" / f"{key_of(training.as_json())}.safetensors"
        if path.exists():
            return load(path)
        model = trained(training)
        model.save(path)
        return model

    def _nats_lost(self, model: Diffusion, training: Training) -> float:
        """Return the KL divergence of a model, computed once for all its cells."""
        path = Path(self.folder) / "models" / f"{key_of(training.as_json())}.json"
        if (found := _read(path)) is None:
            found = {"nats_lost": nats_lost(model, training)}
            _write(path, found)
        return float(found["nats_lost"])


def run_sweep(
    sweep: Sweep,
    out: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    progress: bool | None = False,
) -> SweepResults:
    """Compute all cells of a sweep that are missing or failed, and merge them into one table.

    - `sweep`: the grid.
    - `out`: the folder, made if there is none. It gets `cells/` and `models/`, with a file for each, and
      `results.csv`.
    - `executor`: as in `jobs.sample`. A piece of work is a training with all its cells.
    - `progress`: whether to show a progress bar; None shows it on a terminal and in a notebook.

    A file of a cell is named after a digest of its settings and the version, so another sweep in the same
    folder shares what both have. A cell that fails keeps its error, and does not stop the others.

    Raises `InputError` for a folder that cannot be written to, and where another run is at work.
    """
    folder = Path(os.path.abspath(out))
    with folder_at(str(folder)).locked():
        for name in ("cells", "models"):
            try:
                (folder / name).mkdir(exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot make {str(folder / name)!r} ({error.strerror})") from None
        cells = sweep.cells
        todo = [
            number
            for number, training in enumerate(sweep.trainings)
            if not all(_is_done(folder, cell) for cell in sweep.cells_of(training))
        ]
        missing = sum(not _is_done(folder, cell) for cell in cells) if todo else 0
        done = len(cells) - missing
        with bar("cells", len(cells), progress) as move:
            move(done, "")
            for count in (Local() if executor is None else executor).run(_Task(sweep, str(folder)), todo):
                done += count
                move(done, "")
        results = tuple(_result(folder, cell) for cell in cells)
        _write_table(folder / TABLE, results)
    return SweepResults(sweep, results, missing, folder / TABLE)


def _file(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{key_of(cell.as_json())}.json"


def _is_done(folder: Path, cell: Cell) -> bool:
    found = _read(_file(folder, cell))
    return found is not None and found.get("error", "") is None


def _read(path: Path) -> dict[str, Any] | None:
    """Return the content of a file, or None if it is not there or not whole."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content, sort_keys=True) + "\n", encoding="utf-8")


def _result(folder: Path, cell: Cell) -> CellResult:
    found = _read(_file(folder, cell)) or {"measures": {}, "error": "its file is gone"}
    return CellResult(cell, found["measures"], found["error"])


def _write_table(path: Path, results: tuple[CellResult, ...]) -> None:
    """Write the table, unless it says so already: what is made of it can tell by its time."""
    columns = [*results[0].cell.as_json(), *MEASURES, "error"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for one in results:
        row = {**one.cell.as_json(), **one.measures, "error": one.error}
        writer.writerow(["" if row.get(name) is None else row[name] for name in columns])
    content = text.getvalue().encode()
    if not path.is_file() or path.read_bytes() != content:
        with replacing(path) as part:
            part.write_bytes(content)
