"""Denoisers: the network, its preconditioning, and wrappers around other denoisers."""

from toydiffusion.denoisers.gaussian_expert import GaussianExpert
from toydiffusion.denoisers.network import MOST_WEIGHTS, Network
from toydiffusion.denoisers.preconditioning import PRECONDITIONINGS, Preconditioning, preconditioning
from toydiffusion.denoisers.residuals import Residuals, ResidualSizes
from toydiffusion.denoisers.stacked import Stacked
from toydiffusion.denoisers.wrappers import Counting, Guided

__all__ = [
    "MOST_WEIGHTS",
    "PRECONDITIONINGS",
    "Counting",
    "GaussianExpert",
    "Guided",
    "Network",
    "Preconditioning",
    "ResidualSizes",
    "Residuals",
    "Stacked",
    "preconditioning",
]
