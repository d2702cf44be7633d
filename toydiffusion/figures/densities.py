"""Figures of log-densities: maps, cuts, single points with error bars, reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toydiffusion.figures.style import COLOURS, QUIET, Floats, Outline, canvas, plane

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def density_maps(
    learned: Floats, exact: Floats, *, outline: Outline, half_width: float, floor: float = -8.0
) -> Figure:
    """Return maps of the learned and of the exact log-density, and of their difference.

    - `learned`, `exact` `(n * n,)`: log-densities at `fields.lattice(half_width, n)`, in nats.
    - `outline`: closed lines around the point set.
    - `half_width`: the maps show `[-half_width, half_width]^2`.
    - `floor`: lower values are shown as this value, in nats, default -8. The difference is blank where both
      are lower.
    """
    side = round(len(learned) ** 0.5)
    box = (-half_width, half_width, -half_width, half_width)
    gap = np.where((learned < floor) & (exact < floor), np.nan, np.maximum(learned, floor))
    gap = gap - np.maximum(exact, floor)
    top = float(max(learned.max(), exact.max()))
    shown: Any = {"origin": "lower", "extent": box, "interpolation": "nearest"}
    with canvas(10.2, 3.9, 1, 3) as (figure, axes):
        for ax, values, title in zip(axes[0], (learned, exact), ("learned", "exact"), strict=False):
            image = ax.imshow(values.reshape(side, side), cmap="viridis", vmin=floor, vmax=top, **shown)
            plane(ax, outline, half_width)
            ax.set_title(title)
        figure.colorbar(
            image, ax=axes[0, :2], shrink=0.85, aspect=18, extend="min", label="log-density, nats"
        )
        image = axes[0, 2].imshow(gap.reshape(side, side), cmap="RdBu_r", vmin=-1, vmax=1, **shown)
        plane(axes[0, 2], outline, half_width)
        axes[0, 2].set_title("learned − exact")
        figure.colorbar(image, ax=axes[0, 2], shrink=0.85, aspect=18, extend="both", label="nats")
    return figure


@dataclass(frozen=True)
class Curve:
    """Values at several points, with their error bars.

    - `name`: the label of the curve.
    - `colour`: a key of `COLOURS`.
    - `value` `(n,)`: the values.
    - `bar` `(n,)`: their error bars, or None (default).
    """

    name: str
    colour: str
    value: Floats
    bar: Floats | None = None


def density_cut(along: Floats, curves: Sequence[Curve], *, lowest: float = -14.0) -> Figure:
    """Return log-densities along a line, with their error bars as bands.

    - `along` `(n,)`: the coordinate along the line.
    - `curves`: the log-densities, in nats.
    - `lowest`: the lowest value shown, in nats, default -14.
    """
    with canvas(9.6, 3.8) as (figure, axes):
        ax = axes[0, 0]
        for curve in curves:
            colour = COLOURS[curve.colour]
            style = (0, (4, 2)) if curve.colour == "truth" else "-"
            ax.plot(along, curve.value, color=colour, linestyle=style, linewidth=1.5, label=curve.name)
            if curve.bar is not None:
                band = curve.value - curve.bar, curve.value + curve.bar
                ax.fill_between(along, *band, color=colour, alpha=0.2, linewidth=0)
        highest = max(float(curve.value.max()) for curve in curves)
        ax.set(
            ylim=(lowest, highest + 1), xlim=(along[0], along[-1]), xlabel="x₁", ylabel="log-density, nats"
        )
        ax.grid(axis="y", color="#e6e9ee", linewidth=0.7)
        ax.set_axisbelow(True)
        ax.legend(loc="lower center")
    return figure


def point_estimates(groups: Mapping[str, Sequence[Curve]]) -> Figure:
    """Return the estimates at single points, with their error bars, on a symmetric log scale.

    - `groups`: for each named group of points the curves of the estimates.
    """
    with canvas(9.6, 4.4) as (figure, axes):
        ax = axes[0, 0]
        for place, curves in enumerate(groups.values()):
            for i, curve in enumerate(curves):
                n = len(curve.value)
                at = place + (np.arange(n) - (n - 1) / 2) * 0.8 / n + (i - (len(curves) - 1) / 2) * 0.17 / n
                ax.errorbar(
                    at, curve.value, yerr=curve.bar, color=COLOURS[curve.colour], capsize=2, markersize=4,
                    fmt="_" if curve.colour == "truth" else "os"[i % 2], elinewidth=1,
                    label=curve.name if place == 0 else None,
                )  # fmt: skip
            if place:
                ax.axvline(place - 0.5, color="#e6e9ee", linewidth=0.8)
        ax.set_yscale("symlog", linthresh=10, linscale=1.5)
        ax.axhline(0, color=QUIET, linewidth=0.6)
        every = np.concatenate([curve.value for curves in groups.values() for curve in curves])
        ax.set(
            xlim=(-0.5, len(groups) - 0.5),
            ylim=(3 * min(float(every.min()), -1), 2 * max(float(every.max()), 2)),
            ylabel="log-density, nats (symmetric log scale)",
        )
        ax.set_xticks(range(len(groups)), list(groups))
        ax.legend(loc="lower left")
    return figure


@dataclass(frozen=True)
class Bins:
    """The bins of a reliability diagram.

    - `name`: the label.
    - `colour`: a key of `COLOURS`.
    - `confidence` `(b,)`: the mean probability of the most probable class.
    - `accuracy` `(b,)`: the share of points that belong to that class.
    - `count` `(b,)`: the number of points.
    """

    name: str
    colour: str
    confidence: Floats
    accuracy: Floats
    count: NDArray[np.int64]


def reliability(found: Sequence[Bins]) -> Figure:
    """Return a reliability diagram: accuracy over confidence, and below it the share of points in each bin.

    Calibrated probabilities lie on the diagonal. The area of a dot grows with the share of points in its bin.
    """
    with canvas(5.6, 5.4, 2, 1) as (figure, axes):
        upper, lower = axes[:, 0]
        upper.plot([0, 1], [0, 1], color=QUIET, linewidth=0.9, linestyle=(0, (3, 2)))
        for k, one in enumerate(found):
            colour = COLOURS[one.colour]
            share = one.count / one.count.sum()
            upper.plot(one.confidence, one.accuracy, color=colour, linewidth=1.0, alpha=0.7)
            upper.scatter(
                one.confidence, one.accuracy, s=20 + 160 * share, color=colour, label=one.name, zorder=3
            )
            offset = (k - (len(found) - 1) / 2) * 0.018
            lower.bar(one.confidence + offset, share, width=0.017, color=colour)
        lowest = max(0.0, min(float(one.confidence.min()) for one in found) - 0.1)
        upper.set(xlim=(lowest, 1.02), ylim=(0, 1.03), ylabel="share of points in that class")
        upper.legend(loc="upper left")
        lower.set(
            xlim=(lowest, 1.02), xlabel="probability of the most probable class", ylabel="share of points"
        )
        lower.set_yscale("log")
    return figure
