"""The law where the reverse process starts: one object that samples and gives log-densities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toydiffusion.distributions.base import Distribution
from toydiffusion.distributions.gaussians import GaussianMixture
from toydiffusion.errors import InputError
from toydiffusion.types import Labels, Points


@dataclass(frozen=True)
class Prior:
    """The law of `distribution` noised to `sigma`: where the reverse process starts and the log-density ends.

    With an exact distribution it is the exact start. `Prior(moments(z, label), sigma)` is what a model uses:
    per class the Gaussian with the data's mean and its covariance plus sigma^2, since noised data is not
    N(0, sigma^2 I) but has the data's own variance on top.
    """

    distribution: Distribution
    sigma: float

    def rows(self, rows: range, *, seed: int, label: Labels | None = None) -> tuple[Points, Labels]:
        """Return these rows of the endless sample of this seed, `(n, d)`, and their labels, `(n,)`."""
        return self.distribution.rows(rows.start, rows.stop, seed=seed, sigma=self.sigma, label=label)

    def log_prob(self, z: Points, label: Labels | None = None) -> Tensor:
        """Return the log-density at z, `(n,)`, in nats."""
        return self.distribution.log_prob(z, self.sigma, label)


def moments(z: Points, label: Labels | None = None) -> GaussianMixture:
    """Return one Gaussian per class with the mean, covariance and frequency of its points `z`, `(n, d)`.

    A class without spread in some direction (a single point, say) gets the smallest spread that a float64
    covariance can carry there, so that every class can be noised.
    """
    label = torch.zeros(len(z), dtype=torch.int64) if label is None else label
    counts = label.bincount()
    if bool((counts == 0).any()):
        raise InputError(f"every class 0..{len(counts) - 1} needs a point")
    means, covariances = [], []
    for c in range(len(counts)):
        own = z[label == c].double()
        centred = own - own.mean(0)
        means.append(own.mean(0))
        covariances.append(centred.T @ centred / len(own))
    floor = 1e-10 * torch.eye(z.shape[1], dtype=torch.float64)
    return GaussianMixture(torch.stack(means), torch.stack(covariances) + floor, weights=counts.double())
