"""Figures of a fitted model: samples beside data, the density, the training, the experts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from toydiffusion.denoisers import Stacked
from toydiffusion.density import TOLERANCE, DensityConfig
from toydiffusion.distributions import Distribution
from toydiffusion.errors import InputError
from toydiffusion.figures import (
    MOST_NAMES,
    Line,
    LossCurve,
    Plot,
    Scatter,
    cells,
    equalised,
    learned_curve,
    learned_map,
    learned_pairs,
    loss_curves,
    plots,
    window,
)
from toydiffusion.model import densities
from toydiffusion.model.densities import Densities
from toydiffusion.model.fitted_model import FittedModel
from toydiffusion.model.sampling import joined, sample_blocks
from toydiffusion.tables import Table
from toydiffusion.types import FloatArray, Labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAP_TOLERANCE = 0.05
"""The tolerance of a map, in nats: a two-hundredth of its range of colours."""
MOST_COLUMNS = 6
"""The most columns in a figure unless they are chosen."""
_SIDE = 64
"""The cells along a side of a map."""
_FEWEST = 24
"""The same with many classes."""
_DENSITIES = 3 * _SIDE**2
"""The log-densities under single classes that a map may take, unless it has the fewest cells."""
_CURVE = 250
"""The evenly spaced points of a density curve. As many more follow the samples."""


def plot_model(
    model: FittedModel,
    data: Table | None,
    label: Labels | None,
    truth: Distribution | None,
    columns: Sequence[int] | None,
    *,
    n: int,
    seed: int,
    progress: bool | None = False,
) -> Figure:
    """Return a figure of samples, data and density. `Diffusion.plot` says what it shows.

    - `data`: points with the columns of the model, or None.
    - `label`: their class indices, or None.
    - `truth`: the exact law in z, or None.
    - `columns`: which columns to show, in order. None: the first ones.
    - `n`, `seed`: the samples are the first n of this seed.
    - `progress`: whether to show a progress bar for the densities.
    """
    codec, d = model.codec, model.codec.num_columns
    order = list(range(d))[:MOST_COLUMNS] if columns is None else list(columns)
    names = [codec.names[j] for j in order]
    classes = [] if codec.classes is None else [str(name) for name in codec.classes.tolist()]
    points, labels = joined(sample_blocks(model, range(n), model.sampling, seed=seed))
    sampled = Table(points, None, labels)
    own = codec.table_index(sampled)
    kinds = f" of {len(classes):,} classes" if len(classes) > MOST_NAMES else ""
    samples = _cloud(f"{n:,} samples{kinds}", "model", sampled, own, order)
    clouds = [samples]
    if data is not None:
        clouds.insert(0, _cloud(f"data, {len(data.points):,} points", "data", data, label, order))
    limits = window([cloud.points for cloud in clouds])

    def table_of(points: FloatArray) -> Table:
        return Table(points[:, np.argsort(order)], None)

    def learned(points: FloatArray, tolerance: float) -> Densities:
        plan = DensityConfig(tolerance)
        return densities.joined(
            densities.log_prob_blocks(model, table_of(points), plan, classes=True, progress=progress)
        )

    def exact(points: FloatArray) -> FloatArray | None:
        if truth is None:
            return None
        return truth.log_prob(codec.to_z(table_of(points)), model.sigma_min).numpy() + codec.log_det(points)

    if d > 2 or len(order) < d:
        if truth is not None:
            raise InputError("the truth is shown beside a density, in a figure of all columns of at most two")
        hidden = f"the first {len(order)} of {d} columns" if columns is None and len(order) < d else ""
        rest = clouds[0] if data is not None else None
        return learned_pairs(samples, rest, columns=names, limits=limits, classes=classes, title=hidden)
    if d == 1:
        middle = np.quantile(samples.points[:, 0], np.linspace(0.001, 0.999, _CURVE))
        at = np.union1d(np.linspace(limits[0, 0], limits[0, 1], _CURVE), middle)
        (found, shares), known = learned(at[:, None], TOLERANCE), exact(at[:, None])
        density = np.exp(found.value)
        return learned_curve(
            at,
            density,
            density * found.total_error,
            clouds,
            column=names[0],
            limits=limits[0],
            exact=None if known is None else np.exp(known),
            parts=None if shares is None else (density[:, None] * shares).T,
            classes=classes,
        )
    limits = equalised(limits)
    side = int(np.clip(np.sqrt(_DENSITIES / codec.num_classes), _FEWEST, _SIDE))
    middles = cells(limits, side)
    maps = {"learned log-density": learned(middles, MAP_TOLERANCE).log_prob.value}
    if (known := exact(middles)) is not None:
        maps["exact log-density"] = known
    return learned_map(maps, clouds, columns=names, limits=limits, classes=classes)


def _cloud(title: str, colour: str, table: Table, label: Labels | None, order: Sequence[int]) -> Scatter:
    return Scatter(table.points[:, order], title, colour, None if label is None else label.numpy())


def plot_experts(model: FittedModel) -> Figure:
    """Return a figure of the weights of the experts over the noise levels."""
    if not isinstance(model.denoiser, Stacked):
        raise InputError("this model has no experts: fit one with preset 'table'")
    sigma = torch.logspace(math.log10(model.sigma_min), math.log10(model.sigma_max), 200, dtype=torch.float64)
    weights = model.denoiser.at(sigma).numpy()
    lines = [Line("mixture", sigma.numpy(), weights[0], "data", dots=False)]
    lines += [Line("networks", sigma.numpy(), weight, dots=False) for weight in weights[1:]]
    title = "where in noise each expert counts"
    return plots([Plot(lines, "noise level sigma", "weight", title, x_log=True)])


def plot_history(model: FittedModel) -> Figure:
    """Return a figure of the loss during training, and of the held-out loss if there is one."""
    history = model.history
    if not history.loss:
        raise InputError("this model has no history of its training")
    held_out = np.array(history.held_out) if history.held_out else None
    return loss_curves([LossCurve("", "model", np.array(history.loss), held_out=held_out)])
