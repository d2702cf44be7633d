"""The section on the conditional model: concentric squares, accuracy, borders."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from toydiffusion import figures
from toydiffusion.figures import Scatter
from toydiffusion.metrics import border_mass, share_inside
from toydiffusion.report.experiment import Learned, Part
from toydiffusion.report.findings import spaces
from toydiffusion.report.settings import DemoSettings

WITHIN = 0.02
"""How far from a border counts as near, in the square's units."""
GUIDANCE = 0.92
"""A pull towards the class a little below plain (1), which fills the borders again."""


def border_sides(
    x: NDArray[np.float64], label: NDArray[np.int64], *, rings: int, within: float = WITHIN
) -> tuple[list[float], list[float]]:
    """Return, for each border between classes, how many points lie near on its inner and on its outer side.

    As shares of the true ones; a point counts only on its own class's side. Weighted by the true shares these
    add up to `metrics.border_mass`.
    """
    r = np.abs(x).max(axis=1)
    inner, outer = [], []
    for c in range(rings - 1):
        border = (c + 1) / rings
        near_inner = np.mean((label == c) & (r < border) & (r > border - within))
        near_outer = np.mean((label == c + 1) & (r >= border) & (r < border + within))
        inner.append(float(near_inner / (border**2 - (border - within) ** 2)))
        outer.append(float(near_outer / ((border + within) ** 2 - border**2)))
    return inner, outer


def classes(learned: Learned, settings: DemoSettings, *, seed: int) -> Part:
    """Draw by class; measure how many land in their own ring, and how many near its borders."""
    law, rings = learned.law, learned.law.num_classes
    data, own = law.sample(settings.points, seed=seed)
    x, label = learned.model.sample(settings.class_points, seed=seed, return_labels=True)
    accuracy = [share_inside(x[label == c], law, label[label == c]) for c in range(rings)]
    overall = border_mass(x, label, rings=rings, within=WITHIN)
    inner, outer = border_sides(x, label, rings=rings)
    less, its_label = learned.model.sample(
        settings.class_points, seed=seed, guidance=GUIDANCE, return_labels=True
    )
    # A count of points near the borders is Poisson: its relative error is one over its root.
    true_share = sum(4 * WITHIN * (c + 1) / rings for c in range(rings - 1))
    error = math.sqrt(overall / (true_share * len(x)))
    lines = figures.squares(*((np.arange(rings) + 1) / rings))
    clouds = [
        Scatter(data, f"data: {len(data):,} points", label=own),
        Scatter(
            x[: settings.shown],
            f"generated: {min(settings.shown, len(x)):,} points",
            label=label[: settings.shown],
        ),
    ]
    return Part(
        {
            "points": len(x),
            "data_points": len(data),
            "accuracy": accuracy,
            "frequencies": law.frequencies.tolist(),
            "overall_accuracy": share_inside(x, law, label),
            "within": WITHIN,
            "border_mass": {"value": overall, "std_error": error},
            "data_border_mass": border_mass(data, own, rings=rings, within=WITHIN),
            "inner": inner,
            "outer": outer,
            "schedule": learned.model.config.schedule,
            "guided": {
                "weight": GUIDANCE,
                "accuracy": share_inside(less, law, its_label),
                "border_mass": border_mass(less, its_label, rings=rings, within=WITHIN),
            },
            "finding": spaces(overall, error),
            "steps": len(learned.model.history.loss),
        },
        {
            "classes": figures.scatters([clouds], outline=lines, half_width=1.15, panel=4.4),
            "profile": figures.border_profile(x, label, rings=rings),
            "borders": figures.border_bars(inner, outer),
        },
    )
