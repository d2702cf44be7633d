"""The certificate: all checks of a learned density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from toydiffusion.certificate.budget import Budget, budget, estimates_frame, mean
from toydiffusion.certificate.mass import Mass, importance, quadrature
from toydiffusion.density import DensityModel, evidence_lower_bound, flow_sample, log_prob
from toydiffusion.distributions import Bounded, Distribution
from toydiffusion.metrics import Estimate
from toydiffusion.solvers import SampleConfig, sample, solver
from toydiffusion.types import Denoiser, Labels, Levels, Points
from toydiffusion.views import html_table, text_table

if TYPE_CHECKING:
    from pandas import DataFrame


DENSITIES = 400_000
"""The most densities that the mass of a class may take."""
_IMPORTANT = 20_000
"""The most of them by importance sampling."""


@dataclass(frozen=True)
class Certificate:
    """The results of all checks of a learned density. `str` returns a table, `rows` pairs of texts,
    `to_pandas` the numbers.

    - `masses`: the total mass of the density of each class; one mass without classes.
    - `frequencies`: the weights of the classes.
    - `solver_error`: the mean over the test points of |log-density at the tolerance - at a thousandth of it|.
    - `mean_error`: the mean error bar of these log-densities.
    - `covered`: the share of test points whose solver error is at most their error bar.
    - `prior_error`: the mean mismatch of the prior over the test points.
    - `elbo_gap`: the mean over the test points of the ELBO minus the log-density. It can have either sign
      (see `density.Elbo`), but should be small.
    - `elbo_spread`: the standard deviation of this difference over the points.
    - `leak`: the share of the model's samples outside the known support. None if the support is unknown.
    - `true_leak`: the same share for the true law smoothed at sigma_min.
    - `budget`: the error budget. None without a truth.
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
        """The total mass of the mixture, `sum_c f_c mass_c`, with its error."""
        parts = list(zip(self.frequencies, self.masses, strict=True))
        value = sum(f * one.value for f, one in parts)
        if all(one.method == "quadrature" for one in self.masses):
            return Estimate(value, sum(f * one.error for f, one in parts))
        return Estimate(value, math.sqrt(sum((f * one.error) ** 2 for f, one in parts)))

    def rows(self) -> list[tuple[str, str]]:
        """Return pairs of a check and its result."""
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
            ("    error bar (mean); points that it covers", f"{self.mean_error:.2g}; {self.covered:.1%}"),
            ("prior mismatch, nats (mean)", _pm(self.prior_error, 6)),
            ("ELBO - log-density, nats (mean)", _pm(self.elbo_gap, 4)),
            ("    standard deviation over the points", f"{self.elbo_spread:.3f}"),
        ]
        if self.leak is not None and self.true_leak is not None:
            rows.append(("outside the known support", _pm(self.leak, 4)))
            rows.append(("    the truth, smoothed at sigma_min", _pm(self.true_leak, 4)))
        if self.budget is not None:
            rows.append(("log-likelihood below the truth, nats", _pm(self.budget.total, 4)))
            names = {
                "lowest_sigma": "smoothing at sigma_min",
                "prior": "prior",
                "solver": "solver",
                "network": "network, with unlimited points",
                "finite_data": "finite data"
                if "network" in self.budget.terms()
                else "network and finite data",
            }
            rows += [(f"    {names[name]}", _pm(term, 4)) for name, term in self.budget.terms().items()]
        return rows

    def to_pandas(self) -> DataFrame:
        """Return a pandas data frame with a row for each number, called as its field of the certificate.

        So the row `budget.prior` is the field `prior` of `budget`. The columns are `value` and `std_error`,
        which is NaN for numbers without a standard error. That of a mass is its `error`. What is not known is
        left out. Raises `ImportError` without pandas.
        """
        found: dict[str, Estimate | float | None] = {"mass": self.mass}
        if len(self.masses) > 1:
            for c, one in enumerate(self.masses):
                found[f"masses[{c}]"] = Estimate(one.value, one.error)
        names = ("solver_error", "mean_error", "covered", "prior_error", "elbo_gap", "elbo_spread")
        found |= {name: getattr(self, name) for name in (*names, "leak", "true_leak")}
        if self.budget is not None:
            found |= {f"budget.{name}": term for name, term in self.budget.terms().items()}
            found["budget.total"] = self.budget.total
        return estimates_frame(
            {
                name: one if isinstance(one, Estimate) else Estimate(one, math.nan)
                for name, one in found.items()
                if one is not None
            }
        )

    def _repr_html_(self) -> str:
        return html_table("Certificate", self.rows())

    def __str__(self) -> str:
        """Return the rows as a table."""
        return text_table(self.rows())


def _pm(found: Estimate, digits: int) -> str:
    return f"{found.value:.{digits}f} ± {found.std_error:.1g}"


def check(
    model: DensityModel,
    *,
    label: int | None = None,
    truth: Distribution | None = None,
    endless: Denoiser | None = None,
    points: int = 1000,
    densities: int = DENSITIES,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> Certificate:
    """Return the certificate of a density, in z.

    - `model`: the density.
    - `label`: a class index. None (default): the mixture of the classes.
    - `truth`: the exact law, or None (default). The test points are samples of the truth if it is given, and
      samples of the model otherwise.
    - `endless`: the same network, trained on unlimited fresh points, for the error budget. None (default):
      leave out the term `network`.
    - `points`: the number of test points, default 1000.
    - `densities`: the most densities that the mass of a class may take, default `DENSITIES`.
    - `seed`: an integer >= 0.
    - `note`: is called with the name of each check before it starts.
    """
    masses = []
    for c in _classes(model, label):
        note("total mass" if c is None else f"total mass of class {c}")
        masses.append(_mass(model, c, densities, seed))
    # Without a truth they are the test points; with one they show what lies outside its support.
    drawn = points if truth is None else max(points, 4000)
    _, down, own_label = flow_sample(model, range(drawn), _constant(label, drawn), seed=seed)
    own = down.z
    z = own[:points] if truth is None else truth.rows(0, points, seed=seed + 1, label=label)[0]
    level, index = model.lowest(len(z)), _constant(label, len(z))

    note("solver and prior")
    found = log_prob(model, z, level, index)
    # A tolerance a thousand times smaller needs about four times as many evaluations.
    finer = replace(
        model.config,
        tolerance=model.config.nats / 1000,
        max_evaluations=10 * model.config.max_evaluations,
    )
    miss = np.abs(found.value - log_prob(replace(model, config=finer), z, level, index).value)
    note("ELBO")
    gap = evidence_lower_bound(model, z, index, evaluations=1024, seed=seed).value - found.value

    leak, true_leak, error_budget = None, None, None
    if isinstance(truth, Bounded):
        true, true_label = truth.rows(0, 20_000, seed=seed, sigma=model.sigma_min, label=label)
        classes = model.num_classes > 1
        true_leak = _share(~truth.contains(true, true_label if classes else None))
        leak = _share(~truth.contains(own, own_label))
    if truth is not None:
        note("error budget")
        error_budget = budget(model, truth, label=label, endless=endless, n=2 * points, seed=seed + 2)
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
        budget=error_budget,
    )


def _classes(model: DensityModel, label: int | None) -> list[int | None]:
    """Return the classes whose masses are checked; [None] in a model without labels."""
    if label is not None:
        return [label]
    return list(range(model.num_classes)) if model.num_classes > 1 else [None]


def _constant(label: int | None, n: int) -> Labels | None:
    return None if label is None else torch.full((n,), label)


@torch.no_grad()
def _mass(model: DensityModel, c: int | None, densities: int, seed: int) -> Mass:
    """Return the mass of class c. Samples of the model, by another solver, show where to look for it.

    - `densities`: the most densities it may take.
    """
    config = SampleConfig()
    levels = config.levels(model.sigma_min, model.prior.sigma)

    def denoise(z: Points, sigma: Levels, label: Labels | None = None, /) -> Points:
        # Without labels the prior has one class, but the denoiser takes no label.
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

    found = quadrature(density, guide, step=model.sigma_min, most=densities) if guide.shape[1] <= 3 else None
    return found or importance(density, guide, n=min(densities, _IMPORTANT), seed=seed)


def _share(outside: torch.Tensor) -> Estimate:
    return mean(outside.double().numpy())
