"""Models for tables: a Gaussian mixture and networks, stacked at every noise level by held-out points.

`fit_experts` does all of it: `mixture` fits the mixture, `networks` trains the networks, `stack` weighs them.
"""

from toydiffusion.experts.config import TableConfig
from toydiffusion.experts.fitting import (
    OUTLIER_SIGMA,
    Experts,
    ExpertsEvent,
    ExpertsReport,
    fit_experts,
    prefers_power,
)
from toydiffusion.experts.mixture import Candidate, Shape, fold_of

__all__ = [
    "OUTLIER_SIGMA",
    "Candidate",
    "Experts",
    "ExpertsEvent",
    "ExpertsReport",
    "Shape",
    "TableConfig",
    "fit_experts",
    "fold_of",
    "prefers_power",
]
