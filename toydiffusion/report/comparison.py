"""The section on the schedules of the original, sqrt, linear and exp, in training and in sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np

from toydiffusion import figures
from toydiffusion.distributions import Bounded
from toydiffusion.figures import Comparison, Scatter
from toydiffusion.report.experiment import Learned, Part, fit_of, floor, learn
from toydiffusion.report.findings import claim, ranking, verdict
from toydiffusion.report.settings import DemoSettings
from toydiffusion.report.square import ORIGINALS, SQUARE


def train_schedules(
    law: Bounded, settings: DemoSettings, *, seed: int, stage: Callable[[str], None]
) -> dict[str, list[Learned]]:
    """Train the original's recipe with each schedule, on several samples of points.

    `stage` is called with a text before each training.
    """
    models: dict[str, list[Learned]] = {name: [] for name in ORIGINALS}
    for i in range(settings.schedule_seeds):
        for name, own in models.items():
            stage(f"training, schedule {name}, seed {seed + i}")
            own.append(
                learn(
                    law,
                    "original",
                    points=settings.points,
                    seed=seed + i,
                    effort=settings.schedule_effort,
                    schedule=name,
                )
            )
    return models


def schedules(models: dict[str, list[Learned]], settings: DemoSettings, *, seed: int) -> Part:
    """Compare the schedules in training and sampling together, in training only and in sampling only."""
    law, config = models["exp"][0].law, models["exp"][0].config
    n = settings.schedule_points
    measured: dict[str, dict[str, list[float]]] = {
        key: {name: [] for name in ORIGINALS}
        for key in ("tv", "inside", "kl", "tv_training", "inside_training")
    }
    sampling_only: dict[str, list[float]] = {name: [] for name in ORIGINALS}
    shown = []
    for name, own in models.items():
        same = replace(own[0].model.sampling, steps=settings.schedule_steps, schedule=name)
        common = replace(same, schedule="exp")
        for i, learned in enumerate(own):
            x = learned.model.sample(n, sampling=same, seed=seed + i)
            both = fit_of(x, law)
            training_only = (
                both
                if common == same
                else fit_of(learned.model.sample(n, sampling=common, seed=seed + i), law)
            )
            if i == 0:
                shown.append(Scatter(x[: settings.shown], f"{name}\nTV {both.total_variation:.3f}", name))
            measured["tv"][name].append(both.total_variation)
            measured["inside"][name].append(both.inside)
            measured["kl"][name].append(learned.divergence(settings.fresh, seed=seed + i).value)
            measured["tv_training"][name].append(training_only.total_variation)
            measured["inside_training"][name].append(training_only.inside)
            exact = fit_of(learned.exact.sample(n, sampling=same, seed=seed + i), law)
            sampling_only[name].append(exact.total_variation)

    verdicts = {
        "total variation": verdict(measured["tv"]),
        "share inside": verdict(measured["inside"], lower_is_better=False),
        "KL divergence": verdict(measured["kl"]),
    }
    least = floor(law, n, seed=seed)
    return Part(
        {
            "measured": measured,
            "mean": {key: _for_each(np.mean, values) for key, values in measured.items()},
            "std_error": {key: _for_each(_std_error, values) for key, values in measured.items()},
            "sampling_only": sampling_only,
            "sampling_only_finding": ranking(verdict(sampling_only), "total variation"),
            "verdicts": {what: asdict(found) for what, found in verdicts.items()},
            "findings": [ranking(found, what) for what, found in verdicts.items()],
            "claim": claim(verdicts, "exp"),
            "training_only_finding": ranking(verdict(measured["tv_training"]), "total variation"),
            "floor": least,
            "points": n,
            "sampling_steps": settings.schedule_steps,
            "training_steps": config.steps,
            "seeds": settings.schedule_seeds,
            "sigma_min": config.sigma_min,
            "sigma_max": config.sigma_max,
        },
        {
            "three": figures.scatters([shown], outline=SQUARE, half_width=1.45, panel=3.1),
            "comparison": figures.comparisons(
                [
                    Comparison("total variation ↓", measured["tv"], least, "true points"),
                    Comparison("share inside ↑", measured["inside"], 1.0, ""),
                    Comparison("KL divergence, nats ↓", measured["kl"]),
                ]
            ),
            "separated": figures.comparisons(
                [
                    Comparison(
                        "training only, sampled with exp: TV ↓",
                        measured["tv_training"],
                        least,
                        "true points",
                    ),
                    Comparison(
                        "sampling only, exact denoiser: TV ↓",
                        sampling_only,
                        least,
                        "true points",
                    ),
                ]
            ),
        },
    )


def _for_each(of: Callable[[list[float]], object], values: dict[str, list[float]]) -> dict[str, float]:
    return {name: float(of(one)) for name, one in values.items()}  # type: ignore[arg-type]


def _std_error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
