"""How points are sampled: the settings, and the noise levels that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from toydiffusion.errors import InputError
from toydiffusion.schedules import schedule
from toydiffusion.solvers.methods import solver as named_solver


@dataclass(frozen=True)
class SampleConfig:
    """How points are drawn, unless said otherwise: the defaults of a model's `sample`.

    - `steps`: solver intervals, the last one the denoising at sigma_min; 1 denoises the start at once.
    - `solver`: a name in `solvers.SOLVERS`.
    - `schedule`: a name in `schedules.SCHEDULES`; it spaces the noise levels.
    - `sigma_start`: the level where the reverse process starts, in standard deviations of the standardised
      data. None is sigma_max if there are steps enough for each to cut the noise by 40 % at most, else as
      high as they reach at that rate, but no lower than 1.5: few steps are best spent from there down.
    - `guidance`: weight of classifier-free guidance in a model with labels; 1 is plain, above it sharpens the
      classes, a little below it fills the spaces that few points leave between them.
    - `churn`: EDM's noise injection, with the Runge-Kutta solvers; 0 is deterministic.
    """

    steps: int = 30
    solver: str = "multistep2"
    schedule: str = "exp"
    sigma_start: float | None = None
    guidance: float = 1.0
    churn: float = 0.0

    def __post_init__(self) -> None:
        """Check every field."""
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(f"steps must be a whole number >= 1, got {self.steps!r}")
        named_solver(self.solver)
        schedule(self.schedule)
        for name in ("sigma_start", "guidance", "churn"):
            value = getattr(self, name)
            if value is None and name == "sigma_start":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, got {value!r}")
        if self.sigma_start is not None and self.sigma_start <= 0:
            raise InputError(f"sigma_start must be > 0, got {self.sigma_start}")
        if self.churn < 0:
            raise InputError(f"churn must be >= 0, got {self.churn}")

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        """Return the noise levels of a model that knows sigma_min to sigma_max: `steps` of them, `(steps,)`.

        `steps - 1` solver intervals lie between them; the last step is the denoising at the last level.
        """
        cut = min((self.steps - 1) * math.log(1 / 0.6), math.log(sigma_max / sigma_min))
        reached = min(max(sigma_min * math.exp(cut), 1.5), sigma_max)
        top = reached if self.sigma_start is None else self.sigma_start
        if not sigma_min < top <= sigma_max * (1 + 1e-12):
            raise InputError(
                f"sigma_start must lie above sigma_min {sigma_min:g} and up to sigma_max {sigma_max:g}, "
                f"the range the model was trained for, got {top:g}"
            )
        spacing = schedule(self.schedule, {"sigma_min": sigma_min, "sigma_max": top})
        if self.steps == 1:
            return torch.tensor([top], dtype=torch.float64)
        return spacing.levels(self.steps - 1)
