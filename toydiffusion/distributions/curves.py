"""Thick curves: two moons, circles, spiral arms and other smooth arcs. Each arc is a class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from toydiffusion.distributions.arguments import Numbers, numbers, spread_out
from toydiffusion.distributions.kernel_mixture import KernelMixture
from toydiffusion.errors import InputError, whole_number
from toydiffusion.types import Labels, Points

Arc: TypeAlias = Callable[[Tensor], Points]
"""A smooth map from parameters `t` in [0, 1], `(n,)`, to points, `(n, d)`."""

_NODES = 16
"""Gauss-Legendre nodes in a panel."""
_LEAST_PANELS = 10
"""The fewest panels of an arc."""
_PANEL = 3.0
"""The longest panel, in units of the thickness."""
_END = torch.tensor([1 / 8, 3 / 8], dtype=torch.float64)
"""Where the first panel is cut again, as shares of it; the last panel is cut at the mirror images."""


class ArcSum(KernelMixture):
    """The base class of all curves: class c is `arc_c(t) + noise eps`, with `t` uniform on [0, 1].

    The integral over t is by composite Gauss-Legendre quadrature, with 16 nodes in a panel and panels no
    longer than 3 `noise`. At sigma = 0 the relative error of the density is below 1e-12 up to 20 `noise` from
    the arc, where along an arc of radius R the integrand narrows to `noise / sqrt(1 + 20 noise / R)`. At
    sigma > 0 the error is smaller.

    Samples come from the arcs themselves, not from the nodes. The law of `(x - mean) / scale` has the same
    nodes, and the thickness `noise / scale` per axis.
    """

    def __init__(
        self,
        arcs: Sequence[Arc],
        noise: float,
        *,
        weights: Numbers | None = None,
        mean: Numbers = 0.0,
        scale: Numbers = 1.0,
    ) -> None:
        """Store one arc for each class, and the shift and scale of the columns."""
        thickness = float(numbers("noise", noise, ()))
        if thickness <= 0:
            raise InputError(f"noise must be > 0, got {noise}")
        share = numbers("weights", [1.0] * len(arcs) if weights is None else weights, (len(arcs),))
        fine = torch.linspace(0, 1, 1025, dtype=torch.float64)
        node, each = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(_NODES))
        points, weight, label = [], [], []
        for c, arc in enumerate(arcs):
            speed = float(arc(fine).diff(dim=0).norm(dim=1).max()) * 1024
            panels = max(_LEAST_PANELS, math.ceil(speed / (_PANEL * thickness)))
            cut = torch.arange(panels + 1, dtype=torch.float64)
            cut = torch.cat([cut, torch.cat([_END, panels - _END])]).sort().values / panels
            start, width = cut[:-1, None], cut.diff()[:, None]
            t = (start + width * (1 + node) / 2).flatten()
            points.append(arc(t))
            weight.append(share[c] * (width * each).flatten())
            label.append(torch.full_like(t, c, dtype=torch.int64))
        d = points[0].shape[1]
        self._arcs: Final = tuple(arcs)
        self._noise: Final = thickness
        self._shift: Final = spread_out("mean", mean, d)
        self._scale: Final = spread_out("scale", scale, d)
        super().__init__(
            (torch.cat(points) - self._shift) / self._scale,
            thickness / self._scale,
            torch.cat(weight),
            torch.cat(label),
        )

    def _sample_clean(self, label: Labels, uniform: Tensor, normal: Tensor) -> Points:
        clean = torch.empty_like(normal)
        for c, arc in enumerate(self._arcs):
            own = label == c
            clean[own] = arc(uniform[own, 0])
        return (clean + self._noise * normal - self._shift) / self._scale

    def _standardized(self, mean: Tensor, scale: Tensor) -> Arcs:
        return Arcs(
            self._arcs,
            self._noise,
            weights=self.frequencies,
            mean=self._shift + mean * self._scale,
            scale=self._scale * scale,
        )


@final
class Arcs(ArcSum):
    """Any thick curves: class c is `(arcs[c](t) + noise eps - mean) / scale`, with `t` uniform on [0, 1].

    - `arcs`: K maps from `(n,)` parameters to `(n, d)` points. They are smooth, and analytic for full
      accuracy. Corners are allowed only between two arcs.
    - `noise`: the standard deviation of the thickness, > 0.
    - `weights` `(K,)`: any positive numbers. None (default): equal weights.
    - `mean`, `scale`: numbers or `(d,)`, default 0 and 1.

    >>> segment = Arcs([lambda t: t[:, None]], noise=0.1)
    >>> segment.mean.round(decimals=6).tolist(), segment.covariance.round(decimals=6).tolist()
    ([0.5], [[0.093333]])
    """


@final
class TwoMoons(ArcSum):
    """Two interleaved half circles of radius 1, uniform in arc length, each of them a class.

    Class 0 is the upper one about (0, 0), class 1 the lower one about (1, 1/2), as in scikit-learn's
    `make_moons`.

    - `noise`: the standard deviation of the thickness, default 0.1.

    >>> TwoMoons().class_posterior([[0.0, 1.0]]).round().tolist()
    [[1.0, 0.0]]
    """

    def __init__(self, noise: float = 0.1) -> None:
        upper = partial(_circle, center=(0.0, 0.0), radius=1.0, first=0.0, last=math.pi)
        lower = partial(_circle, center=(1.0, 0.5), radius=1.0, first=math.pi, last=2 * math.pi)
        super().__init__([upper, lower], noise)


@final
class Circles(ArcSum):
    """Circles of radius 1 (class 0) and `factor` (class 1) about 0, equally frequent.

    - `factor`: the radius of the inner circle, > 0 and < 1, default 0.5.
    - `noise`: the standard deviation of the thickness, default 0.1.

    >>> Circles().class_posterior([[0.0, 0.5]]).round().tolist()
    [[0.0, 1.0]]
    """

    def __init__(self, factor: float = 0.5, noise: float = 0.1) -> None:
        if not 0 < factor < 1:
            raise InputError(f"factor must be > 0 and < 1, got {factor}")
        full = partial(_circle, center=(0.0, 0.0), first=0.0, last=2 * math.pi)
        super().__init__([partial(full, radius=1.0), partial(full, radius=factor)], noise)


@final
class Spiral(ArcSum):
    """Archimedean spiral arms that end at radius 1, each of them a class.

    - `arms`: the number of arms, default 2.
    - `noise`: the standard deviation of the thickness, default 0.05.
    - `turns`: the turns of each arm, > 0, default 1.25.

    Each arm runs from angle `a = pi/2` to `b = pi/2 + 2 pi turns`, with radius `angle / b` and
    `angle^2 = a^2 + (b^2 - a^2) t`, which is nearly uniform in arc length. Arm c is rotated by
    `2 pi c / arms`.

    >>> Spiral(arms=3).num_classes
    3
    """

    def __init__(self, arms: int = 2, noise: float = 0.05, *, turns: float = 1.25) -> None:
        if not (math.isfinite(turns) and turns > 0):
            raise InputError(f"turns must be > 0, got {turns}")
        rotations = [2 * math.pi * c / arms for c in range(whole_number("arms", arms, 1))]
        super().__init__(
            [partial(_arm, rotation=angle, last=math.pi * (0.5 + 2 * turns)) for angle in rotations], noise
        )


def _circle(t: Tensor, *, center: tuple[float, float], radius: float, first: float, last: float) -> Points:
    angle = first + (last - first) * t
    return torch.stack([center[0] + radius * angle.cos(), center[1] + radius * angle.sin()], 1)


def _arm(t: Tensor, *, rotation: float, last: float) -> Points:
    first = math.pi / 2
    angle = (first**2 + (last**2 - first**2) * t).sqrt()
    return torch.stack([(angle + rotation).cos(), (angle + rotation).sin()], 1) * (angle / last)[:, None]
