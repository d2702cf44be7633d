"""Weighted points, each with the same normal kernel: finite sets, and the nodes of curves."""

from __future__ import annotations

import math
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from toydiffusion.distributions.arguments import Numbers, indices, numbers
from toydiffusion.distributions.base import Blend, Distribution
from toydiffusion.types import Labels, Levels, Points


class KernelMixture(Distribution):
    """The base class of finite sets and curves: points `p_j`, each with a normal kernel of thickness `tau`.

    `tau` `(d,)` is a standard deviation per axis. With `v = tau^2 + sigma^2` per axis:

        log f_j(x; sigma) = -sum_i (x_i - p_ji)^2 / (2 v_i) - sum_i log(2 pi v_i) / 2
        E_j[clean | x]    = p_j + (tau^2 / v) (x - p_j)
    """

    def __init__(self, points: Points, thickness: Tensor, weight: Tensor, label: Labels) -> None:
        """Store points `(m, d)`, standard deviations `(d,)`, weights `(m,)` and labels `(m,)`."""
        super().__init__(weight, label, points, torch.diag(thickness.square())[None])
        self._points: Final = points
        self._thickness: Final = thickness

    def _components(self, x: Points, sigma: Levels) -> tuple[Tensor, Blend]:
        thick = self._thickness.square()
        variance = thick + sigma[:, None].square()
        log_density = -(2 * math.pi * variance).log().sum(1)[:, None] / 2
        # Differences, not products as in cdist, which cancel if the points are many sigma from 0.
        for x_i, p_i, v_i in zip(x.T, self._points.T, variance.T, strict=True):
            log_density = log_density - (x_i[:, None] - p_i).square() * (0.5 / v_i)[:, None]

        def blend(responsibility: Tensor) -> Points:
            point = responsibility @ self._points
            return point + thick / variance * (x - point)

        return log_density, blend


@final
class Empirical(KernelMixture):
    """A finite set of equally likely points. Its denoiser is that of a model that memorises its training set.

    - `points` `(m, d)`: the points.
    - `labels` `(m,)`: their class indices, 0..K-1. None (default): one class.

    There is no density at sigma = 0, so every method needs sigma > 0. The cost per query grows with m.

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

    def _sample_clean(self, label: Labels, uniform: Tensor, normal: Tensor) -> Points:
        return self._points[self._pick(label, uniform[:, 0])]

    def _standardized(self, mean: Tensor, scale: Tensor) -> Empirical:
        return Empirical((self._points - mean) / scale, self._label)
