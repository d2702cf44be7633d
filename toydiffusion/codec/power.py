"""Power transforms of single columns: long tails become short ones, invertibly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toydiffusion.errors import InputError
from toydiffusion.types import Points

PENALTY = 2.0
"""How many nats of log-likelihood each unit of `(lambda - 1)^2` costs: few points change a column little."""
_GRID = torch.linspace(0.0, 2.0, 41, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class PowerMap:
    """The map of Yeo and Johnson (2000), column by column, after a shift and a scaling.

    With `t = (x - center) / spread` and lambda in [0, 2], where the map is onto the whole line,

        psi(t) = ((1 + t)^lambda - 1) / lambda                  for t >= 0, log(1 + t) for lambda = 0,
        psi(t) = -((1 - t)^(2 - lambda) - 1) / (2 - lambda)     for t < 0, -log(1 - t) for lambda = 2,
        psi'(t) = (1 + |t|)^(sign(t) (lambda - 1)).

    - `center`, `spread` `(d,)`: float64, spread > 0.
    - `power` `(d,)`: lambda; 1 leaves a column as it is.

    >>> x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None].exp()
    >>> PowerMap.fit(x).power.item() < 1
    True
    """

    center: Tensor
    spread: Tensor
    power: Tensor

    def __post_init__(self) -> None:
        """Check the numbers."""
        same = self.center.shape == self.spread.shape == self.power.shape and self.center.ndim == 1
        finite = all(bool(one.isfinite().all()) for one in (self.center, self.spread, self.power))
        if not same or not finite or not bool((self.spread > 0).all()):
            raise InputError("center, spread and power must be finite and of one shape (d,), spread > 0")
        if not bool(((self.power >= 0) & (self.power <= 2)).all()):
            raise InputError("a power must lie in [0, 2]")

    @classmethod
    def fit(cls, x: Points) -> PowerMap:
        """Return the map whose columns look most normal.

        Lambda maximises the likelihood of a Gaussian with free mean and variance (Box & Cox 1964), less
        `PENALTY (lambda - 1)^2`.
        """
        center, spread = x.mean(0), x.std(0, correction=0)
        t = (x - center) / spread
        slope = t.sign() * t.abs().log1p()
        found = []
        for power in _GRID:
            value = _psi(t, power.expand(t.shape[1]))
            likelihood = -len(x) / 2 * value.var(0, correction=0).log() + (power - 1) * slope.sum(0)
            found.append(likelihood - PENALTY * (power - 1).square())
        return cls(center, spread, _GRID[torch.stack(found).argmax(0)])

    def forward(self, x: Points) -> Points:
        """Return `psi((x - center) / spread)`, `(n, d)`."""
        return _psi((x - self.center) / self.spread, self.power)

    def inverse(self, y: Points) -> Points:
        """Return the points x of which `forward` gives y, `(n, d)`."""
        low, high = self.power, 2 - self.power
        right = torch.where(low == 0, y.expm1(), _root(y, low))
        left = torch.where(high == 0, -(-y).expm1(), -_root(-y, high))
        return self.center + self.spread * torch.where(y >= 0, right, left)

    def log_slope(self, x: Points) -> Tensor:
        """Return the logarithm of the derivative of `forward` in each column, `(n, d)`."""
        t = (x - self.center) / self.spread
        return t.sign() * (self.power - 1) * t.abs().log1p() - self.spread.log()

    def grad_log_slope(self, x: Points) -> Tensor:
        """Return the derivative of `log_slope` in x, `(n, d)`."""
        t = (x - self.center) / self.spread
        return (self.power - 1) / (1 + t.abs()) / self.spread


def _psi(t: Tensor, power: Tensor) -> Tensor:
    """Return the map of Yeo and Johnson. `(e^(p log(1 + |t|)) - 1) / p` is exact near p = 0 too."""
    size = t.abs().log1p()
    exponent = torch.where(t >= 0, power, 2 - power)
    value = torch.where(exponent == 0, size, (exponent * size).expm1() / exponent.clamp(min=1e-300))
    return t.sign() * value


def _root(y: Tensor, power: Tensor) -> Tensor:
    """Return `(1 + power y)^(1 / power) - 1` for y >= 0, and 0 elsewhere."""
    positive = y.clamp(min=0)
    return ((positive * power).log1p() / power.clamp(min=1e-300)).expm1()
