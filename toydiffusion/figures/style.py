"""Colours, font sizes, axes and outlines of all figures, and PNG files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from toydiffusion.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats: TypeAlias = NDArray[np.float64]
Outline: TypeAlias = Sequence[Floats]
"""Closed lines, `(k, 2)` each, which are shown around a point set."""

INK: Final = "#1f2933"
QUIET: Final = "#8a94a3"
COLOURS: Final[dict[str, str]] = {
    "data": "#7d8794",
    "truth": "#1f2933",
    "model": "#2563eb",
    "original": "#d9730d",
    "exp": "#0f766e",
    "linear": "#7c3aed",
    "sqrt": "#be185d",
}
"""Colours with the same meaning in every figure: data, truth, the default and the original recipe, and the
three schedules of the original."""

CLASSES: Final = ("#2d1160", "#7b2382", "#c43c75", "#f2685c", "#f5a65b")
"""The colours of five classes from the inside out, in order of lightness (from matplotlib's magma)."""

_OTHER_HUES: Final = ("#0f766e", "#3b9ddb", "#8a9a5b", "#1f4e9c", "#7fc8a9")
"""The colours of five more classes."""

PNG: Final[dict[str, Any]] = {"format": "png", "dpi": 150, "bbox_inches": "tight", "pad_inches": 0.06}
"""How figures are written as PNG: cut to what is drawn."""

_RULES: Final[Any] = {
    "figure.facecolor": "white",
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
}


def class_colours(num_classes: int) -> list[str]:
    """Return a colour for each class.

    Up to five classes take colours from `CLASSES` that are as different as possible. Up to ten take those and
    other hues. More than ten take steps between the colours of `CLASSES`, so that neighbours are alike.

    - `num_classes`: the number of classes K >= 1.

    >>> class_colours(2), class_colours(5) == list(CLASSES), class_colours(1000)[999]
    (['#2d1160', '#f5a65b'], True, '#f5a65b')
    """
    if num_classes <= len(CLASSES):
        steps = np.linspace(0, len(CLASSES) - 1, num_classes).round().astype(int)
        return [CLASSES[step] for step in steps]
    if num_classes <= len(CLASSES) + len(_OTHER_HUES):
        return [*CLASSES, *_OTHER_HUES][:num_classes]
    fixed = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in CLASSES])
    at = np.linspace(0, len(CLASSES) - 1, num_classes)
    mixed = [np.interp(at, np.arange(len(CLASSES)), channel) for channel in fixed.T]
    return ["#" + "".join(f"{round(part):02x}" for part in colour) for colour in zip(*mixed, strict=True)]


@contextmanager
def canvas(
    width: float, height: float, rows: int = 1, columns: int = 1, *, share: bool = False
) -> Iterator[tuple[Figure, Any]]:
    """Yield an empty figure and its axes, `(rows, columns)`, without changing global settings.

    - `width`, `height`: the size of the figure in inches.
    - `rows`, `columns`: the numbers of axes, default 1.
    - `share`: whether all axes have the same limits, default False.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from toydiffusion.figures.notebook_figure import NotebookFigure

    with matplotlib.rc_context():
        # Start from the defaults, because a figure must not depend on the user's settings.
        matplotlib.rcParams.update({k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"})
        matplotlib.rcParams.update(_RULES)
        figure = NotebookFigure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
        # Layout and text sizes must be computed while the rules apply.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def save_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write the figure to a PNG file, complete or not at all."""
    with replacing(path) as part:
        figure.savefig(part, **PNG)


def squares(*half_widths: float) -> list[Floats]:
    """Return the outlines of axis-aligned squares about the origin, each `(5, 2)`.

    >>> squares(0.5)[0].tolist()
    [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5]]
    """
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
    return [half_width * corners for half_width in half_widths]


def plane(axes: Axes, outline: Outline, half_width: float) -> None:
    """Show `[-half_width, half_width]^2` at equal scale, with the outline and without ticks."""
    for line in outline:
        axes.plot(line[:, 0], line[:, 1], color=INK, linewidth=0.7, alpha=0.75, zorder=3)
    axes.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width), xticks=[], yticks=[])
    axes.set_aspect("equal")
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#d5dae1")
