"""Bounds of single columns: what lies between them is mapped onto the whole line, invertibly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toydiffusion.errors import InputError
from toydiffusion.types import Points


@dataclass(frozen=True, eq=False)
class Bounds:
    """A map, column by column, that takes every point inside the bounds to the line. None lies beyond them.

    With the bounds a < b and the scale s of a column,

        y = log((x - a) / (b - x))          for two bounds,
        y = log(e^((x - a) / s) - 1)        for a lower bound: a logarithm near it, a line far from it,
        y = -log(e^((b - x) / s) - 1)       for an upper bound,
        y = x                               for none.

    - `low`, `high` `(d,)`: float64, the bounds; infinite for none.
    - `scale` `(d,)`: float64 > 0.

    >>> one = Bounds(torch.zeros(1).double(), torch.ones(1).double(), torch.ones(1).double())
    >>> one.forward(torch.tensor([[0.5]]).double()).item()
    0.0
    """

    low: Tensor
    high: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        """Check the numbers."""
        same = self.low.shape == self.high.shape == self.scale.shape and self.low.ndim == 1
        positive = bool(self.scale.isfinite().all()) and bool((self.scale > 0).all())
        if not same or not positive or not bool((self.low < self.high).all()):
            raise InputError("low, high and scale must have one shape (d,), low < high, scale finite and > 0")

    def inside(self, x: Points) -> Tensor:
        """Return whether each number lies between its bounds, `(n, d)`."""
        return (x > self.low) & (x < self.high)

    def forward(self, x: Points) -> Points:
        """Return y, `(n, d)`."""
        left, right = (x - self.low) / self.scale, (self.high - x) / self.scale
        found = torch.where(self.low.isfinite(), _log_expm1(left), x)
        found = torch.where(self.high.isfinite(), -_log_expm1(right), found)
        return torch.where(self._both, left.log() - right.log(), found)

    def inverse(self, y: Points) -> Points:
        """Return the points x of which `forward` gives y, `(n, d)`."""
        softplus = torch.nn.functional.softplus
        found = torch.where(self.low.isfinite(), self.low + self.scale * softplus(y, threshold=40), y)
        found = torch.where(self.high.isfinite(), self.high - self.scale * softplus(-y, threshold=40), found)
        # From the nearer bound, so that no digit of the distance from it is lost.
        width = self.high - self.low
        both = torch.where(y < 0, self.low + width * y.sigmoid(), self.high - width * (-y).sigmoid())
        return torch.where(self._both, both, found)

    def log_slope(self, x: Points) -> Tensor:
        """Return the logarithm of the derivative of `forward` in each column, `(n, d)`."""
        left, right = (x - self.low) / self.scale, (self.high - x) / self.scale
        one = -self.scale.log()
        found = torch.where(self.low.isfinite(), one - _log_gap(left), torch.zeros_like(x))
        found = torch.where(self.high.isfinite(), one - _log_gap(right), found)
        width = (self.high - self.low) / self.scale
        return torch.where(self._both, one + width.log() - left.log() - right.log(), found)

    def grad_log_slope(self, x: Points) -> Tensor:
        """Return the derivative of `log_slope` in x, `(n, d)`."""
        left, right = (x - self.low) / self.scale, (self.high - x) / self.scale
        found = torch.where(self.low.isfinite(), -1 / left.expm1(), torch.zeros_like(x))
        found = torch.where(self.high.isfinite(), 1 / right.expm1(), found)
        return torch.where(self._both, 1 / right - 1 / left, found) / self.scale

    @property
    def _both(self) -> Tensor:
        return self.low.isfinite() & self.high.isfinite()


def _log_expm1(t: Tensor) -> Tensor:
    """Return `log(e^t - 1)` for t > 0, exact for small and large t."""
    return t + _log_gap(t)


def _log_gap(t: Tensor) -> Tensor:
    """Return `log(1 - e^-t)` for t > 0."""
    return (-(-t).expm1()).log()
