"""Denoisers made from other denoisers."""

from __future__ import annotations

from toydiffusion.types import Denoiser, Labels, Levels, Points


def guided(denoiser: Denoiser, weight: float) -> Denoiser:
    """Return the classifier-free guided denoiser `D_none + weight (D_label - D_none)` (Ho & Salimans 2022).

    `weight` 1 is the conditional denoiser itself, 0 the unconditional one, above 1 exaggerates the class.
    The result is not the denoiser of any noised law, so it samples but gives no log-density.
    """

    def denoise(z: Points, sigma: Levels, label: Labels | None = None, /) -> Points:
        whole = denoiser(z, sigma, None)
        return whole + weight * (denoiser(z, sigma, label) - whole)

    return denoiser if weight == 1 else denoise


class Counting:
    """A denoiser that counts how often it was called, `calls`, and for how many points in all, `points`.

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
        """Denoise, and count."""
        self.calls += 1
        self.points += len(z)
        return self.denoiser(z, sigma, label)
