"""Figures of a fitted model: samples beside data, the density, the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from toydiffusion.density import TOLERANCE
from toydiffusion.distributions import Distribution
from toydiffusion.errors import InputError
from toydiffusion.figures import (
    MOST_NAMES,
    LossCurve,
    Scatter,
    cells,
    density_curve,
    density_map,
    equalised,
    loss_curves,
    pairs,
    window,
)
from toydiffusion.model.fitted_model import FittedModel
from toydiffusion.model.likely_classes import likely_shares, mixed_log_prob
from toydiffusion.model.sampling import joined, sample_blocks
from toydiffusion.tables import Table
from toydiffusion.types import FloatArray, Labels, Points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAP_TOLERANCE = 0.05
"""The tolerance of a map, in nats: a two-hundredth of its range of colours."""
MOST_COLUMNS = 6
"""The most columns in a figure unless they are chosen."""
_SIDE = 64
"""The cells along a side of a map; down to half as many where classes overlap, which cost more."""
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
) -> Figure:
    """Return a figure of samples, data and density. `Diffusion.plot` says what it shows.

    - `data`: points with the columns of the model, or None.
    - `label`: their class indices, or None.
    - `truth`: the exact law in z, or None.
    - `columns`: which columns to show, in order. None: the first ones.
    - `n`, `seed`: the samples are the first n of this seed.
    """
    codec, d = model.codec, model.dim
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

    def shares(points: FloatArray) -> tuple[Points, FloatArray]:
        z, guides = (codec.to_z(Table(x, None)) for x in (points[:, np.argsort(order)], sampled.points))
        return z, likely_shares(model, z, guides, own)

    def exact(points: FloatArray) -> FloatArray | None:
        if truth is None:
            return None
        z = codec.to_z(Table(points[:, np.argsort(order)], None))
        return truth.log_prob(z, model.sigma_min).numpy() + codec.log_det

    if d > 2 or len(order) < d:
        if truth is not None:
            raise InputError("the truth is shown beside a density, in a figure of all columns of at most two")
        hidden = f"the first {len(order)} of {d} columns" if columns is None and len(order) < d else ""
        rest = clouds[0] if data is not None else None
        return pairs(samples, rest, columns=names, limits=limits, classes=classes, title=hidden)
    if d == 1:
        middle = np.quantile(samples.points[:, 0], np.linspace(0.001, 0.999, _CURVE))
        at = np.union1d(np.linspace(limits[0, 0], limits[0, 1], _CURVE), middle)
        found, known = mixed_log_prob(model, *shares(at[:, None]), TOLERANCE), exact(at[:, None])
        return density_curve(
            at,
            np.exp(found.value),
            np.exp(found.value) * found.error,
            clouds,
            column=names[0],
            limits=limits[0],
            exact=None if known is None else np.exp(known),
            parts=np.exp(found.joint.T) if len(classes) > 1 else None,
            classes=classes,
        )
    limits = equalised(limits)
    classes_each = (shares(cells(limits, _SIDE // 2))[1] > 0).sum(axis=1).mean()
    side = int(np.clip(_SIDE * np.sqrt(2 / classes_each), _SIDE // 2, _SIDE))
    middles = cells(limits, side)
    maps = {"learned log-density": mixed_log_prob(model, *shares(middles), MAP_TOLERANCE).value}
    if (known := exact(middles)) is not None:
        maps["exact log-density"] = known
    return density_map(maps, clouds, columns=names, limits=limits, classes=classes)


def _cloud(title: str, colour: str, table: Table, label: Labels | None, order: Sequence[int]) -> Scatter:
    return Scatter(table.points[:, order], title, colour, None if label is None else label.numpy())


def plot_history(model: FittedModel) -> Figure:
    """Return a figure of the loss during training, and of the held-out loss if there is one."""
    history = model.history
    if not history.loss:
        raise InputError("this model has no history of its training")
    held_out = np.array(history.held_out) if history.held_out else None
    return loss_curves([LossCurve("", "model", np.array(history.loss), held_out=held_out)])
