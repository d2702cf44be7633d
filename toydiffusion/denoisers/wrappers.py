"""Denoisers made from other denoisers."""

from __future__ import annotations

from dataclasses import dataclass

from toydiffusion.types import Denoiser, Labels, Levels, Points


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho & Salimans 2022): `D_none + weight (D_label - D_none)`.

    The result is not the denoiser of any noised law. So it can be used for sampling, but it has no
    log-density.

    - `denoiser`: `D_label`, the denoiser of one class.
    - `unconditional`: `D_none`, the unconditional denoiser.
    - `weight`: 1 gives `D_label`, 0 gives `D_none`, and more than 1 exaggerates the class.
    """

    denoiser: Denoiser
    unconditional: Denoiser
    weight: float

    def __call__(self, z: Points, sigma: Levels, label: Labels | None = None, /) -> Points:
        """Return the guided posterior mean, `(n, d)`."""
        without = self.unconditional(z, sigma, None)
        return without + self.weight * (self.denoiser(z, sigma, label) - without)


class Counting:
    """A denoiser that counts its calls (`calls`) and the points in them (`points`).

    - `denoiser`: the denoiser that computes the result.

    >>> import torch
    >>> def origin(z, sigma, label=None):
    ...     return torch.zeros_like(z)
    >>> counting = Counting(origin)
    >>> _ = counting(torch.ones(3, 2), torch.ones(3))
    >>> counting.calls, counting.points
    (1, 3)
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.calls = 0
        self.points = 0

    def __call__(self, z: Points, sigma: Levels, label: Labels | None = None, /) -> Points:
        """Return the result of the denoiser, and count the call and its points."""
        self.calls += 1
        self.points += len(z)
        return self.denoiser(z, sigma, label)
