"""How far a model is from the truth, in numbers, with the exact distribution as judge."""

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


@dataclass(frozen=True)
class Estimate:
    """A number found by sampling, and its standard error."""

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
    """Return the KL divergence that a denoiser's error costs between two noise levels, in nats.

    `KL = 1/2 int E|D - D_theta|^2 d(1/sigma^2) = int E|D - D_theta|^2 / sigma^2 d log sigma` with D exact
    (Song et al. 2021, arXiv:2101.09258, theorem 1): a bound on the divergence of the SDE model at
    sigma_min, for a start without mismatch at sigma_max. Everything is in the coordinates of `denoiser`,
    so `truth` is the standardised law (`distribution.standardized(mean, scale)`).

    By Monte Carlo over `n` points of the truth, one log sigma from each of as many strata. `conditional`
    gives both denoisers the points' labels.
    """
    if not 0 < sigma_min < sigma_max:
        raise InputError(f"needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    span = math.log(sigma_max / sigma_min)
    within = torch.rand(n, generator=RowNoise(seed, "divergence").generator(), dtype=torch.float64)
    sigma = sigma_min * torch.exp(span * (torch.arange(n) + within) / n)
    z, label = truth.rows(0, n, seed=seed, sigma=sigma)
    total = []
    for first in range(0, n, _ROWS):
        rows = slice(first, first + _ROWS)
        chosen = label[rows] if conditional else None
        gap = denoiser(z[rows], sigma[rows], chosen) - truth.denoise(z[rows], sigma[rows], chosen)
        total.append(gap.square().sum(1) / sigma[rows] ** 2)
    cost = span * torch.cat(total)
    # Neighbouring strata are nearly one: half the mean squared difference is the variance within.
    variance = (cost[1:] - cost[:-1]).square().mean() / 2
    return Estimate(float(cost.mean()), math.sqrt(float(variance) / n))


_ROWS = 10_000


def total_variation(x: ArrayLike, truth: Bounded, *, bins: int = 20, half_width: float = 1.0) -> float:
    """Return the total variation distance between binned samples and the truth, in [0, 1].

    `1/2 (sum over bins |share of x - mass| + |share outside - mass outside|)` on `bins x bins` equal cells
    of `[-half_width, half_width]^2`. Sampling alone gives about `sqrt(bins^2 / (2 pi n))` for n points. The
    truth's density must be constant within quarter cells, as it is for the squares and the checkerboard.
    """
    points = np.asarray(x, dtype=np.float64)
    edges = np.linspace(-half_width, half_width, bins + 1)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=[edges, edges])
    share = counts / len(points)
    fine = bins * 4
    middle = (np.arange(fine) + 0.5) / fine * 2 * half_width - half_width
    grid = np.stack(np.meshgrid(middle, middle, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(truth.log_prob(grid)).reshape(bins, 4, bins, 4)
    mass = density.mean(axis=(1, 3)) * (2 * half_width / bins) ** 2
    outside = abs((1 - share.sum()) - (1 - mass.sum()))
    return float((np.abs(share - mass).sum() + outside) / 2)


def share_inside(x: ArrayLike, truth: Bounded, label: NDArray[np.int64] | None = None) -> float:
    """Return the share of points inside the support, of their own class where labels are given.

    With labels drawn by class frequency this is the class accuracy weighted by frequency.
    """
    return float(np.mean(truth.contains(np.asarray(x, dtype=np.float64), label)))


def border_mass(x: ArrayLike, label: NDArray[np.int64], *, rings: int = 5, within: float = 0.02) -> float:
    """Return the share of points near a border with another class, on their own side, over the true share.

    Of points of class c, on c's own side, within `within` of `max|x_i| = c / rings` (c > 0) or
    `(c + 1) / rings` (c < rings - 1). Below 1 a model leaves empty "security spaces" between the classes.
    """
    points = np.asarray(x, dtype=np.float64)
    radius = np.abs(points).max(axis=1)
    inner, outer = label / rings, (label + 1) / rings
    own = ConcentricSquares(rings, points.shape[1]).contains(points, label)
    near = ((radius - inner < within) & (label > 0)) | ((outer - radius < within) & (label < rings - 1))
    borders = np.arange(1, rings) / rings
    true_share = ((borders + within) ** points.shape[1] - (borders - within) ** points.shape[1]).sum()
    return float(np.mean(own & near) / true_share)


@dataclass(frozen=True, eq=False)
class Calibration:
    """How good probabilities of K classes are, and how far they mean what they say.

    - `log_loss`: mean `-log p(true class)`, in nats (probabilities clipped at 2e-16).
    - `brier`: mean `sum_k (p_k - [k is the true class])^2`, from 0 to 2.
    - `expected_calibration_error`: `sum_b count_b / n |accuracy_b - confidence_b|` (Guo et al. 2017,
      arXiv:1706.04599, equation 3). Above 0 by chance alone even for the exact probabilities.
    - `confidence`, `accuracy`, `count`, `(b,)` each: mean probability of the most probable class, share of
      points that are of it, and number of points, in each bin that holds any: a reliability diagram.
    """

    log_loss: float
    brier: float
    expected_calibration_error: float
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]


def calibration(probabilities: ArrayLike, label: ArrayLike, *, bins: int = 15) -> Calibration:
    """Return what `Calibration` says of probabilities `(n, K)` and true classes `(n,)`, 0..K-1.

    Bins are those of the highest probability: `bins` equal widths of [0, 1], lower ends excluded.

    >>> found = calibration([[0.8, 0.2], [0.3, 0.7], [0.9, 0.1]], [0, 1, 1], bins=2)
    >>> found.count.tolist(), found.accuracy.round(3).tolist(), found.confidence.round(3).tolist()
    ([3], [0.667], [0.8])
    """
    from sklearn.metrics import log_loss

    p, true = np.asarray(probabilities, dtype=np.float64), np.asarray(label)
    if p.ndim != 2 or not p.size or not (p >= 0).all() or not np.allclose(p.sum(1), 1, atol=1e-6):
        raise InputError(f"probabilities must be (n, K), >= 0, with rows that sum to 1, got shape {p.shape}")
    p = np.minimum(p / p.sum(1, keepdims=True), 1.0)
    kinds = np.arange(p.shape[1])
    if true.shape != (len(p),) or not np.isin(true, kinds).all():
        raise InputError(f"label must be {len(p)} classes 0..{len(kinds) - 1}, got shape {true.shape}")
    confidence, right = p.max(1), p.argmax(1) == true
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    held = count > 0
    count = count[held]
    confidence = np.bincount(which, confidence, bins)[held] / count
    accuracy = np.bincount(which, right, bins)[held] / count
    return Calibration(
        float(log_loss(true, p, labels=kinds)),
        float(np.square(p - (true[:, None] == kinds)).sum(1).mean()),
        float(count @ np.abs(accuracy - confidence) / len(p)),
        confidence,
        accuracy,
        count,
    )
