"""Other density estimators, tuned, for comparison: a kernel density and a mixture of Gaussians."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from toydiffusion.errors import InputError
from toydiffusion.metrics import Estimate
from toydiffusion.row_noise import RowNoise
from toydiffusion.types import FloatArray, Points
from toydiffusion.views import data_frame, html_table, text_table

if TYPE_CHECKING:
    from pandas import DataFrame

_TUNED_ON = 3000
"""The most rows on which the settings of a baseline are chosen."""
_FITTED_TO = 20_000
"""The most rows in a kernel density, whose cost grows with the square of their number."""
_BANDWIDTHS = np.geomspace(0.03, 1.0, 30)
_COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16)
_RIDGES = (1e-6, 1e-3, 1e-2)
_CLEAR = 2.0
"""A difference of so many standard errors is clear."""


@dataclass(frozen=True)
class Baseline:
    """Another density estimator on the same held-out rows.

    - `name`: what it is, with the settings that cross-validation chose.
    - `log_prob`: its mean log-density, in nats a row.
    - `ahead`: how much higher the model's is, on average. The standard error is that of paired rows.
    """

    name: str
    log_prob: float
    ahead: Estimate

    @property
    def better(self) -> bool:
        """Whether it is better than the model by more than two standard errors."""
        return self.ahead.value < -_CLEAR * self.ahead.std_error


@dataclass(frozen=True)
class Comparison:
    """The mean log-density of a model at held-out rows, beside baselines. `str` returns it as a table.

    - `num_rows`: the number of held-out rows.
    - `log_prob`: the model's mean log-density, in nats a row, with its standard error.
    - `baselines`: the others, the best first.
    """

    num_rows: int
    log_prob: Estimate
    baselines: tuple[Baseline, ...]

    @property
    def recommendation(self) -> str:
        """One sentence: whether a baseline is clearly better, and then that it is the one to use."""
        best = self.baselines[0]
        if best.better:
            return f"the {best.name} is better by {-best.ahead.value:.3f} nats a row: use it for densities"
        if best.ahead.value <= _CLEAR * best.ahead.std_error:
            return f"as good as the best baseline, the {best.name}"
        return "better than every baseline"

    def rows(self) -> list[tuple[str, str]]:
        """Return pairs of a heading and a text, the rows of a card."""
        found = [
            (
                f"held-out comparison, {self.num_rows:,} rows",
                f"{_pm(self.log_prob)} nats; {self.recommendation}",
            )
        ]
        for one in self.baselines:
            place = "behind" if one.ahead.value > 0 else "ahead"
            size = Estimate(abs(one.ahead.value), one.ahead.std_error)
            found.append((f"    {one.name}", f"{one.log_prob:.3f} nats, {_pm(size)} {place}"))
        return found

    def to_pandas(self) -> DataFrame:
        """Return a pandas data frame: a row for the model and each baseline."""
        return data_frame(
            {
                "log_prob": [self.log_prob.value, *(one.log_prob for one in self.baselines)],
                "model_ahead": [0.0, *(one.ahead.value for one in self.baselines)],
                "std_error": [0.0, *(one.ahead.std_error for one in self.baselines)],
            },
            index=["model", *(one.name for one in self.baselines)],
            name="estimator",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Any) -> Comparison:
        """Return the comparison of `to_dict`. Raises `InputError` for anything else."""
        try:
            found = cls(
                int(given["num_rows"]),
                Estimate(**_numbers(given["log_prob"])),
                tuple(
                    Baseline(str(one["name"]), float(one["log_prob"]), Estimate(**_numbers(one["ahead"])))
                    for one in given["baselines"]
                ),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError("its comparison with baselines is not one") from None
        if not found.baselines:
            raise InputError("its comparison with baselines has none")
        return found

    def _repr_html_(self) -> str:
        return html_table("Comparison", self.rows())

    def __str__(self) -> str:
        """Return the rows as a table."""
        return text_table(self.rows())


def _numbers(given: Any) -> dict[str, float]:
    return {str(name): float(value) for name, value in given.items()}


def _pm(found: Estimate) -> str:
    return f"{found.value:.3f} ± {found.std_error:.2g}"


def compared(own: FloatArray, z: Points, test: Points, volume: FloatArray, *, seed: int) -> Comparison:
    """Return the comparison of a model with baselines.

    - `own` `(m,)`: the log-densities of the model at the held-out rows.
    - `z` `(n, d)`: the rows to fit the baselines to, standardised.
    - `test` `(m, d)`: the held-out rows, in the same coordinates.
    - `volume` `(m,)`: what the coordinates add to the log-densities of the baselines.
    - `seed`: of the parts of the cross-validation, and of the mixtures' starts.
    """
    if len(z) > _TUNED_ON:
        z = z[torch.randperm(len(z), generator=RowNoise(seed, "baselines").generator())]
    found = []
    for name, values in (_kernel_density(z, test, seed), _gaussian_mixture(z, test, seed)):
        log_prob = values + volume
        found.append(Baseline(name, float(log_prob.mean()), _mean(own - log_prob)))
    found.sort(key=lambda one: -one.log_prob)
    return Comparison(len(own), _mean(own), tuple(found))


def _mean(values: FloatArray) -> Estimate:
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Estimate(float(values.mean()), error)


def _kernel_density(z: Points, test: Points, seed: int) -> tuple[str, FloatArray]:
    """Return the name and the log-densities in z of a Gaussian kernel density."""
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.neighbors import KernelDensity

    few, most = z[:_TUNED_ON].numpy(), z[:_FITTED_TO].numpy()
    parts = KFold(min(4, len(few)), shuffle=True, random_state=seed)
    search = GridSearchCV(KernelDensity(), {"bandwidth": _BANDWIDTHS}, cv=parts, refit=False).fit(few)
    # The best bandwidth falls with the number of rows as n^(-1 / (d + 4)) (Scott 1992, section 6.3).
    width = float(search.best_params_["bandwidth"]) * (len(few) / len(most)) ** (1 / (z.shape[1] + 4))
    values: FloatArray = KernelDensity(bandwidth=width).fit(most).score_samples(test.numpy())
    return f"kernel density, bandwidth {width:.2g}", values


def _gaussian_mixture(z: Points, test: Points, seed: int) -> tuple[str, FloatArray]:
    """Return the name and the log-densities in z of a mixture of Gaussians with full covariances."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from sklearn.model_selection import GridSearchCV, KFold

    few = z[:_TUNED_ON].numpy()
    parts = KFold(min(4, len(few)), shuffle=True, random_state=seed)
    smallest = len(few) - -(-len(few) // parts.get_n_splits())
    grid = {"n_components": [k for k in _COMPONENTS if 2 * k <= smallest or k == 1], "reg_covar": _RIDGES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(GaussianMixture(random_state=seed), grid, cv=parts, refit=False).fit(few)
        chosen = GaussianMixture(random_state=seed, **search.best_params_).fit(z.numpy())
    values: FloatArray = chosen.score_samples(test.numpy())
    return f"Gaussian mixture of {chosen.n_components}", values
