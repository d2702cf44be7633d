"""The shapes and the protocol that all other modules share.

Inside the core the shapes are fixed: points `(n, d)`, noise levels `(n,)`, labels `(n,)` as class indices
0..K-1. A noisy point is `z + sigma * eps` for every schedule.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Points: TypeAlias = Tensor
"""Points, `(n, d)`."""
Levels: TypeAlias = Tensor
"""Noise levels sigma, `(n,)`, all > 0."""
Labels: TypeAlias = Tensor
"""Class indices 0..K-1, `(n,)`, int64."""
FloatArray: TypeAlias = NDArray[np.float64]
"""Numbers that users pass and receive: NumPy, float64."""
LabelArray: TypeAlias = NDArray[Any]
"""The users' own labels, `(n,)`: int64, bool or str objects."""


class Denoiser(Protocol):
    """The posterior mean of the clean point given the noisy one.

    `D(z; sigma, label) = E[z0 | z0 + sigma eps = z]`, with z0 from the class `label`.

    Any callable with this signature is a denoiser: a trained network, the `denoise` method of an exact
    distribution, or a function that wraps another denoiser. A denoiser determines the score, which is
    `(D(z; sigma) - z) / sigma**2` (Tweedie's formula; Efron 2011).

    - `z` `(n, d)`: noisy points.
    - `sigma` `(n,)`: their noise levels, > 0.
    - `label` `(n,)`: their class indices. None means the mixture of all classes.

    Returns the posterior means, `(n, d)`. Row i of the result depends only on row i of the arguments.
    """

    def __call__(self, z: Points, sigma: Levels, label: Labels | None = None, /) -> Points:
        """Return `E[z0 | z]`, `(n, d)`."""
        ...
