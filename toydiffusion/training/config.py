"""Every setting of a model and its training."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch

from toydiffusion.denoisers import PRECONDITIONINGS
from toydiffusion.devices import device_name, torch_device
from toydiffusion.errors import InputError, choice, finite_number, nearest, shown, store, whole_number
from toydiffusion.schedules import Schedule, schedule


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a model and its training: the one page of defaults.

    The points:

    - `standardize`: shift and scale every column to mean 0 and standard deviation 1 before training.

    The noise, in standard deviations of the standardised points:

    - `sigma_min`: the lowest noise level. Samples and densities are smoothed by about that much.
    - `sigma_max`: the highest noise level. Only the mean and the variance of the data survive there.
    - `schedule`: the distribution of the noise levels in training, a name in `schedules.SCHEDULES`.

    The network:

    - `preconditioning`: what the network predicts: the noise, the clean data, or EDM's mix of the two.
    - `width`: the number of units in each fully connected hidden layer.
    - `hidden_layers`: the number of hidden layers.
    - `edges`: the number of learned hyperplanes that a border may lie on, each with a learned softness.
    - `waves`: the number of random Fourier features of position, for structure too fine for the layers.

    The optimisation, by Adam:

    - `steps`: the number of training steps. By default (None) it is 1.5 times the number of points, but
      at least 500 and at most 6,000. With labels it is at least 1,000 for each class, for ten classes at
      most. Too many steps memorise few points. Too few leave edges blurred.
    - `batch_size`: the number of points in a step, each with a noise and its opposite. By default (None) it
      is 50 times the cube root of the number of points, but at least 250 and at most 2,000.
    - `learning_rate`: the highest learning rate, reached after 20 steps. It then falls linearly to 0.
    - `averaging`: the share of the steps so far over which the final weights are averaged. 0 is no averaging.
    - `label_dropout`: the share of labels hidden, so that the network also learns to do without.
    - `held_out`: the share of the points kept out of training, to measure the loss on.
    - `device`: where training runs: cpu, cuda (a GPU), or auto, which is cuda if there is one.
    """

    standardize: bool = True
    sigma_min: float = 0.01
    sigma_max: float = 20.0
    schedule: str = "flow-matching"
    preconditioning: str = "edm"
    width: int = 64
    hidden_layers: int = 2
    edges: int = 32
    waves: int = 0
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float = 1e-2
    averaging: float = 0.3
    label_dropout: float = 0.1
    held_out: float = 0.0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check every field, so that a `TrainConfig` that exists can be trained."""
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in ("steps", "batch_size"):
                store(self, name, whole_number(name, value, least, most))
        for name in ("averaging", "label_dropout", "held_out"):
            store(self, name, finite_number(name, getattr(self, name), least=0, below=1))
        store(self, "learning_rate", finite_number("learning_rate", self.learning_rate, above=0, below=1))
        if not isinstance(self.standardize, bool):
            raise InputError(f"standardize must be True or False, got {shown(self.standardize)}")
        device_name(self.device)
        choice("preconditioning", self.preconditioning, PRECONDITIONINGS)
        noise = self.noise()
        store(self, "sigma_min", noise.sigma_min)
        store(self, "sigma_max", noise.sigma_max)

    def total_steps(self, num_points: int, num_classes: int) -> int:
        """Return the number of training steps for so many points and classes (1: without labels)."""
        if self.steps is not None:
            return self.steps
        least = 1000 * min(num_classes, 10) if num_classes > 1 else 500
        return max(least, min(round(1.5 * num_points), 6000))

    def points_per_step(self, num_points: int) -> int:
        """Return how many of so many points a training step takes."""
        if self.batch_size is not None:
            return self.batch_size
        return round(min(max(50 * math.cbrt(num_points), 250), 2000))

    def noise(self) -> Schedule:
        """Return the schedule of the noise levels in training."""
        return schedule(self.schedule, {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max})

    def torch_device(self) -> torch.device:
        """Return the device that training runs on."""
        return torch_device(self.device)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> TrainConfig:
        """Return the configuration with these fields set; an unknown one is an error naming the nearest."""
        known = [f.name for f in fields(cls)]
        for key in settings:
            if key not in known:
                raise InputError(f"unknown setting {key!r}: {nearest(key, known)}")
        return cls(**settings)


_RANGES = {
    "width": (1, 100_000),
    "hidden_layers": (1, 100),
    "edges": (0, 100_000),
    "waves": (0, 100_000),
    "steps": (1, 10**9),
    "batch_size": (1, 10**6),
}
"""The whole numbers that make sense; `Network` bounds the number of weights on top."""
