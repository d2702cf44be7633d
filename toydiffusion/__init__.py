"""Diffusion models for points: small enough to see through, exact enough to trust."""

from toydiffusion import distributions, schedules, solvers
from toydiffusion.density import ToleranceWarning
from toydiffusion.errors import InputError
from toydiffusion.model import PRESETS, Diffusion, Preset, load
from toydiffusion.solvers import SampleConfig
from toydiffusion.training import TrainConfig, TrainingError
from toydiffusion.types import Denoiser

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "Denoiser",
    "Diffusion",
    "InputError",
    "Preset",
    "SampleConfig",
    "ToleranceWarning",
    "TrainConfig",
    "TrainingError",
    "distributions",
    "load",
    "schedules",
    "solvers",
]
