"""The prior: the law at the highest noise level, which is sampled and has a log-density."""

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
    """The law of `distribution` noised to `sigma`, where the reverse process starts.

    - `distribution`: the clean law.
    - `sigma`: the noise level.

    A model uses `Prior(moments(z, label), sigma)`: for each class the Gaussian with the mean of the data and
    with the covariance of the data plus sigma^2 I. It is not N(0, sigma^2 I), because noised data has the
    variance of the data as well. With the exact law of the data the prior is exact.
    """

    distribution: Distribution
    sigma: float

    def rows(self, rows: range, *, seed: int, label: Labels | None = None) -> tuple[Points, Labels]:
        """Return these rows of the infinite sample of this seed, `(n, d)`, and their labels, `(n,)`."""
        return self.distribution.rows(rows.start, rows.stop, seed=seed, sigma=self.sigma, label=label)

    def log_prob(self, z: Points, label: Labels | None = None) -> Tensor:
        """Return the log-density at z, `(n,)`, in nats."""
        return self.distribution.log_prob(z, self.sigma, label)


def moments(z: Points, label: Labels | None = None) -> GaussianMixture:
    """Return the mixture of one Gaussian per class, with the moments and the frequency of its points.

    - `z` `(n, d)`: the points.
    - `label` `(n,)`: their class indices 0..K-1. None (default): one class.

    Every covariance is increased by 1e-10 I. So it is positive definite even for a class without spread in
    some direction, such as a single point.

    Raises `InputError` for a class without a point.
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
