"""Exact laws and what a model knows of them, for the tests of density."""

from __future__ import annotations

from toydiffusion.distributions import Distribution, GaussianMixture

SKEWED = GaussianMixture(
    [[-1.5, 0.0], [1.0, 1.0], [0.8, -1.2]],
    [[[0.3, 0.15], [0.15, 0.2]], [[0.15, -0.1], [-0.1, 0.4]], [[0.25, 0.0], [0.0, 0.1]]],
    weights=[0.4, 0.35, 0.25],
)


def standard(law: Distribution) -> Distribution:
    """Return the law in its own standard coordinates."""
    return law.standardized(law.mean.numpy(), law.covariance.diagonal().sqrt().numpy())


def gaussians(law: Distribution, labelled: bool = False) -> GaussianMixture:
    """Return what a model's prior is made of: the law's moments, or those of each class."""
    if labelled:
        return GaussianMixture(law.class_means, law.class_covariances, weights=law.frequencies)
    return GaussianMixture(law.mean[None], law.covariance[None])
