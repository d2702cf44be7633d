"""Densities and samples of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted

from toydiffusion.certificate import Certificate
from toydiffusion.distributions import Distribution
from toydiffusion.estimators.base import TableEstimator, seed_of
from toydiffusion.experts import TableConfig
from toydiffusion.training import TrainConfig
from toydiffusion.types import FloatArray

if TYPE_CHECKING:
    from pandas import DataFrame


class DiffusionDensity(DensityMixin, TableEstimator):  # type: ignore[misc]
    """The density of a table of numbers, as a scikit-learn estimator.

    - `config`: a `TableConfig`, or a `TrainConfig` for a single network; None (default) is `TableConfig()`.
    - `tolerance`: the error bar asked for each log-density, in nats; None (default) is that of `log_prob`.
    - `random_state`: None (default), a whole number, or a `RandomState`.
    - `compare`: whether to compare with a kernel density and a Gaussian mixture at a fifth of the rows, held
      out from a second model. Default False. The result is `model_.comparison`.

    After `fit`:

    - `model_`: the fitted `Diffusion`.
    - `n_features_in_`, `feature_names_in_`: as everywhere in scikit-learn.

    Values that repeat are spread over their cells (`Cells`). Log-densities are those of the spread-out
    values.

    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> density = DiffusionDensity(random_state=0).fit(X)
    >>> density.score_samples(X[:2]).shape, density.sample(3, random_state=0).shape
    ((2,), (3, 4))
    """

    def __init__(
        self,
        *,
        config: TableConfig | TrainConfig | None = None,
        tolerance: float | None = None,
        random_state: int | np.random.RandomState | None = None,
        compare: bool = False,
    ) -> None:
        super().__init__(config=config, tolerance=tolerance, random_state=random_state)
        self.compare = compare

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the rows of X, `(n, columns)`. `y` is ignored."""
        return self._fit(self._validated(X), None, compare=self.compare)

    def score_samples(self, X: Any) -> FloatArray:
        """Return the log-density of each row, `(n,)`, in nats."""
        points = self._checked(X)
        return self.model_.log_prob(points, tolerance=self.tolerance).value

    def log_mass(self, X: Any, *, samples: int = 64) -> FloatArray:
        """Return the logarithm of the probability of each row's cell, `(n,)` (`Diffusion.log_mass`)."""
        points = self._checked(X)
        return self.model_.log_mass(points, samples=samples, tolerance=self.tolerance).value

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log-density of the rows, in nats, as `GaussianMixture.score` does."""
        return float(self.score_samples(X).mean())

    def sample(
        self,
        n_samples: int = 1,
        *,
        random_state: int | np.random.RandomState | None = None,
        first_row: int = 0,
        as_frame: bool = False,
    ) -> FloatArray | DataFrame:
        """Return new rows, `(n_samples, columns)`.

        - `random_state`: None (default) takes that of the estimator. The same number gives the same rows.
        - `first_row`: the number of the first row in the endless sample of this random state.
        - `as_frame`: whether to return a pandas data frame.
        """
        seed = self._sampling_seed(random_state)
        if as_frame:
            return self.model_.sample(n_samples, seed=seed, first_row=first_row, as_frame=True)
        return self.model_.sample(n_samples, seed=seed, first_row=first_row)

    def check_density(self, truth: Distribution | None = None, *, points: int = 1000) -> Certificate:
        """Return the certificate of the density: its mass, and whether its error bars hold."""
        check_is_fitted(self, "model_")
        return self.model_.check_density(truth, points=points, progress=False)

    def _sampling_seed(self, random_state: int | np.random.RandomState | None) -> int:
        check_is_fitted(self, "model_")
        return seed_of(self.random_state if random_state is None else random_state)
