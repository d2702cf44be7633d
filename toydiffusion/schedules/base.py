"""The base class of all schedules: a monotone map from time to noise level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from toydiffusion.errors import InputError, finite_number, store, whole_number


@dataclass(frozen=True)
class Schedule(ABC):
    """A monotone map from u in [0, 1] to sigma in [sigma_min, sigma_max], with sigma_min > 0.

    - `sigma_min`: the lowest noise level, > 0.
    - `sigma_max`: the highest noise level.

    A subclass has a `name` and defines `sigma(t)`, its inverse `t(sigma)` and its derivative `dsigma(t)`. If
    the process shrinks the data it also defines `alpha(t)`.

    The variance-exploding equations in t are (Song et al. 2021, arXiv:2011.13456, equations 6, 13 and 30),
    with g(t)^2 = d[sigma^2]/dt = `dsigma2(t)`:

        forward SDE       dz = g dw
        reverse SDE       dz = -g^2 score(z; sigma(t)) dt + g dw        (t running down)
        reverse ODE       dz = -1/2 g^2 score(z; sigma(t)) dt

    The methods take and return float64 tensors of any shape.

    Raises `InputError` for numbers that are not finite or out of range.
    """

    name: ClassVar[str]
    sigma_min: float = 0.005
    sigma_max: float = 10.0

    def __post_init__(self) -> None:
        """Check every number of the schedule."""
        for field in fields(self):
            store(self, field.name, finite_number(field.name, getattr(self, field.name)))
        if not 0 < self.sigma_min < self.sigma_max:
            raise InputError(
                "a schedule needs 0 < sigma_min < sigma_max, "
                f"got sigma_min {self.sigma_min:g} and sigma_max {self.sigma_max:g}"
            )
        self._check()
        ends = torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64)
        if not torch.allclose(self.sigma(self.t(ends)), ends, rtol=1e-3, atol=0.0):
            raise InputError(
                f"{type(self).__name__} has no times for sigma {self.sigma_min:g} to {self.sigma_max:g}"
            )

    def _check(self) -> None:  # noqa: B027 - a subclass may have nothing to check
        """Check a subclass's own numbers."""

    # Defined by subclasses --------------------------------------------------------------------------

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise level at time t."""

    @abstractmethod
    def t(self, sigma: Tensor) -> Tensor:
        """Return the time at which the noise level is sigma, the inverse of `sigma`."""

    @abstractmethod
    def dsigma(self, t: Tensor) -> Tensor:
        """Return d sigma / dt."""

    def alpha(self, t: Tensor) -> Tensor:
        """Return the factor that shrinks the data, in `x_t = alpha(t) (z + sigma(t) eps)`; 1 by default."""
        return torch.ones_like(t)

    # Derived from the formula -----------------------------------------------------------------------

    def dsigma2(self, t: Tensor) -> Tensor:
        """Return g(t)^2 = d[sigma^2]/dt, the squared diffusion coefficient."""
        return 2 * self.sigma(t) * self.dsigma(t)

    def snr(self, t: Tensor) -> Tensor:
        """Return the signal-to-noise ratio of data of unit variance, 1 / sigma(t)^2."""
        inverse: Tensor = 1 / self.sigma(t).square()
        return inverse

    def _ends(self) -> Tensor:
        return self.t(torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64))

    def sigma_at(self, u: Tensor) -> Tensor:
        """Return sigma at u in [0, 1]: sigma_min at 0, sigma_max at 1."""
        low, high = self._ends()
        return self.sigma(torch.lerp(low, high, u)).clamp(self.sigma_min, self.sigma_max)

    def u(self, sigma: Tensor) -> Tensor:
        """Return the u in [0, 1] at which the noise level is sigma, the inverse of `sigma_at`."""
        low, high = self._ends()
        u: Tensor = (self.t(sigma) - low) / (high - low)
        return u

    def levels(self, n: int) -> Tensor:
        """Return n + 1 noise levels, strictly descending from sigma_max to sigma_min, evenly spaced in u."""
        n = whole_number("the number of intervals", n, 1)
        levels = self.sigma_at(torch.linspace(1, 0, n + 1, dtype=torch.float64))
        levels[0], levels[-1] = self.sigma_max, self.sigma_min
        return levels

    def sample_sigma(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n random noise levels, with one uniform u in each of n strata, in random order.

        The order must be random. With ordered strata and points in a fixed order, each point would only ever
        be noised to one narrow range of levels.
        """
        order = torch.randperm(n, generator=generator)
        offset = torch.rand(n, generator=generator, dtype=torch.float64)
        return self.sigma_at((order + offset) / n)

    def between(self, sigma_min: float, sigma_max: float) -> Schedule:
        """Return the same schedule over another range of sigma."""
        return replace(self, sigma_min=sigma_min, sigma_max=sigma_max)

    @property
    def parameters(self) -> dict[str, float]:
        """All its numbers by name, so that `schedule(s.name, s.parameters) == s`."""
        return asdict(self)
