"""How much each expert counts at each noise level: a convex problem on held-out points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toydiffusion.denoisers import EDM, GaussianExpert, Residuals, hats
from toydiffusion.row_noise import RowNoise
from toydiffusion.types import FloatArray, Labels, Points

KNOTS = 7
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, math.inf)
"""The strengths of the ridge that are tried, in units of what a typical point tells about a weight."""
_ANCHOR = 3e-4
"""What the weight of an expert costs, in nats a point for each unit of its square. So weights that hardly
matter, as at levels where all experts agree, stay those of the mixture alone."""
_NOISY = 40_000
"""About how many noisy points the weights are found from."""
_FEWEST_NOISES = 8
_TOGETHER = 8192


@dataclass(frozen=True, eq=False)
class StackFit:
    """The weights of the experts over noise, and what they gain on held-out points.

    - `knots` `(q,)`: noise levels.
    - `weights` `(1 + J, q)`: those of the mixture and of each network, >= 0.
    - `ridge`: the strength of the ridge; infinity gives the mixture alone.
    - `gain`: nats per point of the held-out bound over the mixture alone, folds left out in turn.
    - `gain_error`: its standard error, from the spread over the folds.
    """

    knots: Tensor
    weights: Tensor
    ridge: float
    gain: float
    gain_error: float


@torch.no_grad()
def stack(
    z: Points,
    label: Labels | None,
    fold: Tensor,
    gaussians: Sequence[GaussianExpert],
    mixtures: Sequence[GaussianExpert],
    networks: Sequence[Residuals],
    *,
    low: float,
    high: float,
    seed: int,
) -> StackFit:
    """Return the weights a of the stack (`Stacked`) that bound the held-out log-density best.

    The evidence lower bound loses `int E|z0 - D|^2 sigma^-2 dlog sigma` nats a point. D is linear in the
    weights at the knots, so this is a convex quadratic `a^T A a - 2 b^T a + c`. It is taken over the points
    of each fold, with the mixture and the networks that have not seen it. To it is added

        sum_i (ridge A_ii + n _ANCHOR) (a_i - a*_i)^2,    a* = the mixture alone,

    and all a_i are >= 0. The ridge is the one whose weights, found without a fold, are best on that fold.

    - `z` `(n, d)`, `label`, `fold` `(n,)`: the points, their classes and folds.
    - `gaussians`: denoisers D_G. That of number k mod B has not seen fold k, with B of them.
    - `mixtures`: for each fold the denoiser of the mixture without it.
    - `networks`: the experts. Member k mod B of each has not seen fold k. Without any the mixture counts
      alone.
    - `low`, `high`: the ends of the noise levels.
    """
    knots = torch.tensor(np.geomspace(low, high, KNOTS))
    if not networks:
        return StackFit(knots, torch.ones(1, KNOTS, dtype=torch.float64), math.inf, 0.0, 0.0)
    folds, size = len(mixtures), KNOTS * (1 + len(networks))
    noises = max(_FEWEST_NOISES, _NOISY // len(z))
    quadratic, linear = np.zeros((folds, size, size)), np.zeros((folds, size))
    counts = np.zeros(folds)
    generator = RowNoise(seed, "stack").generator()
    for k in range(folds):
        own = (fold == k).nonzero()[:, 0]
        if len(own) * _FEWEST_NOISES > 4 * _NOISY // folds:
            own = own[torch.randperm(len(own), generator=generator)[: 4 * _NOISY // folds // _FEWEST_NOISES]]
        counts[k], member = len(own), k % len(gaussians)
        rows = own.repeat_interleave(noises)
        # Levels even in log sigma, one in each stratum for each point.
        strata = torch.arange(noises).repeat(len(own))
        u = (strata + torch.rand(len(rows), generator=generator, dtype=torch.float64)) / noises
        sigma = torch.exp(math.log(low) + math.log(high / low) * u)
        eps = torch.randn(len(rows), z.shape[1], generator=generator, dtype=torch.float64)
        for first in range(0, len(rows), _TOGETHER):
            some = slice(first, first + _TOGETHER)
            row, level = rows[some], sigma[some]
            kind = None if label is None else label[row]
            # A noise and its opposite: at low noise their errors cancel but for what the experts know.
            for sign in (1.0, -1.0):
                noisy = z[row] + sign * level[:, None] * eps[some]
                plain, _ = gaussians[member](noisy, level, kind)
                c_out = EDM.c_out(level)[:, None]
                experts = [mixtures[k](noisy, level, kind)[0] - plain]
                raw = (network(noisy.float(), level.float(), kind)[member] for network in networks)
                experts += [c_out * one.double() for one in raw]
                shares = hats(level, knots)
                # (rows, 1 + J, knots, d), in units of sigma.
                each = (
                    torch.stack(experts, 1)[:, :, None]
                    * shares[:, None, :, None]
                    / level[:, None, None, None]
                )
                flat = each.flatten(1, 2)
                target = (z[row] - plain) / level[:, None]
                weight = math.log(high / low) / noises / 2
                quadratic[k] += weight * torch.einsum("nid,njd->ij", flat, flat).numpy()
                linear[k] += weight * torch.einsum("nid,nd->i", flat, target).numpy()
    return _solved(knots, quadratic, linear, counts, len(networks))


def _solved(
    knots: Tensor, quadratic: FloatArray, linear: FloatArray, counts: FloatArray, networks: int
) -> StackFit:
    alone = np.zeros(linear.shape[1])
    alone[:KNOTS] = 1.0

    def loss(weights: FloatArray, k: int) -> float:
        """The bound's loss on fold k over that of the mixture alone, in nats a point."""
        a, b = quadratic[k], linear[k]
        return float(
            (weights @ a @ weights - 2 * b @ weights - alone @ a @ alone + 2 * b @ alone) / counts[k]
        )

    everything = set(range(len(counts)))
    gains = {}
    for ridge in _RIDGES:
        gains[ridge] = np.array(
            [
                -loss(_weights(quadratic, linear, counts, alone, ridge, everything - {k}), k)
                for k in everything
            ]
        )
    best = max(_RIDGES, key=lambda ridge: (gains[ridge].mean(), ridge))
    weights = _weights(quadratic, linear, counts, alone, best, everything)
    error = gains[best].std(ddof=1) / math.sqrt(len(counts))
    return StackFit(
        knots,
        torch.from_numpy(weights.reshape(1 + networks, KNOTS)),
        best,
        float(gains[best].mean()),
        float(error),
    )


def _weights(
    quadratic: FloatArray,
    linear: FloatArray,
    counts: FloatArray,
    alone: FloatArray,
    ridge: float,
    folds: set[int],
) -> FloatArray:
    """Return the weights >= 0 that minimise the quadratic over these folds with the ridge."""
    from scipy.optimize import nnls

    if math.isinf(ridge):
        return alone
    chosen = sorted(folds)
    a, b = quadratic[chosen].sum(0), linear[chosen].sum(0)
    strength = ridge * a.diagonal() + _ANCHOR * counts[chosen].sum()
    a = a + np.diag(strength)
    b = b + strength * alone
    factor = np.linalg.cholesky(a)
    found, _ = nnls(factor.T, np.linalg.solve(factor, b))
    weights: FloatArray = np.where(found < 1e-3, 0.0, found)
    return weights
