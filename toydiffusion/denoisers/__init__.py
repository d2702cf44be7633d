"""Denoisers: the network, its preconditioning, and wrappers around any denoiser."""

from toydiffusion.denoisers.network import Network
from toydiffusion.denoisers.preconditioning import PRECONDITIONINGS, Preconditioning, preconditioning
from toydiffusion.denoisers.wrappers import Counting, guided

__all__ = ["PRECONDITIONINGS", "Counting", "Network", "Preconditioning", "guided", "preconditioning"]
