"""Everything that can be checked of a learned density, in one object."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from toydiffusion.certificate.budget import Budget, budget, mean
from toydiffusion.certificate.mass import Mass, importance, quadrature
from toydiffusion.density import ProbabilityFlow, elbo, log_density
from toydiffusion.distributions import Bounded, Distribution, Prior
from toydiffusion.metrics import Estimate
from toydiffusion.solvers import SampleConfig, sample, solver
from toydiffusion.types import Denoiser, Labels, Levels, Points

Drawn: TypeAlias = tuple[Points, Labels]


@dataclass(frozen=True)
class Certificate:
    """What was found of a learned density. `str` of it is a table; `rows` the same as texts.

    - `masses`: the total mass of each class's density (one without classes); `mass` that of the whole.
    - `solver_error`: mean over test points of |log-density at the tolerance - at a thousandth of it|;
      `bar` the mean of the error bars that went with them, `covered` the share of points within theirs.
    - `prior_error`: mean over test points of the prior's mismatch.
    - `elbo_gap`: mean over test points of ELBO less log-density; `elbo_spread` its standard deviation from
      point to point. Not a bound (`density.Elbo` says why): two roads to nearly one number.
    - `leak`: the share of the model's points outside the known support, and `true_leak` that of the true law
      smoothed at sigma_min; None without a truth that has a support.
    - `budget`: None without a truth.
    """

    masses: tuple[Mass, ...]
    frequencies: tuple[float, ...]
    solver_error: Estimate
    bar: float
    covered: float
    prior_error: Estimate
    elbo_gap: Estimate
    elbo_spread: float
    leak: Estimate | None
    true_leak: Estimate | None
    budget: Budget | None

    @property
    def mass(self) -> Estimate:
        """The total mass of the whole, `sum_c f_c mass_c`, and its error."""
        parts = list(zip(self.frequencies, self.masses, strict=True))
        value = sum(f * one.value for f, one in parts)
        if all(one.method == "quadrature" for one in self.masses):
            return Estimate(value, sum(f * one.error for f, one in parts))
        return Estimate(value, math.sqrt(sum((f * one.error) ** 2 for f, one in parts)))

    def rows(self) -> list[tuple[str, str]]:
        """Return pairs of what was checked and what was found."""
        rows = [("total mass", _pm(self.mass, 5))]
        for c, one in enumerate(self.masses):
            size = one.effective_sample_size
            how = f"{one.method}, {one.points:,} densities" + (
                "" if size is None else f", effective sample size {size:,.0f}"
            )
            name = "" if len(self.masses) == 1 else f"class {c}: "
            rows.append((f"    {name}{how}", f"{one.value:.5f} ± {one.error:.1g}"))
        rows += [
            ("solver error, nats (mean)", _pm(self.solver_error, 6)),
            ("    error bar (mean); points within theirs", f"{self.bar:.2g}; {self.covered:.1%}"),
            ("prior mismatch, nats (mean)", _pm(self.prior_error, 6)),
            ("ELBO - log-density, nats (mean)", _pm(self.elbo_gap, 4)),
            ("    from point to point", f"{self.elbo_spread:.3f}"),
        ]
        if self.leak is not None and self.true_leak is not None:
            rows.append(("outside the known support", _pm(self.leak, 4)))
            rows.append(("    the truth, smoothed at sigma_min", _pm(self.true_leak, 4)))
        if self.budget is not None:
            rows.append(("log-likelihood lost to the truth, nats", _pm(self.budget.whole, 4)))
            names = {
                "lowest_sigma": "smoothing at sigma_min",
                "prior": "prior",
                "solver": "solver",
                "network": "network, with endless points",
                "finite_data": "finite data"
                if "network" in self.budget.terms()
                else "network and finite data",
            }
            rows += [(f"    {names[name]}", _pm(term, 4)) for name, term in self.budget.terms().items()]
        return rows

    def __str__(self) -> str:
        """Return the rows as a table."""
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _pm(found: Estimate, digits: int) -> str:
    return f"{found.value:.{digits}f} ± {found.std_error:.1g}"


def check(
    flow: ProbabilityFlow,
    prior: Prior,
    *,
    sigma_min: float,
    num_classes: int | None,
    truth: Distribution | None,
    endless: Denoiser | None = None,
    points: int = 1000,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> Certificate:
    """Return the certificate of the density that `flow` and `prior` define at sigma_min, all in z.

    `num_classes` None asks for the density of the whole, a number for those of so many classes. Test points,
    `points` of them, are the truth's, or the model's own without one. `note` is told what is being done.
    """
    labels = [None] if num_classes is None else list(range(num_classes))
    masses = []
    for c in labels:
        note("total mass" if c is None else f"total mass of class {c}")
        masses.append(_mass(flow, prior, sigma_min, c, seed))
    own, own_label = _carried(flow, prior, sigma_min, max(points, 4000), num_classes is not None, seed)

    if truth is None:
        z, label = own[:points], own_label[:points]
    else:
        z, label = truth.rows(0, points, seed=seed + 1)
    chosen = label if num_classes is not None else None
    level = torch.full((len(z),), sigma_min, dtype=torch.float64)
    note("solver and prior")
    found = log_density(flow, prior, z, level, chosen)
    tighter = ProbabilityFlow(flow.denoiser, flow.moments, flow.tolerance / 1000, 10 * flow.max_evaluations)
    miss = np.abs(found.value - log_density(tighter, prior, z, level, chosen).value)
    note("ELBO")
    bound = elbo(flow.denoiser, prior, z, chosen, sigma_min=sigma_min, evaluations=1024, seed=seed)
    gap = bound.value - found.value

    leak, true_leak, spent = None, None, None
    if isinstance(truth, Bounded):
        true, its = truth.rows(0, 20_000, seed=seed, sigma=sigma_min)
        true_leak = _share(~truth.contains(true, its if num_classes is not None else None))
        leak = _share(~truth.contains(own, own_label if num_classes is not None else None))
    if truth is not None:
        note("error budget")
        spent = budget(
            flow,
            prior,
            truth,
            sigma_min=sigma_min,
            endless=endless,
            labelled=num_classes is not None,
            n=2 * points,
            seed=seed + 2,
        )
    return Certificate(
        masses=tuple(masses),
        frequencies=(1.0,) if num_classes is None else tuple(prior.distribution.frequencies.tolist()),
        solver_error=mean(miss),
        bar=float(found.error.mean()),
        covered=float(np.mean(miss <= found.error)),
        prior_error=mean(found.prior_error),
        elbo_gap=mean(gap),
        elbo_spread=float(gap.std()),
        leak=leak,
        true_leak=true_leak,
        budget=spent,
    )


@torch.no_grad()
def _carried(
    flow: ProbabilityFlow, prior: Prior, sigma_min: float, n: int, labelled: bool, seed: int
) -> Drawn:
    """Return n points of the density itself, and their labels."""
    start, label = prior.sample(0, n, seed=seed)
    top = torch.full((n,), prior.sigma, dtype=torch.float64)
    return flow.carry(start, top, sigma_min, label if labelled else None).z, label


@torch.no_grad()
def _mass(flow: ProbabilityFlow, prior: Prior, sigma_min: float, c: int | None, seed: int) -> Mass:
    """Return the mass under class c, looked for where the sampler, another solver, puts points."""
    config, label = SampleConfig(), None if c is None else torch.full((2000,), c)
    levels = config.levels(sigma_min, prior.sigma)

    def denoise(z: Points, sigma: Levels, label: Labels | None = None, /) -> Points:
        return flow.denoiser(z, sigma, None if c is None else label)

    method = solver(config.solver)
    guide, _ = sample(denoise, prior.distribution, levels, method, rows=(0, 2000), seed=seed, label=label)

    def density(z: Points) -> torch.Tensor:
        parts = [torch.empty(0, dtype=torch.float64)]
        for first in range(0, len(z), 8192):
            block = z[first : first + 8192]
            level = torch.full((len(block),), sigma_min, dtype=torch.float64)
            label = None if c is None else torch.full((len(block),), c)
            parts.append(torch.from_numpy(log_density(flow, prior, block, level, label).value))
        return torch.cat(parts)

    found = quadrature(density, guide, step=sigma_min) if guide.shape[1] <= 3 else None
    return found or importance(density, guide, seed=seed)


def _share(outside: torch.Tensor) -> Estimate:
    return mean(outside.double().numpy())
