"""Weighted points, each thickened by the same normal: finite sets, and what curves are made of."""

from __future__ import annotations

import math
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from toydiffusion.distributions.arguments import Numbers, indices, numbers
from toydiffusion.distributions.base import Blend, Distribution
from toydiffusion.types import Labels, Levels, Points


class KernelMixture(Distribution):
    """The machinery of finite sets and curves: points `p_j` seen through thickness `tau` `(d,)` and noise.

    With `v = tau^2 + sigma^2` per axis:

        log f_j(x; sigma) = -sum_i (x_i - p_ji)^2 / (2 v_i) - sum_i log(2 pi v_i) / 2
        E_j[clean | x]    = p_j + (tau^2 / v) (x - p_j)
    """

    def __init__(self, points: Points, thickness: Tensor, weight: Tensor, label: Labels) -> None:
        """Take checked points `(m, d)`, standard deviations `(d,)`, weights `(m,)` and labels `(m,)`."""
        super().__init__(weight, label, points, torch.diag(thickness.square())[None])
        self._points: Final = points
        self._thickness: Final = thickness

    def _components(self, x: Points, sigma: Levels) -> tuple[Tensor, Blend]:
        thick = self._thickness.square()
        variance = thick + sigma[:, None].square()
        log_density = -(2 * math.pi * variance).log().sum(1)[:, None] / 2
        # Differences, not products as in cdist: those cancel where the points are many sigma from 0.
        for x_i, p_i, v_i in zip(x.T, self._points.T, variance.T, strict=True):
            log_density = log_density - (x_i[:, None] - p_i).square() * (0.5 / v_i)[:, None]

        def blend(responsibility: Tensor) -> Points:
            point = responsibility @ self._points
            return point + thick / variance * (x - point)

        return log_density, blend


@final
class Empirical(KernelMixture):
    """The finite set: every point equally likely. Its denoiser is the ideal memoriser of a training set.

    `points` `(m, d)`, `labels` `(m,)` 0..K-1 or None. It has no density at sigma = 0: all questions need
    sigma > 0. Each answer looks at all m points, a few queries at a time.

    >>> Empirical([[0.0], [1.0]]).denoise([[0.5]], sigma=1.0).tolist()
    [[0.5]]
    """

    has_density: ClassVar[bool] = False

    def __init__(self, points: Numbers, labels: Numbers | None = None) -> None:
        given = numbers("points", points, (None, None))
        label = indices(labels, len(given), None)
        super().__init__(
            given,
            torch.zeros(given.shape[1]).double(),
            torch.ones(len(given)).double(),
            torch.zeros(len(given), dtype=torch.int64) if label is None else label,
        )

    def _place(self, label: Labels, uniform: Tensor, normal: Tensor) -> Points:
        return self._points[self._pick(label, uniform[:, 0])]

    def _standardized(self, mean: Tensor, scale: Tensor) -> Empirical:
        return Empirical((self._points - mean) / scale, self._label)
