"""Named recipes: how to train and how to sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

from toydiffusion.experts import TableConfig
from toydiffusion.solvers import SampleConfig
from toydiffusion.training import TrainConfig


@dataclass(frozen=True)
class Preset:
    """A named recipe.

    - `train`: how to fit.
    - `sample`: how to sample.
    """

    train: TrainConfig | TableConfig
    sample: SampleConfig


PRESETS: dict[str, Preset] = {
    "default": Preset(TrainConfig(), SampleConfig()),
    "original": Preset(
        TrainConfig(
            standardize=False,
            sigma_min=math.exp(-5),
            sigma_max=1.0,
            schedule="exp",
            preconditioning="noise",
            width=256,
            hidden_layers=3,
            edges=0,
            waves=0,
            steps=1000,
            batch_size=500,
            learning_rate=1e-3,
            averaging=0.0,
        ),
        SampleConfig(steps=1000, solver="euler", schedule="exp"),
    ),
    "table": Preset(TableConfig(), SampleConfig()),
}
"""Every recipe by name.

"original" is the recipe of the project that this one began from, done right. Three fully connected layers of
256 units predict the added noise. The schedule is sigma(t) = exp(5(t - 1)), and the sampler takes 1,000 Euler
steps. The points are not standardised.

"table" is for tables of numbers, small ones above all: a Gaussian mixture and networks, stacked at every
noise level by how well they predict held-out points. Its settings are a `TableConfig`.
"""
