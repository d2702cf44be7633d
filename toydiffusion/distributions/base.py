"""The base class of all exact distributions: a mixture of components with known noised densities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toydiffusion.distributions.arguments import (
    Array,
    Numbers,
    answer,
    indices,
    noise_levels,
    rows_of,
    spread_out,
)
from toydiffusion.errors import InputError, whole_number
from toydiffusion.row_noise import RowNoise
from toydiffusion.types import Labels, Levels, Points

Blend: TypeAlias = Callable[[Tensor], Points]
"""Maps responsibilities `r`, `(n, m)`, to `sum_j r_j E_j[clean | x]`, `(n, d)`."""

_CHUNK = 2**16
"""Numbers in one intermediate table of a chunk of rows: few enough for the processor's cache."""


class Distribution(ABC):
    """The exact law of `x + sigma eps` at every noise level: `x` a clean point, `eps` standard normal.

    Every distribution is a mixture of m components. Component j has weight `w_j`, label `l_j`, clean density
    `f_j` and noised density `f_j(x; sigma)`. Everything else follows by Bayes' rule:

        log p(x; sigma)        = logsumexp_j(log w_j + log f_j(x; sigma))
        r_j(x)                 = w_j f_j(x; sigma) / p(x; sigma)
        denoise(x, sigma)      = sum_j r_j E_j[clean | x]
        score(x, sigma)        = (denoise(x, sigma) - x) / sigma^2      (Tweedie's formula; Efron 2011)
        class_posterior(x)_c   = sum of r_j over the components of class c

    With a label, only the components of that class count. The bound method `denoise` is a `Denoiser`.

    The methods share these arguments:

    - `x` `(n, d)`: points.
    - `sigma` number or `(n,)`: the noise level, in the units of x.
    - `label` integer or `(n,)`: the class index, 0..K-1. None means the mixture of all classes.

    Tensors give float64 tensors, differentiable by autograd in x. NumPy arrays and lists give NumPy arrays.
    All computations are in float64, and memory does not grow with n beyond the result.

    Raises `InputError` for a wrong shape, NaN or infinity, sigma < 0 (`score` and `denoise`: sigma <= 0), and
    a label that does not exist.

    Attributes:

    - `dim`: the dimension d.
    - `num_classes`: the number of classes K; 1 without labels.
    - `frequencies` `(K,)`: the weights of the classes.
    - `mean` `(d,)`, `covariance` `(d, d)`: exact moments of the clean law.
    - `class_means` `(K, d)`, `class_covariances` `(K, d, d)`: exact moments of each class.
    - `has_density`: False for laws without a density at sigma = 0.

    >>> from toydiffusion.distributions import GaussianMixture
    >>> pair = GaussianMixture([[-1.0], [1.0]], [[[0.01]], [[0.01]]])
    >>> x, label = pair.sample(4, seed=0)
    >>> bool((pair.class_posterior(x).argmax(1) == label).all())
    True
    >>> pair.denoise([[5.0]], sigma=0.1).round(6).tolist()
    [[3.0]]
    """

    has_density: ClassVar[bool] = True
    _row_cost: int
    """Numbers that one row of x needs in one intermediate table."""

    def __init__(self, weight: Tensor, label: Labels, center: Points, spread: Tensor) -> None:
        """Store the components: weights and labels `(m,)`, means `(m, d)`, covariances `(m or 1, d, d)`."""
        if not center.numel():
            raise InputError(f"needs at least one point in at least one dimension, got {tuple(center.shape)}")
        if bool((weight <= 0).any()):
            raise InputError(f"weights must be > 0, got {weight.min().item()}")
        # Weights that sum to 1 stay as they are, bit by bit: those of a law that was saved.
        if abs(float(weight.sum()) - 1) > 1e-12:
            weight = weight / weight.sum()
        present = torch.unique(label)
        gaps = (present != torch.arange(len(present))).nonzero()[:, 0]
        if len(gaps):
            missing = int(gaps[0])
            raise InputError(f"labels must be 0..K-1 without gaps, got {present[-1]} but no {missing}")
        counts = label.bincount()
        self.dim: Final[int] = center.shape[1]
        self.num_classes: Final[int] = len(counts)
        self.frequencies: Final = weight.new_zeros(len(counts)).index_add(0, label, weight)
        self._label: Final = label
        self._weight: Final = weight
        self._row_cost = len(weight)
        # Components sorted by class: those of class c are `_order[_ends[c]:_ends[c + 1]]`.
        self._order: Final = label.argsort(stable=True)
        self._cumulative: Final = weight[self._order].cumsum(0)
        self._ends: Final = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

        means, covariances = [], []
        for c in range(self.num_classes):
            own = (label == c).nonzero()[:, 0]
            share = weight[own] / self.frequencies[c]
            class_mean = share @ center[own]
            around = center[own] - class_mean
            average = spread[0] if len(spread) == 1 else torch.tensordot(share, spread[own], 1)
            means.append(class_mean)
            covariances.append((around.T * share) @ around + average)
        self.class_means: Final = torch.stack(means)
        self.class_covariances: Final = torch.stack(covariances)
        self.mean: Final = self.frequencies @ self.class_means
        away = self.class_means - self.mean
        self.covariance: Final = (away.T * self.frequencies) @ away + torch.tensordot(
            self.frequencies, self.class_covariances, 1
        )

    # Defined by subclasses --------------------------------------------------------------------------

    @abstractmethod
    def _components(self, x: Points, sigma: Levels) -> tuple[Tensor, Blend]:
        """Return `log f_j(x; sigma)`, `(n, m)`, and the `Blend` of the components' posterior means."""

    @abstractmethod
    def _sample_clean(self, label: Labels, uniform: Tensor, normal: Tensor) -> Points:
        """Return clean points of these classes, `(n, d)`, from uniforms `(n, d + 1)` and normals `(n, d)`."""

    @abstractmethod
    def _standardized(self, mean: Tensor, scale: Tensor) -> Distribution:
        """Return the law of `(x - mean) / scale`, with `mean` and `scale` `(d,)`."""

    @property
    def entropy(self) -> float | None:
        """The differential entropy `-E log p` of the clean law, in nats; None without a closed form."""
        return None

    # Public methods ---------------------------------------------------------------------------------

    def log_prob(self, x: Array, sigma: Numbers = 0.0, label: Numbers | None = None) -> Array:
        """Return the log-density at x of the law noised to sigma, `(n,)`, in nats; can be -inf at sigma 0."""
        return self._answer(
            x, sigma, label, lambda *row: self._joint(*row)[0].logsumexp(1), positive=not self.has_density
        )

    def denoise(self, x: Array, sigma: Numbers, label: Numbers | None = None) -> Array:
        """Return the posterior mean `E[clean | x]`, `(n, d)`, in the units of x. Needs sigma > 0."""
        return self._answer(x, sigma, label, self._posterior_mean, positive=True)

    def score(self, x: Array, sigma: Numbers, label: Numbers | None = None) -> Array:
        """Return the gradient of `log_prob` in x, `(n, d)`, in nats per unit of x. Needs sigma > 0."""
        return self._answer(
            x,
            sigma,
            label,
            lambda x, sigma, label: (self._posterior_mean(x, sigma, label) - x) / sigma[:, None].square(),
            positive=True,
        )

    def class_posterior(self, x: Array, sigma: Numbers = 0.0) -> Array:
        """Return the probability of each class given x, `(n, K)`; NaN where the density is 0."""

        def posterior(x: Points, sigma: Levels, label: Labels | None) -> Tensor:
            responsibility = self._joint(x, sigma, label)[0].softmax(1)
            return x.new_zeros(len(x), self.num_classes).index_add(1, self._label, responsibility)

        return self._answer(x, sigma, None, posterior, positive=not self.has_density)

    def sample(
        self, n: int, *, seed: int = 0, sigma: Numbers = 0.0, label: Numbers | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return n points noised to sigma, `(n, d)`, and their labels, `(n,)`.

        The same as `rows(0, n)`, in NumPy.
        """
        points, labels = self.rows(0, whole_number("n", n, 0), seed=seed, sigma=sigma, label=label)
        return points.numpy(), labels.numpy()

    def rows(
        self, start: int, stop: int, *, seed: int, sigma: Numbers = 0.0, label: Numbers | None = None
    ) -> tuple[Points, Labels]:
        """Return rows `start..stop` of the infinite sample of this seed, as tensors: points and their labels.

        Row i depends only on the seed, on i, and on its own sigma and label.

        - `start`, `stop`: the range of rows, n = stop - start of them.
        - `seed`: an integer >= 0.
        - `sigma` number or `(n,)`: the noise level.
        - `label` integer or `(n,)`: the class index. None (default) samples classes by their frequencies.
        """
        if not 0 <= start <= stop:
            raise InputError(f"rows must satisfy 0 <= start <= stop, got start {start} and stop {stop}")
        n = stop - start
        level = noise_levels(sigma, n, positive=False)
        index = indices(label, n, self.num_classes)
        if index is None:
            choice = RowNoise(seed, "distribution class").uniform(start, stop, dim=1)[:, 0]
            index = torch.searchsorted(self.frequencies.cumsum(0), choice, right=True).clamp(
                max=self.num_classes - 1
            )
        uniform = RowNoise(seed, "distribution place").uniform(start, stop, dim=self.dim + 1)
        normal = RowNoise(seed, "distribution spread").normal(start, stop, dim=self.dim)
        points = self._sample_clean(index, uniform, normal)
        if bool((level > 0).any()):
            noise = RowNoise(seed, "distribution noise").normal(start, stop, dim=self.dim)
            points = points + level[:, None] * noise
        return points, index.clone()

    def standardized(self, mean: Numbers, scale: Numbers) -> Distribution:
        """Return the exact law of `z = (x - mean) / scale`.

        - `mean`: a number or `(d,)`.
        - `scale`: a number or `(d,)`, > 0.

        The noise of the result is isotropic in z. At sigma = 0 its log-densities are larger by
        `sum(log(scale))`.
        """
        shift, factor = spread_out("mean", mean, self.dim), spread_out("scale", scale, self.dim)
        if bool((factor <= 0).any()):
            raise InputError(f"scale must be > 0, got {factor.min().item()}")
        return self._standardized(shift, factor)

    # Helpers ----------------------------------------------------------------------------------------

    def _joint(self, x: Points, sigma: Levels, label: Labels | None) -> tuple[Tensor, Blend]:
        """Return `log w_j f_j(x; sigma)`, `(n, m)`, -inf if j is of another class, and the `Blend`."""
        log_density, blend = self._components(x, sigma)
        joint = log_density + self._weight.log()
        if label is not None:
            joint = joint - self.frequencies.log()[label, None]
            joint = joint.masked_fill(self._label != label[:, None], -torch.inf)
        return joint, blend

    def _posterior_mean(self, x: Points, sigma: Levels, label: Labels | None) -> Points:
        joint, blend = self._joint(x, sigma, label)
        return blend(joint.softmax(1))

    def _answer(
        self,
        x: Array,
        sigma: Numbers,
        label: Numbers | None,
        core: Callable[[Points, Levels, Labels | None], Tensor],
        *,
        positive: bool,
    ) -> Array:
        """Check the arguments, apply `core` to chunks of rows, and return the result in the type of x."""
        points = rows_of(x, self.dim)
        level = noise_levels(sigma, len(points), positive=positive)
        index = indices(label, len(points), self.num_classes)
        chunk = max(1, _CHUNK // self._row_cost)
        parts = [
            core(points[i : i + chunk], level[i : i + chunk], None if index is None else index[i : i + chunk])
            for i in range(0, max(len(points), 1), chunk)
        ]
        return answer(x, torch.cat(parts))

    def _pick(self, label: Labels, uniform: Tensor) -> Tensor:
        """Return a component of each class, `(n,)`, sampled by weight, from uniforms `(n,)`."""
        first, last = self._ends[label], self._ends[label + 1] - 1
        before = torch.where(first > 0, self._cumulative[first - 1], 0.0)
        at = torch.searchsorted(self._cumulative, before + uniform * self.frequencies[label], right=True)
        return self._order[torch.minimum(torch.maximum(at, first), last)]


class Bounded(Distribution):
    """A distribution with a bounded support of positive volume. It can tell whether it contains a point.

    >>> from toydiffusion.distributions import ConcentricSquares
    >>> ConcentricSquares().contains([[0.3, 0.0], [0.3, 0.5]], label=1).tolist()
    [True, False]
    """

    def contains(self, x: Array, label: Numbers | None = None) -> Array:
        """Return whether each point lies in the support of its class, or of the mixture, `(n,)` bool."""
        return self.log_prob(x, 0.0, label) > -torch.inf
