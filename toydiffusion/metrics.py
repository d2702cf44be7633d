"""Measures of how far a model is from the truth, which is an exact distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from toydiffusion.distributions import Bounded, ConcentricSquares, Distribution
from toydiffusion.errors import InputError
from toydiffusion.row_noise import RowNoise
from toydiffusion.types import Denoiser

__all__ = [
    "Calibration",
    "Estimate",
    "border_mass",
    "calibration",
    "denoiser_divergence",
    "share_inside",
    "sliced_wasserstein",
    "total_variation",
]


@dataclass(frozen=True)
class Estimate:
    """A number found by sampling, `value`, and its standard error, `std_error`."""

    value: float
    std_error: float

    def __str__(self) -> str:
        """Return `value +- std_error`."""
        return f"{self.value:.4f} +- {self.std_error:.4f}"


@torch.no_grad()
def denoiser_divergence(
    denoiser: Denoiser,
    truth: Distribution,
    *,
    sigma_min: float,
    sigma_max: float,
    n: int = 40_000,
    conditional: bool = False,
    seed: int = 0,
) -> Estimate:
    """Return the KL divergence from the truth that the error of a denoiser causes, in nats.

    With D the exact denoiser,

        KL = 1/2 int E|D - D_theta|^2 d(1/sigma^2) = int E|D - D_theta|^2 / sigma^2 d log sigma.

    It bounds the divergence of the SDE model at sigma_min, for an exact prior at sigma_max.

    - `denoiser`: the learned denoiser D_theta.
    - `truth`: the exact law in the coordinates of the denoiser: `distribution.standardized(mean, scale)`.
    - `sigma_min`, `sigma_max`: the range of noise levels.
    - `n`: the number of Monte Carlo points, default 40,000. Their log sigma is stratified.
    - `conditional`: whether both denoisers get the labels of the points.
    - `seed`: an integer >= 0.

    Raises `InputError` unless 0 < sigma_min < sigma_max.

    Source: Song et al. 2021 (arXiv:2101.09258, theorem 1).
    """
    if not 0 < sigma_min < sigma_max:
        raise InputError(f"needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    span = math.log(sigma_max / sigma_min)
    offset = torch.rand(n, generator=RowNoise(seed, "divergence").generator(), dtype=torch.float64)
    sigma = sigma_min * torch.exp(span * (torch.arange(n) + offset) / n)
    z, label = truth.rows(0, n, seed=seed, sigma=sigma)
    total = []
    for first in range(0, n, _ROWS):
        rows = slice(first, first + _ROWS)
        index = label[rows] if conditional else None
        gap = denoiser(z[rows], sigma[rows], index) - truth.denoise(z[rows], sigma[rows], index)
        total.append(gap.square().sum(1) / sigma[rows] ** 2)
    cost = span * torch.cat(total)
    # Neighbouring strata are nearly alike, so half their mean squared difference is the variance inside one.
    variance = (cost[1:] - cost[:-1]).square().mean() / 2
    return Estimate(float(cost.mean()), math.sqrt(float(variance) / n))


_ROWS = 10_000


def total_variation(x: ArrayLike, truth: Bounded, *, bins: int = 20, half_width: float = 1.0) -> float:
    """Return the total variation distance between binned points and the truth, from 0 to 1.

    `1/2 (sum over bins |share of x - mass| + |share outside - mass outside|)`. Even n points of the truth
    give about `sqrt(bins^2 / (2 pi n))`.

    - `x` `(n, 2)`: the points.
    - `truth`: the exact law. Its density must be constant on cells of a quarter of the bin width, as it is
      for the squares and the checkerboard.
    - `bins`: the number of bins along each axis, default 20.
    - `half_width`: the bins cover `[-half_width, half_width]^2`, default 1.
    """
    points = np.asarray(x, dtype=np.float64)
    bin_edges = np.linspace(-half_width, half_width, bins + 1)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=[bin_edges, bin_edges])
    share = counts / len(points)
    fine = bins * 4
    middle = (np.arange(fine) + 0.5) / fine * 2 * half_width - half_width
    grid = np.stack(np.meshgrid(middle, middle, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(truth.log_prob(grid)).reshape(bins, 4, bins, 4)
    mass = density.mean(axis=(1, 3)) * (2 * half_width / bins) ** 2
    outside = abs((1 - share.sum()) - (1 - mass.sum()))
    return float((np.abs(share - mass).sum() + outside) / 2)


def share_inside(x: ArrayLike, truth: Bounded, label: NDArray[np.int64] | None = None) -> float:
    """Return the share of points inside the support.

    - `x` `(n, d)`: the points.
    - `truth`: the exact law.
    - `label` `(n,)`: class indices. If given, a point must lie in the support of its own class. The result is
      then the accuracy of the classes, weighted by how often they occur in `label`.
    """
    return float(np.mean(truth.contains(np.asarray(x, dtype=np.float64), label)))


def sliced_wasserstein(x: ArrayLike, y: ArrayLike, *, directions: int = 64, seed: int = 0) -> float:
    """Return the sliced 2-Wasserstein distance between two samples of as many points, in any dimension.

    Along a direction u the optimal transport of points on a line pairs them in order, so

        SW2^2 = d mean_u mean_i (u.x_(i) - u.y_(i))^2

    with u uniform on the unit sphere; the factor d makes it the distance of a shift (Bonneel et al. 2015).

    - `x`, `y` `(n, d)`: the points.
    - `directions`: how many directions are drawn.
    - `seed`: of the directions.

    >>> y = np.random.default_rng(0).normal(size=(1000, 2))
    >>> round(sliced_wasserstein(y + [3.0, 4.0], y, directions=1000), 1)
    5.0
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape or not len(first):
        raise InputError(f"x and y must be (n, d) of one shape, got {first.shape} and {second.shape}")
    dim = first.shape[1]
    lines = np.random.default_rng([seed, 1]).normal(size=(dim, directions))
    lines /= np.linalg.norm(lines, axis=0)
    along, other = np.sort(first @ lines, axis=0), np.sort(second @ lines, axis=0)
    return float(math.sqrt(dim * np.mean((along - other) ** 2)))


def border_mass(x: ArrayLike, label: NDArray[np.int64], *, squares: int = 5, near: float = 0.02) -> float:
    """Return the share of points near a border between concentric squares, divided by the true share.

    A point counts if it lies in its own class and nearer than `near` to a border with another class. The
    borders of class c are at `max|x_i| = c / squares` (c > 0) and `(c + 1) / squares` (c < squares - 1). A
    result below 1 means that the model leaves empty "security spaces" between the classes.

    - `x` `(n, d)`: the points.
    - `label` `(n,)`: their class indices.
    - `squares`: the number of concentric squares, default 5.
    - `near`: how far from a border still counts, default 0.02.
    """
    points = np.asarray(x, dtype=np.float64)
    radius = np.abs(points).max(axis=1)
    inner, outer = label / squares, (label + 1) / squares
    own = ConcentricSquares(squares, points.shape[1]).contains(points, label)
    at_border = ((radius - inner < near) & (label > 0)) | ((outer - radius < near) & (label < squares - 1))
    borders = np.arange(1, squares) / squares
    true_share = ((borders + near) ** points.shape[1] - (borders - near) ** points.shape[1]).sum()
    return float(np.mean(own & at_border) / true_share)


@dataclass(frozen=True, eq=False)
class Calibration:
    """How accurate and how well calibrated the probabilities of K classes are.

    - `log_loss`: the mean of `-log p(true class)`, in nats. Probabilities are clipped at 2e-16.
    - `brier`: the mean of `sum_k (p_k - [k is the true class])^2`, from 0 to 2.
    - `expected_calibration_error`: `sum_b count_b / n |accuracy_b - confidence_b|` (Guo et al. 2017,
      arXiv:1706.04599, equation 3). By chance it is above 0 even for the exact probabilities.

    The rest is a reliability diagram, with an entry for each of the b bins that hold points:

    - `confidence` `(b,)`: the mean probability of the most probable class.
    - `accuracy` `(b,)`: the share of points that belong to that class.
    - `count` `(b,)`: the number of points.
    """

    log_loss: float
    brier: float
    expected_calibration_error: float
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]


def calibration(probabilities: ArrayLike, label: ArrayLike, *, bins: int = 15) -> Calibration:
    """Return the `Calibration` of class probabilities.

    - `probabilities` `(n, K)`: >= 0, with rows that sum to 1.
    - `label` `(n,)`: the true class indices, 0..K-1.
    - `bins`: the number of bins of the highest probability, default 15. They have equal width, and exclude
      their lower ends.

    Raises `InputError` for other shapes and values.

    >>> found = calibration([[0.8, 0.2], [0.3, 0.7], [0.9, 0.1]], [0, 1, 1], bins=2)
    >>> found.count.tolist(), found.accuracy.round(3).tolist(), found.confidence.round(3).tolist()
    ([3], [0.667], [0.8])
    """
    from sklearn.metrics import log_loss

    p, true = np.asarray(probabilities, dtype=np.float64), np.asarray(label)
    if p.ndim != 2 or not p.size or not (p >= 0).all() or not np.allclose(p.sum(1), 1, atol=1e-6):
        raise InputError(f"probabilities must be (n, K), >= 0, with rows that sum to 1, got shape {p.shape}")
    p = np.minimum(p / p.sum(1, keepdims=True), 1.0)
    classes = np.arange(p.shape[1])
    if true.shape != (len(p),) or not np.isin(true, classes).all():
        raise InputError(f"label must be {len(p)} classes 0..{len(classes) - 1}, got shape {true.shape}")
    confidence, correct = p.max(1), p.argmax(1) == true
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    filled = count > 0
    count = count[filled]
    confidence = np.bincount(which, confidence, bins)[filled] / count
    accuracy = np.bincount(which, correct, bins)[filled] / count
    return Calibration(
        float(log_loss(true, p, labels=classes)),
        float(np.square(p - (true[:, None] == classes)).sum(1).mean()),
        float(count @ np.abs(accuracy - confidence) / len(p)),
        confidence,
        accuracy,
        count,
    )
