"""The schedules: the three of the original project, and those of the literature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from toydiffusion.errors import InputError
from toydiffusion.schedules.base import Schedule


@dataclass(frozen=True)
class Exponential(Schedule):
    """The original's `sigma(t) = exp(5 (t - 1))`. Its steps are even in log sigma, and sigma = 1 at t = 1.

    >>> [round(level, 6) for level in Exponential(0.01, 1.0).levels(2).tolist()]
    [1.0, 0.1, 0.01]
    """

    name: ClassVar[str] = "exp"

    def sigma(self, t: Tensor) -> Tensor:
        """Return `exp(5 (t - 1))`."""
        return torch.exp(5 * (t - 1))

    def t(self, sigma: Tensor) -> Tensor:
        """Return `1 + log(sigma) / 5`."""
        return 1 + torch.log(sigma) / 5

    def dsigma(self, t: Tensor) -> Tensor:
        """Return `5 sigma(t)`."""
        return 5 * self.sigma(t)


@dataclass(frozen=True)
class Linear(Schedule):
    """The original's `sigma(t) = t`, which is also EDM's time (Karras et al. 2022)."""

    name: ClassVar[str] = "linear"

    def sigma(self, t: Tensor) -> Tensor:
        """Return t."""
        return t.clone()

    def t(self, sigma: Tensor) -> Tensor:
        """Return sigma."""
        return sigma.clone()

    def dsigma(self, t: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class SquareRoot(Schedule):
    """The original's `sigma(t) = sqrt(t)`: Brownian motion with variance t."""

    name: ClassVar[str] = "sqrt"

    def sigma(self, t: Tensor) -> Tensor:
        """Return `sqrt(t)`."""
        return torch.sqrt(t)

    def t(self, sigma: Tensor) -> Tensor:
        """Return `sigma^2`."""
        return sigma**2

    def dsigma(self, t: Tensor) -> Tensor:
        """Return `1 / (2 sqrt(t))`."""
        return 0.5 / torch.sqrt(t)


@dataclass(frozen=True)
class Karras(Schedule):
    """`sigma(t) = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho`.

    - `rho`: > 0. 7 puts most steps at low noise. 1 is even in sigma, and rho to infinity is even in log
      sigma.

    Source: Karras et al. 2022 (arXiv:2206.00364, equation 5).
    """

    name: ClassVar[str] = "karras"

    rho: float = 7.0

    def _check(self) -> None:
        if self.rho <= 0:
            raise InputError(f"rho must be > 0, got {self.rho:g}")

    def _roots(self) -> tuple[float, float]:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return low, high - low

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise level at t, with t = u."""
        low, span = self._roots()
        return (low + t * span) ** self.rho

    def t(self, sigma: Tensor) -> Tensor:
        """Return `(sigma^(1/rho) - sigma_min^(1/rho)) / (sigma_max^(1/rho) - sigma_min^(1/rho))`."""
        low, span = self._roots()
        return (sigma ** (1 / self.rho) - low) / span

    def dsigma(self, t: Tensor) -> Tensor:
        """Return `rho sigma^(1 - 1/rho) (sigma_max^(1/rho) - sigma_min^(1/rho))`."""
        low, span = self._roots()
        return self.rho * span * (low + t * span) ** (self.rho - 1)


@dataclass(frozen=True)
class LogNormal(Schedule):
    """`log sigma(t) = mean + std Phi^-1(t)`: for uniform t, sigma has a log-normal law.

    `Phi` is the standard normal distribution function. The law is truncated to [sigma_min, sigma_max].

    - `mean`: the mean of log sigma, before truncation.
    - `std`: the standard deviation of log sigma, before truncation, > 0.

    Source: Karras et al. 2022 (table 1), who train with mean -1.2 and std 1.2 on images.
    """

    name: ClassVar[str] = "lognormal"

    mean: float = -1.2
    std: float = 1.6

    def _check(self) -> None:
        if self.std <= 0:
            raise InputError(f"std must be > 0, got {self.std:g}")

    def sigma(self, t: Tensor) -> Tensor:
        """Return `exp(mean + std Phi^-1(t))`."""
        return torch.exp(self.mean + self.std * torch.special.ndtri(t))

    def t(self, sigma: Tensor) -> Tensor:
        """Return `Phi((log sigma - mean) / std)`."""
        t: Tensor = torch.special.ndtr((torch.log(sigma) - self.mean) / self.std)
        return t

    def dsigma(self, t: Tensor) -> Tensor:
        """Return `sigma std / phi(Phi^-1(t))`, phi the standard normal density."""
        q = torch.special.ndtri(t)
        return self.sigma(t) * self.std * math.sqrt(2 * math.pi) * torch.exp(q**2 / 2)


@dataclass(frozen=True)
class VariancePreserving(Schedule):
    """VP-linear: `beta(t) = beta_min + t (beta_max - beta_min)`, `alpha = exp(-1/2 int_0^t beta)`.

    The variance is preserved: `alpha^2 + (alpha sigma)^2 = 1`, so `sigma = sqrt(1 / alpha^2 - 1)`. Sigma goes
    to infinity only as t does.

    - `beta_min`: the rate at t = 0, > 0.
    - `beta_max`: the rate at t = 1, > beta_min.

    Source: Song et al. 2021, equation 32; Ho et al. 2020.
    """

    name: ClassVar[str] = "vp"

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _check(self) -> None:
        if not 0 < self.beta_min < self.beta_max:
            raise InputError(f"VP needs 0 < beta_min < beta_max, got {self.beta_min:g} and {self.beta_max:g}")

    def _integral(self, t: Tensor) -> Tensor:
        """Return the integral of beta from 0 to t."""
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def alpha(self, t: Tensor) -> Tensor:
        """Return `exp(-1/2 int_0^t beta)`."""
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        """Return `sqrt(exp(int_0^t beta) - 1)`."""
        return torch.sqrt(torch.expm1(self._integral(t)))

    def t(self, sigma: Tensor) -> Tensor:
        """Return the positive root t of `int_0^t beta = log(1 + sigma^2)`."""
        integral = torch.log1p(sigma**2)
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))

    def beta(self, t: Tensor) -> Tensor:
        """Return `beta_min + t (beta_max - beta_min)`, the rate at which noise replaces signal."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def dsigma(self, t: Tensor) -> Tensor:
        """Return `beta (1 + sigma^2) / (2 sigma)`."""
        sigma = self.sigma(t)
        return self.beta(t) * (1 + sigma**2) / (2 * sigma)


@dataclass(frozen=True)
class Cosine(Schedule):
    """`alpha(t) = cos(pi t / 2)`, `alpha sigma = sin(pi t / 2)`, so `sigma = tan(pi t / 2)`.

    Source: Nichol & Dhariwal 2021 (arXiv:2102.09672), here without their small offset at t = 0.
    """

    name: ClassVar[str] = "cosine"

    def alpha(self, t: Tensor) -> Tensor:
        """Return `cos(pi t / 2)`."""
        return torch.cos(math.pi * t / 2)

    def sigma(self, t: Tensor) -> Tensor:
        """Return `tan(pi t / 2)`."""
        return torch.tan(math.pi * t / 2)

    def t(self, sigma: Tensor) -> Tensor:
        """Return `2 arctan(sigma) / pi`."""
        return 2 * torch.atan(sigma) / math.pi

    def dsigma(self, t: Tensor) -> Tensor:
        """Return `pi/2 (1 + sigma^2)`."""
        return math.pi / 2 * (1 + self.sigma(t) ** 2)


@dataclass(frozen=True)
class FlowMatching(Schedule):
    """Flow matching: `x_t = (1 - t) z + t eps`, so `alpha = 1 - t` and `sigma = t / (1 - t)`.

    Time runs from data (0) to noise (1).

    Source: Lipman et al. 2023 (arXiv:2210.02747) with sigma_min = 0; Liu et al. 2023 (rectified flow).
    """

    name: ClassVar[str] = "flow-matching"

    def alpha(self, t: Tensor) -> Tensor:
        """Return `1 - t`."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Return `t / (1 - t)`."""
        return t / (1 - t)

    def t(self, sigma: Tensor) -> Tensor:
        """Return `sigma / (1 + sigma)`."""
        return sigma / (1 + sigma)

    def dsigma(self, t: Tensor) -> Tensor:
        """Return `1 / (1 - t)^2`."""
        slope: Tensor = 1 / (1 - t).square()
        return slope
