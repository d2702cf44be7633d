"""Models: the fitted model as a value, plain functions of it, and the facade `Diffusion`.

`fitting`, `sampling`, `densities` and `model_file` hold the functions; each method of `Diffusion` calls one.
"""

from toydiffusion.model.comparison import rows_of, rows_to_hold_out
from toydiffusion.model.copying import Copying
from toydiffusion.model.densities import Densities
from toydiffusion.model.diffusion import Diffusion, load
from toydiffusion.model.fitted_model import FittedModel, Provenance
from toydiffusion.model.outliers import Outliers, Reasons, selected
from toydiffusion.model.presets import PRESETS, Preset
from toydiffusion.model.sampling import Block

__all__ = [
    "PRESETS",
    "Block",
    "Copying",
    "Densities",
    "Diffusion",
    "FittedModel",
    "Outliers",
    "Preset",
    "Provenance",
    "Reasons",
    "load",
    "rows_of",
    "rows_to_hold_out",
    "selected",
]
