"""Classes of the rows of a table, by Bayes' rule."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

from toydiffusion.errors import shown
from toydiffusion.estimators.base import TableEstimator
from toydiffusion.types import FloatArray, LabelArray


class DiffusionClassifier(ClassifierMixin, TableEstimator):  # type: ignore[misc]
    """The classes of the rows of a table, from one density for each class, as a scikit-learn estimator.

    With the class frequencies f_c and the temperature T of held-out points (`ExpertsReport.temperature`),

        p(c | x) = softmax_c((log f_c + log p(x | c)) / T).

    - `config`, `tolerance`, `random_state`: as in `DiffusionDensity`.

    After `fit`:

    - `classes_` `(K,)`: the classes, in ascending order.
    - `temperature_`: T; 1 is Bayes' rule.
    - `model_`: the fitted `Diffusion`. Its labels are the classes, if they are whole numbers, booleans or
      text; otherwise their positions in `classes_`.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = DiffusionClassifier(random_state=0).fit(X, y)
    >>> classifier.score(X, y) > 0.95
    True
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Learn the rows of X, `(n, columns)`, and their classes y, `(n,)`.

        Raises `ValueError` for fewer than two classes.
        """
        points, target = self._validated(X, y)
        check_classification_targets(target)
        self.classes_, index = np.unique(target, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y has one class only, {shown(str(self.classes_[0]))}; a classifier needs at least 2 classes"
            )
        self._fit(points, _labels(self.classes_)[index])
        found = self.model_.experts
        self.temperature_ = 1.0 if found is None else found.temperature
        return self

    def predict_proba(self, X: Any) -> FloatArray:
        """Return the probability of each class, `(n, K)`, columns in the order of `classes_`."""
        logits = self.predict_joint_log_proba(X) / self.temperature_
        share = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        probabilities: FloatArray = share / share.sum(axis=1, keepdims=True)
        return probabilities

    def predict_log_proba(self, X: Any) -> FloatArray:
        """Return the logarithm of `predict_proba`, without its rounding."""
        logits = self.predict_joint_log_proba(X) / self.temperature_
        found: FloatArray = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return found

    def predict_joint_log_proba(self, X: Any) -> FloatArray:
        """Return `log f_c + log p(x | c)`, `(n, K)`, in nats: the density under each class, weighted."""
        points = self._checked(X)
        return self.model_.joint_log_prob(points, tolerance=self.tolerance)

    def predict(self, X: Any) -> LabelArray:
        """Return the most probable class of each row, `(n,)`."""
        joint = self.predict_joint_log_proba(X)
        found: LabelArray = self.classes_[joint.argmax(axis=1)]
        return found


def _labels(classes: LabelArray) -> LabelArray:
    """Return what a model calls these classes, `(K,)`: themselves, or their positions if it cannot."""
    if classes.dtype == bool:
        return classes
    if all(isinstance(one, str) for one in classes.tolist()):
        return classes.astype(object)
    if np.issubdtype(classes.dtype, np.integer) and np.can_cast(classes.dtype, np.int64):
        return classes.astype(np.int64)
    return np.arange(len(classes))
