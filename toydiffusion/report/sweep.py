"""The report on a sweep: each measure with its confidence interval over the seeds."""

from __future__ import annotations

import itertools
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from toydiffusion import figures
from toydiffusion.errors import InputError, shown
from toydiffusion.figures import Line, Plot
from toydiffusion.files import check_target
from toydiffusion.report.experiment import Part
from toydiffusion.report.page import page, versions, write
from toydiffusion.sweeps import MEASURES, CellResult, SweepResults

SECTIONS = {
    "grid": "The grid",
    "curves": "What matters",
    "numbers": "All numbers",
    "made": "How this was made",
}
"""The titles of the sections by anchor, in order."""
TITLES = {
    "sliced_wasserstein": "sliced Wasserstein distance",
    "total_variation": "total variation",
    "share_inside": "share inside",
    "nats_lost": "nats lost by the network",
    "sampling_seconds": "seconds of sampling",
}
"""What the measures are called on the page."""
_MOST_PANELS, _MOST_LINES = 12, 8
_LISTED = 500
"""The most rows of the table on the page."""
_CONFIDENCE = 0.95


class Interval(NamedTuple):
    """The mean of n values, and half the width of its confidence interval; None for fewer than two."""

    mean: float
    half: float | None
    n: int


def interval(values: Iterable[float]) -> Interval:
    """Return the mean and its 95 % interval by Student's t.

    >>> found = interval([1.0, 2.0, 3.0])
    >>> found.mean, round(found.half, 3), found.n
    (2.0, 2.484, 3)
    """
    from scipy.stats import t

    x = np.array(list(values), dtype=np.float64)
    if len(x) < 2:
        return Interval(float(x.mean()), None, len(x))
    half = float(t.ppf((1 + _CONFIDENCE) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(float(x.mean()), half, len(x))


def sweep_report(results: SweepResults, out: str | Path) -> dict[str, Any]:
    """Write a page about a sweep, one self-contained file, and return its numbers.

    - `results`: what `sweeps.run_sweep` returned.
    - `out`: the page, an .html file.

    Each number is a mean over the seeds with its 95 % confidence interval by Student's t. Cells that failed
    are listed with their errors, and left out of the means.

    Raises `InputError` for a path that cannot be written to.
    """
    out = Path(out)
    if out.suffix != ".html":
        raise InputError(f"{shown(str(out))}: a report ends in '.html', not in {shown(out.suffix)}")
    check_target(out)
    sweep = results.sweep
    axes = _axes(results)
    groups = _groups(results.cells)
    measures = [name for name in MEASURES if any(one.measures.get(name) is not None for one in results.cells)]
    rows = [
        [*(key.get(name) for name in axes), *(_with_form(_measured(own, name)) for name in measures)]
        for key, own in groups[:_LISTED]
    ]
    curves = _curves(results, axes, measures)
    numbers = {
        "axes": _short(list(axes)),
        "grid": [[name, ", ".join(str(one) for one in values)] for name, values in axes.items()],
        "cells": len(results.cells),
        "trainings": len(sweep.trainings),
        "seeds": len(sweep.seeds),
        "samples": sweep.samples,
        "measures": [TITLES[name] for name in measures],
        "rows": rows,
        "groups": len(groups),
        "failures": [
            {"cell": json.dumps(one.cell.as_json()), "error": one.error}
            for one in results.cells
            if one.error is not None
        ][:_LISTED],
        "failed": results.failed,
        "figures": list(curves.figures),
        "titles": {name: TITLES[name] for name in measures},
        "versions": versions(),
    }
    found: dict[str, Any] = json.loads(json.dumps(numbers))
    with tempfile.TemporaryDirectory() as folder:
        images = curves.write(Path(folder))
        write(out, page("sweep.html.j2", found, images, SECTIONS))
    return found


def _axes(results: SweepResults) -> dict[str, list[Any]]:
    """Return the values of what varies in the grid but the seed, by name; all settings if nothing varies."""
    every = [_settings(one) for one in results.cells]
    found = {name: list(dict.fromkeys(one[name] for one in every)) for name in every[0]}
    varied = {name: values for name, values in found.items() if len(values) > 1}
    return varied or found


def _settings(one: CellResult) -> dict[str, Any]:
    return {name: value for name, value in one.cell.as_json().items() if name != "seed"}


def _groups(cells: Sequence[CellResult]) -> list[tuple[dict[str, Any], list[CellResult]]]:
    """Return the cells by all settings but the seed, in the order of the grid."""
    found: dict[str, tuple[dict[str, Any], list[CellResult]]] = {}
    for one in cells:
        settings = _settings(one)
        found.setdefault(json.dumps(settings), (settings, []))[1].append(one)
    return list(found.values())


def _measured(own: Sequence[CellResult], name: str) -> Interval | None:
    values = [value for one in own if one.error is None and (value := one.measures.get(name)) is not None]
    return interval(values) if values else None


def _with_form(found: Interval | None) -> dict[str, Any] | None:
    """Return an interval for the page, and the format of its numbers: the digits that its width tells."""
    if found is None:
        return None
    digits = 1 - math.floor(math.log10(found.half)) if found.half else 4
    return {**found._asdict(), "form": f".{min(max(digits, 0), 4)}f"}


def _short(names: Sequence[str]) -> list[str]:
    """Return names of settings without what comes before the dot, where they still differ."""
    ends = [name.rpartition(".")[2] for name in names]
    return [end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)]


def _curves(results: SweepResults, axes: Mapping[str, list[Any]], measures: Sequence[str]) -> Part:
    """Return a figure for each measure: a panel for each training, a line for each way to sample."""
    across = next((name for name in ("sample.steps", *axes) if name in axes and _numeric(axes[name])), None)
    if across is None or len(axes[across]) < 2:
        return Part({}, {})
    rest = [name for name in axes if name != across]
    lined = next((name for name in ("sample.solver", *reversed(rest)) if name in rest), None)
    panelled = [name for name in rest if name != lined]
    groups = _groups(results.cells)
    panels = list(itertools.product(*(axes[name] for name in panelled)))[:_MOST_PANELS]
    lines = (axes[lined] if lined else [None])[:_MOST_LINES]
    drawn = {}
    # How much a network loses does not depend on how it is sampled.
    for measure in (one for one in measures if one != "nats_lost"):
        plots = []
        for chosen in panels:
            curves = []
            for colour, line in zip(figures.class_colours(len(lines)), lines, strict=True):
                wanted = dict(zip(panelled, chosen, strict=True)) | ({lined: line} if lined else {})
                points = [
                    (key[across], found)
                    for key, own in groups
                    if all(key[name] == value for name, value in wanted.items())
                    and (found := _measured(own, measure)) is not None
                ]
                if points:
                    curves.append(
                        Line(
                            "all" if line is None else str(line),
                            [x for x, _ in points],
                            [one.mean for _, one in points],
                            colour,
                            band=[one.half or 0.0 for _, one in points],
                        )
                    )
            if curves:
                title = ", ".join(str(one) for one in chosen)
                plots.append(_plot(curves, across, measure, title))
        if plots:
            drawn[measure] = figures.plots(plots, columns=3)
    return Part({}, drawn)


def _plot(curves: Sequence[Line], across: str, measure: str, title: str) -> Plot:
    x = np.concatenate([np.asarray(one.x, dtype=np.float64) for one in curves])
    y = np.concatenate([np.asarray(one.y, dtype=np.float64) for one in curves])
    return Plot(
        curves,
        across.partition(".")[2] or across,
        TITLES[measure],
        title,
        x_log=bool((x > 0).all() and x.max() > 20 * x.min()),
        y_log=bool((y > 0).all() and y.max() > 20 * y.min()),
    )


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
