"""The section on the conditional model: the concentric squares and their borders."""

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

NEAR_BORDER = 0.02
"""Points nearer to a border than this are counted, in the square's units."""
GUIDANCE = 0.92
"""A guidance slightly below 1, which fills the borders again."""


def border_sides(
    x: NDArray[np.float64], label: NDArray[np.int64], *, squares: int, near: float = NEAR_BORDER
) -> tuple[list[float], list[float]]:
    """Return the shares of points near each border, inside and outside, divided by the true shares.

    A point counts only on the side of its own class. Weighted by the true shares, the results add up to
    `metrics.border_mass`.

    - `x` `(n, 2)`: the points.
    - `label` `(n,)`: their class indices.
    - `squares`: the number of concentric squares.
    - `near`: how far from a border still counts, default 0.02.
    """
    r = np.abs(x).max(axis=1)
    inner, outer = [], []
    for c in range(squares - 1):
        border = (c + 1) / squares
        share_inner = np.mean((label == c) & (r < border) & (r > border - near))
        share_outer = np.mean((label == c + 1) & (r >= border) & (r < border + near))
        inner.append(float(share_inner / (border**2 - (border - near) ** 2)))
        outer.append(float(share_outer / ((border + near) ** 2 - border**2)))
    return inner, outer


def classes(learned: Learned, settings: DemoSettings, *, seed: int) -> Part:
    """Sample from the conditional model; measure the points in their own class and near its borders."""
    law, squares = learned.law, learned.law.num_classes
    data, own = law.sample(settings.points, seed=seed)
    x, label = learned.model.sample(settings.class_points, seed=seed, return_labels=True)
    accuracy = [share_inside(x[label == c], law, label[label == c]) for c in range(squares)]
    overall = border_mass(x, label, squares=squares, near=NEAR_BORDER)
    inner, outer = border_sides(x, label, squares=squares)
    guided, guided_label = learned.model.sample(
        settings.class_points, seed=seed, guidance=GUIDANCE, return_labels=True
    )
    # The count of points near the borders is Poisson, with relative standard error 1 / sqrt(count).
    true_share = sum(4 * NEAR_BORDER * (c + 1) / squares for c in range(squares - 1))
    std_error = math.sqrt(overall / (true_share * len(x)))
    lines = figures.squares(*((np.arange(squares) + 1) / squares))
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
            "near_border": NEAR_BORDER,
            "border_mass": {"value": overall, "std_error": std_error},
            "data_border_mass": border_mass(data, own, squares=squares, near=NEAR_BORDER),
            "inner": inner,
            "outer": outer,
            "schedule": learned.config.schedule,
            "guided": {
                "weight": GUIDANCE,
                "accuracy": share_inside(guided, law, guided_label),
                "border_mass": border_mass(guided, guided_label, squares=squares, near=NEAR_BORDER),
            },
            "finding": spaces(overall, std_error),
            "steps": len(learned.model.history.loss),
        },
        {
            "classes": figures.scatters([clouds], outline=lines, half_width=1.15, panel=4.4),
            "profile": figures.border_profile(x, label, squares=squares),
            "borders": figures.border_bars(inner, outer),
        },
    )
