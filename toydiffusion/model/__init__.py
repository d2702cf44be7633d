"""The facade: fit, sample, save, load."""

from toydiffusion.model.facade import Diffusion, load
from toydiffusion.model.presets import PRESETS, Preset

__all__ = ["PRESETS", "Diffusion", "Preset", "load"]
