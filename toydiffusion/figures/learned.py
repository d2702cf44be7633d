"""What a model has learned: its samples beside the data, and its density.

Points are in the user's own units, whatever they are, and limits follow the points. Points with labels take
the colours of their classes. A legend names the classes if there are at most `MOST_NAMES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from toydiffusion.errors import printable
from toydiffusion.figures.scatters import Scatter, dot
from toydiffusion.figures.style import COLOURS, INK, Floats, canvas, class_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text

MOST_NAMES: Final = 12
"""The most classes that a legend names."""
MOST_DOTS: Final = 5000
"""The most points in one scatter plot: of more, every second or third, and so on."""
Place: TypeAlias = Literal["outside lower center", "outside right upper"]
_PANEL: Final = 3.1
"""The width of a panel of a map, in inches."""


def window(clouds: Iterable[Floats]) -> Floats:
    """Return limits of each column that show nearly all points, `(d, 2)`.

    - `clouds`: arrays of points `(n, d)`.

    The limits contain the middle 99.6 % of each cloud, with a margin of an eighth at each end. So a few
    points far out do not hide the others.

    >>> window([np.array([[0.0], [8.0]])]).round(1).tolist()
    [[-1.0, 9.0]]
    """
    ends = np.array([np.quantile(points, [0.002, 0.998], axis=0) for points in clouds if len(points)])
    low, high = ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)
    # One value only: any limits around it will do.
    span = np.where(high > low, high - low, np.maximum(np.abs(high), 1.0))
    return np.stack([low - span / 8, high + span / 8], axis=1)


def equalised(limits: Floats) -> Floats:
    """Return limits `(2, 2)` of equal length, so that shapes are true, if the lengths are within a factor 3.

    >>> equalised(np.array([[0.0, 2.0], [0.0, 4.0]])).tolist()
    [[-1.0, 3.0], [0.0, 4.0]]
    """
    length = np.ptp(limits, axis=1)
    if length.max() > 3 * length.min():
        return limits
    middle = limits.mean(axis=1, keepdims=True)
    return np.asarray(middle + length.max() / 2 * np.array([-1.0, 1.0]))


def cells(limits: Floats, side: int) -> Floats:
    """Return the middles of side x side cells of the limits `(2, 2)`, row by row from below, `(side^2, 2)`.

    >>> cells(np.array([[0.0, 4.0], [0.0, 8.0]]), 2).tolist()
    [[1.0, 2.0], [3.0, 2.0], [1.0, 6.0], [3.0, 6.0]]
    """
    middle = (np.arange(side) + 0.5) / side
    x, y = (low + (high - low) * middle for low, high in limits)
    return np.stack(np.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)


def learned_curve(
    at: Floats,
    density: Floats,
    error: Floats,
    clouds: Sequence[Scatter],
    *,
    column: str,
    limits: Floats,
    exact: Floats | None = None,
    parts: Floats | None = None,
    classes: Sequence[str] = (),
) -> Figure:
    """Return the density of a model of one column, over a histogram of each cloud of points.

    - `at` `(m,)`: where the density is known, ascending.
    - `density` `(m,)`: the density there, per unit of the column.
    - `error` `(m,)`: its error bar, shown as a band.
    - `clouds`: the points, `(n, 1)` each.
    - `column`: the name of the column.
    - `limits` `(2,)`: the limits of the axis.
    - `exact` `(m,)`: the exact density there. None (default): it is not known.
    - `parts` `(K, m)`: the densities of the classes, times their frequencies. They are shown if a legend can
      name them. None (default): there are none.
    - `classes`: the names of the classes.
    """
    shown = [] if parts is None or len(classes) > MOST_NAMES else list(parts)
    with canvas(7.4, 3.7) as (figure, axes):
        ax = axes[0, 0]
        handles = _histograms(ax, [cloud.points[:, 0] for cloud in clouds], clouds, limits)
        for part, colour, name in zip(shown, class_colours(max(len(classes), 1)), classes, strict=False):
            (line,) = ax.plot(at, part, color=colour)
            handles.append((line, name))
        # Dashes, so that the curve of a class is seen below that of all.
        ink, dashes = (INK, (0, (3, 2))) if shown else (COLOURS["model"], "-")
        ax.fill_between(at, density - error, density + error, color=ink, alpha=0.25, linewidth=0)
        (line,) = ax.plot(at, density, color=ink, linestyle=dashes, linewidth=1.2 if shown else 1.8)
        handles.append((line, "density, all classes" if shown else "learned density"))
        if exact is not None:
            (line,) = ax.plot(at, exact, color=COLOURS["truth"], linestyle=(0, (1, 1.5)), linewidth=1.2)
            handles.append((line, "exact density"))
        ax.set(xlim=limits, ylim=(0, None), ylabel="density")
        _name_axis(ax, "x", column)
        _legend(figure, handles, "outside right upper")
    return figure


def learned_map(
    maps: Mapping[str, Floats],
    clouds: Sequence[Scatter],
    *,
    columns: Sequence[str],
    limits: Floats,
    classes: Sequence[str] = (),
    floor: float = 10.0,
) -> Figure:
    """Return a square panel for each cloud of points of two columns, and last maps of log-densities.

    - `maps`: by title, log-densities at the `cells` of the limits, `(side^2,)`, in nats.
    - `clouds`: the points, `(n, 2)` each.
    - `columns`: the names of the two columns.
    - `limits` `(2, 2)`: the limits of each column.
    - `classes`: the names of the classes.
    - `floor`: how far below the highest value the colours reach, in nats, default 10.
    """
    panels = len(clouds) + len(maps)
    with canvas(_PANEL * panels + 0.9, _PANEL + 0.6, 1, panels) as (figure, axes):
        for ax, cloud in zip(axes[0], clouds, strict=False):
            _dots(ax, cloud, cloud.points[:, 0], cloud.points[:, 1], classes, _PANEL)
            ax.set_title(cloud.title)
        top = max(float(values.max()) for values in maps.values())
        for ax, (title, values) in zip(axes[0, len(clouds) :], maps.items(), strict=True):
            side = round(len(values) ** 0.5)
            image = ax.imshow(
                np.maximum(values, top - floor).reshape(side, side),
                cmap="viridis",
                vmin=top - floor,
                vmax=top,
                origin="lower",
                extent=tuple(limits.ravel()),
                aspect="auto",
                interpolation="bilinear",
            )
            ax.set_title(title)
        for ax in axes[0]:
            _frame(ax, limits[0], limits[1])
            _name_axis(ax, "x", columns[0])
        _name_axis(axes[0, 0], "y", columns[1])
        for ax in axes[0, 1:]:
            _hide_numbers(ax, "y")
        figure.colorbar(image, ax=axes[0, -1], shrink=0.85, aspect=18, extend="min", label="nats")
        if any(cloud.label is not None for cloud in clouds):
            _legend(figure, _class_handles(classes), "outside lower center")
    return figure


def learned_pairs(
    samples: Scatter,
    data: Scatter | None = None,
    *,
    columns: Sequence[str],
    limits: Floats,
    classes: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Return a matrix of panels of k columns: samples below the diagonal, data above it, histograms on it.

    Row i shows column i over column j in panel j.

    - `samples`, `data`: the points, `(n, k)`. None (default): no data, and nothing above the diagonal.
    - `columns`: the names of the columns.
    - `limits` `(k, 2)`: the limits of each column.
    - `classes`: the names of the classes.
    - `title`: the text above.
    """
    k = len(columns)
    size = float(np.clip(9.6 / k, 1.55, 2.6))
    clouds = [samples] if data is None else [data, samples]
    with canvas(size * k + 0.5, size * k + 0.6, k, k) as (figure, axes):
        for i in range(k):
            ax = axes[i, i]
            handles = _histograms(ax, [cloud.points[:, i] for cloud in clouds], clouds, limits[i])
            ax.set(xlim=limits[i], ylim=(0, None), yticks=[])
            ax.set_box_aspect(1)
            for j in range(k):
                cloud = samples if j < i else data
                if j == i:
                    continue
                if cloud is None:
                    axes[i, j].set_visible(False)
                    continue
                _dots(axes[i, j], cloud, cloud.points[:, j], cloud.points[:, i], classes, size)
                _frame(axes[i, j], limits[j], limits[i])
        for ax in axes.ravel():
            ax.locator_params(axis="x", nbins=4)
            if ax not in axes.diagonal():
                ax.locator_params(axis="y", nbins=4)
            ax.tick_params(labelsize=7.5)
        for i in range(k):
            for j in range(k):
                if i < k - 1:
                    _hide_numbers(axes[i, j], "x")
                if j > 0:
                    _hide_numbers(axes[i, j], "y")
            _name_axis(axes[-1, i], "x", columns[i])
            _name_axis(axes[i, 0], "y", columns[i])
        if any(cloud.label is not None for cloud in clouds):
            handles += _class_handles(classes)
        _legend(figure, handles, "outside lower center")
        if data is not None and k > 1:
            words = "samples below the diagonal, data above it"
            title = f"{title}: {words}" if title else words
        figure.suptitle(title, fontsize=10)
    return figure


def marginals(samples: Scatter, data: Scatter, columns: Sequence[str]) -> Figure:
    """Return a histogram of each column, samples over data.

    - `samples`, `data`: points with the columns.
    - `columns`: the names of the columns.
    """
    across = min(len(columns), 4)
    down = -(-len(columns) // across)
    with canvas(2.6 * across, 2.0 * down + 0.3, down, across) as (figure, axes):
        limits = window([samples.points, data.points])
        handles: list[tuple[Any, str]] = []
        for j, ax in enumerate(axes.flat):
            if j >= len(columns):
                ax.set_axis_off()
                continue
            own = [data.points[:, j], samples.points[:, j]]
            handles = _histograms(ax, own, (data, samples), limits[j])
            ax.set_xlim(*limits[j])
            ax.set_yticks([])
            _name_axis(ax, "x", columns[j])
        _legend(figure, handles, "outside lower center")
    return figure


def _histograms(
    ax: Axes, columns: Sequence[Floats], clouds: Sequence[Scatter], limits: Floats
) -> list[tuple[Any, str]]:
    """Draw a histogram of each column, filled grey for data, and return what a legend needs.

    A height is the share of all values in the bin, over its width. There are `3 n^(1/3)` bins, for the n of
    the smallest cloud.
    """
    fewest = min(len(values) for values in columns)
    bins = np.linspace(limits[0], limits[1], int(np.clip(3 * fewest ** (1 / 3), 10, 60)) + 1)
    handles: list[tuple[Any, str]] = []
    for values, cloud in zip(columns, clouds, strict=True):
        share = np.histogram(values, bins)[0] / (max(len(values), 1) * (bins[1] - bins[0]))
        filled = cloud.colour == "data"
        bars = ax.stairs(
            share, bins, fill=filled, color=COLOURS[cloud.colour], alpha=0.4 if filled else 0.9, linewidth=1.1
        )
        handles.append((bars, cloud.title))
    return handles


def _dots(ax: Axes, cloud: Scatter, x: Floats, y: Floats, classes: Sequence[str], size: float) -> None:
    step = -(-len(x) // MOST_DOTS) or 1
    colours: Any = COLOURS[cloud.colour]
    if cloud.label is not None:
        colours = np.array(class_colours(len(classes)))[cloud.label[::step]]
    area = max(dot(len(x[::step]), size), 1.0)
    ax.scatter(x[::step], y[::step], s=area, c=colours, linewidths=0)


def _frame(ax: Axes, x: Floats, y: Floats) -> None:
    ax.set(xlim=x, ylim=y)
    ax.set_box_aspect(1)
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color("#d5dae1")


def _hide_numbers(ax: Axes, axis: Literal["x", "y"]) -> None:
    ax.tick_params(axis, labelbottom=False, labelleft=False)
    _axis(ax, axis).offsetText.set_visible(False)


def _name_axis(ax: Axes, axis: Literal["x", "y"], name: str) -> None:
    _write(_axis(ax, axis).label, name)


def _axis(ax: Axes, axis: Literal["x", "y"]) -> Axis:
    return ax.xaxis if axis == "x" else ax.yaxis


def _write(text: Text, words: str) -> None:
    """Put the user's words into a text as they are: not as mathematics, on one line, not too long."""
    clean = printable(words)
    text.set_parse_math(False)
    text.set_text(clean if len(clean) <= 24 else f"{clean[:22]}…")


def _class_handles(classes: Sequence[str]) -> list[tuple[Any, str]]:
    from matplotlib.lines import Line2D

    if len(classes) > MOST_NAMES:
        return []
    return [
        (Line2D([], [], linestyle="", marker="o", markersize=5, color=colour), name)
        for name, colour in zip(classes, class_colours(len(classes)), strict=True)
    ]


def _legend(figure: Figure, handles: Sequence[tuple[Any, str]], place: Place) -> None:
    """Give the figure a legend with these texts as they are."""
    rows = -(-len(handles) // 7)
    columns = -(-len(handles) // rows) if place == "outside lower center" and rows else 1
    if handles:
        # matplotlib leaves out texts that begin with "_", so the texts are set afterwards.
        legend = figure.legend([h for h, _ in handles], ["."] * len(handles), loc=place, ncols=columns)
        for text, (_, words) in zip(legend.get_texts(), handles, strict=True):
            _write(text, words)
