"""Every setting of a model and its training."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

import torch

from toydiffusion.denoisers import preconditioning
from toydiffusion.errors import InputError, nearest
from toydiffusion.schedules import Schedule, schedule


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a model and its training: the one page of defaults.

    The point set:

    - `standardize`: give every column mean 0 and standard deviation 1 first; off, z is x.

    The noise, in standard deviations of the standardised data:

    - `sigma_min`: the lowest noise level the model knows; what it draws is smoothed by about that much.
    - `sigma_max`: the highest, where nothing of the data is left but its mean and variance.
    - `schedule`: how training spreads its noise levels between them, u drawn from even strata.

    The network:

    - `preconditioning`: what it predicts: the noise, the clean data, or EDM's mixture of the two.
    - `width`: units in each fully connected hidden layer.
    - `hidden_layers`: how many of them.
    - `edges`: learned hyperplanes seen at the scale of the noise; they make edges sharp.
    - `waves`: random Fourier features of position, for structure too fine for the layers.

    The optimisation, by Adam:

    - `steps`: how many; None is 1,000 for each class, ten classes at most, and without labels more for many
      points and fewer for few: too many learn few points by heart, too few leave edges and borders blurred.
    - `batch_size`: points a step, each seen with a noise and its opposite; None is 500, more for many points
      and fewer for few.
    - `learning_rate`: the highest, reached after 20 steps; from there it falls linearly to 0.
    - `averaging`: the weights kept are an average over about this share of the steps so far; 0 is none.
    - `label_dropout`: share of labels hidden, so that the model also learns the whole.
    - `held_out`: share of the points kept apart to measure the loss on.
    - `device`: where training runs: auto (CUDA where there is one), cpu or cuda.
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
        lowest = {"width": 1, "hidden_layers": 1, "edges": 0, "waves": 0, "steps": 1, "batch_size": 1}
        for name, low in lowest.items():
            value = getattr(self, name)
            if name in ("steps", "batch_size") and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"{name} must be a whole number >= {low}, got {value!r}")
        for name in ("averaging", "label_dropout", "held_out", "learning_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise InputError(f"{name} must be a number from 0 up to 1, got {value!r}")
        if self.learning_rate == 0:
            raise InputError("learning_rate must be > 0, got 0")
        if not isinstance(self.standardize, bool):
            raise InputError(f"standardize must be True or False, got {self.standardize!r}")
        if not isinstance(self.device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise InputError(f"unknown device {self.device!r}: allowed are 'auto', 'cpu', 'cuda', 'cuda:1'")
        preconditioning(self.preconditioning)
        self.noise()

    def total_steps(self, num_points: int, num_classes: int) -> int:
        """Return the number of training steps for so many points and classes (1: without labels)."""
        if self.steps is not None:
            return self.steps
        return round(1000 * max(min(num_classes, 10) if num_classes > 1 else 0, _growth(num_points)))

    def points_per_step(self, num_points: int) -> int:
        """Return how many of so many points a training step takes."""
        return round(500 * _growth(num_points)) if self.batch_size is None else self.batch_size

    def noise(self) -> Schedule:
        """Return the schedule that training draws its noise levels from."""
        return schedule(self.schedule, {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max})

    def torch_device(self) -> torch.device:
        """Return the device that training runs on."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device != "cpu" and not torch.cuda.is_available():
            raise InputError(
                f"device {self.device!r} was asked for, but torch finds none; allowed: 'auto', 'cpu'"
            )
        return torch.device(self.device)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> TrainConfig:
        """Return the configuration with these fields set; an unknown one is an error naming the nearest."""
        known = [f.name for f in fields(cls)]
        for key in settings:
            if key not in known:
                raise InputError(f"unknown setting {key!r}: {nearest(key, known)}")
        return cls(**settings)


def _growth(num_points: int) -> float:
    """Return the factor by which steps and batches of so many points differ from those of 1,000."""
    return float(min(max((num_points / 1000) ** (2 / 3), 0.5), 4.0))
