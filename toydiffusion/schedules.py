"""Row 1: noise schedules: monotone maps from time to the noise level, with inverse and derivatives.

Inside the core a noisy point is always `z + sigma eps`. A path `x_t = alpha(t) (z + sigma(t) eps)` that also
shrinks the data (variance preserving, cosine, flow matching) is the same thing in `x_t / alpha(t)`, so it is
a schedule too and carries its `alpha`.

Two clocks: `t` is the schedule's own time, in which its formula is written; `u` in [0, 1] runs affinely over
the stretch of t where sigma goes from `sigma_min` to `sigma_max`. All sigmas are in standard deviations of
the standardised data (or in the data's own units, where standardising is off).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

import torch
from torch import Tensor

from toydiffusion.types import InputError, nearest


@dataclass(frozen=True)
class Schedule(ABC):
    """A monotone map from u in [0, 1] to sigma in [sigma_min, sigma_max], with sigma_min > 0.

    A subclass writes `sigma(t)`, its inverse `t(sigma)` and its derivative `dsigma(t)`, and `alpha(t)` where
    the path shrinks the data. The variance-exploding equations in t (Song et al. 2021, arXiv:2011.13456,
    equations 6, 13, 30) read, with g(t)^2 = d[sigma^2]/dt = `dsigma2(t)`:

        forward SDE       dz = g dw
        reverse SDE       dz = -g^2 score(z; sigma(t)) dt + g dw        (t running down)
        reverse ODE       dz = -1/2 g^2 score(z; sigma(t)) dt

    All methods take and return float64 tensors of any shape.
    """

    sigma_min: float = 0.005
    sigma_max: float = 10.0

    def __post_init__(self) -> None:
        """Check every number of the schedule."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise InputError(f"{field.name} must be a finite number, got {value!r}")
            object.__setattr__(self, field.name, float(value))
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

    def _check(self) -> None:  # noqa: B027 - nothing more to check is a complete answer
        """Check a subclass's own numbers."""

    # The formula: what a subclass writes ------------------------------------------------------------

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
        """Return the factor by which the path shrinks the data, `x_t = alpha(t) (z + sigma(t) eps)`."""
        return torch.ones_like(t)

    # What follows from it ---------------------------------------------------------------------------

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
        """Return u in [0, 1] at which the noise level is sigma, the inverse of `sigma_at`."""
        low, high = self._ends()
        u: Tensor = (self.t(sigma) - low) / (high - low)
        return u

    def levels(self, n: int) -> Tensor:
        """Return n + 1 strictly descending noise levels from sigma_max to sigma_min, evenly spaced in u."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InputError(f"a schedule is cut into a whole number of steps >= 1, got {n!r}")
        levels = self.sigma_at(torch.linspace(1, 0, n + 1, dtype=torch.float64))
        levels[0], levels[-1] = self.sigma_max, self.sigma_min
        return levels

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n noise levels, one u uniform in each of n strata, in random order.

        The order matters: strata left in order against points in a fixed order would show each point one
        narrow range of noise only.
        """
        order = torch.randperm(n, generator=generator)
        within = torch.rand(n, generator=generator, dtype=torch.float64)
        return self.sigma_at((order + within) / n)

    def between(self, sigma_min: float, sigma_max: float) -> Schedule:
        """Return the same formula over another range of sigma."""
        return replace(self, sigma_min=sigma_min, sigma_max=sigma_max)

    @property
    def name(self) -> str:
        """The name under which `schedule` makes it."""
        return next(name for name, kind in SCHEDULES.items() if kind is type(self))

    @property
    def parameters(self) -> dict[str, float]:
        """Every number of it: `schedule(s.name, s.parameters) == s`."""
        return asdict(self)


@dataclass(frozen=True)
class Exponential(Schedule):
    """The original's `sigma(t) = exp(5 (t - 1))`: even steps in log sigma; sigma = 1 at t = 1.

    >>> [round(level, 6) for level in Exponential(0.01, 1.0).levels(2).tolist()]
    [1.0, 0.1, 0.01]
    """

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
    """The original's `sigma(t) = sqrt(t)`: Brownian motion, variance t."""

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

    Karras et al. 2022 (arXiv:2206.00364, equation 5); rho = 7 spends its steps at low noise, rho = 1 is even
    in sigma, rho to infinity even in log sigma.
    """

    rho: float = 7.0

    def _check(self) -> None:
        if self.rho <= 0:
            raise InputError(f"rho must be > 0, got {self.rho:g}")

    def _roots(self) -> tuple[float, float]:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return low, high - low

    def sigma(self, t: Tensor) -> Tensor:
        """Return the level at t; t = u."""
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
    """`log sigma(t) = mean + std Phi^-1(t)`: t uniform draws sigma from a log-normal law.

    The law EDM trains with (Karras et al. 2022, table 1, with mean -1.2 and std 1.2 for images), cut off at
    sigma_min and sigma_max. `Phi` is the standard normal distribution function.
    """

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

    `alpha^2 + (alpha sigma)^2 = 1`, so `sigma = sqrt(1 / alpha^2 - 1)`; sigma reaches infinity only as t
    does (Song et al. 2021, equation 32; Ho et al. 2020).
    """

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
        """Return the rate at which noise replaces signal."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def dsigma(self, t: Tensor) -> Tensor:
        """Return `beta (1 + sigma^2) / (2 sigma)`."""
        sigma = self.sigma(t)
        return self.beta(t) * (1 + sigma**2) / (2 * sigma)


@dataclass(frozen=True)
class Cosine(Schedule):
    """`alpha(t) = cos(pi t / 2)`, `alpha sigma = sin(pi t / 2)`, so `sigma = tan(pi t / 2)`.

    Nichol & Dhariwal 2021 (arXiv:2102.09672), without their small offset at t = 0.
    """

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
class Flow(Schedule):
    """Flow matching's straight path `x_t = (1 - t) z + t eps`: `alpha = 1 - t`, `sigma = t / (1 - t)`.

    Lipman et al. 2023 (arXiv:2210.02747) with zero end width, Liu et al. 2023 (rectified flow), time running
    from data (0) to noise (1).
    """

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


SCHEDULES: dict[str, type[Schedule]] = {
    "exp": Exponential,
    "linear": Linear,
    "sqrt": SquareRoot,
    "karras": Karras,
    "lognormal": LogNormal,
    "vp": VariancePreserving,
    "cosine": Cosine,
    "flow": Flow,
}
"""Every schedule by name; a new one is a small class and a row here."""


def schedule(name: str, parameters: Mapping[str, float] | None = None) -> Schedule:
    """Return the schedule of this name; `parameters` are its fields (sigma_min, sigma_max and its own).

    Raises `InputError` for an unknown name or field, naming the nearest valid one.

    >>> schedule("karras", {"sigma_max": 80.0})
    Karras(sigma_min=0.005, sigma_max=80.0, rho=7.0)
    >>> schedule("cosin")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    toydiffusion.types.InputError: unknown schedule 'cosin': did you mean 'cosine'? Allowed: ...
    """
    if name not in SCHEDULES:
        raise InputError(f"unknown schedule {name!r}: {nearest(str(name), list(SCHEDULES))}")
    kind = SCHEDULES[name]
    known = [field.name for field in fields(kind)]
    for key in parameters or {}:
        if key not in known:
            raise InputError(f"schedule {name!r} has no {key!r}: {nearest(key, known)}")
    return kind(**(parameters or {}))
