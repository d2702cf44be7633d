"""Where a model's loss of log-likelihood comes from, when the truth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from toydiffusion.density import ProbabilityFlow, log_density
from toydiffusion.distributions import Distribution, Prior
from toydiffusion.metrics import Estimate
from toydiffusion.types import Denoiser, Labels


@dataclass(frozen=True)
class Budget:
    """`E log p_true - E log p_model` over fresh points of the truth, in nats, telescoped into terms.

    Each term is the mean, over the same points, of the log-density before one change less that after it; so
    they sum to `whole`:

    1. `lowest_sigma`: the true law, then the true law smoothed at sigma_min; NaN where the true law has no
       density of its own (and `whole` then counts from sigma_min);
    2. `prior`: then by the flow of the exact denoiser, its steps a thousand times more exact than needed,
       from the model's prior;
    3. `solver`: then with the model's tolerance;
    4. `network`: then with the model's own network trained on endless fresh points; NaN if that was not asked
       for;
    5. `finite_data`: then the model itself: what is left (with `network` NaN, of the two together).
    """

    lowest_sigma: Estimate
    prior: Estimate
    solver: Estimate
    network: Estimate
    finite_data: Estimate
    whole: Estimate

    def terms(self) -> dict[str, Estimate]:
        """Return the terms by name, in their order, those that are NaN left out."""
        names = ("lowest_sigma", "prior", "solver", "network", "finite_data")
        terms = {name: getattr(self, name) for name in names}
        return {name: term for name, term in terms.items() if not math.isnan(term.value)}


def budget(
    flow: ProbabilityFlow,
    prior: Prior,
    truth: Distribution,
    *,
    sigma_min: float,
    endless: Denoiser | None,
    labelled: bool,
    n: int,
    seed: int,
) -> Budget:
    """Return the budget of the density that `flow` and `prior` define, `truth` in the same coordinates z.

    `endless` is the network trained on endless fresh points, if there is one. `labelled` judges
    log p(x | c) at the points' own classes. Over n points of the truth.
    """
    z, drawn = truth.rows(0, n, seed=seed)
    label: Labels | None = drawn if labelled else None
    level = torch.full((n,), sigma_min, dtype=torch.float64)

    def under(denoiser: Denoiser, tolerance: float) -> NDArray[np.float64]:
        solved = ProbabilityFlow(denoiser, flow.moments, tolerance, flow.max_evaluations)
        return log_density(solved, prior, z, level, label).value

    smoothed = truth.log_prob(z, sigma_min, label).numpy()
    chain = {
        "lowest_sigma": truth.log_prob(z, 0.0, label).numpy() if truth.has_density else None,
        "prior": smoothed,
        "solver": under(truth.denoise, flow.tolerance / 1000),
        "network": under(truth.denoise, flow.tolerance) if endless is not None else None,
        "finite_data": under(truth.denoise if endless is None else endless, flow.tolerance),
    }
    after = under(flow.denoiser, flow.tolerance)
    terms, last = {}, after
    for name, before in reversed(chain.items()):
        if before is None:
            terms[name] = Estimate(math.nan, math.nan)
            continue
        terms[name] = mean(before - last)
        last = before
    return Budget(**terms, whole=mean(last - after))


def mean(values: NDArray[np.float64]) -> Estimate:
    """Return the mean of the values and its standard error."""
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))
