"""The shapes and the one protocol that everything else shares.

Inside the core ranks are fixed: points `(n, d)`, noise levels `(n,)`, labels `(n,)` as class indices 0..K-1.
A noisy point is `z + sigma * eps`, whatever the schedule.
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
"""Numbers on the users' side: NumPy, float64."""
LabelArray: TypeAlias = NDArray[Any]
"""The users' own labels, `(n,)`: int64, bool or str objects."""


class Denoiser(Protocol):
    """The posterior mean of the clean point given the noisy one.

    `D(z; sigma, label) = E[z0 | z0 + sigma eps = z]`, with z0 from the class `label`.

    Any callable of this shape is a denoiser: a trained network, the `denoise` method of an exact
    distribution, or a function that wraps another denoiser. With `label` None it answers for the
    mixture of all classes. It is all one needs: the score is `(D(z; sigma) - z) / sigma**2`
    (Tweedie's formula; Efron 2011).

    Shapes: `z` `(n, d)`, `sigma` `(n,)`, `label` `(n,)` or None; returns `(n, d)`. Row i of the answer
    depends on row i of the arguments only.
    """

    def __call__(self, z: Points, sigma: Levels, label: Labels | None = None, /) -> Points:
        """Return `E[z0 | z]`, `(n, d)`."""
        ...
