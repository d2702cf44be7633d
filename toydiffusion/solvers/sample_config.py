"""The settings of sampling, and the noise levels that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from toydiffusion.errors import InputError, choice, finite_number, store, whole_number
from toydiffusion.schedules import SCHEDULES, schedule
from toydiffusion.solvers.methods import SOLVERS, Adams, RungeKutta

MOST_STEPS = 10**7
"""The most steps allowed. With more, float64 could not tell the noise levels apart."""


@dataclass(frozen=True)
class SampleConfig:
    """The settings of sampling.

    - `steps`: the number of solver steps. With adams, the default solver, each step is one
      evaluation of the network, and the last one ends at the clean point. With the other solvers the last
      step is the denoising at sigma_min, the lowest noise level.
    - `solver`: the method, a name in `solvers.SOLVERS`.
    - `schedule`: the spacing of the noise levels, a name in `schedules.SCHEDULES`. By default (None) it is
      the solver's own: that of adams depends on the number of steps, the others take exp.
    - `sigma_start`: the noise level to start from, in standard deviations of the standardised points. By
      default (None) it is three fifths of the number of steps with adams, and at least 1.5 with the others.
      It is at most sigma_max, the highest level in training. Few steps are most useful at low noise.
    - `guidance`: the weight of classifier-free guidance in a model with labels. 1 is no guidance. Larger
      weights sharpen the classes. Slightly smaller weights fill the gaps that few training points leave
      between the classes.
    - `churn`: the amount of noise injected during sampling (EDM), with Runge-Kutta solvers only. 0 is none.

    Raises `InputError` for values out of range, unknown names, and churn with another solver.
    """

    steps: int = 15
    solver: str = "adams"
    schedule: str | None = None
    sigma_start: float | None = None
    guidance: float = 1.0
    churn: float = 0.0

    def __post_init__(self) -> None:
        """Check every field."""
        store(self, "steps", whole_number("steps", self.steps, 1, MOST_STEPS))
        choice("solver", self.solver, SOLVERS)
        if self.schedule is not None:
            choice("schedule", self.schedule, SCHEDULES)
        if self.sigma_start is not None:
            store(self, "sigma_start", finite_number("sigma_start", self.sigma_start, above=0))
        store(self, "guidance", finite_number("guidance", self.guidance))
        store(self, "churn", finite_number("churn", self.churn, least=0))
        if self.churn and not isinstance(SOLVERS[self.solver], RungeKutta):
            raise InputError("churn goes with the Runge-Kutta solvers: 'euler', 'heun', 'rk4'")

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        """Return the noise levels of a model trained from sigma_min to sigma_max, `(steps,)`, descending.

        The solver takes `steps - 1` steps between them. The last step leads from the last level to the clean
        point.

        Without sigma_start, Adams methods start at three fifths of the number of steps, at most sigma_max.
        The others start at sigma_max if the steps can reach sigma_min with a reduction by at most 40 % each.
        With fewer steps they start at the highest level from which they can, but at least at 1.5.

        Raises `InputError` if sigma_start is outside this range.
        """
        if self.sigma_start is not None and not sigma_min < self.sigma_start <= sigma_max * (1 + 1e-12):
            raise InputError(
                f"sigma_start must lie above sigma_min {sigma_min:g} and up to sigma_max {sigma_max:g}, "
                f"the range the model was trained for, got {self.sigma_start:g}"
            )
        method = SOLVERS[self.solver]
        if self.sigma_start is not None:
            top = self.sigma_start
        elif isinstance(method, Adams):
            top = min(0.6 * self.steps, sigma_max)
        else:
            cut = min((self.steps - 1) * math.log(1 / 0.6), math.log(sigma_max / sigma_min))
            top = min(max(sigma_min * math.exp(cut), 1.5), sigma_max)
        if isinstance(method, Adams) and self.schedule is None:
            return method.levels(self.steps, sigma_min, top)
        spacing = schedule(self.schedule or "exp", {"sigma_min": sigma_min, "sigma_max": top})
        if self.steps == 1:
            return torch.tensor([top], dtype=torch.float64)
        return spacing.levels(self.steps - 1)
