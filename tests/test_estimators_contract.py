"""The estimators keep scikit-learn's contract, all of it."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from toydiffusion import TableConfig
from toydiffusion.estimators import DiffusionClassifier, DiffusionDensity, DiffusionOutlierDetector

# The checks fit dozens of models with classes. With fewer steps and folds they take a third of the time.
ESTIMATORS = [
    DiffusionDensity(),
    DiffusionClassifier(config=TableConfig(steps=150, folds=2)),
    DiffusionOutlierDetector(),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the checks themselves use what is deprecated
@parametrize_with_checks(ESTIMATORS)  # type: ignore[untyped-decorator]
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)
