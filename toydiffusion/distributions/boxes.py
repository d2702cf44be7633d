"""Uniform boxes: the square, concentric squares, the checkerboard and mixtures of boxes."""

from __future__ import annotations

import itertools
from typing import Final, final

import torch
from torch import Tensor

from toydiffusion.distributions.arguments import Numbers, indices, numbers
from toydiffusion.distributions.base import Blend, Bounded
from toydiffusion.distributions.interval import interval
from toydiffusion.errors import InputError, whole_number
from toydiffusion.types import Labels, Levels, Points


class BoxMixture(Bounded):
    """The base class of all mixtures of boxes.

    A noised box is a product over the axes of noised intervals (`interval`). Many boxes share intervals, so
    each distinct interval of each axis is computed once.
    """

    def __init__(
        self, low: Tensor, high: Tensor, *, weight: Tensor | None = None, label: Labels | None = None
    ):
        """Store corners `(m, d)`; `weight` None means the volumes, `label` None means one class."""
        if bool((low >= high).any()):
            j, i = (low >= high).nonzero()[0].tolist()
            raise InputError(
                f"low must be < high, got {low[j, i].item()} and {high[j, i].item()} at box {j} axis {i}"
            )
        log_volume = (high - low).log().sum(1)
        super().__init__(
            log_volume.softmax(0) if weight is None else weight,
            torch.zeros(len(low), dtype=torch.int64) if label is None else label,
            low + (high - low) / 2,
            torch.diag_embed((high - low).square() / 12),
        )
        self._low: Final = low
        self._high: Final = high
        self._log_volume: Final = log_volume
        axis = torch.arange(self.dim).expand(low.shape)
        sides = torch.stack([axis, low, high], 2).reshape(-1, 3)
        distinct, which = torch.unique(sides, dim=0, return_inverse=True)
        self._axis: Final = distinct[:, 0].to(torch.int64)
        self._side_low: Final = distinct[:, 1]
        self._side_high: Final = distinct[:, 2]
        self._side: Final = which.reshape(low.shape)
        self._uses: Final = torch.nn.functional.one_hot(self._side, len(distinct)).sum(1).to(low)
        self._row_cost = max(len(low), len(distinct))

    def _components(self, x: Points, sigma: Levels) -> tuple[Tensor, Blend]:
        log_side, mean = interval(x[:, self._axis], sigma[:, None], self._side_low, self._side_high)
        log_density = sum((log_side[:, side] for side in self._side.T), torch.zeros(()))

        def blend(responsibility: Tensor) -> Points:
            return torch.zeros_like(x).index_add(1, self._axis, (responsibility @ self._uses) * mean)

        return log_density, blend

    def _sample_clean(self, label: Labels, uniform: Tensor, normal: Tensor) -> Points:
        box = self._pick(label, uniform[:, 0])
        return torch.lerp(self._low[box], self._high[box], uniform[:, 1:])

    def _standardized(self, mean: Tensor, scale: Tensor) -> Boxes:
        return Boxes(
            (self._low - mean) / scale,
            (self._high - mean) / scale,
            weight=self._weight,
            label=self._label,
        )

    @property
    def entropy(self) -> float | None:
        """`-sum_j w_j log(w_j / volume_j)`, in nats; None if boxes overlap."""
        overlap = torch.ones(len(self._low), len(self._low), dtype=torch.bool)
        for low, high in zip(self._low.T, self._high.T, strict=True):
            overlap &= low < high[:, None]
        if int((overlap & overlap.T).sum()) > len(overlap):
            return None
        return float(self._weight @ (self._log_volume - self._weight.log()))


@final
class Boxes(BoxMixture):
    """A mixture of uniform, closed, axis-aligned boxes `[low_j, high_j]`.

    - `low`, `high` `(m, d)`: the corners, low < high. Boxes may overlap.
    - `weight` `(m,)`: any positive numbers. None (default): the volumes, so that disjoint boxes form a
      uniform law.
    - `label` `(m,)`: class indices, 0..K-1. None (default): one class.

    >>> slots = Boxes([[-1.0], [2.0]], [[0.0], [5.0]], label=[0, 1])
    >>> slots.frequencies.tolist()
    [0.25, 0.75]
    >>> slots.contains([[-0.5], [1.0]]).tolist()
    [True, False]
    """

    def __init__(
        self, low: Numbers, high: Numbers, *, weight: Numbers | None = None, label: Numbers | None = None
    ):
        lowest = numbers("low", low, (None, None))
        m = len(lowest)
        super().__init__(
            lowest,
            numbers("high", high, tuple(lowest.shape)),
            weight=None if weight is None else numbers("weight", weight, (m,)),
            label=indices(label, m, None),
        )


@final
class Square(BoxMixture):
    """Uniform on the closed cube `[-1, 1]^dim`; one class.

    - `dim`: the dimension, default 2.

    >>> Square().log_prob([[0.5, -1.0]]).round(4).tolist()
    [-1.3863]
    """

    def __init__(self, dim: int = 2) -> None:
        super().__init__(-torch.ones(1, whole_number("dim", dim, 1)).double(), torch.ones(1, dim).double())


@final
class ConcentricSquares(BoxMixture):
    """Uniform on the open cube `(-1, 1)^dim`; class c has `c <= squares * max|x_i| < c + 1`, 0 innermost.

    - `squares`: the number of squares and of classes, default 5.
    - `dim`: the dimension, default 2.

    Class c has frequency `((c + 1)^dim - c^dim) / squares^dim`. It is the disjoint union, over axes i and
    both signs, of the boxes with `|x_i|` from c to c + 1 in units of 1 / squares, earlier coordinates below c
    and later ones below c + 1. No inner cube is subtracted, so nothing cancels.

    >>> (ConcentricSquares().frequencies * 25).round().tolist()
    [1.0, 3.0, 5.0, 7.0, 9.0]
    """

    def __init__(self, squares: int = 5, dim: int = 2) -> None:
        whole_number("dim", dim, 1)
        radius = torch.arange(whole_number("squares", squares, 1) + 1).double() / squares
        # A closed box that ends one rounding step early holds the same numbers as a half-open one.
        below = radius.nextafter(radius - 1)
        low, high, label = [-below[1].expand(dim)], [below[1].expand(dim)], [0]
        for c, i in itertools.product(range(1, squares), range(dim)):
            far = torch.cat([below[c].expand(i), below[c + 1].expand(dim - i)])
            near = -far
            near[i] = radius[c]
            low += [near, -far]
            high += [far, -near]
            label += [c, c]
        super().__init__(torch.stack(low), torch.stack(high), label=torch.tensor(label))


@final
class Checkerboard(BoxMixture):
    """Uniform on the dark cells of a `cells x cells` board on `[-1, 1]^2`; one class.

    - `cells`: the number of cells along each side, default 4. The lower left cell is dark.

    >>> Checkerboard().contains([[-0.9, -0.9], [-0.4, -0.9]]).tolist()
    [True, False]
    """

    def __init__(self, cells: int = 4) -> None:
        line = torch.linspace(-1, 1, whole_number("cells", cells, 1) + 1, dtype=torch.float64)
        dark = torch.tensor([(i, j) for i in range(cells) for j in range(cells) if (i + j) % 2 == 0])
        super().__init__(line[dark], line[dark + 1])
