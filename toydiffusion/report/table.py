"""The report on a model of a table: what it learned, how good that is, and which rows are unusual."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from toydiffusion import figures, progress
from toydiffusion.denoisers import Stacked
from toydiffusion.density import ToleranceWarning
from toydiffusion.errors import InputError, seed_number, shown
from toydiffusion.figures import Bins, Line, Plot, Scatter
from toydiffusion.files import check_target
from toydiffusion.metrics import calibration
from toydiffusion.model import Diffusion, rows_of, rows_to_hold_out
from toydiffusion.report.experiment import Part
from toydiffusion.report.page import page, versions, write
from toydiffusion.tables import Table
from toydiffusion.types import FloatArray

SECTIONS = {
    "model": "The model",
    "samples": "Data and samples",
    "densities": "How good is the density?",
    "experts": "Where in noise each expert counts",
    "calibration": "Calibration",
    "certificate": "The certificate of the density",
    "copying": "Does it copy its training rows?",
    "outliers": "Unusual rows",
    "made": "How this report was made",
}
"""The titles of the sections by anchor, in order."""
SAMPLES = 1000
"""The samples whose log-densities are compared with those of held-out rows, and searched for copies."""
_MARGINALS = 24
"""The most columns in the figure of single columns."""
_LISTED = 25
"""The most rows in a table of the page."""
_JUDGED = 1000
"""The most held-out rows in the section on calibration."""
_TESTED = 100
"""The test points of the certificate."""
_MASS = 2000
"""The densities that its mass may take."""


def table_report(
    model: Diffusion,
    rows: Table,
    out: Path,
    *,
    held_out: Table | None = None,
    fdr: float = 0.1,
    seed: int = 0,
    show: bool | None = None,
) -> dict[str, Any]:
    """Write a page about a model of a table, one self-contained file, and return its numbers.

    - `model`: the fitted model, of any preset. Experts and outliers need preset "table".
    - `rows`: the rows that it was fitted to, with labels if the model has classes.
    - `out`: the page, an .html file.
    - `held_out`: rows that it has not seen. None (default): a second model of the same settings is fitted to
      four fifths of `rows`, and judged on the rest. What the page says of held-out rows is then about that
      second model.
    - `fdr`: the share of inliers among the outliers selected, on average, at most. Default 0.1.
    - `seed`: an integer >= 0, default 0. The same seed gives the same page, but for the time it took.
    - `show`: whether to show a progress bar. None (default): on a terminal or in a notebook.

    Raises `InputError` for a path that cannot be written to, and for rows that do not fit the model.

    >>> import tempfile, toydiffusion as td
    >>> law = td.distributions.Square()
    >>> rows = td.Table(law.sample(100, seed=0)[0], ("width", "height"))
    >>> model = td.Diffusion(td.TableConfig(networks=False)).fit_table(rows)
    >>> found = table_report(model, rows, Path(tempfile.mkdtemp()) / "report.html")
    >>> found["comparison"]["num_rows"]
    20
    """
    out, seed, began = Path(out), seed_number(seed), monotonic()
    if out.suffix != ".html":
        raise InputError(f"{shown(str(out))}: a report ends in '.html', not in {shown(out.suffix)}")
    check_target(out)
    own = _known(model, rows)
    new = None if held_out is None else _known(model, held_out).table
    with progress.bar("report", 8, show) as move:
        steps = iter(range(8))

        def stage(note: str) -> None:
            move(next(steps), note)

        stage("held-out rows")
        train, test, judged = (own, new, model) if new is not None else _refitted(model, own, seed)
        stage("samples")
        parts = {
            "model": Part({"card": model.card()}, {}),
            "samples": _samples(model, own.table, seed),
            "experts": _experts(model),
        }
        stage("baselines")
        parts["comparison"] = _comparison(judged, train.table, test, seed)
        stage("calibration")
        parts["calibration"] = _calibration(judged, test, seed)
        stage("certificate")
        certificate = model.check_density(points=_TESTED, most_densities=_MASS, seed=seed, progress=False)
        parts["certificate"] = Part({"rows": certificate.rows()}, {})
        stage("copies")
        parts["copying"] = _copying(judged, train, test, seed)
        stage("unusual rows")
        parts["outliers"] = _outliers(model, own, fdr)
        found: dict[str, Any] = {name: part.numbers for name, part in parts.items()}
        found["made"] = {
            "seed": seed,
            "fdr": fdr,
            "refitted": new is None,
            "source": Path(rows.source.strip("'\"")).name,
            "rows": len(own.table.points),
            "train": len(train.table.points),
            "skipped": int(rows.missing.sum()),
            "versions": versions(),
            "cores": os.cpu_count() or 1,
            "seconds": round(monotonic() - began, 1),
        }
        results: dict[str, Any] = json.loads(json.dumps(found))
        with tempfile.TemporaryDirectory() as folder:
            images: dict[str, Path] = {}
            for part in parts.values():
                images |= part.write(Path(folder))
            write(out, page("table.html.j2", results, images, SECTIONS))
        move(8, "done")
    return results


class _Rows(NamedTuple):
    """Rows without missing numbers, and the number of each in the table that they come from, from 1."""

    table: Table
    number: NDArray[np.int64]

    def chosen(self, which: NDArray[np.bool_]) -> _Rows:
        return _Rows(rows_of(self.table, which), self.number[which])


def _known(model: Diffusion, table: Table) -> _Rows:
    """Return the rows without missing numbers: the model's columns, and labels if it has classes."""
    codec = model.fitted.codec
    if codec.classes is not None and table.labels is None:
        raise InputError(f"{table.source}: the model has classes, so a report needs the labels of the rows")
    index = None if codec.classes is None else codec.table_index(table)
    chosen = replace(
        codec.select(table, table.source), labels=codec.labels(index), label_column=codec.label_column
    )
    if chosen.missing.all():
        raise InputError(f"{table.source}: there is no row without missing numbers")
    return _Rows(chosen, np.arange(1, len(chosen.points) + 1)).chosen(~chosen.missing)


def _refitted(model: Diffusion, rows: _Rows, seed: int) -> tuple[_Rows, Table, Diffusion]:
    """Hold out a fifth of the rows, and fit a second model to the others."""
    apart = rows_to_hold_out(rows.table, seed=seed)
    train = rows.chosen(~apart)
    fresh = Diffusion(model.config, model.sampling)
    fresh.fit_table(train.table, seed=model.fitted.provenance.seed, progress=False)
    return train, rows_of(rows.table, apart), fresh


def _samples(model: Diffusion, rows: Table, seed: int) -> Part:
    """Compare columns of data and samples, alone and in pairs."""
    codec = model.fitted.codec
    drawn = model.sample(max(len(rows.points), SAMPLES), seed=seed)
    # Without the steps of rounded columns, which make a comb of a histogram.
    data, samples = (codec.spread(Table(one, None), seed=seed) for one in (rows.points, drawn))
    columns = []
    for name, x, y in zip(codec.names, data.T, samples.T, strict=True):
        low, middle, high = np.quantile(x, [0.05, 0.5, 0.95])
        own = np.quantile(y, [0.05, 0.5, 0.95])
        columns.append([name, float(low), float(middle), float(high), *map(float, own), _distance(x, y)])
    varying = codec.varying
    between = 0.0
    if len(varying) > 1:
        apart = np.corrcoef(data[:, varying].T) - np.corrcoef(samples[:, varying].T)
        between = float(np.abs(apart).max())
    shown = [int(j) for j in varying[:_MARGINALS]]
    images = {
        "marginals": figures.marginals(
            Scatter(samples[:, shown], f"{len(samples):,} samples", "model"),
            Scatter(data[:, shown], f"data, {len(data):,} rows", "data"),
            [codec.names[j] for j in shown],
        ),
        "pairs": model.plot(data=rows, labels=rows.labels, n=len(drawn), seed=seed),
    }
    return Part(
        {
            "samples": len(drawn),
            "columns": columns,
            "correlation": between,
            "by_chance": 1.36 * (1 / len(data) + 1 / len(samples)) ** 0.5,
            "shown": len(shown),
            "varying": len(varying),
            "labels": model.classes is not None,
        },
        images,
    )


def _distance(x: FloatArray, y: FloatArray) -> float:
    """Return the largest difference of two empirical distribution functions (Kolmogorov and Smirnov)."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(x, y, method="asymp").statistic)


def _comparison(judged: Diffusion, train: Table, test: Table, seed: int) -> Part:
    found = judged.compare(train, test, seed=seed)
    return Part({**found.to_dict(), "finding": found.recommendation, "train": len(train.points)}, {})


def _experts(model: Diffusion) -> Part:
    """Show the weights of the experts, of a model for tables."""
    found = model.experts
    if found is None or not isinstance(model.denoiser, Stacked):
        return Part({"known": False}, {})
    numbers = {
        "known": True,
        "gaussian": found.gaussian,
        "mixture": found.mixture,
        "gain": found.gain,
        "gain_error": found.gain_error,
        "power": model.fitted.codec.power is not None,
        "components": len(model.denoiser.law.weights),
    }
    return Part(numbers, {"experts": model.plot("experts")})


def _calibration(judged: Diffusion, test: Table, seed: int) -> Part:
    """Compare held-out rows with samples by their log-densities, and class probabilities with the classes."""
    codec = judged.fitted.codec
    keep = np.random.default_rng(seed).permutation(len(test.points))[:_JUDGED]
    test = rows_of(test, np.sort(keep))
    drawn = judged.sample(SAMPLES, seed=seed + 1)

    def log_prob(points: FloatArray) -> FloatArray:
        return judged.log_prob(codec.spread(Table(points, None), seed=seed), tolerance=0.05).value

    with warnings.catch_warnings():
        # The order of the log-densities is what counts.
        warnings.simplefilter("ignore", ToleranceWarning)
        ordered, values = np.sort(log_prob(drawn)), log_prob(test.points)
    # The share of samples with a higher density: uniform for rows of the same law.
    level = 1 - np.searchsorted(ordered, values) / len(ordered)
    distance, p_value = _uniform(level)
    at = np.linspace(0, 1, 101)
    held = np.searchsorted(np.sort(level), at, side="right") / len(level)
    lines = [
        Line("held-out rows", at, held, dots=False),
        Line("calibrated", at, at, "truth", dots=False, dashed=True),
    ]
    images = {
        "regions": figures.plots(
            [Plot(lines, "share of samples in a region of highest density", "share of held-out rows in it")]
        )
    }
    numbers: dict[str, Any] = {"rows": len(level), "distance": distance, "p_value": p_value, "classes": None}
    index = codec.table_index(test)
    if index is not None:
        found = calibration(judged.predict_proba(test), index.numpy())
        numbers["classes"] = {
            "log_loss": found.log_loss,
            "accuracy": float(found.accuracy @ found.count / found.count.sum()),
            "calibration": found.expected_calibration_error,
            "frequent": float(torch.bincount(index).max() / len(index)),
        }
        bins = Bins("held-out rows", "model", found.confidence, found.accuracy, found.count)
        images["reliability"] = figures.reliability([bins])
    return Part(numbers, images)


def _uniform(level: NDArray[np.float64]) -> tuple[float, float]:
    """Return the largest distance of the distribution of numbers from a uniform one, and its p-value."""
    from scipy.stats import kstest

    found = kstest(level, "uniform")
    return float(found.statistic), float(found.pvalue)


def _copying(judged: Diffusion, train: _Rows, test: Table, seed: int) -> Part:
    found = judged.check_copying(train.table, test, samples=SAMPLES, seed=seed)
    listed = zip(found.sample, train.number[found.row - 1], found.ratio, found.p_value, strict=True)
    numbers = {
        "finding": found.finding,
        "rows": found.rows()[1:],
        "copies": [[int(i), int(row), float(r), float(p)] for i, row, r, p in listed][:_LISTED],
        "number": len(found.sample),
        "samples": found.samples,
    }
    return Part(numbers, {})


def _outliers(model: Diffusion, rows: _Rows, fdr: float) -> Part:
    """List the oddest rows, of a model for tables."""
    if model.experts is None:
        return Part({"known": False}, {})
    found = model.outliers(replace(rows.table, labels=None), fdr=fdr)
    number = rows.number[found.row - 1]
    parts = zip(number, found.normality, found.p_value, found.outlier, found.reason, strict=True)
    listed = [[int(row), float(s), float(p), bool(odd), str(why)] for row, s, p, odd, why in parts]
    return Part(
        {
            "known": True,
            "selected": int(found.outlier.sum()),
            "rows": len(found.row),
            "listed": listed[:_LISTED],
        },
        {},
    )
