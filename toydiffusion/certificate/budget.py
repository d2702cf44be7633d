"""Where a model's loss of log-likelihood comes from, when the truth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from toydiffusion.density import DensityModel, log_prob
from toydiffusion.distributions import Distribution
from toydiffusion.metrics import Estimate
from toydiffusion.types import Denoiser, FloatArray, Labels


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
    model: DensityModel,
    truth: Distribution,
    *,
    label: int | None,
    endless: Denoiser | None,
    n: int,
    seed: int,
) -> Budget:
    """Return the budget of a density over n points of the truth, all in z.

    - `truth`: the exact law in the same coordinates.
    - `label`: the index of a class, or None for the mixture of the classes.
    - `endless`: the same network trained on endless fresh points, or None.
    """
    z, _ = truth.rows(0, n, seed=seed, label=label)
    asked: Labels | None = None if label is None else torch.full((n,), label)
    level, tolerance = model.lowest(n), model.config.tolerance

    def under(denoiser: Denoiser, tolerance: float) -> FloatArray:
        solved = replace(model, denoiser=denoiser, config=replace(model.config, tolerance=tolerance))
        return log_prob(solved, z, level, asked).value

    smoothed = truth.log_prob(z, model.sigma_min, asked).numpy()
    chain = {
        "lowest_sigma": truth.log_prob(z, 0.0, asked).numpy() if truth.has_density else None,
        "prior": smoothed,
        "solver": under(truth.denoise, tolerance / 1000),
        "network": under(truth.denoise, tolerance) if endless is not None else None,
        "finite_data": under(truth.denoise if endless is None else endless, tolerance),
    }
    after = under(model.denoiser, tolerance)
    terms, last = {}, after
    for name, before in reversed(chain.items()):
        if before is None:
            terms[name] = Estimate(math.nan, math.nan)
            continue
        terms[name] = mean(before - last)
        last = before
    return Budget(**terms, whole=mean(last - after))


def mean(values: FloatArray) -> Estimate:
    """Return the mean of the values and its standard error."""
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))
