"""The borders between concentric squares, generated and true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toydiffusion.figures.style import COLOURS, Floats, canvas, class_colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def radius_density(
    points: Floats, label: NDArray[np.int64], *, bins: int = 100, limit: float = 1.1
) -> Floats:
    """Return the density of `r = max|x_i|` of each class, weighted by its share, `(classes, bins)`.

    - `points` `(n, d)`: the points.
    - `label` `(n,)`: their class indices.
    - `bins`: the number of bins, default 100.
    - `limit`: the bins cover `[0, limit]`, default 1.1.

    The sum over classes and bins, times the bin width, is the share of points with r < limit.
    """
    r = np.abs(points).max(axis=1)
    width = limit / bins
    counts = [
        np.histogram(r[label == c], bins=bins, range=(0, limit))[0] for c in range(int(label.max()) + 1)
    ]
    return np.asarray(counts, dtype=np.float64) / (len(points) * width)


def border_profile(
    points: Floats, label: NDArray[np.int64], *, squares: int = 5, bins: int = 110, limit: float = 1.1
) -> Figure:
    """Return the stacked density of max|x_i| by class, beside the true density 2r.

    - `points` `(n, 2)`: generated points.
    - `label` `(n,)`: their class indices.
    - `squares`: the number of concentric squares, default 5.
    - `bins`, `limit`: see `radius_density`.
    """
    density = radius_density(points, label, bins=bins, limit=limit)
    bin_edges, colours = np.linspace(0, limit, bins + 1), class_colours(len(density))
    with canvas(9.6, 3.8) as (figure, axes):
        ax = axes[0, 0]
        base = np.zeros(bins)
        for c, row in enumerate(density):
            ax.stairs(
                base + row,
                bin_edges,
                baseline=base,
                fill=True,
                color=colours[c],
                alpha=0.85,
                label=f"class {c}",
            )
            base = base + row
        ax.plot([0, 1, 1], [0, 2, 0], color=COLOURS["truth"], linewidth=1.4, label="truth: 2r")
        for border in np.arange(1, squares) / squares:
            ax.axvline(border, color=COLOURS["truth"], linewidth=0.6, linestyle=(0, (4, 3)), alpha=0.7)
        ax.set(
            xlabel="r = max |xᵢ|",
            ylabel="density of generated points",
            xlim=(0, limit),
        )
        ax.set_ylim(0, max(2.15, float(base.max()) * 1.05))
        ax.legend(loc="upper left")
    return figure


def border_bars(inner: Sequence[float], outer: Sequence[float]) -> Figure:
    """Return bars of the share of points near each border, divided by the true share.

    - `inner`: for border b the value of class b, on the inner side.
    - `outer`: for border b the value of class b + 1, on the outer side.
    """
    colours = class_colours(len(inner) + 1)
    with canvas(9.6, 2.9) as (figure, axes):
        ax = axes[0, 0]
        for b, pair in enumerate(zip(inner, outer, strict=True)):
            for side, value in enumerate(pair):
                place = b + (side - 0.5) * 0.34
                ax.bar(place, value, width=0.3, color=colours[b + side])
                ax.text(place, value + 0.02, f"{value:.2f}", ha="center", va="bottom", fontsize=9)
        ax.axhline(1, color=COLOURS["truth"], linewidth=1.2, linestyle=(0, (4, 2)))
        ax.text(len(inner) - 0.48, 1.02, "truth", ha="right", va="bottom", fontsize=9)
        ax.set(
            ylim=(0, max(1.25, *inner, *outer) * 1.05),
            xlim=(-0.5, len(inner) - 0.45),
            ylabel="share / true share",
        )
        ax.set_xticks(
            range(len(inner)),
            [f"border {b} | {b + 1}\nat r = {(b + 1) / (len(inner) + 1):.1f}" for b in range(len(inner))],
        )
    return figure
