"""Outliers of a table: scores, conformal p-values, and the reason for each row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from toydiffusion.errors import InputError, finite_number
from toydiffusion.estimators.base import TableEstimator
from toydiffusion.experts import TableConfig
from toydiffusion.model import Reasons
from toydiffusion.types import FloatArray

if TYPE_CHECKING:
    from pandas import DataFrame

AUTO = 0.02
"""The p-value up to which rows are outliers with `contamination="auto"`."""


class DiffusionOutlierDetector(OutlierMixin, TableEstimator):  # type: ignore[misc]
    """Outliers of a table, as a scikit-learn estimator. It is fitted to rows that are mostly inliers.

    - `contamination`: the share of the training rows that `predict` calls outliers, in (0, 0.5]. "auto"
      (default): rows with a p-value of at most 2 % are outliers; with fewer than 49 rows, which give no such
      p-value, those that are odder than all of them.
    - `config`: a `TableConfig`; None (default) is one without networks, since the mixture alone judges.
    - `random_state`: as in `DiffusionDensity`.

    After `fit`:

    - `model_`: the fitted `Diffusion`.
    - `offset_`: `decision_function` is `score_samples - offset_`, and outliers are below 0.

    The score is the exact log-density of the model's mixture at noise level 0.1, in standardised columns. A
    little noise takes the weight off fine structure, such as columns that are nearly functions of others.

    **p-values.** With s the score's negative and s_i that of training row i under a mixture that has
    not seen it (its fold left out),

        p(x) = (1 + #{i: s_i >= s(x)}) / (n + 1).

    This is cross-conformal (Vovk 2015; Barber et al. 2021 for how far it can be trusted): an inlier has
    `P(p <= a)` of about a, whatever the law.

    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> detector = DiffusionOutlierDetector(random_state=0).fit(X)
    >>> detector.predict([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]).tolist()
    [1, -1]
    >>> float(detector.p_values([[9.0, 0.0, 0.0]])[0]) < 0.01
    True
    """

    def __init__(
        self,
        *,
        contamination: float | str = "auto",
        config: TableConfig | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        super().__init__(config=config, random_state=random_state)
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the rows of X, `(n, columns)`. `y` is ignored."""
        share: float | None = None
        if self.contamination != "auto":
            share = finite_number("contamination", self.contamination, above=0, below=0.5 + 1e-12)
        if self.config is not None and not isinstance(self.config, TableConfig):
            raise InputError("config must be a TableConfig: outliers are judged by the mixture of a table")
        self._fit(self._validated(X), None)
        if share is None:
            assert self.model_.experts is not None
            calibration = self.model_.experts.calibration
            # So many training rows may be as odd or odder: (1 + k) / (n + 1) <= AUTO.
            k = max(math.floor(AUTO * (len(calibration) + 1)) - 1, 0)
            self.offset_ = calibration[k]
        else:
            # As in scikit-learn: this share of the training rows themselves.
            self.offset_ = float(np.percentile(self.score_samples(X), 100.0 * share))
        return self

    def _default(self) -> TableConfig:
        return TableConfig(networks=False)

    def score_samples(self, X: Any) -> FloatArray:
        """Return the log-density at noise level 0.1 of each row, `(n,)`: the lower, the odder."""
        points = self._checked(X)
        return self.model_.normality(points)

    def decision_function(self, X: Any) -> FloatArray:
        """Return `score_samples - offset_`, `(n,)`: below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return 1 for inliers and -1 for outliers, `(n,)`."""
        return np.where(self.decision_function(X) < 0, -1, 1).astype(np.int64)

    def p_values(self, X: Any) -> FloatArray:
        """Return the conformal p-value of each row, `(n,)`: small for outliers, at least 1 / (n + 1)."""
        points = self._checked(X)
        return self.model_.p_values(points)

    def reasons(self, X: Any) -> Reasons:
        """Return for each row and column how unusual it is, given the row's other columns."""
        points = self._checked(X)
        return self.model_.reasons(points)

    def explain(self, X: Any, *, fdr: float = 0.1) -> DataFrame:
        """Return a pandas data frame of the rows of X, the oddest first, as `Diffusion.outliers` gives them.

        Its columns are `row`, `normality`, `p_value`, `outlier` (selected at the false discovery rate `fdr`)
        and `reason`.
        """
        points = self._checked(X)
        return self.model_.outliers(points, fdr=fdr).to_pandas()


class PyodDetector(BaseEstimator):  # type: ignore[misc]
    """The same detector with PyOD's conventions: higher scores are odder, labels are 0 and 1.

    - `contamination`: the share of outliers in the training rows, in (0, 0.5]; 0.1 by default.
    - `config`, `random_state`: as in `DiffusionOutlierDetector`.

    After `fit`:

    - `decision_scores_` `(n,)`, `labels_` `(n,)`: oddness and label, 0 or 1, of the training rows.
    - `threshold_`: rows with a higher score are outliers.

    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> detector = PyodDetector(random_state=0).fit(X)
    >>> int(detector.labels_.sum()), int(detector.predict([[9.0, 0.0, 0.0]])[0])
    (20, 1)
    """

    def __init__(
        self,
        *,
        contamination: float = 0.1,
        config: TableConfig | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.contamination = contamination
        self.config = config
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the rows of X, `(n, columns)`. `y` is ignored."""
        self.detector_ = DiffusionOutlierDetector(
            contamination=self.contamination, config=self.config, random_state=self.random_state
        ).fit(X)
        self.decision_scores_ = self.decision_function(X)
        self.threshold_ = -self.detector_.offset_
        self.labels_ = (self.decision_scores_ > self.threshold_).astype(np.int64)
        return self

    def decision_function(self, X: Any) -> FloatArray:
        """Return the oddness of each row, `(n,)`: higher for outliers."""
        check_is_fitted(self, "detector_")
        return -self.detector_.score_samples(X)

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return 1 for outliers and 0 for inliers, `(n,)`."""
        return (self.decision_function(X) > self.threshold_).astype(np.int64)
