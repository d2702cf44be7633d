"""Means and covariances of rows that come in parts: in one pass, and mergeable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toydiffusion.types import FloatArray


@dataclass(frozen=True, eq=False)
class RunningMoments:
    """The count, mean and scatter of rows, about a point that is near them.

    Parts are merged by the formula of Chan, Golub and LeVeque (1983, "Algorithms for computing the sample
    variance"): with n = n_a + n_b and the difference u = m_b - m_a of the means,

        m = m_a + u n_b / n,    S = S_a + S_b + u u^T n_a n_b / n.

    All values are differences from `about`, so a large mean costs no digits.

    - `about` `(d,)`: the point, the mean of the first part.
    - `count`: the rows.
    - `offset` `(d,)`: their mean less `about`.
    - `scatter` `(d, d)`: `sum (x - mean) (x - mean)^T`.
    - `low`, `high` `(d,)`: the least and the greatest value of each column.

    >>> x = np.random.default_rng(0).normal(1e6, 1.0, size=(1000, 2))
    >>> whole, parts = RunningMoments.of(x), RunningMoments.of(x[:300]).merged(RunningMoments.of(x[300:]))
    >>> bool(np.allclose(whole.mean, parts.mean, rtol=0, atol=1e-9))
    True
    """

    about: FloatArray
    count: int
    offset: FloatArray
    scatter: FloatArray
    low: FloatArray
    high: FloatArray

    @classmethod
    def of(cls, x: FloatArray, about: FloatArray | None = None) -> RunningMoments:
        """Return the moments of rows `(n, d)`, at least one, about a point or their own mean."""
        about = x.mean(axis=0) if about is None else about
        away = x - about
        offset = away.mean(axis=0)
        away -= offset
        return cls(about, len(x), offset, away.T @ away, x.min(axis=0), x.max(axis=0))

    def merged(self, other: RunningMoments) -> RunningMoments:
        """Return the moments of the rows of both."""
        count = self.count + other.count
        apart = (other.about - self.about) + (other.offset - self.offset)
        weight = self.count * (other.count / count)
        return RunningMoments(
            self.about,
            count,
            self.offset + apart * (other.count / count),
            self.scatter + other.scatter + weight * np.outer(apart, apart),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    @property
    def mean(self) -> FloatArray:
        """The mean, `(d,)`."""
        return self.about + self.offset

    @property
    def covariance(self) -> FloatArray:
        """The covariance, `(d, d)`, with the divisor n."""
        return self.scatter / self.count

    @property
    def deviation(self) -> FloatArray:
        """The standard deviation of each column, `(d,)`."""
        return np.sqrt(self.covariance.diagonal())
