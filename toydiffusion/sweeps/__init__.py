"""Sweeps over settings: a grid of trainings and of ways to sample, each cell measured against the exact law.

`read_sweep` reads a TOML file, `run_sweep` computes what is missing and merges it into one table.
"""

from toydiffusion.sweeps.config import Cell, Sweep, Training, read_sweep
from toydiffusion.sweeps.measuring import MEASURES
from toydiffusion.sweeps.running import CellResult, SweepResults, run_sweep

__all__ = [
    "MEASURES",
    "Cell",
    "CellResult",
    "Sweep",
    "SweepResults",
    "Training",
    "read_sweep",
    "run_sweep",
]
