"""Figures of points, densities, denoisers and schedules. Each function returns a matplotlib `Figure`.

Every figure of a network can also show an exact distribution, because both are denoisers. Neither pyplot nor
matplotlib's global settings are used.
"""

from __future__ import annotations

from toydiffusion.figures.animation import animation_frames, save_gif
from toydiffusion.figures.borders import border_bars, border_profile, radius_density
from toydiffusion.figures.curves import (
    Comparison,
    Line,
    LossCurve,
    Plot,
    StepCurve,
    comparisons,
    loss_curves,
    plots,
    schedule_curves,
    smoothed,
    step_curves,
)
from toydiffusion.figures.densities import (
    Bins,
    Curve,
    density_cut,
    density_maps,
    point_estimates,
    reliability,
)
from toydiffusion.figures.fields import denoised_grids, lattice, noised_law, score_fields, trajectories
from toydiffusion.figures.learned import (
    MOST_NAMES,
    cells,
    equalised,
    learned_curve,
    learned_map,
    learned_pairs,
    marginals,
    window,
)
from toydiffusion.figures.scatters import Scatter, scatters
from toydiffusion.figures.style import CLASSES, COLOURS, class_colours, save_png, squares

__all__ = [
    "CLASSES",
    "COLOURS",
    "MOST_NAMES",
    "Bins",
    "Comparison",
    "Curve",
    "Line",
    "LossCurve",
    "Plot",
    "Scatter",
    "StepCurve",
    "animation_frames",
    "border_bars",
    "border_profile",
    "cells",
    "class_colours",
    "comparisons",
    "denoised_grids",
    "density_cut",
    "density_maps",
    "equalised",
    "lattice",
    "learned_curve",
    "learned_map",
    "learned_pairs",
    "loss_curves",
    "marginals",
    "noised_law",
    "plots",
    "point_estimates",
    "radius_density",
    "reliability",
    "save_gif",
    "save_png",
    "scatters",
    "schedule_curves",
    "score_fields",
    "smoothed",
    "squares",
    "step_curves",
    "trajectories",
    "window",
]
