"""Solvers of the reverse process: methods as tables of coefficients, and the loops that apply them."""

from toydiffusion.solvers.methods import (
    DORMAND_PRINCE,
    SOLVERS,
    Adams,
    EmbeddedPair,
    ExponentialMultistep,
    ReverseSDE,
    RungeKutta,
    Solver,
    solver,
)
from toydiffusion.solvers.reverse import last, reverse, sample, trajectory
from toydiffusion.solvers.sample_config import SampleConfig

__all__ = [
    "DORMAND_PRINCE",
    "SOLVERS",
    "Adams",
    "EmbeddedPair",
    "ExponentialMultistep",
    "ReverseSDE",
    "RungeKutta",
    "SampleConfig",
    "Solver",
    "last",
    "reverse",
    "sample",
    "solver",
    "trajectory",
]
