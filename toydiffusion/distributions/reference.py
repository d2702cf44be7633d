"""The Gaussian that solvers, flow and bound are measured from: for Gaussian data all are then exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from toydiffusion.distributions.base import Distribution
from toydiffusion.types import Labels, Levels, Points


@dataclass(frozen=True, eq=False)
class Reference:
    """For each of n rows the Gaussian `N(mean, C)` of its class's moments, `C = axes diag(variance) axes^T`.

    At noise level sigma its law is `N(mean, C + sigma^2 I)`, whose whitened coordinate is

        y = (variance + sigma^2)^(-1/2) axes^T (z - mean),        log N(z) = log_height(sigma) - |y|^2 / 2.

    `mean` `(n, d)`, `variance` `(n, d)`, `axes` `(n, d, d)`, its columns the principal axes.
    """

    mean: Tensor
    variance: Tensor
    axes: Tensor

    @classmethod
    def of(cls, distribution: Distribution, n: int, label: Labels | None) -> Reference:
        """Return the moments of the labels' classes, or of the whole for each of n rows."""
        if label is None:
            means, covariances = distribution.mean[None], distribution.covariance[None]
            label = torch.zeros(n, dtype=torch.int64)
        else:
            means, covariances = distribution.class_means, distribution.class_covariances
        variance, axes = torch.linalg.eigh(covariances)
        return cls(means[label], variance.clamp(min=0.0)[label], axes[label])

    def widened(self, variance: float) -> Reference:
        """Return the same with at least this variance along every axis."""
        return Reference(self.mean, self.variance.clamp(min=variance), self.axes)

    def rows(self, rows: Tensor) -> Reference:
        """Return these rows."""
        return Reference(self.mean[rows], self.variance[rows], self.axes[rows])

    def spread(self, sigma: Levels) -> Tensor:
        """Return `sqrt(variance + sigma^2)`, the standard deviations along the axes, `(n, d)`."""
        return (self.variance + sigma[:, None].square()).sqrt()

    def turned(self, z: Points) -> Tensor:
        """Return `axes^T (z - mean)`, `(n, d)`."""
        return torch.einsum("nij,ni->nj", self.axes, z - self.mean)

    def whitened(self, z: Points, sigma: Levels) -> Tensor:
        """Return y, `(n, d)`."""
        return self.turned(z) / self.spread(sigma)

    def points(self, y: Tensor, sigma: Levels) -> Points:
        """Return z back from y, `(n, d)`."""
        return self.mean + torch.einsum("nij,nj->ni", self.axes, y * self.spread(sigma))

    def shrinkage(self, sigma: Levels) -> Tensor:
        """Return the eigenvalues of its denoiser's Jacobian, `variance / (variance + sigma^2)`, `(n, d)`."""
        shrinkage: Tensor = self.variance / (self.variance + sigma[:, None].square())
        return shrinkage

    def denoise(self, z: Points, sigma: Levels) -> Points:
        """Return its posterior mean `mean + C (C + sigma^2)^-1 (z - mean)`, `(n, d)`."""
        inner = self.shrinkage(sigma) * self.turned(z)
        return self.mean + torch.einsum("nij,nj->ni", self.axes, inner)

    def log_height(self, sigma: Levels) -> Tensor:
        """Return its log-density at the mean, `-1/2 log det(2 pi (C + sigma^2 I))`, `(n,)`."""
        return -self.spread(sigma).log().sum(1) - self.mean.shape[1] / 2 * math.log(2 * math.pi)

    def log_prob(self, z: Points, sigma: Levels) -> Tensor:
        """Return its log-density at noise level sigma, `(n,)`."""
        return self.log_height(sigma) - self.whitened(z, sigma).square().sum(1) / 2
