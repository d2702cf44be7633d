"""scikit-learn's interface: density, classes and outliers of a table."""

from toydiffusion.estimators.classifier import DiffusionClassifier
from toydiffusion.estimators.density import DiffusionDensity
from toydiffusion.estimators.outliers import DiffusionOutlierDetector, PyodDetector

__all__ = [
    "DiffusionClassifier",
    "DiffusionDensity",
    "DiffusionOutlierDetector",
    "PyodDetector",
]
