"""The map between the user's coordinates x and the core's coordinates z, column by column."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from toydiffusion.errors import InputError
from toydiffusion.types import Points


@dataclass(frozen=True, eq=False)
class Standardizer:
    """The map `z = (x - mean) / scale`, column by column, and its log-determinant.

    - `mean` `(d,)`: float64.
    - `scale` `(d,)`: float64, > 0.
    - `log_det`: `-sum(log(scale))`, in nats, so that `log p(x) = log p(z) + log_det`.

    Raises `InputError` for other shapes and values.

    >>> s = Standardizer.fit(torch.tensor([[0.0], [4.0]]))
    >>> s.z(torch.tensor([[4.0]])).tolist(), round(s.log_det, 4)
    ([[1.0]], -0.6931)
    """

    mean: Tensor
    scale: Tensor
    log_det: float = field(init=False)

    def __post_init__(self) -> None:
        """Check the numbers and compute the log-determinant."""
        if self.mean.shape != self.scale.shape or self.mean.ndim != 1:
            raise InputError(
                "mean and scale must both be (d,), "
                f"got {tuple(self.mean.shape)} and {tuple(self.scale.shape)}"
            )
        if not bool(((self.scale > 0) & self.scale.isfinite() & self.mean.isfinite()).all()):
            raise InputError("mean must be finite, and scale finite and > 0")
        object.__setattr__(self, "mean", self.mean.double())
        object.__setattr__(self, "scale", self.scale.double())
        object.__setattr__(self, "log_det", -float(self.scale.log().sum()))

    @classmethod
    def fit(cls, x: Points) -> Standardizer:
        """Return the map that gives the columns of `x`, `(n, d)`, mean 0 and standard deviation 1."""
        x = x.double()
        # Division by the largest value keeps the squares of values like 1e200 and 1e-200 in range.
        size = x.abs().amax(0).clamp(min=torch.finfo(torch.float64).tiny)
        return cls(x.mean(0), (x / size).std(0, correction=0) * size)

    @classmethod
    def identity(cls, dim: int) -> Standardizer:
        """Return the identity for points of `dim` columns."""
        return cls(torch.zeros(dim, dtype=torch.float64), torch.ones(dim, dtype=torch.float64))

    def z(self, x: Points) -> Points:
        """Return `(x - mean) / scale`, `(n, d)` float64."""
        return (x.double() - self.mean) / self.scale

    def x(self, z: Points) -> Points:
        """Return `mean + scale z`, `(n, d)` float64."""
        return self.mean + self.scale * z.double()
