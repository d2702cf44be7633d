"""Grids of scatter plots: data, the forward process, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toydiffusion.figures.style import COLOURS, Floats, Outline, canvas, class_colours, plane

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Scatter:
    """Points to show, and how.

    - `points` `(n, d)`: the points; two columns in `scatters`.
    - `title`: the text above.
    - `colour`: a key of `COLOURS`, default "model".
    - `label` `(n,)`: class indices, which take the colours of `class_colours` instead. None (default): one
      colour.
    """

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
    """Return a grid of scatter plots with equal axes.

    - `grid`: the rows of scatter plots.
    - `outline`: closed lines around the point set.
    - `half_width`: the panels show `[-half_width, half_width]^2`, default 1.5.
    - `row_names`: the texts on the left.
    - `panel`: the width of a panel in inches, default 2.1.
    """
    rows, columns = len(grid), max(len(row) for row in grid)
    lines = max(len(cloud.title.splitlines()) for row in grid for cloud in row)
    size = (columns * panel + (0.3 if row_names else 0.0), rows * (panel + 0.08 + 0.17 * lines))
    found = [int(cloud.label.max()) for row in grid for cloud in row if cloud.label is not None]
    palette = class_colours(max(found, default=0) + 1)
    with canvas(*size, rows, columns) as (figure, axes):
        for i, row in enumerate(grid):
            for j, cloud in enumerate(row):
                plane(axes[i, j], outline, half_width)
                if cloud.label is None:
                    colours: object = COLOURS[cloud.colour]
                else:
                    colours = np.array(palette)[cloud.label]
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
    """Return an area for n dots, in points^2, so that they fill a panel without hiding its structure."""
    return float(np.clip((panel * 72) ** 2 / max(n, 1) * 0.09, 0.4, 9.0))
