"""What is measured in a cell."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from toydiffusion.distributions import BUILT_IN, Bounded, Distribution
from toydiffusion.metrics import denoiser_divergence, share_inside, sliced_wasserstein, total_variation
from toydiffusion.model import Diffusion
from toydiffusion.solvers import SampleConfig
from toydiffusion.sweeps.config import Cell, Training
from toydiffusion.training import TrainConfig

MEASURES = ("sliced_wasserstein", "total_variation", "share_inside", "nats_lost", "sampling_seconds")
"""What is measured, in the order of the columns; see `measured`."""
_APART = 10**6
"""The first row of fresh points of the law: far from those that were learned."""


def trained(training: Training) -> Diffusion:
    """Return the model of a training."""
    law = BUILT_IN[training.law]()
    x, y = law.sample(training.points, seed=training.seed)
    config = TrainConfig(**dict(training.train))  # type: ignore[arg-type]
    return Diffusion(config).fit(x, y if training.labelled else None, seed=training.seed, progress=False)


def nats_lost(model: Diffusion, training: Training) -> float:
    """Return the KL divergence that the error of the network causes, in nats."""
    truth = model.standardized(BUILT_IN[training.law]())
    return denoiser_divergence(
        model.denoiser,
        truth,
        sigma_min=model.sigma_min,
        sigma_max=model.sigma_max,
        n=10_000,
        seed=training.seed,
    ).value


def measured(model: Diffusion, cell: Cell) -> dict[str, Any]:
    """Return what a cell measures at samples of its model.

    - `sliced_wasserstein`: the distance to as many fresh points of the law; see `metrics`.
    - `total_variation`, `share_inside`: those of laws in the plane with a bounded support, else None.
    - `sampling_seconds`: how long the samples took.
    """
    law: Distribution = BUILT_IN[cell.training.law]()
    plan = replace(SampleConfig(), **cell.sample)  # type: ignore[arg-type]
    began = time.perf_counter()
    x = np.asarray(model.sample(cell.samples, sampling=plan, seed=cell.training.seed))
    seconds = time.perf_counter() - began
    fresh = law.sample(cell.samples, seed=cell.training.seed + _APART)[0]
    bounded = isinstance(law, Bounded) and x.shape[1] == 2
    return {
        "sliced_wasserstein": sliced_wasserstein(x, fresh, seed=cell.training.seed),
        "total_variation": total_variation(x, law) if bounded else None,  # type: ignore[arg-type]
        "share_inside": share_inside(x, law) if bounded else None,  # type: ignore[arg-type]
        "sampling_seconds": seconds,
    }
