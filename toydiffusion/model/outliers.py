"""Unusual rows: how odd each is, a conformal p-value, and the columns that make it so."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toydiffusion.denoisers import Stacked
from toydiffusion.distributions import GaussianMixture
from toydiffusion.errors import InputError, finite_number
from toydiffusion.experts import OUTLIER_SIGMA
from toydiffusion.model.fitted_model import FittedModel
from toydiffusion.tables import Table
from toydiffusion.types import FloatArray, LabelArray, Points
from toydiffusion.views import data_frame

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Reasons:
    """How unusual each column of each row is, given the row's other columns.

    With the conditional law `p(x_j | x_others)` of the model's mixture, which is exact,

    - `tail` `(n, columns)`: `2 min(F, 1 - F)` with F its distribution function at x_j: the probability of a
      value at least as far out. It is 1 in columns that are constant.
    - `low`, `expected`, `high` `(n, columns)`: its quantiles of 5, 50 and 95 %, in x.
    - `columns`: the names of the columns.
    """

    tail: FloatArray
    low: FloatArray
    expected: FloatArray
    high: FloatArray
    columns: tuple[str, ...]

    def text(self, row: int, x: FloatArray, most: int = 3) -> str:
        """Return one line about a row: its most unusual columns, those with a tail below 5 %.

        - `x` `(columns,)`: the row itself.
        """
        order = [int(j) for j in np.argsort(self.tail[row])[:most] if self.tail[row, j] < 0.05]
        parts = [
            f"{self.columns[j]} is {x[j]:.4g}, {self.low[row, j]:.4g} to {self.high[row, j]:.4g} expected"
            for j in order
        ]
        return "; ".join(parts) if parts else "no single column: their combination"

    def to_pandas(self) -> DataFrame:
        """Return a pandas data frame of the tails, a column for each column."""
        return data_frame(dict(zip(self.columns, self.tail.T, strict=True)))


@dataclass(frozen=True, eq=False)
class Outliers:
    """The rows of a table, the oddest first.

    - `row` `(n,)`: their numbers, counted from 1.
    - `normality`, `p_value` `(n,)`: see `Diffusion.normality` and `Diffusion.p_values`.
    - `outlier` `(n,)`: whether the row is selected at the false discovery rate asked for (`selected`).
    - `reason` `(n,)`: str each. The columns that do not fit the others.
    """

    row: NDArray[np.int64]
    normality: FloatArray
    p_value: FloatArray
    outlier: NDArray[np.bool_]
    reason: LabelArray

    def to_pandas(self) -> DataFrame:
        """Return a pandas data frame with these columns."""
        return data_frame({f.name: getattr(self, f.name) for f in fields(self)})


def _law(model: FittedModel) -> GaussianMixture:
    if not isinstance(model.denoiser, Stacked):
        raise InputError("this needs a model for tables: fit it with preset 'table'")
    return model.denoiser.law


@torch.no_grad()
def normality(model: FittedModel, table: Table) -> FloatArray:
    """Return the log-density in z of each row at noise level `OUTLIER_SIGMA`, `(n,)`, under the mixture.

    It is exact, and takes microseconds a row.
    """
    found: FloatArray = _law(model).log_prob(model.codec.to_z(table), OUTLIER_SIGMA).numpy()
    return found


def p_values(model: FittedModel, table: Table, *, seed: int) -> FloatArray:
    """Return the conformal p-value of each row, `(1 + #{i: s_i >= s}) / (n + 1)` with s = -`normality`.

    The s_i are those of the n training rows, each under a mixture that has not seen it.

    - `seed`: of the places in their cells to which rounded values are spread, as in training.
    """
    law = _law(model)
    assert model.experts is not None
    table = replace(table, points=model.codec.spread(table, seed=seed))
    found = law.log_prob(model.codec.to_z(table), OUTLIER_SIGMA).numpy()
    # As odd or odder are the training rows whose log-density is as low or lower.
    odder = np.searchsorted(np.array(model.experts.calibration), found, side="right")
    p: FloatArray = (1 + odder) / (len(model.experts.calibration) + 1)
    return p


def selected(p_values: FloatArray, fdr: float) -> NDArray[np.bool_]:
    """Return which rows to call outliers so that at most a share `fdr` of them are inliers, on average.

    Benjamini and Hochberg (1995): with `p_(1) <= ... <= p_(m)` the rows up to the last k with
    `p_(k) <= fdr k / m`. With conformal p-values the rate holds too (Bates et al. 2023).

    >>> selected(np.array([0.001, 0.5, 0.02, 0.9]), 0.1).tolist()
    [True, False, True, False]
    """
    fdr = finite_number("fdr", fdr, above=0, below=1)
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p > 0) & (p <= 1)).all():
        raise InputError("p_values must be numbers in (0, 1], one for each row")
    ordered = np.sort(p)
    good = np.flatnonzero(ordered <= fdr * np.arange(1, len(p) + 1) / max(len(p), 1))
    threshold = ordered[good[-1]] if len(good) else 0.0
    chosen: NDArray[np.bool_] = p <= threshold
    return chosen


def outliers(model: FittedModel, table: Table, *, fdr: float, seed: int) -> Outliers:
    """Return the rows of the table, the oddest first. Rows that are missing are left out."""
    rows = np.flatnonzero(~table.missing)
    table = replace(table, points=table.points[rows], labels=None)
    p, usual, why = p_values(model, table, seed=seed), normality(model, table), reasons(model, table)
    chosen = selected(p, fdr)
    # Of rows as odd as any training row, the least usual comes first.
    order = np.lexsort((usual, p))
    texts = [why.text(int(i), table.points[i]) for i in order]
    return Outliers(rows[order] + 1, usual[order], p[order], chosen[order], np.array(texts, dtype=object))


@torch.no_grad()
def reasons(model: FittedModel, table: Table) -> Reasons:
    """Return how unusual each column of each row is, given the others.

    Raises `InputError` for a model without a mixture, that is, one not made for tables.
    """
    codec, z = model.codec, model.codec.to_z(table)
    tail, quantiles = conditional_tails(_law(model), z)
    whole = np.ones((len(z), codec.num_columns))
    whole[:, codec.varying] = tail.numpy()
    low, expected, high = (codec.to_x(one) for one in quantiles)
    return Reasons(whole, low, expected, high, codec.names)


def conditional_tails(law: GaussianMixture, z: Points) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return the tails `(n, d)` of each coordinate given the others, and three quantiles `(n, d)` of it.

    Given the others, coordinate i of component j is `N(z_i - (P_j (z - mu_j))_i / P_j,ii, 1 / P_j,ii)` with
    the precision `P_j = C_j^-1`. The component has the weight `w_j N(z; mu_j, C_j)` over that density at z_i.
    """
    precision = torch.linalg.inv(law.covariances)
    spread = precision.diagonal(dim1=1, dim2=2).rsqrt()
    away = z[:, None] - law.means
    pull = torch.einsum("nmd,mde->nme", away, precision)
    mean = z[:, None] - pull * spread.square()
    height = torch.linalg.cholesky(law.covariances).diagonal(dim1=1, dim2=2).log().sum(1)
    joint = law.weights.log() - height - (away * pull).sum(2) / 2
    standard = pull * spread
    # log N(z) - log N(z_i | others), up to constants that all components share.
    share = (joint[:, :, None] + standard.square() / 2 + spread.log()).softmax(1)

    def below_or_above(value: Tensor, sign: float) -> Tensor:
        """The probability of less than the value, or with sign -1 of more."""
        found: Tensor = (share * torch.special.ndtr(sign * (value[:, None] - mean) / spread)).sum(1)
        return found

    tail = 2 * torch.minimum(below_or_above(z, 1.0), below_or_above(z, -1.0))
    quantiles = []
    for level in (0.05, 0.5, 0.95):
        below, above = (mean - 9 * spread).amin(1), (mean + 9 * spread).amax(1)
        for _ in range(60):
            middle = (below + above) / 2
            left = below_or_above(middle, 1.0) < level
            below, above = torch.where(left, middle, below), torch.where(left, above, middle)
        quantiles.append((below + above) / 2)
    return tail.clamp(max=1.0), (quantiles[0], quantiles[1], quantiles[2])
