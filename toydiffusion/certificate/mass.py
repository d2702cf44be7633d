"""The total mass of a density, which must be 1."""

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
"""Maps points, `(n, d)`, to their log-densities, `(n,)`, in nats."""


@dataclass(frozen=True)
class Mass:
    """The integral of a density over all of space.

    - `value`: the integral.
    - `error`: by quadrature, the sum over the cells of the difference to twice the step, plus the mass in the
      outermost cells. By importance sampling, the standard error.
    - `method`: "quadrature" or "importance sampling".
    - `points`: the number of densities that were computed.
    - `effective_sample_size`: `(sum w)^2 / sum w^2` of the importance weights. None with quadrature.
    """

    value: float
    error: float
    method: str
    points: int
    effective_sample_size: float | None = None


def quadrature(
    log_density: LogDensityOf, guide: Points, *, step: float, most: int = 400_000, tolerance: float = 1e-6
) -> Mass | None:
    """Return the mass by adaptive Simpson quadrature; None if `most` densities are not enough.

    - `log_density`: the density.
    - `guide` `(n, d)`: points that show where the mass is, d <= 3.
    - `step`: the noise level that smooths the density, sigma_min.
    - `most`: the most densities to compute, default 400,000.
    - `tolerance`: cells are cut until halving their width changes their mass by at most this, default 1e-6.

    The box of integration contains the guides, with a margin of 15 % and 8 `step` at each end. It is cut into
    cells, whose nodes are their corners and midpoints. So neighbouring cells share nodes, and no gap is left
    between them.

    Cells that contain a guide are always cut to a tenth of the standard deviation of the guides (in three
    dimensions to their standard deviation). Cells in which halving the width changes the mass by more than
    `tolerance` are cut in half along every axis, down to nodes `step / 2` apart.

    Each cell is summed at its own step and at half of it. The finer sum is the value, and the differences are
    its error.
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
        coarse = nodes.simpson(cells, width, most)
        halves = nodes.simpson(children, half, most)
        if coarse is None or halves is None:
            return None
        summed = halves.reshape(len(cells), -1).sum(1)
        held = {tuple(cell) for cell in occupied // width * width}
        guided = np.array([tuple(cell) in held for cell in cells])
        wide = width * float(unit.mean()) > fair
        cut = (np.abs(summed - coarse) > tolerance) | (guided & wide)
        cut &= width > max(finest)
        value += summed[~cut].sum()
        error += np.abs(summed - coarse)[~cut].sum()
        outermost = ((cells == 0) | (cells + width == 2**depth)).any(1)
        error += summed[~cut & outermost].sum()
        cells, width = children.reshape(len(cells), -1, d)[cut].reshape(-1, d), half
    return Mass(float(value), float(error), "quadrature", len(nodes))


class _Nodes:
    """Densities at the points of a lattice, each of them computed once."""

    def __init__(
        self, log_density: LogDensityOf, low: NDArray[np.float64], unit: NDArray[np.float64]
    ) -> None:
        self._log_density, self._low, self._unit = log_density, low, unit
        self._known = np.empty(0, dtype=np.int64)
        self._density = np.empty(0)

    def __len__(self) -> int:
        return len(self._known)

    def simpson(self, cells: NDArray[np.int64], width: int, most: int) -> NDArray[np.float64] | None:
        """Return Simpson's rule over each cell, `(n, d)`, of this width; None if it needs too many nodes."""
        d = cells.shape[1]
        offsets = np.array(list(itertools.product((0, 1, 2), repeat=d)), dtype=np.int64)
        weights = np.array([1, 4, 1])[offsets].prod(1) / 6**d
        # In half units of the lattice, so that the midpoint of the finest cell is an integer too.
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
    """Return the mass `E_q[p / q]` by importance sampling, for any dimension.

    - `log_density`: the density p.
    - `data` `(m, d)`: points that show where the mass is.
    - `n`: the number of samples of q, default 20,000.
    - `seed`: an integer >= 0.

    The proposal q is a mixture of Student-t laws with 3 degrees of freedom. Their means and shapes are those
    of a Gaussian mixture fitted to `data`, with the number of components chosen by BIC. The tails of q are
    heavier than those of any noised data.

    Raises `InputError` for fewer than 2 d points.
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
    # A Student-t variable is a normal variable divided by sqrt(chi-square / df).
    generator = np.random.default_rng(seed)
    which = torch.from_numpy(generator.choice(len(weights), n, p=best.weights_))
    normal = torch.from_numpy(generator.standard_normal((n, d)))
    stretch = torch.from_numpy(np.sqrt(_DF / generator.chisquare(_DF, n)))
    points = means[which] + stretch[:, None] * torch.einsum("nij,nj->ni", factors[which], normal)
    whitened = torch.linalg.solve_triangular(factors, (points[:, None] - means).permute(1, 2, 0), upper=False)
    height = (
        math.lgamma((_DF + d) / 2)
        - math.lgamma(_DF / 2)
        - d / 2 * math.log(_DF * math.pi)
        - factors.diagonal(dim1=1, dim2=2).log().sum(1)
    )
    student = height[:, None] - (_DF + d) / 2 * torch.log1p(whitened.square().sum(1) / _DF)
    log_q = (student + weights.log()[:, None]).logsumexp(0)
    weight = (log_density(points) - log_q).exp().numpy()
    return Mass(
        float(weight.mean()),
        float(weight.std(ddof=1) / math.sqrt(n)),
        "importance sampling",
        n,
        float(weight.sum() ** 2 / (weight**2).sum()),
    )


_DF = 3
"""Degrees of freedom: the tails are heavier than those of noised data, and the variance is finite."""
