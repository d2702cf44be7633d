"""Distributions whose density, score, denoiser and classes are known exactly at every noise level.

`BUILT_IN` holds one example of each closed-form distribution by name:

>>> squares = BUILT_IN["concentric_squares"]()
>>> x, y = squares.sample(5, seed=0)
>>> bool((squares.class_posterior(x).argmax(1) == y).all())
True
"""

from __future__ import annotations

import math
from collections.abc import Callable

from toydiffusion.distributions.base import Bounded, Distribution
from toydiffusion.distributions.boxes import Boxes, Checkerboard, ConcentricSquares, Square
from toydiffusion.distributions.curves import Arcs, Circles, Spiral, TwoMoons
from toydiffusion.distributions.gaussians import Gaussian, GaussianMixture
from toydiffusion.distributions.kernel_mixture import Empirical
from toydiffusion.distributions.parallelogram import Parallelogram
from toydiffusion.distributions.prior import Prior, moments
from toydiffusion.distributions.reference import Reference

BUILT_IN: dict[str, Callable[[], Distribution]] = {
    "square": Square,
    "concentric_squares": ConcentricSquares,
    "checkerboard": Checkerboard,
    "rotated_square": lambda: Parallelogram.rotated_square(30.0),
    "gaussian": lambda: Gaussian([0.5, -0.5], [[1.0, 0.6], [0.6, 0.5]]),
    "eight_gaussians": lambda: GaussianMixture(
        [[math.cos(math.tau * c / 8), math.sin(math.tau * c / 8)] for c in range(8)],
        [[[0.01, 0.0], [0.0, 0.01]]] * 8,
    ),
    "two_moons": TwoMoons,
    "circles": Circles,
    "spiral": Spiral,
}
"""Functions without arguments, by name, each of which returns one of the laws that come with the package."""

__all__ = [
    "BUILT_IN",
    "Arcs",
    "Bounded",
    "Boxes",
    "Checkerboard",
    "Circles",
    "ConcentricSquares",
    "Distribution",
    "Empirical",
    "Gaussian",
    "GaussianMixture",
    "Parallelogram",
    "Prior",
    "Reference",
    "Spiral",
    "Square",
    "TwoMoons",
    "moments",
]
