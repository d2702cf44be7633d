"""The Gaussian that solvers, flow and bound are measured from: for Gaussian data all are then exact."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from toydiffusion.distributions.base import Distribution
from toydiffusion.types import Labels, Levels, Points


@dataclass(frozen=True, eq=False)
class Reference:
    """For each of n rows the Gaussian `N(mean, C)` of its class's moments, `C = axes diag(variance) axes^T`.

    At noise level sigma its law is `N(mean, C + sigma^2 I)`, whose whitened coordinate is

        y = (variance + sigma^2)^(-1/2) axes^T (z - mean),        log N(z) = log_height(sigma) - |y|^2 / 2.

    - `means` `(K, d)`, `variances` `(K, d)`, `all_axes` `(K, d, d)`: those of each class, the principal axes
      in columns.
    - `kind` `(n,)`: the class of each row.
    """

    means: Tensor
    variances: Tensor
    all_axes: Tensor
    kind: Labels

    @classmethod
    def of(cls, distribution: Distribution, z: Points, label: Labels | None) -> Reference:
        """Return the moments of the labels' classes, or of the whole, for each row of z, on its device."""
        if label is None:
            means, covariances = distribution.mean[None], distribution.covariance[None]
            label = torch.zeros(len(z), dtype=torch.int64)
        else:
            means, covariances = distribution.class_means, distribution.class_covariances
        variances, axes = torch.linalg.eigh(covariances)
        return cls(
            means.to(z.device), variances.clamp(min=0.0).to(z.device), axes.to(z.device), label.to(z.device)
        )

    @cached_property
    def mean(self) -> Tensor:
        """The mean of each row's Gaussian, `(n, d)`, or `(1, d)` with one class."""
        return self.means if len(self.means) == 1 else self.means[self.kind]

    @cached_property
    def variance(self) -> Tensor:
        """The variances of each row's Gaussian along its axes, `(n, d)`, or `(1, d)` with one class."""
        return self.variances if len(self.means) == 1 else self.variances[self.kind]

    @cached_property
    def axes(self) -> Tensor:
        """The principal axes of each row's Gaussian in columns, `(n, d, d)`."""
        return self.all_axes[self.kind]

    def widened(self, variance: float) -> Reference:
        """Return the same with at least this variance along every axis."""
        return replace(self, variances=self.variances.clamp(min=variance))

    def rows(self, rows: Tensor) -> Reference:
        """Return these rows."""
        return replace(self, kind=self.kind[rows])

    def spread(self, sigma: Levels) -> Tensor:
        """Return `sqrt(variance + sigma^2)`, the standard deviations along the axes, `(n, d)`."""
        return (self.variance + sigma[:, None].square()).sqrt()

    def turned(self, z: Points) -> Tensor:
        """Return `axes^T (z - mean)`, `(n, d)`."""
        away = z - self.mean
        if len(self.means) == 1:
            return away @ self.all_axes[0]
        return torch.einsum("nij,ni->nj", self.axes, away)

    def turned_back(self, y: Tensor) -> Points:
        """Return `mean + axes y`, `(n, d)`."""
        if len(self.means) == 1:
            return self.means[0] + y @ self.all_axes[0].T
        return self.mean + torch.einsum("nij,nj->ni", self.axes, y)

    def whitened(self, z: Points, sigma: Levels) -> Tensor:
        """Return y, `(n, d)`."""
        return self.turned(z) / self.spread(sigma)

    def points(self, y: Tensor, sigma: Levels) -> Points:
        """Return z back from y, `(n, d)`."""
        return self.turned_back(y * self.spread(sigma))

    def shrinkage(self, sigma: Levels) -> Tensor:
        """Return the eigenvalues of its denoiser's Jacobian, `variance / (variance + sigma^2)`, `(n, d)`."""
        variance = self.variance
        shrinkage: Tensor = variance / (variance + sigma[:, None].square())
        return shrinkage

    def denoise(self, z: Points, sigma: Levels) -> Points:
        """Return its posterior mean `mean + C (C + sigma^2)^-1 (z - mean)`, `(n, d)`."""
        return self.turned_back(self.shrinkage(sigma) * self.turned(z))

    def log_height(self, sigma: Levels) -> Tensor:
        """Return its log-density at the mean, `-1/2 log det(2 pi (C + sigma^2 I))`, `(n,)`."""
        return -self.spread(sigma).log().sum(1) - self.means.shape[1] / 2 * math.log(2 * math.pi)

    def log_prob(self, z: Points, sigma: Levels) -> Tensor:
        """Return its log-density at noise level sigma, `(n,)`."""
        return self.log_height(sigma) - self.whitened(z, sigma).square().sum(1) / 2
