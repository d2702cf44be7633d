"""Denoisers: the network, its preconditioning, and wrappers around other denoisers."""

from toydiffusion.denoisers.network import MOST_WEIGHTS, Network
from toydiffusion.denoisers.preconditioning import PRECONDITIONINGS, Preconditioning, preconditioning
from toydiffusion.denoisers.wrappers import Counting, Guided

__all__ = [
    "MOST_WEIGHTS",
    "PRECONDITIONINGS",
    "Counting",
    "Guided",
    "Network",
    "Preconditioning",
    "preconditioning",
]
