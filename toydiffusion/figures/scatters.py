"""Grids of point clouds: data, the forward process, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toydiffusion.figures.style import CLASSES, COLOURS, Floats, Outline, canvas, plane

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Scatter:
    """One panel: points `(n, 2)`, one of `COLOURS` or labels `(n,)` to colour them by, and words above."""

    points: Floats
    title: str = ""
    colour: str = "model"
    label: NDArray[np.int64] | None = None


def scatters(
    grid: Sequence[Sequence[Scatter]],
    *,
    outline: Outline = (),
    half_width: float = 1.5,
    row_names: Sequence[str] = (),
    panel: float = 2.1,
) -> Figure:
    """Return a figure with one equal-axes panel per cloud; `panel` is a panel's width in inches.

    Points beyond `half_width` are outside the picture. Labelled points take the colours of `CLASSES`.
    """
    rows, columns = len(grid), max(len(row) for row in grid)
    words = max(len(cloud.title.splitlines()) for row in grid for cloud in row)
    size = (columns * panel + (0.3 if row_names else 0.0), rows * (panel + 0.08 + 0.17 * words))
    with canvas(*size, rows, columns) as (figure, axes):
        for i, row in enumerate(grid):
            for j, cloud in enumerate(row):
                plane(axes[i, j], outline, half_width)
                if cloud.label is None:
                    colours: object = COLOURS[cloud.colour]
                else:
                    colours = np.array(CLASSES)[cloud.label]
                axes[i, j].scatter(
                    cloud.points[:, 0],
                    cloud.points[:, 1],
                    s=dot(len(cloud.points), panel),
                    c=colours,
                    linewidths=0,
                )
                axes[i, j].set_title(cloud.title, fontsize=9)
            for j in range(len(row), columns):
                axes[i, j].set_visible(False)
        for i, name in enumerate(row_names):
            axes[i, 0].set_ylabel(name)
    return figure


def dot(n: int, panel: float) -> float:
    """Return the area of a dot, in points^2, such that n of them fill a panel without hiding its texture."""
    return float(np.clip((panel * 72) ** 2 / max(n, 1) * 0.09, 0.4, 9.0))
