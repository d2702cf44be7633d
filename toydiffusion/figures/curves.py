"""Lines and measured values: plots, schedules, training losses, distances from the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from toydiffusion.figures.style import COLOURS, INK, QUIET, Floats, canvas
from toydiffusion.schedules import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Line:
    """A line in a plot.

    - `name`: its label.
    - `x`, `y` `(n,)`: the coordinates.
    - `colour`: a key of `COLOURS` or a colour of matplotlib, default "model".
    - `dots`: whether the points are marked, default True.
    - `dashed`: whether the line is dashed, default False.
    - `joined`: whether a line joins the points, default True. Without it the dots are small.
    - `band` `(n,)`: half the width of a band around the line, or None (default) for none.
    """

    name: str
    x: Sequence[float] | Floats
    y: Sequence[float] | Floats
    colour: str = "model"
    dots: bool = True
    dashed: bool = False
    joined: bool = True
    band: Sequence[float] | Floats | None = None


@dataclass(frozen=True)
class Plot:
    """Lines over one pair of axes.

    - `lines`: the lines.
    - `x_name`, `y_name`: the labels of the axes.
    - `title`: the text above, default none.
    - `x_log`, `y_log`: whether an axis is logarithmic, default False.
    """

    lines: Sequence[Line]
    x_name: str
    y_name: str
    title: str = ""
    x_log: bool = False
    y_log: bool = False


def plots(
    panels: Sequence[Plot], *, width: float = 4.8, height: float = 3.7, columns: int | None = None
) -> Figure:
    """Return a panel of lines for each plot, from left to right.

    - `panels`: the plots.
    - `width`, `height`: the size of a panel in inches, default 4.8 by 3.7.
    - `columns`: how many stand beside each other. None (default): all.
    """
    across = len(panels) if columns is None else min(columns, len(panels))
    down = -(-len(panels) // across)
    with canvas(width * across, height * down, down, across) as (figure, axes):
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, plot in zip(axes.flat, panels, strict=False):
            for line in plot.lines:
                if line.band is not None:
                    middle, half = np.asarray(line.y), np.asarray(line.band)
                    colour = COLOURS.get(line.colour, line.colour)
                    ax.fill_between(
                        line.x, middle - half, middle + half, color=colour, alpha=0.18, linewidth=0
                    )
                ax.plot(
                    line.x,
                    line.y,
                    color=COLOURS.get(line.colour, line.colour),
                    marker="o" if line.dots else "",
                    markersize=4 if line.joined else 1.5,
                    linestyle="" if not line.joined else (0, (4, 2)) if line.dashed else "-",
                    linewidth=1.3 if line.dashed else 1.6,
                    label=line.name,
                )
            ax.set(
                title=plot.title,
                xlabel=plot.x_name,
                ylabel=plot.y_name,
                xscale="log" if plot.x_log else "linear",
                yscale="log" if plot.y_log else "linear",
            )
            ax.grid(color="#e6e9ee", linewidth=0.7)
            ax.set_axisbelow(True)
            ax.legend()
    return figure


def schedule_curves(schedules: Mapping[str, Schedule]) -> Figure:
    """Return curves of sigma and of the signal-to-noise ratio 1 / sigma^2 over u.

    - `schedules`: by name. Those with names in `COLOURS` are highlighted.
    """
    u = torch.linspace(0, 1, 401, dtype=torch.float64)
    quiet = iter(_DASHES * len(schedules))
    with canvas(9.6, 3.9, 1, 3) as (figure, axes):
        for name, one in schedules.items():
            sigma = one.sigma_at(u).numpy()
            strong = name in COLOURS
            style = {
                "color": COLOURS[name] if strong else QUIET,
                "linewidth": 2.4 if strong else 1.1,
                "linestyle": "-" if strong else next(quiet),
                "zorder": 3 if strong else 2,
                "label": name,
            }
            for ax, y in zip(axes[0], (sigma, sigma, 1 / sigma**2), strict=True):
                ax.plot(u.numpy(), y, **style)
        for ax, title in zip(axes[0], ("σ", "σ, logarithmic", "signal-to-noise ratio 1/σ²"), strict=True):
            ax.set(title=title, xlabel="u, time of the schedule", xlim=(0, 1))
        axes[0, 1].set_yscale("log")
        axes[0, 2].set_yscale("log")
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=8)
    return figure


@dataclass(frozen=True)
class LossCurve:
    """The losses of one training run.

    - `name`: the title.
    - `colour`: a key of `COLOURS`.
    - `loss`: the loss of every step.
    - `least`: the least possible loss, that of the exact denoiser. None (default): not known.
    - `fresh`: the loss at fresh points after training. None (default): not known.
    - `held_out` `(k, 2)`: pairs of a step and the loss at held-out points then. None (default): none.
    """

    name: str
    colour: str
    loss: Floats
    least: float | None = None
    fresh: float | None = None
    held_out: Floats | None = None


def smoothed(values: Floats, window: int) -> Floats:
    """Return the running mean of the last `window` values, or of all values so far if they are fewer.

    >>> smoothed(np.array([1.0, 3.0, 5.0]), 2).tolist()
    [1.0, 2.0, 4.0]
    """
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return np.asarray((total[end] - total[start]) / (end - start))


def loss_curves(runs: Sequence[LossCurve]) -> Figure:
    """Return a panel for each run: the loss of each step, faint, and its running mean, beside what is known.

    That is the loss at held-out points during training, the least possible loss, and the loss at fresh points
    after training.
    """
    with canvas(4.8 * len(runs), 3.6, 1, len(runs)) as (figure, axes):
        for ax, run in zip(axes[0], runs, strict=True):
            step, colour = np.arange(1, len(run.loss) + 1), COLOURS[run.colour]
            mean = smoothed(run.loss, max(1, len(run.loss) // 15))
            ordinary = [mean[len(mean) // 50 :]]
            ax.plot(step, run.loss, color=colour, linewidth=0.4, alpha=0.18)
            ax.plot(step, mean, color=colour, label="training loss, running mean")
            if run.held_out is not None:
                ax.plot(*run.held_out.T, color=INK, linewidth=1.2, label="held-out loss")
                ordinary.append(run.held_out[len(run.held_out) // 50 :, 1])
            if run.least is not None:
                dashes = (0, (4, 2))
                ax.axhline(
                    run.least,
                    color=COLOURS["truth"],
                    linestyle=dashes,
                    linewidth=1.3,
                    label="least possible loss",
                )
                ordinary.append(np.array([run.least]))
            if run.fresh is not None:
                ax.plot(
                    [step[-1]], [run.fresh], "o", color="white", markeredgecolor=colour, zorder=5,
                    markeredgewidth=1.8, markersize=7, clip_on=False, label="fresh points, after training",
                )  # fmt: skip
                ordinary.append(np.array([run.fresh]))
            shown = np.concatenate(ordinary)
            margin = 0.15 * float(np.ptp(shown)) or 0.5
            ax.set(
                title=run.name,
                xlabel="training step",
                xlim=(0, step[-1] * 1.02),
                ylim=(shown.min() - margin, shown.max() + 2 * margin),
            )
            ax.legend(loc="upper right")
        axes[0, 0].set_ylabel("loss (weighted as in the recipe)")
    return figure


@dataclass(frozen=True)
class StepCurve:
    """Measured distances from the truth for several numbers of steps.

    - `name`: the label of the curve.
    - `colour`: a key of `COLOURS`.
    - `distance`: the total variation for each number of steps.
    - `inside`: the share inside the support for each number of steps.
    - `exact`: whether the denoiser is exact (dashed line), default False.
    """

    name: str
    colour: str
    distance: Sequence[float]
    inside: Sequence[float]
    exact: bool = False


def step_curves(steps: Sequence[int], curves: Sequence[StepCurve], *, floor: float) -> Figure:
    """Return total variation and share inside over the number of steps.

    - `steps`: the numbers of steps.
    - `curves`: the measured values.
    - `floor`: the total variation of as many true points.
    """
    with canvas(9.6, 3.9, 1, 2) as (figure, axes):
        for curve in curves:
            style = {
                "color": COLOURS[curve.colour],
                "linestyle": (0, (3, 1.5)) if curve.exact else "-",
                "marker": "s" if curve.exact else "o",
                "markerfacecolor": "white" if curve.exact else COLOURS[curve.colour],
                "markersize": 5,
                "linewidth": 1.5,
                "label": curve.name,
            }
            axes[0, 0].plot(steps, curve.distance, **style)
            axes[0, 1].plot(steps, curve.inside, **style)
        axes[0, 0].axhspan(0, floor, color="#eef1f5", zorder=0)
        axes[0, 0].text(steps[0], floor * 0.12, "true points", va="bottom", color=QUIET)
        for ax, title in zip(
            axes[0], ("total variation from the truth", "share inside the square"), strict=True
        ):
            ax.set(title=title, xscale="log", xlabel="steps", ylim=(0, 1.03))
            ax.set_xticks(list(steps), [f"{k:,}" for k in steps])
            ax.minorticks_off()
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


@dataclass(frozen=True)
class Comparison:
    """One measure, compared between several names.

    - `title`: the name of the measure.
    - `values`: for each name the value of each seed.
    - `reference`: a value shown as a horizontal line, or None (default).
    - `reference_name`: its label.
    """

    title: str
    values: Mapping[str, Sequence[float]]
    reference: float | None = None
    reference_name: str = ""


def comparisons(panels: Sequence[Comparison]) -> Figure:
    """Return a panel for each measure: a dot for each seed, and the mean with its standard error."""
    with canvas(9.6, 3.7, 1, len(panels)) as (figure, axes):
        for ax, panel in zip(axes[0], panels, strict=True):
            for place, (name, values) in enumerate(panel.values.items()):
                measured = np.asarray(values, dtype=np.float64)
                colour = COLOURS.get(name, INK)
                if len(measured) == 1:
                    ax.plot([place], measured, "D", color=colour, markersize=6)
                    continue
                std_error = measured.std(ddof=1) / np.sqrt(len(measured))
                ax.plot(
                    np.full(len(measured), place - 0.13),
                    measured,
                    "o",
                    color=colour,
                    markersize=4.5,
                    alpha=0.5,
                )
                ax.errorbar(
                    [place + 0.13],
                    [measured.mean()],
                    yerr=[std_error],
                    fmt="D",
                    color=colour,
                    markersize=6,
                    capsize=4,
                )
            if panel.reference is not None:
                ax.axhline(panel.reference, color=COLOURS["truth"], linestyle=(0, (4, 2)), linewidth=1.1)
                ax.annotate(
                    panel.reference_name,
                    (-0.47, panel.reference),
                    (0, 3),
                    textcoords="offset points",
                    fontsize=8,
                )
            ax.set(title=panel.title, xlim=(-0.5, len(panel.values) - 0.5))
            ax.set_xticks(range(len(panel.values)), list(panel.values))
            ax.margins(y=0.15)
            ax.grid(axis="y", color="#e6e9ee", linewidth=0.7)
            ax.set_axisbelow(True)
    return figure
