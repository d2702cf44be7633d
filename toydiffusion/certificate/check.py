"""Everything that can be checked of a learned density, in one object."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from toydiffusion.certificate.budget import Budget, budget, mean
from toydiffusion.certificate.mass import Mass, importance, quadrature
from toydiffusion.density import DensityModel, evidence_lower_bound, flow_sample, log_prob
from toydiffusion.distributions import Bounded, Distribution
from toydiffusion.metrics import Estimate
from toydiffusion.solvers import SampleConfig, sample, solver
from toydiffusion.types import Denoiser, Labels, Levels, Points


@dataclass(frozen=True)
class Certificate:
    """The findings about a learned density. `str` of it is a table; `rows` has the same as texts.

    - `masses`: the total mass of the density of each class; one mass without classes.
    - `frequencies`: the weights of these classes. `mass` is the total mass of the mixture.
    - `solver_error`: the mean over test points of |log-density at the tolerance - at a thousandth of it|.
    - `mean_error`: the mean of the error bars of the same log-densities.
    - `covered`: the share of test points whose error lies within its bar.
    - `prior_error`: the mean mismatch of the prior over test points.
    - `elbo_gap`: the mean over test points of the ELBO less the log-density. It is no bound (`density.Elbo`
      says why), but two ways to nearly the same number.
    - `elbo_spread`: the standard deviation of that gap from point to point.
    - `leak`: the share of the model's samples outside the known support; None without one.
    - `true_leak`: the same share for the true law smoothed at sigma_min.
    - `budget`: where the loss of log-likelihood comes from; None without a truth.
    """

    masses: tuple[Mass, ...]
    frequencies: tuple[float, ...]
    solver_error: Estimate
    mean_error: float
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
            ("    error bar (mean); points within theirs", f"{self.mean_error:.2g}; {self.covered:.1%}"),
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
    model: DensityModel,
    *,
    label: int | None = None,
    truth: Distribution | None = None,
    endless: Denoiser | None = None,
    points: int = 1000,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> Certificate:
    """Return the certificate of a density, all in z.

    - `model`: the density.
    - `label`: the index of a class, or None for the mixture of the classes.
    - `truth`: the exact law, if it is known. The test points are then its own, otherwise the model's.
    - `endless`: the same network trained on endless fresh points, for the error budget.
    - `points`: the number of test points.
    - `note`: called with a word on what is being done.
    """
    masses = []
    for c in _kinds(model, label):
        note("total mass" if c is None else f"total mass of class {c}")
        masses.append(_mass(model, c, seed))
    _, down, own_label = flow_sample(
        model, range(max(points, 4000)), _constant(label, max(points, 4000)), seed=seed
    )
    own = down.z
    z = own[:points] if truth is None else truth.rows(0, points, seed=seed + 1, label=label)[0]
    level, asked = model.lowest(len(z)), _constant(label, len(z))

    note("solver and prior")
    found = log_prob(model, z, level, asked)
    # The budget of evaluations grows too: a tolerance a thousand times smaller needs four times as many.
    finer = replace(
        model.config,
        tolerance=model.config.tolerance / 1000,
        max_evaluations=10 * model.config.max_evaluations,
    )
    miss = np.abs(found.value - log_prob(replace(model, config=finer), z, level, asked).value)
    note("ELBO")
    gap = evidence_lower_bound(model, z, asked, evaluations=1024, seed=seed).value - found.value

    leak, true_leak, spent = None, None, None
    if isinstance(truth, Bounded):
        true, true_label = truth.rows(0, 20_000, seed=seed, sigma=model.sigma_min, label=label)
        classes = model.num_classes > 1
        true_leak = _share(~truth.contains(true, true_label if classes else None))
        leak = _share(~truth.contains(own, own_label))
    if truth is not None:
        note("error budget")
        spent = budget(model, truth, label=label, endless=endless, n=2 * points, seed=seed + 2)
    return Certificate(
        masses=tuple(masses),
        frequencies=tuple(model.frequencies.tolist()) if len(masses) > 1 else (1.0,),
        solver_error=mean(miss),
        mean_error=float(found.error.mean()),
        covered=float(np.mean(miss <= found.error)),
        prior_error=mean(found.prior_error),
        elbo_gap=mean(gap),
        elbo_spread=float(gap.std()),
        leak=leak,
        true_leak=true_leak,
        budget=spent,
    )


def _kinds(model: DensityModel, label: int | None) -> list[int | None]:
    """Return the classes whose densities make up the one in question; [None] in a model without labels."""
    if label is not None:
        return [label]
    return list(range(model.num_classes)) if model.num_classes > 1 else [None]


def _constant(label: int | None, n: int) -> Labels | None:
    return None if label is None else torch.full((n,), label)


@torch.no_grad()
def _mass(model: DensityModel, c: int | None, seed: int) -> Mass:
    """Return the mass under class c, looked for where the sampler, another solver, puts points."""
    config = SampleConfig()
    levels = config.levels(model.sigma_min, model.prior.sigma)

    def denoise(z: Points, sigma: Levels, label: Labels | None = None, /) -> Points:
        # Without classes the law of the prior has one, which the denoiser is not to be told.
        return model.denoiser(z, sigma, None if c is None else label)

    guide, _ = sample(
        denoise,
        model.prior.distribution,
        levels,
        solver(config.solver),
        rows=range(2000),
        seed=seed,
        label=_constant(c, 2000),
    )

    def density(z: Points) -> torch.Tensor:
        parts = [torch.empty(0, dtype=torch.float64)]
        for first in range(0, len(z), 8192):
            block = z[first : first + 8192]
            found = log_prob(model, block, model.lowest(len(block)), _constant(c, len(block)))
            parts.append(torch.from_numpy(found.value))
        return torch.cat(parts)

    found = quadrature(density, guide, step=model.sigma_min) if guide.shape[1] <= 3 else None
    return found or importance(density, guide, seed=seed)


def _share(outside: torch.Tensor) -> Estimate:
    return mean(outside.double().numpy())
