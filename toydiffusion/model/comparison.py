"""The log-densities of a model at held-out rows beside those of baselines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from toydiffusion.baselines import Comparison, compared
from toydiffusion.density import DensityConfig
from toydiffusion.errors import InputError
from toydiffusion.experts import TableConfig, fold_of
from toydiffusion.model import densities, fitting
from toydiffusion.model.fitted_model import FittedModel
from toydiffusion.row_noise import RowNoise
from toydiffusion.solvers import SampleConfig
from toydiffusion.tables import Table
from toydiffusion.training import TrainConfig

PARTS = 5
"""One row in so many is held out."""
_JUDGED_ON = 2000
"""The most held-out rows whose log-densities are compared."""


def rows_to_hold_out(table: Table, *, seed: int) -> NDArray[np.bool_]:
    """Return which rows of a table to hold out, `(n,)`: a fifth of them.

    Rows are chosen at random, as many of each class as its share. Every class is among the other rows too,
    and a column that varies does so there.

    Raises `InputError` for fewer than 10 rows.
    """
    n = len(table.points)
    if n < 2 * PARTS:
        raise InputError(f"{table.source}: {n} rows, and holding some out needs at least {2 * PARTS}")
    codes = None if table.labels is None else np.unique(table.labels, return_inverse=True)[1].ravel()
    fold = fold_of(None if codes is None else torch.from_numpy(codes), n, PARTS, seed)
    apart: NDArray[np.bool_] = fold.numpy() == 0
    if codes is not None:
        for c in np.unique(codes):
            own = np.flatnonzero(codes == c)
            apart[own[0]] &= not apart[own].all()
    for column in table.points.T:
        kept = column[~apart]
        if (kept == kept[0]).all() and (other := np.flatnonzero(column != kept[0])).size:
            apart[other[0]] = False
    return apart


def rows_of(table: Table, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Table:
    """Return some rows of a table, by number or by whether each is wanted."""
    labels = None if table.labels is None else table.labels[rows]
    return replace(table, points=table.points[rows], labels=labels, digest=None)


def some_rows(table: Table, most: int, *, seed: int, purpose: str) -> Table:
    """Return at most so many rows of a table, chosen at random and in their order."""
    n = len(table.points)
    if n <= most:
        return table
    order = torch.randperm(n, generator=RowNoise(seed, purpose).generator())
    return rows_of(table, np.sort(order[:most].numpy()))


def trial(
    table: Table,
    config: TrainConfig | TableConfig,
    sampling: SampleConfig,
    *,
    seed: int,
    progress: bool | None = False,
) -> Comparison:
    """Fit a model of these settings to four fifths of the rows, and compare it with baselines at the rest."""
    apart = rows_to_hold_out(table, seed=seed)
    train, test = rows_of(table, ~apart), rows_of(table, apart)
    model = fitting.fit(train, config, sampling, seed=seed, progress=progress)
    return compare(model, train, test, seed=seed)


def compare(model: FittedModel, train: Table, test: Table, *, seed: int) -> Comparison:
    """Return the mean log-density of held-out rows under the model, and under baselines.

    - `train`: the rows that the model was fitted to, and the baselines are.
    - `test`: the held-out rows.

    The baselines get the model's coordinates z, so they profit from its power transforms, and the same
    spread-out values of rounded columns. Cross-validation in 4 parts chooses their settings.
    """
    codec = model.codec
    test = some_rows(test, _JUDGED_ON, seed=seed, purpose="held-out rows")
    train = replace(train, points=codec.spread(train, seed=seed))
    test = replace(test, points=codec.spread(test, seed=seed + 1), labels=None)
    blocks = densities.log_prob_blocks(model, test, DensityConfig(None))
    own = densities.joined(blocks).log_prob.value
    volume = codec.log_det(test.points)
    return compared(own, codec.to_z(train), codec.to_z(test), volume, seed=seed)
