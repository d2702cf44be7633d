"""Probability flow: points carried from one noise level to another, with the change of their log-density."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from toydiffusion.density.even_steps import MOST_NUMBERS, even_steps, even_steps_for
from toydiffusion.density.flow_field import FlowField, Solution, nats_of
from toydiffusion.density.own_steps import own_steps
from toydiffusion.devices import CPU
from toydiffusion.distributions import Distribution, Reference
from toydiffusion.errors import finite_number, whole_number
from toydiffusion.types import Denoiser, Labels, Levels, Points

TOLERANCE = 2e-3
"""The default error bar asked for, in nats. The errors themselves are far smaller."""
MAX_EVALUATIONS = 2000
"""The default number of denoiser evaluations after which a point is refined no further."""
NEAR = 10.0
"""How many nats besides the dimension a point may be below the mean of the reference to take even steps.
Farther out, even steps pass over structure without a sign of it (`benchmarks/density.py learned`)."""


@dataclass(frozen=True, eq=False)
class FlowResult:
    """Result of carrying points along the flow.

    - `z` `(n, d)`: the points at the target level.
    - `change` `(n, k)`: log p there less log p here, in nats. There is a column for each probe, or one.
    - `error` `(n,)`: the error bar of log p, in nats. It includes the effect of the error in z.
    - `evaluations` `(n,)`: the number of denoiser evaluations.
    - `met` `(n,)`: whether the error is within the tolerance.
    """

    z: Points
    change: Tensor
    error: Tensor
    evaluations: Tensor
    met: Tensor

    def to(self, device: torch.device) -> FlowResult:
        """Return the same on this device."""
        return FlowResult(*(getattr(self, one.name).to(device) for one in fields(self)))


@dataclass(frozen=True, eq=False)
class ProbabilityFlow:
    """The probability-flow ODE of a denoiser.

    - `denoiser`: in z.
    - `moments`: the law whose moments define the reference Gaussian of each class.
    - `tolerance`: the error bar asked for, in nats. For points more than 10 nats from the mean of the
      reference it is that many tenths of it.
    - `max_evaluations`: the evaluations after which a point is refined no further. It then ends in steps that
      double up to a moderate length, and its `error` says how exact it is.
    - `precision`: in what the denoiser computes, for the rounding in `error`. The flow itself is in float64.
    - `device`: where it computes; its arguments and results may be elsewhere.
    - `even_first`: whether points near the data (`NEAR`) take the same even steps first. Only those whose bar
      is then too wide take steps of their own, as points farther out do. This is faster where the denoiser is
      smooth, as networks are.

    **Equations.** With s = log sigma and J the Jacobian of the denoiser D, points and log-density move by

        dz/ds = z - D(z; sigma),    d log p(z; sigma)/ds = -(d - tr J)

    (Song et al. 2021, arXiv:2011.13456, equations 13 and 39, in the coordinate z). The solvers follow the
    departure from the Gaussian of the data's moments (`Reference`: covariance C, denoiser `D_G` with Jacobian
    `J_G`), in its whitened coordinate y:

        dy/ds = (C + sigma^2)^(-1/2) (D_G - D),    dg/ds = tr J - tr J_G,
        log p there - log p here = change of the Gaussian's height + g.

    So Gaussian data is exact at any step, and all data is once the noise hides its shape. The time is
    `u = log(sigma / (sigma + knee))`, with the knee at four standard deviations of `moments`. It is like log
    sigma where the data has structure, and hardly moves above.

    **Errors.** An error e of (y, g) moves log p by `tau = e_g - grad_y log p . e_y` at first order, where the
    score is known from D. It displaces the point by `r = |(C + sigma^2)^(1/2) e_y| / sigma` noise levels. The
    size of e is `|tau| + r`. Each step is integrated a second time, by the polynomial through its slopes and
    those of its neighbours. The error bar is a multiple of the sizes of the differences, summed over the
    steps. `even_steps` and `own_steps` define both.

    **How far to trust the bars.** They hold for 99 % of points near the data, on exact denoisers and on
    networks, with labels and with fine features (`waves=32`). There they are 4 to 17 times the median error.
    At 5 and 10 standard deviations from the data they hold for 98.5 % or more, and are up to 29 times the
    median error. At 30 standard deviations they hold for 99 % without fine features, but for 96 to 99.5 %
    with them: the steps that the wider tolerance allows pass over some of their structure.
    `python benchmarks/density.py exact held-out learned` prints all of this.
    """

    denoiser: Denoiser
    moments: Distribution
    tolerance: float = TOLERANCE
    max_evaluations: int = MAX_EVALUATIONS
    precision: torch.dtype = torch.float64
    device: torch.device = CPU
    even_first: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        finite_number("tolerance", self.tolerance, above=0, unit="of nats")
        whole_number("max_evaluations", self.max_evaluations, 1)

    def carry(
        self,
        z: Points,
        sigma: Levels,
        target: float,
        label: Labels | None = None,
        *,
        probes: Tensor | None = None,
        create_graph: bool = False,
    ) -> FlowResult:
        """Carry points z `(n, d)` at levels sigma `(n,)`, float64, to the level `target`, up or down.

        With `probes` `(n, k, d)` the trace is Hutchinson's (`denoise_with_trace`), with the same probes
        all the way. With `create_graph` the results are differentiable in the z given, at fixed steps.
        """
        if z.device != self.device:
            there = [None if one is None else one.to(self.device) for one in (z, sigma, label, probes)]
            at, level, kind, signs = there
            assert at is not None
            assert level is not None
            return self.carry(at, level, target, kind, probes=signs, create_graph=create_graph).to(z.device)
        n, d = z.shape
        knee = 4 * math.sqrt(float(self.moments.covariance.diagonal().mean()))
        reference = Reference.of(self.moments, z, label)
        field = FlowField(self.denoiser, reference, label, knee, probes, create_graph)
        end = torch.full_like(sigma, target)
        columns = 1 if probes is None else probes.shape[1]
        start = torch.cat([reference.whitened(z, sigma), z.new_zeros(n, columns)], 1)
        best = self._solved(field, start, sigma, end)

        height = reference.log_height(end) - reference.log_height(sigma)
        nats = nats_of(best.state, d)
        rounding = 2 * torch.finfo(self.precision).eps * best.evaluations.sqrt() * (1 + nats)
        return FlowResult(
            z=reference.points(best.state[:, :d], end),
            change=height[:, None] + best.state[:, d:],
            error=best.error + rounding,
            evaluations=best.evaluations,
            met=~best.wide(self.tolerance),
        )

    def _solved(self, field: FlowField, start: Tensor, sigma: Levels, end: Levels) -> Solution:
        """Return the solution of each point by the solver that suffices for it."""
        best = Solution.unsolved(start)
        if self.even_first and not field.create_graph:
            d = field.reference.means.shape[1]
            near = nats_of(start, d) < NEAR + d
            fewest = even_steps_for(self.tolerance, (field.time(end) - field.time(sigma)).abs())
            # Half as long steps cost less than own ones, and suffice for most of the points that are left.
            for steps in (fewest, 2 * fewest):
                left = near & best.wide(self.tolerance) & (best.evaluations + steps < self.max_evaluations)
                # All rows of one level take the same number of steps, whatever the levels of the others.
                for number in torch.unique(steps[left]).cpu().tolist():
                    alike = (left & (steps == number)).nonzero()[:, 0]
                    for rows in alike.split(max(1, MOST_NUMBERS // (number * start.shape[1]))):
                        again = even_steps(field.rows(rows), start[rows], sigma[rows], end[rows], number)
                        best = best.improved(rows, again)

        # A step is checked when the next one is done, too late to take it back. So points whose bar is too
        # wide start again, stricter by twice the missing factor (ten at most, since less may do). They only
        # do so if their evaluations suffice: the cost grows as the steps get shorter.
        strict = stricter = torch.ones_like(sigma)
        while True:
            cost = best.evaluations * (1 + stricter ** (1 / 5))
            rows = (best.wide(self.tolerance) & (cost <= self.max_evaluations)).nonzero()[:, 0]
            if not len(rows):
                return best
            again = own_steps(
                field.rows(rows),
                start[rows],
                sigma[rows],
                end[rows],
                strict[rows],
                self.max_evaluations - best.evaluations[rows],
                self.tolerance,
            )
            best = best.improved(rows, again)
            stricter = 2 * (best.error / (self.tolerance * best.depth)).clamp(max=5.0)
            strict = strict * stricter
