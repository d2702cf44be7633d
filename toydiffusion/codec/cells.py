"""Columns whose values lie on a grid: rounded numbers, counts, and single values that repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toydiffusion.errors import InputError, shown
from toydiffusion.row_noise import RowNoise
from toydiffusion.tables import default_columns
from toydiffusion.types import FloatArray

FEWEST_TIES = 0.01
"""The share of repeated values from which a column counts as rounded."""
_MOST_DIGITS = 12
_NEAR = 1e-6
"""How far from the grid a value may be, in steps: what the rounding of floating point leaves."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The grid of each column, and the cell of values around each of its points.

    The values of a rounded column are `origin + step k` with whole numbers k. The density of values that
    repeat is unbounded. So a model learns values spread evenly over their cells, `origin + step (k + u)` with
    u uniform in [-1/2, 1/2] (Theis et al. 2016, arXiv:1511.01844). The integral of its density over a cell is
    then the probability of the value.

    - `step` `(d,)`: the grid step; 0 for a column without a grid.
    - `origin` `(d,)`: a point of the grid.
    - `tied` `(d,)`: the share of training values that repeat an earlier one.
    - `spikes`: single values that repeat far more often than others of their column, as many zeros do. Each
      is (column, value, low, high), and its cell goes from low to high: half way to its neighbours.

    >>> found = Cells.find(np.array([[1.5], [2.0], [2.0], [4.5]]))
    >>> found.step.tolist(), found.tied.tolist()
    ([0.5], [0.25])
    """

    step: FloatArray
    origin: FloatArray
    tied: FloatArray
    spikes: tuple[tuple[int, float, float, float], ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers."""
        shapes = {self.step.shape, self.origin.shape, self.tied.shape}
        finite = all(np.isfinite(one).all() for one in (self.step, self.origin, self.tied))
        if len(shapes) != 1 or self.step.ndim != 1 or not finite or (self.step < 0).any():
            raise InputError("step, origin and tied must be finite and of one shape (d,), step >= 0")

    @classmethod
    def find(
        cls,
        x: FloatArray,
        declared: Sequence[float | None] | None = None,
        names: Sequence[str] | None = None,
    ) -> Cells:
        """Return the cells of the columns of x `(n, d)`.

        - `declared`: for each column its step, 0 for none, or None to find it. None finds all.
        - `names`: of the columns, for messages; None: x0, x1, ...

        A column has a grid if at least `FEWEST_TIES` of its values repeat an earlier one and all of them are
        multiples of one step, counted from the lowest. The step is the largest such number.

        Raises `InputError` for a declared step that the values do not follow.
        """
        n, dim = x.shape
        steps, tied = np.zeros(dim), np.zeros(dim)
        spikes: list[tuple[int, float, float, float]] = []
        for j in range(dim):
            values, counts = np.unique(x[:, j], return_counts=True)
            tied[j] = 1 - len(values) / n
            given = None if declared is None else declared[j]
            if given is not None:
                steps[j] = given
                if given and not _multiples(values - values[0], given):
                    name = shown((names or default_columns(dim))[j])
                    raise InputError(f"the values of column {name} are not multiples of its step {given:g}")
            elif tied[j] >= FEWEST_TIES:
                steps[j] = _step(values)
            if given is None:
                spikes += [(j, *spike) for spike in _spikes(values, counts, steps[j])]
        return cls(steps, x.min(0), tied, tuple(spikes))

    @property
    def rounded(self) -> NDArray[np.bool_]:
        """Whether each column has a grid, `(d,)`."""
        return self.step > 0

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Whether each column holds whole numbers alone, `(d,)`: its step is one, and so is its origin."""
        found: NDArray[np.bool_] = self.rounded & (self.step % 1 == 0) & (self.origin % 1 == 0)
        found &= np.abs(self.origin) + self.step < 2**53
        return found

    def spread(self, x: FloatArray, *, seed: int, first_row: int = 0) -> FloatArray:
        """Return x `(n, d)` with the values of rounded columns spread evenly over their cells.

        - `seed`, `first_row`: row i takes row `first_row + i` of the random numbers of `seed`.
        """
        if not self.rounded.any() and not self.spikes:
            return x
        u = RowNoise(seed, "cells").uniform(first_row, first_row + len(x), dim=x.shape[1]).numpy()
        found = self._on_grid(x) + np.where(self.rounded, self.step * (u - 0.5), 0.0)
        for j, value, low, high in self.spikes:
            found[:, j] = np.where(x[:, j] == value, low + (high - low) * u[:, j], found[:, j])
        return found

    def snapped(self, x: FloatArray) -> FloatArray:
        """Return x `(n, d)` with the points of cells moved to the values whose cells they are."""
        found = self._on_grid(x)
        for j, value, low, high in self.spikes:
            found[:, j] = np.where((x[:, j] >= low) & (x[:, j] <= high), value, found[:, j])
        return found

    def bounds(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the lower and upper ends of the cells of x, `(n, d)` each; equal where there is no cell."""
        middle = self._on_grid(x)
        low, high = middle - self.step / 2, middle + self.step / 2
        for j, value, start, end in self.spikes:
            own = x[:, j] == value
            low[own, j], high[own, j] = start, end
        return low, high

    def ends(self, low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the outer ends of the cells of the outermost values from `low` to `high`, `(d,)` each.

        They are a little beyond the cells, by a part of 1e-9. Columns without cells keep `low` and `high`.
        """
        step = np.where(self.rounded, self.step, 1.0)
        first = np.ceil((low - self.origin) / step - _NEAR) - 0.5 - 1e-9
        last = np.floor((high - self.origin) / step + _NEAR) + 0.5 + 1e-9
        low = np.where(self.rounded, self.origin + step * first, low)
        high = np.where(self.rounded, self.origin + step * last, high)
        for j, _, start, end in self.spikes:
            low[j] = min(low[j], start - 1e-9 * (end - start))
            high[j] = max(high[j], end + 1e-9 * (end - start))
        return low, high

    def _on_grid(self, x: FloatArray) -> FloatArray:
        """Return x with the values of rounded columns moved to the nearest point of the grid."""
        step = np.where(self.rounded, self.step, 1.0)
        on_grid = self.origin + step * np.round((x - self.origin) / step)
        # Sums like 0.1 + 2 * 0.1 are rounded to the decimals that step and origin have.
        return np.where(self.rounded, _decimal(on_grid, step, self.origin), x)


def _step(values: FloatArray) -> float:
    """Return the largest step of which all differences of the sorted values are multiples, or 0."""
    if len(values) < 2:
        return 0.0
    away = values - values[0]
    for digits in range(-6, _MOST_DIGITS + 1):
        whole = away * 10.0**digits
        if np.abs(whole).max() < 2**52 and (np.abs(whole - np.round(whole)) < _NEAR).all():
            counts = np.round(whole).astype(np.int64)
            if (np.diff(counts) > 0).all():
                return float(np.gcd.reduce(counts[1:]) / 10.0**digits)
    least = float(np.diff(values).min())
    return least if _multiples(away, least) else 0.0


def _spikes(values: FloatArray, counts: NDArray[np.int64], step: float) -> list[tuple[float, float, float]]:
    """Return the values that repeat far more often than their neighbours on a fine grid, with their cells."""
    if len(values) < 3:
        return []
    n, found = counts.sum(), []
    for i in np.flatnonzero(counts >= max(5, 0.01 * n)):
        others = np.delete(counts, i)
        below = values[i] - values[i - 1] if i else np.inf
        above = values[i + 1] - values[i] if i + 1 < len(values) else np.inf
        half = min(below, above) / 2
        # On a coarse grid the neighbours are a step or two away, and the value is one like the others.
        if counts[i] > 5 * np.quantile(others, 0.95) and half > step:
            found.append((float(values[i]), float(values[i] - half), float(values[i] + half)))
    return found


def _multiples(away: FloatArray, step: float) -> bool:
    """Whether these differences are multiples of the step."""
    counts = away / step
    return bool((np.abs(counts - np.round(counts)) < 1e-3).all())


def _decimal(values: FloatArray, step: FloatArray, origin: FloatArray) -> FloatArray:
    """Return values rounded to the decimals of step and origin of their column, where these have few."""
    found = values.copy()
    for j, ends in enumerate(zip(step, origin, strict=True)):
        for digits in range(_MOST_DIGITS + 1):
            if all(abs(one * 10**digits - round(one * 10**digits)) < 1e-9 for one in ends):
                found[:, j] = np.round(values[:, j], digits)
                break
    return found
