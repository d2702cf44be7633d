"""The one formula that training minimises, and what the best possible denoiser would make of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toydiffusion.denoisers import Preconditioning, preconditioning
from toydiffusion.row_noise import RowNoise
from toydiffusion.training.config import TrainConfig
from toydiffusion.types import Denoiser, Labels, Levels, Points


def denoising_loss(
    denoiser: Denoiser,
    scheme: Preconditioning,
    z: Points,
    sigma: Levels,
    eps: Tensor,
    label: Labels | None,
) -> Tensor:
    """Return the mean over points and coordinates of `weight(sigma) (D(z + sigma eps; sigma) - z)^2`.

    The one formula for training, for held-out points and for the least possible loss (D exact).
    """
    error = denoiser(z + sigma[:, None] * eps, sigma, label) - z
    return (scheme.weight(sigma) * error.square().mean(1)).mean()


@torch.no_grad()
def expected_loss(
    denoiser: Denoiser, config: TrainConfig, z: Points, label: Labels | None, *, seed: int = 0
) -> tuple[float, float]:
    """Return the loss that training minimises, for any denoiser at points `z`, and its standard error.

    With the exact denoiser of the (standardised) distribution and fresh points of it, this is the least
    possible loss of any model of that distribution.
    """
    generator = RowNoise(seed, "expected loss").generator()
    sigma = config.noise().sample_sigma(len(z), generator).to(z)
    eps = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
    scheme = preconditioning(config.preconditioning)
    each, sizes = list[Tensor](), list[int]()
    for first in range(0, len(z), _ROWS):
        rows = slice(first, first + _ROWS)
        chosen = None if label is None else label[rows]
        each.append(denoising_loss(denoiser, scheme, z[rows], sigma[rows], eps[rows], chosen).double().cpu())
        sizes.append(len(z[rows]))
    losses, share = torch.stack(each), torch.tensor(sizes, dtype=torch.float64)
    mean = float((losses * share).sum() / share.sum())
    return mean, float(losses.std() / math.sqrt(len(losses))) if len(losses) > 1 else math.nan


_ROWS = 1000
