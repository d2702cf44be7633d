"""Gaussians and mixtures of Gaussians with full covariances."""

from __future__ import annotations

import math
from typing import Final, final

import torch
from torch import Tensor

from toydiffusion.distributions.arguments import Numbers, indices, numbers
from toydiffusion.distributions.base import Blend, Distribution
from toydiffusion.errors import InputError
from toydiffusion.types import Labels, Levels, Points


class GaussianSum(Distribution):
    """The base class of `Gaussian` and `GaussianMixture`.

    With `S_j = C_j + sigma^2 I = L_j L_j^T`:

        log f_j(x; sigma) = -|L_j^-1 (x - mu_j)|^2 / 2 - log det L_j - (d / 2) log(2 pi)
        E_j[clean | x]    = mu_j + C_j S_j^-1 (x - mu_j)

    Cholesky factors are used, not eigenvectors, because their rounding does not depend on the scale of the
    axes.

    Attributes:

    - `means` `(m, d)`, `covariances` `(m, d, d)`: those of the components.
    - `weights` `(m,)`: their weights, which sum to 1.
    - `component_labels` `(m,)`: the class of each.
    """

    def __init__(self, means: Tensor, covariances: Tensor, weight: Tensor, label: Labels) -> None:
        """Store means `(m, d)`, covariances `(m, d, d)`, weights `(m,)` and labels `(m,)`."""
        size = covariances.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
        skew = (covariances - covariances.mT).abs() > 1e-9 * size[:, :, None] * size[:, None, :]
        factor, failed = torch.linalg.cholesky_ex(covariances)
        for words, wrong in (("symmetric", skew.any(2).any(1)), ("positive definite", failed > 0)):
            if bool(wrong.any()):
                j = int(wrong.nonzero()[0])
                raise InputError(f"covariance must be {words}, got {covariances[j].tolist()} (component {j})")
        super().__init__(weight, label, means, covariances)
        self.means: Final = means
        self.covariances: Final = covariances
        self.weights: Final = self._weight
        self.component_labels: Final = label
        self._factor: Final[Tensor] = factor
        self._row_cost = means.numel()

    def _components(self, x: Points, sigma: Levels) -> tuple[Tensor, Blend]:
        # One factorisation for each distinct noise level: most calls have only one.
        level, row = torch.unique(sigma, return_inverse=True)
        noise = level.square()[:, None, None, None] * torch.eye(self.dim).to(x)
        factor = torch.linalg.cholesky(self.covariances + noise)
        whiten = torch.linalg.solve_triangular(factor, torch.eye(self.dim).to(x), upper=False)
        log_norm = whiten.diagonal(dim1=2, dim2=3).log().sum(2) - self.dim / 2 * math.log(2 * math.pi)
        gain = self.covariances @ whiten.mT
        away = x[:, None] - self.means
        if len(level) == 1:
            white = torch.einsum("mij,nmj->nmi", whiten[0], away)
            mean = torch.einsum("mij,nmj->nmi", gain[0], white)
        else:
            white = (whiten[row] @ away[..., None])[..., 0]
            mean = (gain[row] @ white[..., None])[..., 0]
        log_density = log_norm[row] - white.square().sum(2) / 2

        def blend(responsibility: Tensor) -> Points:
            return (responsibility[:, :, None] * (self.means + mean)).sum(1)

        return log_density, blend

    def _sample_clean(self, label: Labels, uniform: Tensor, normal: Tensor) -> Points:
        j = self._pick(label, uniform[:, 0])
        return self.means[j] + (self._factor[j] @ normal[:, :, None])[:, :, 0]

    def _standardized(self, mean: Tensor, scale: Tensor) -> GaussianMixture:
        return GaussianMixture(
            (self.means - mean) / scale,
            self.covariances / scale / scale[:, None],
            weights=self._weight,
            labels=self._label,
        )

    @property
    def entropy(self) -> float | None:
        """`log det(2 pi e C) / 2`, in nats, for a single Gaussian; None for a mixture."""
        if len(self._weight) > 1:
            return None
        return float(self._factor[0].diagonal().log().sum() + self.dim / 2 * math.log(2 * math.pi * math.e))


@final
class Gaussian(GaussianSum):
    """The normal law; one class.

    - `mean` `(d,)`: the mean.
    - `covariance` `(d, d)`: the covariance, symmetric and positive definite.

    >>> Gaussian([1.0], [[4.0]]).denoise([[3.0]], sigma=2.0).round(9).tolist()
    [[2.0]]
    """

    def __init__(self, mean: Numbers, covariance: Numbers) -> None:
        center = numbers("mean", mean, (None,))
        d = len(center)
        spread = numbers("covariance", covariance, (d, d))
        super().__init__(
            center[None], spread[None], torch.ones(1).double(), torch.zeros(1, dtype=torch.int64)
        )


@final
class GaussianMixture(GaussianSum):
    """A mixture of Gaussians with full covariances.

    - `means` `(m, d)`: the means.
    - `covariances` `(m, d, d)`: the covariances, symmetric and positive definite.
    - `weights` `(m,)`: any positive numbers. None (default): equal weights.
    - `labels` `(m,)`: class indices, 0..K-1. None (default): each component is a class.

    >>> pair = GaussianMixture([[-1.0], [1.0]], [[[0.1]], [[0.1]]])
    >>> pair.class_posterior([[0.0]], sigma=0.5).tolist()
    [[0.5, 0.5]]
    """

    def __init__(
        self,
        means: Numbers,
        covariances: Numbers,
        *,
        weights: Numbers | None = None,
        labels: Numbers | None = None,
    ) -> None:
        center = numbers("means", means, (None, None))
        m, d = center.shape
        label = indices(labels, m, None)
        super().__init__(
            center,
            numbers("covariances", covariances, (m, d, d)),
            torch.ones(m).double() if weights is None else numbers("weights", weights, (m,)),
            torch.arange(m) if label is None else label,
        )
