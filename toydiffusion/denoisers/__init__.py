"""Denoisers: the network, its preconditioning, and wrappers around other denoisers."""

from toydiffusion.denoisers.gaussian_expert import GaussianExpert
from toydiffusion.denoisers.network import MOST_WEIGHTS, EdgeUnits, Network
from toydiffusion.denoisers.preconditioning import PRECONDITIONINGS, Preconditioning, preconditioning
from toydiffusion.denoisers.residuals import EDM, Residuals, ResidualSizes
from toydiffusion.denoisers.stacked import Stacked, hats
from toydiffusion.denoisers.wrappers import Counting, Guided

__all__ = [
    "EDM",
    "MOST_WEIGHTS",
    "PRECONDITIONINGS",
    "Counting",
    "EdgeUnits",
    "GaussianExpert",
    "Guided",
    "Network",
    "Preconditioning",
    "ResidualSizes",
    "Residuals",
    "Stacked",
    "hats",
    "preconditioning",
]
