"""The uniform parallelogram in the plane, such as a rotated square, by a one-dimensional integral."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from toydiffusion.distributions.arguments import Numbers, numbers
from toydiffusion.distributions.base import Blend, Bounded
from toydiffusion.distributions.interval import interval
from toydiffusion.errors import InputError
from toydiffusion.types import Labels, Levels, Points

_NODE, _WEIGHT = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(40))
_DROP = 40.0
"""The integrand is left out where it is below `exp(-_DROP)` of its maximum."""
_MOST = 5
"""The most pieces that the window of integration is cut into."""


@final
class Parallelogram(Bounded):
    """Uniform on the closed parallelogram `center + u_1 sides[0] + u_2 sides[1]`, `|u_i| <= 1/2`; one class.

    - `center` `(2,)`: the centre.
    - `sides` `(2, 2)`: one side per row, not parallel.

    Take the frame of the longer side, of length l, and its normal. The points at height h, `|h| <= H/2`, form
    a segment of length l about `k h`. So with x at `(y_1, y_2)` in that frame,

        p(x; sigma) = int dh / H  N(y_2; h, sigma^2)  U(y_1 - k h; sigma),

    where U is the noised uniform segment (`interval`). The integrand is log-concave. Bisection finds its
    maximum and the window in which it exceeds `exp(-40)` of the maximum.

    The integrand varies on the scale `sigma / k`. So the window is cut into about `|k| / 2` equal pieces. For
    large k it is cut where the ends of the segment are blurred, at `8 sigma / k` about `(y_1 +- l/2) / k`.
    With 40 Gauss-Legendre nodes in each piece the relative error is below 1e-12.

    >>> diamond = Parallelogram.rotated_square(45)
    >>> diamond.contains([[0.0, 1.4], [0.9, 0.9]]).tolist()
    [True, False]
    """

    def __init__(self, center: Numbers, sides: Numbers) -> None:
        middle, side = numbers("center", center, (2,)), numbers("sides", sides, (2, 2))
        length, order = side.norm(dim=1).sort(descending=True)
        along, across = side[order] / length[:, None]
        height = float(along[0] * across[1] - along[1] * across[0])
        if not abs(height) > 0:
            raise InputError(f"sides must not be parallel, got {side.tolist()}")
        super().__init__(
            torch.ones(1).double(),
            torch.zeros(1, dtype=torch.int64),
            middle[None],
            (side.T @ side)[None] / 12,
        )
        self._center: Final = middle
        self._sides: Final = side
        self._frame: Final = torch.stack([along, torch.stack([-along[1], along[0]])])
        self._length: Final = length[0]
        self._height: Final = length[1] * abs(height)
        self._lean: Final = float(along @ across) / height
        self._cuts: Final = min(_MOST, math.ceil(abs(self._lean) / 2 + 0.6))
        # A quarter of the real cost: the tables of the bisections have one column, and run faster with more
        # rows.
        self._row_cost = self._cuts * len(_NODE) // 4

    @classmethod
    def rotated_square(cls, degrees: float) -> Parallelogram:
        """Return the square `[-1, 1]^2` rotated counterclockwise by this angle."""
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return cls([0.0, 0.0], [[2 * c, 2 * s], [-2 * s, 2 * c]])

    def _components(self, x: Points, sigma: Levels) -> tuple[Tensor, Blend]:
        half = self._length / 2
        y_1, y_2 = ((x - self._center) @ self._frame.T)[:, :, None].unbind(1)
        k, known = self._lean, sigma == 0
        inside = (y_2.abs() <= self._height / 2) & ((y_1 - k * y_2).abs() <= half)
        log_known = torch.where(inside, -(self._length * self._height).log(), -math.inf)
        if bool(known.all()):
            return log_known, lambda _: x
        noise = sigma.masked_fill(known, 1.0)[:, None]

        def integrand(y_1: Tensor, y_2: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            log_segment, mean = interval(y_1 - k * h, noise, -half, half)
            return log_segment - ((y_2 - h) / noise).square() / 2, mean

        with torch.no_grad():
            piece = self._pieces(y_1.detach(), y_2.detach(), noise, integrand)
        start, width = piece[:, :-1, None], piece.diff(dim=1)[:, :, None]
        h = (start + width * (1 + _NODE) / 2).flatten(1)
        log_value, mean = integrand(y_1, y_2, h)
        log_value = log_value + (width * _WEIGHT).flatten(1).log()
        log_scale = (2 * math.sqrt(2 * math.pi) * self._height * noise).log()
        log_density = log_value.logsumexp(1, keepdim=True) - log_scale

        def blend(responsibility: Tensor) -> Points:
            share = log_value.softmax(1)
            place = torch.stack([(share * (mean + k * h)).sum(1), (share * h).sum(1)], 1)
            return self._center + place @ self._frame

        return torch.where(known[:, None], log_known, log_density), blend

    def _pieces(
        self,
        y_1: Tensor,
        y_2: Tensor,
        sigma: Tensor,
        integrand: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Return the ascending ends of the pieces of h, `(n, pieces + 1)`. All arguments are `(n, 1)`."""
        k, ends = self._lean, torch.stack([-self._height, self._height]) / 2

        def rises(h: Tensor) -> Tensor:
            y = y_1 - k * h
            return y_2 - h + k * (y - integrand(y_1, y_2, h)[1]) > 0

        top = _bisect(rises, ends[0].expand_as(y_1), ends[1].expand_as(y_1), steps=40)
        least = integrand(y_1, y_2, top)[0] - _DROP
        # The logarithm falls at least as fast as that of a normal, so beyond `reach` it is below `least`.
        reach = torch.minimum((ends - top).abs(), math.sqrt(2 * _DROP) * sigma)
        sign = torch.tensor([-1.0, 1.0]).to(sigma)
        reach = _bisect(
            lambda r: integrand(y_1, y_2, top + sign * r)[0] > least, torch.zeros_like(reach), reach, steps=24
        )
        window = top + sign * reach
        if self._cuts < _MOST:
            return torch.lerp(window[:, :1], window[:, 1:], torch.linspace(0, 1, self._cuts + 1).to(sigma))
        soft = 8 * sign * sigma
        cuts = torch.cat([y_1 - self._length / 2 + soft, y_1 + self._length / 2 + soft], 1) / k
        return torch.cat([window, cuts.clamp(window[:, :1], window[:, 1:])], 1).sort(1).values

    def _sample_clean(self, label: Labels, uniform: Tensor, normal: Tensor) -> Points:
        return self._center + (uniform[:, 1:] - 0.5) @ self._sides

    def _standardized(self, mean: Tensor, scale: Tensor) -> Parallelogram:
        return Parallelogram((self._center - mean) / scale, self._sides / scale)

    @property
    def entropy(self) -> float | None:
        """The logarithm of the area, in nats."""
        return float((self._length * self._height).log())


def _bisect(holds: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, *, steps: int) -> Tensor:
    """Return where `holds` becomes false between `low` and `high`, elementwise; `high` if it never does."""
    end = high
    for _ in range(steps):
        middle = (low + high) / 2
        true = holds(middle)
        low, high = torch.where(true, middle, low), torch.where(true, high, middle)
    return torch.where(holds(end), end, high)
