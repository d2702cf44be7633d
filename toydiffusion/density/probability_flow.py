"""Probability flow: points carried from one noise level to another, with the change of their log-density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from toydiffusion.density.reference import Reference
from toydiffusion.density.trace import denoise_with_trace
from toydiffusion.distributions import Distribution
from toydiffusion.errors import InputError, whole_number
from toydiffusion.solvers import DORMAND_PRINCE
from toydiffusion.types import Denoiser, Labels, Levels, Points

TOLERANCE = 2e-3
"""The error bar that is asked for unless said otherwise, in nats: the errors themselves are far smaller."""
CAUTION = 3.1
"""The error bar over what the steps' own estimates come to: so large, it holds for 99 % of points drawn from
the exact distributions (`python benchmarks/density.py exact`)."""
MAX_STEP = 0.65
"""The longest step in u: so short, what lies between the stages does not fool the steps' own estimates."""
_FORCED = MAX_STEP / 4
"""The step of points whose evaluations are spent."""


@dataclass(frozen=True, eq=False)
class FlowResult:
    """Where points came to, and what is known of it.

    - `z` `(n, d)`: the points at the level they were carried to.
    - `change` `(n, k)`: log p there less log p here, in nats; a column for each probe, or one exact one.
    - `error` `(n,)`: estimated numerical error of `log p`, that of z counted in (see `ProbabilityFlow`).
    - `evaluations` `(n,)`: how often the denoiser was called for each point.
    - `met` `(n,)`: whether the error stayed within the tolerance.
    """

    z: Points
    change: Tensor
    error: Tensor
    evaluations: Tensor
    met: Tensor


@dataclass(frozen=True, eq=False)
class ProbabilityFlow:
    """The probability-flow ODE of a denoiser, each point solved with steps of its own.

    With s = log sigma and J the Jacobian of the denoiser D, points and log-density move by

        dz/ds = z - D(z; sigma),    d log p(z; sigma)/ds = -(d - tr J)

    (Song et al. 2021, arXiv:2011.13456, equations 13 and 39, in this project's coordinate). What is solved is
    the departure from the Gaussian of the data's moments (`Reference`: covariance C, denoiser `D_G` with
    Jacobian `J_G`) in its whitened coordinate y:

        dy/ds = (C + sigma^2)^(-1/2) (D_G - D),    dg/ds = tr J - tr J_G,
        log p there - log p here = change of the Gaussian's height + g.

    So Gaussian data is exact at any step, and everything is once the noise hides the shape. Time is not s but
    `u = log(sigma / (sigma + knee))`, the knee at four standard deviations of `moments`: like log sigma where
    the data has structure, nearly at rest above.

    The method is Dormand and Prince's 5(4) pair. Its local error e of (y, g) in one step moves log p by
    `tau = e_g - grad_y log p . e_y` at first order, the score being known (it is D again), and displaces the
    point by `r = |(C + sigma^2)^(1/2) e_y| / sigma` noise levels. Each point takes the steps that keep its
    own `|tau| + r` in proportion, whatever its batch. At first order the tau of all steps add up with their
    signs; what is of higher order is taken as independent from step to step:

        error = CAUTION sqrt((sum tau)^2 + sum (|tau| + r)^2).

    `tolerance` is what `error` may come to, in nats, or for points more than 10 nats from the mean of the
    reference that many tenths of it. Past `max_evaluations` a point is refined no further: it ends in
    steps of one moderate length, and its `error` says what came of it.
    """

    denoiser: Denoiser
    moments: Distribution
    tolerance: float = TOLERANCE
    max_evaluations: int = 1000

    def __post_init__(self) -> None:
        """Check the numbers."""
        given: object = self.tolerance
        if isinstance(given, bool) or not isinstance(given, Real) or not 0 < float(given) < math.inf:
            raise InputError(f"tolerance must be a number of nats > 0, got {self.tolerance!r}")
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

        With `probes` `(n, k, d)` the trace is Hutchinson's (`denoise_with_trace`), the same probes all the
        way. `create_graph` leaves `z` and `change` differentiable in the z given, the steps taken as given.
        """
        n, d = z.shape
        knee = 4 * math.sqrt(float(self.moments.covariance.diagonal().mean()))
        field = _Field(self.denoiser, Reference.of(self.moments, n, label), label, knee, probes, create_graph)
        end = torch.full_like(sigma, target)
        u, goal = field.time(sigma), field.time(end)
        ahead = (goal - u).sign()
        span = (goal - u).abs().clamp(min=1e-300)
        # What one unit of u may add: over the whole way `error` then cannot exceed the tolerance.
        share = self.tolerance / CAUTION / (1 + (MAX_STEP / span).clamp(max=1)).sqrt() / span
        columns = 1 if probes is None else probes.shape[1]
        state = torch.cat([field.reference.whitened(z, sigma), z.new_zeros(n, columns)], 1)
        rate, _ = field.rate(state, u)
        step = torch.full_like(u, MAX_STEP)
        drift, square, depth = torch.zeros_like(u), torch.zeros_like(u), torch.ones_like(u)
        evaluations = torch.ones_like(u, dtype=torch.int64)

        active = (u != goal).nonzero()[:, 0]
        while len(active):
            local = field.rows(active)
            left = (goal - u)[active].abs()
            # The last two steps share what is left, so that no crumb remains.
            length = torch.where(
                left < 2 * step[active], torch.where(left < step[active], left, left / 2), step[active]
            )
            h = (length * ahead[active])[:, None]
            slopes, now = [rate[active]], u[active]
            for i, (row, c) in enumerate(zip(DORMAND_PRINCE.a, DORMAND_PRINCE.c, strict=True)):
                if i == 0:
                    continue
                inner = state[active] + h * _combine(row, slopes)
                slope, steepness = local.rate(inner, now + c * h[:, 0], traced=DORMAND_PRINCE.error[i] != 0)
                slopes.append(slope)
            # The last stage ends the step: its state is the new one, its slope the first of the next.
            miss = (h * _combine(DORMAND_PRINCE.error, slopes)).detach()
            tau = miss[:, d:].mean(1) - (steepness.log_prob * miss[:, :d]).sum(1)
            size = tau.abs() + (steepness.levels * miss[:, :d]).norm(dim=1)
            size = size.nan_to_num(nan=math.inf)
            nats = inner[:, :d].detach().square().sum(1) / 2 + inner[:, d:].detach().mean(1).abs()
            far = (nats / 10).clamp(min=1.0)
            allowed = (share[active] * length * far).nan_to_num()
            evaluations[active] += len(slopes) - 1
            spent = evaluations[active] >= self.max_evaluations
            accepted = (size <= allowed) | (spent & (length <= _FORCED))
            rows = active[accepted]
            state = state.index_copy(0, rows, inner[accepted])
            rate = rate.index_copy(0, rows, slopes[-1][accepted])
            arrived = accepted & (length == left)
            u[rows] = torch.where(arrived, goal[active], now + h[:, 0])[accepted]
            drift[rows] += tau[accepted]
            square[rows] += size[accepted].square()
            depth[rows] = torch.maximum(depth[rows], far[accepted])
            growth = (0.9 * (allowed / size.clamp(min=1e-300)) ** 0.25).clamp(0.2, 5.0)
            step[active] = torch.where(spent, _FORCED, (length * growth).clamp(max=MAX_STEP))
            active = active[~arrived]

        error = (CAUTION * (drift.square() + square).sqrt()).nan_to_num(nan=math.inf)
        reference = field.reference
        height = reference.log_height(end) - reference.log_height(sigma)
        nats = state.detach()[:, d:].mean(1).abs() + state.detach()[:, :d].square().sum(1) / 2
        rounding = 2 * torch.finfo(torch.float64).eps * evaluations.sqrt() * (1 + nats)
        return FlowResult(
            z=reference.points(state[:, :d], end),
            change=height[:, None] + state[:, d:],
            error=error + rounding,
            evaluations=evaluations,
            met=error.isfinite() & (error <= self.tolerance * depth),
        )


@dataclass(frozen=True, eq=False)
class _Steepness:
    """What a displacement of y does: to log p `(n, d)`, and in noise levels per unit `(n, d)`."""

    log_prob: Tensor
    levels: Tensor


@dataclass(frozen=True, eq=False)
class _Field:
    """The right-hand side of the flow for some rows: state `(y, g)` `(n, d + k)`, time u `(n,)`."""

    denoiser: Denoiser
    reference: Reference
    label: Labels | None
    knee: float
    probes: Tensor | None
    create_graph: bool

    def rows(self, rows: Tensor) -> _Field:
        return _Field(
            self.denoiser,
            self.reference.rows(rows),
            None if self.label is None else self.label[rows],
            self.knee,
            None if self.probes is None else self.probes[rows],
            self.create_graph,
        )

    def time(self, sigma: Levels) -> Tensor:
        return (sigma / (self.knee + sigma)).log()

    def sigma(self, u: Tensor) -> Levels:
        return self.knee * u.exp() / -torch.expm1(u)

    def rate(self, state: Tensor, u: Tensor, *, traced: bool = True) -> tuple[Tensor, _Steepness]:
        """Return d state / du, its g left 0 unless `traced`, and the steepness here."""
        d = self.reference.mean.shape[1]
        sigma = self.sigma(u)
        y, reference = state[:, :d], self.reference
        z = reference.points(y, sigma)
        if traced:
            clean, trace = denoise_with_trace(
                self.denoiser, z, sigma, self.label, probes=self.probes, create_graph=self.create_graph
            )
            dg = trace - reference.shrinkage(sigma).sum(1, keepdim=True)
        else:
            clean, dg = self.denoiser(z, sigma, self.label), torch.zeros_like(state[:, d:])
        spread = reference.spread(sigma)
        turned = reference.turned(clean)
        dy = (reference.shrinkage(sigma) * spread * y - turned) / spread
        ds = 1 + sigma / self.knee
        score = (turned - spread * y).detach() / sigma[:, None].square()
        return ds[:, None] * torch.cat([dy, dg], 1), _Steepness(score * spread, spread / sigma[:, None])


def _combine(weights: tuple[float, ...], values: list[Tensor]) -> Tensor:
    terms = [w * value for w, value in zip(weights, values, strict=True) if w]
    return torch.stack(terms).sum(0)
