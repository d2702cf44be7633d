"""The error budget: which errors cause a model's loss of log-likelihood, if the truth is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from toydiffusion.density import DensityModel, log_prob
from toydiffusion.distributions import Distribution
from toydiffusion.metrics import Estimate
from toydiffusion.types import Denoiser, FloatArray, Labels
from toydiffusion.views import data_frame

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Budget:
    """`E log p_true - E log p_model` over fresh points of the truth, in nats, as a sum of terms.

    The chain starts from the true law and ends at the model. Each step changes one thing. Its term is the
    mean of the log-density before the step minus the mean after it, over the same points:

    1. `lowest_sigma`: the true law is smoothed at sigma_min. NaN if the true law has no density. The total
       then starts from sigma_min.
    2. `prior`: the density is that of the flow of the exact denoiser with the model's prior, computed with a
       thousandth of the tolerance.
    3. `solver`: the tolerance is that of the model.
    4. `network`: the denoiser is the model's network, trained on unlimited fresh points. NaN without such a
       network.
    5. `finite_data`: the denoiser is that of the model. With `network` NaN, this term includes both.

    `total` is the sum of the terms.
    """

    lowest_sigma: Estimate
    prior: Estimate
    solver: Estimate
    network: Estimate
    finite_data: Estimate
    total: Estimate

    def terms(self) -> dict[str, Estimate]:
        """Return the terms by name, in order, without those that are NaN."""
        names = ("lowest_sigma", "prior", "solver", "network", "finite_data")
        terms = {name: getattr(self, name) for name in names}
        return {name: term for name, term in terms.items() if not math.isnan(term.value)}

    def to_pandas(self) -> DataFrame:
        """Return a pandas data frame with a row for each of `terms`, by name, and last a row `total`.

        The columns are `value` and `std_error`, in nats. Raises `ImportError` without pandas.
        """
        return estimates_frame({**self.terms(), "total": self.total})


def estimates_frame(rows: Mapping[str, Estimate]) -> DataFrame:
    """Return estimates by name as a pandas data frame with the columns `value` and `std_error`."""
    columns = {
        "value": [one.value for one in rows.values()],
        "std_error": [one.std_error for one in rows.values()],
    }
    return data_frame(columns, index=list(rows))


def budget(
    model: DensityModel,
    truth: Distribution,
    *,
    label: int | None,
    endless: Denoiser | None,
    n: int,
    seed: int,
) -> Budget:
    """Return the error budget of a density, in z.

    - `model`: the density.
    - `truth`: the exact law, in z.
    - `label`: a class index. None: the mixture of the classes.
    - `endless`: the same network, trained on unlimited fresh points. None: leave out the term `network`.
    - `n`: the number of points of the truth.
    - `seed`: an integer >= 0.
    """
    z, _ = truth.rows(0, n, seed=seed, label=label)
    index: Labels | None = None if label is None else torch.full((n,), label)
    level, tolerance = model.lowest(n), model.config.nats

    def log_density(denoiser: Denoiser, tolerance: float) -> FloatArray:
        changed = replace(model, denoiser=denoiser, config=replace(model.config, tolerance=tolerance))
        return log_prob(changed, z, level, index).value

    smoothed = truth.log_prob(z, model.sigma_min, index).numpy()
    chain = {
        "lowest_sigma": truth.log_prob(z, 0.0, index).numpy() if truth.has_density else None,
        "prior": smoothed,
        "solver": log_density(truth.denoise, tolerance / 1000),
        "network": log_density(truth.denoise, tolerance) if endless is not None else None,
        "finite_data": log_density(truth.denoise if endless is None else endless, tolerance),
    }
    after = log_density(model.denoiser, tolerance)
    terms, last = {}, after
    for name, before in reversed(chain.items()):
        if before is None:
            terms[name] = Estimate(math.nan, math.nan)
            continue
        terms[name] = mean(before - last)
        last = before
    return Budget(**terms, total=mean(last - after))


def mean(values: FloatArray) -> Estimate:
    """Return the mean of the values, with its standard error."""
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))
