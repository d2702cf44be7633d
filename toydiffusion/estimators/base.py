"""What the estimators share: their arguments, and the model behind them."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from toydiffusion.errors import InputError, shown
from toydiffusion.experts import TableConfig
from toydiffusion.model import Diffusion
from toydiffusion.tables import Table
from toydiffusion.training import TrainConfig
from toydiffusion.types import FloatArray, LabelArray


class TableEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An estimator with a `Diffusion` inside it, `model_`.

    Columns are matched as in scikit-learn: data frames must have the names of the fit, in their order.
    """

    def __init__(
        self,
        *,
        config: TableConfig | TrainConfig | None = None,
        tolerance: float | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.config = config
        self.tolerance = tolerance
        self.random_state = random_state

    def _validated(self, X: Any, *y: Any) -> Any:
        """Return the points of a fit, and y if it is given, as scikit-learn checks them."""
        _refuse_dates(X)
        return validate_data(self, X, *y, dtype=np.float64, ensure_min_samples=2)

    def _fit(self, points: FloatArray, y: LabelArray | None, *, compare: bool = False) -> Self:
        names = getattr(self, "feature_names_in_", None)
        table = Table(
            np.ascontiguousarray(points, dtype=np.float64),
            None if names is None else tuple(names.tolist()),
            y,
            None,
            "X",
        )
        config = self._default() if self.config is None else self.config
        seed = seed_of(self.random_state)
        self.model_ = Diffusion(config).fit_table(table, seed=seed, progress=False, compare=compare)
        return self

    def _default(self) -> TableConfig:
        return TableConfig()

    def _checked(self, X: Any) -> FloatArray:
        """Return new points of the columns of the fit, `(n, columns)`."""
        check_is_fitted(self, "model_")
        points: FloatArray = np.ascontiguousarray(
            validate_data(self, X, dtype=np.float64, reset=False), dtype=np.float64
        )
        return points

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a `.safetensors` file, which `toydiffusion.load` and the commands read."""
        check_is_fitted(self, "model_")
        self.model_.save(path)


def _refuse_dates(X: Any) -> None:
    """Raise `InputError` for a data frame with a column of dates or durations, by its name."""
    kinds = getattr(X, "dtypes", None)
    if hasattr(X, "columns") and kinds is not None:
        for name, kind in zip(X.columns, kinds, strict=True):
            if str(kind).lower().startswith(("date", "time", "duration")):
                raise InputError(f"X: column {shown(str(name))} holds {kind}, not numbers; leave it out")


def seed_of(random_state: int | np.random.RandomState | None) -> int:
    """Return a seed from what scikit-learn calls a random state. A number gives the same seed each time."""
    return int(check_random_state(random_state).randint(2**31 - 1))
