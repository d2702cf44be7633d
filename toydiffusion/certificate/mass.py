"""The total mass of a density: 1, or something is wrong with it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toydiffusion.errors import InputError
from toydiffusion.types import Points

LogDensityOf: TypeAlias = Callable[[Points], Tensor]
"""Log-density at points `(n, d)`, `(n,)`, in nats."""


@dataclass(frozen=True)
class Mass:
    """The integral of a density over the whole space, and how it was found.

    - `error`: by quadrature, the differences to twice the step, cell by cell, and the mass in the outermost
      cells, beyond which nothing was looked at; by importance sampling, the standard error.
    - `method`: "quadrature" or "importance sampling".
    - `points`: how many densities it took.
    - `effective_sample_size`: `(sum w)^2 / sum w^2` of the importance weights; None with quadrature.
    """

    value: float
    error: float
    method: str
    points: int
    effective_sample_size: float | None = None


def quadrature(
    log_density: LogDensityOf, guide: Points, *, step: float, most: int = 400_000, tolerance: float = 1e-6
) -> Mass | None:
    """Return the mass by adaptive Simpson quadrature; None if `most` densities do not suffice.

    The space is a box around the points `guide` `(n, d)`, d <= 3, wider by 15 % and 8 `step` at each end, cut
    into cells; a cell's nodes are its corners and middles, so that no edge lies between the nodes of
    neighbours. Cells that hold a guide are cut to a tenth of the guides' spread (in three dimensions to their
    spread) whatever is seen in them. Cells in which half the width gives another answer by more than
    `tolerance` are cut in half along every axis, down to nodes `step / 2` apart: where there is an edge, two
    nodes to each `step`. All cells are summed at their own step and at half of it; the finer sum is the
    value, the differences its error.

    `step` is the noise level that the density is smooth at, sigma_min.
    """
    low, high = guide.min(0).values, guide.max(0).values
    room = 0.15 * (high - low) + 8 * step
    low, high = low - room, high + room
    d = guide.shape[1]
    # A lattice fine enough for every node: cells are 2^k of its steps wide.
    depth = max(4, math.ceil(math.log2(float((high - low).max()) / (step / 2))))
    unit = (high - low) / 2**depth
    finest = [max(2, 2 ** max(0, math.floor(math.log2(2 * step / float(u))))) for u in unit]
    nodes = _Nodes(log_density, low.numpy(), unit.numpy())
    width = 2 ** (depth - (5 if d == 1 else 3))
    cells = np.array(list(itertools.product(range(0, 2**depth, width), repeat=d)), dtype=np.int64)
    occupied = ((guide - low) / unit).floor().long().clamp(0, 2**depth - 1).numpy()
    fair = float(guide.std(0).mean()) / (1 if d == 3 else 10)
    value, error = 0.0, 0.0

    while len(cells):
        half = width // 2
        corners = np.array(list(itertools.product((0, half), repeat=d)), dtype=np.int64)
        children = (cells[:, None] + corners).reshape(-1, d)
        whole = nodes.simpson(cells, width, most)
        halves = nodes.simpson(children, half, most)
        if whole is None or halves is None:
            return None
        summed = halves.reshape(len(cells), -1).sum(1)
        held = {tuple(cell) for cell in occupied // width * width}
        guided = np.array([tuple(cell) in held for cell in cells])
        wide = width * float(unit.mean()) > fair
        cut = (np.abs(summed - whole) > tolerance) | (guided & wide)
        cut &= width > max(finest)
        value += summed[~cut].sum()
        error += np.abs(summed - whole)[~cut].sum()
        edge = ((cells == 0) | (cells + width == 2**depth)).any(1)
        error += summed[~cut & edge].sum()
        cells, width = children.reshape(len(cells), -1, d)[cut].reshape(-1, d), half
    return Mass(float(value), float(error), "quadrature", len(nodes))


class _Nodes:
    """Densities at the points of a lattice, each asked for once."""

    def __init__(
        self, log_density: LogDensityOf, low: NDArray[np.float64], unit: NDArray[np.float64]
    ) -> None:
        self._log_density, self._low, self._unit = log_density, low, unit
        self._known = np.empty(0, dtype=np.int64)
        self._density = np.empty(0)

    def __len__(self) -> int:
        return len(self._known)

    def simpson(self, cells: NDArray[np.int64], width: int, most: int) -> NDArray[np.float64] | None:
        """Return Simpson's rule over each cell `(n, d)` of this width; None beyond `most` nodes."""
        d = cells.shape[1]
        offsets = np.array(list(itertools.product((0, 1, 2), repeat=d)), dtype=np.int64)
        weights = np.array([1, 4, 1])[offsets].prod(1) / 6**d
        # Twice the lattice, so that the middle of the finest cell is a whole number too.
        at = 2 * cells[:, None] + offsets * width
        keys = at.reshape(-1, d) @ (2**20) ** np.arange(d)
        new, first = np.unique(keys, return_index=True)
        fresh = ~np.isin(new, self._known, assume_unique=True)
        if len(self) + int(fresh.sum()) > most:
            return None
        points = self._low + at.reshape(-1, d)[first[fresh]] * self._unit / 2
        density = self._log_density(torch.from_numpy(points)).exp().numpy()
        known = np.concatenate([self._known, new[fresh]])
        order = known.argsort()
        self._known, self._density = known[order], np.concatenate([self._density, density])[order]
        density = self._density[np.searchsorted(self._known, keys)].reshape(len(cells), -1)
        found: NDArray[np.float64] = density @ weights * np.prod(self._unit * width)
        return found


def importance(log_density: LogDensityOf, data: Points, *, n: int = 20_000, seed: int = 0) -> Mass:
    """Return the mass by importance sampling, for any dimension.

    `mass = E_q[p / q]`. The proposal q is a mixture of Student-t laws with 3 degrees of freedom, heavier in
    the tails than any noised data, at the components of a Gaussian mixture fitted to `data` `(m, d)` (their
    number by BIC). It knows nothing of p.
    """
    from sklearn.mixture import GaussianMixture

    m, d = data.shape
    if m < 2 * d:
        raise InputError(f"a proposal needs at least {2 * d} points, got {m}")
    counts = [k for k in (1, 2, 4, 8, 16) if k == 1 or m >= 20 * k * d]
    table = data.numpy()
    fits = [GaussianMixture(k, random_state=seed, reg_covar=1e-4).fit(table) for k in counts]
    best = min(fits, key=lambda fit: float(fit.bic(table)))
    weights, means, shapes = (
        torch.from_numpy(part) for part in (best.weights_, best.means_, best.covariances_)
    )
    factors = torch.linalg.cholesky(shapes)
    # A Student variable is a normal one over the root of chi-square / df.
    generator = np.random.default_rng(seed)
    which = torch.from_numpy(generator.choice(len(weights), n, p=best.weights_))
    normal = torch.from_numpy(generator.standard_normal((n, d)))
    stretch = torch.from_numpy(np.sqrt(_DF / generator.chisquare(_DF, n)))
    drawn = means[which] + stretch[:, None] * torch.einsum("nij,nj->ni", factors[which], normal)
    whitened = torch.linalg.solve_triangular(factors, (drawn[:, None] - means).permute(1, 2, 0), upper=False)
    height = (
        math.lgamma((_DF + d) / 2)
        - math.lgamma(_DF / 2)
        - d / 2 * math.log(_DF * math.pi)
        - factors.diagonal(dim1=1, dim2=2).log().sum(1)
    )
    student = height[:, None] - (_DF + d) / 2 * torch.log1p(whitened.square().sum(1) / _DF)
    log_q = (student + weights.log()[:, None]).logsumexp(0)
    weight = (log_density(drawn) - log_q).exp().numpy()
    return Mass(
        float(weight.mean()),
        float(weight.std(ddof=1) / math.sqrt(n)),
        "importance sampling",
        n,
        float(weight.sum() ** 2 / (weight**2).sum()),
    )


_DF = 3
"""Degrees of freedom: tails heavier than those of any noised data, variance still finite."""
