"""Probability flow: points carried from one noise level to another, with the change of their log-density."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from toydiffusion.density.trace import denoise_with_trace
from toydiffusion.devices import CPU
from toydiffusion.distributions import Distribution, Reference
from toydiffusion.errors import finite_number, whole_number
from toydiffusion.solvers import DORMAND_PRINCE
from toydiffusion.types import Denoiser, Labels, Levels, Points

TOLERANCE = 2e-3
"""The default error bar asked for, in nats. The errors themselves are far smaller."""
MAX_EVALUATIONS = 2000
"""The default number of denoiser evaluations after which a point is refined no further."""
CAUTION = 0.36
"""The error bar over the sum of the step checks (`ProbabilityFlow`). With this factor it holds for 99 % of
points, on exact and on learned denoisers (`python benchmarks/density.py exact held-out learned`)."""
MAX_STEP = 0.73
"""The longest step in u. Longer ones would pass over structure without a sign of it."""
_AIM = 0.5
"""The share of the tolerance that the pair's own estimates may use up. Few step checks then exceed it."""
_FORCED = MAX_STEP / 5
"""The longest step of points whose evaluations are used up."""


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
    """The probability-flow ODE of a denoiser. Each point takes steps of its own.

    - `denoiser`: in z.
    - `moments`: the law whose moments define the reference Gaussian of each class.
    - `tolerance`: the error bar asked for, in nats. For points more than 10 nats from the mean of the
      reference it is that many tenths of it.
    - `max_evaluations`: the evaluations after which a point is refined no further. It then ends in steps that
      double up to a moderate length, and its `error` says how exact it is.
    - `device`: where it computes; its arguments and results may be elsewhere.
    - `precision`: in what the denoiser computes, for the rounding in `error`. The flow itself is in float64.

    **Equations.** With s = log sigma and J the Jacobian of the denoiser D, points and log-density move by

        dz/ds = z - D(z; sigma),    d log p(z; sigma)/ds = -(d - tr J)

    (Song et al. 2021, arXiv:2011.13456, equations 13 and 39, in the coordinate z). The solver follows the
    departure from the Gaussian of the data's moments (`Reference`: covariance C, denoiser `D_G` with Jacobian
    `J_G`), in its whitened coordinate y:

        dy/ds = (C + sigma^2)^(-1/2) (D_G - D),    dg/ds = tr J - tr J_G,
        log p there - log p here = change of the Gaussian's height + g.

    So Gaussian data is exact at any step, and all data is once the noise hides its shape. The time is
    `u = log(sigma / (sigma + knee))`, with the knee at four standard deviations of `moments`. It is like log
    sigma where the data has structure, and hardly moves above.

    **Steps.** The method is Dormand and Prince's 5(4) pair. An error e of (y, g) in one step moves log p by
    `tau = e_g - grad_y log p . e_y` at first order, where the score is known from D. It displaces the point
    by `r = |(C + sigma^2)^(1/2) e_y| / sigma` noise levels. The size of e is `|tau| + r`. Each point takes
    the steps that keep the size of the pair's own estimate in proportion, whatever its batch.

    **Bars.** The pair's estimate is a fourth difference of the slopes at five moments, none of them between
    0.3 and 0.8 of the step. Where the slope turns quickly, as it does for learned networks, the estimate is
    often near 0 by chance while the true error is not. So each step is checked once the next one is done:

        e' = (y, g) at its end - (y, g) at its beginning - int p(u) du.

    Here p is the polynomial of degree 6 through the slopes at both ends and in the middle of this step, the
    one before and the one after (degree 4 for the first and the last step). The middle costs one evaluation
    more. With tau' and r' of e' defined as tau and r of e,

        error = CAUTION sum_i (|tau'_i| + r'_i).

    e' is mostly larger than the true error, because p follows the slope less closely than the stages do. But
    it grows with the true error, on smooth and on rough slopes alike. A point whose error is above the
    tolerance is solved again with shorter steps, and the better answer stands.

    **How far to trust the bars.** They hold for 99 % of points near the data, on exact denoisers and on
    networks, with labels and with fine features (`waves=32`). There they are 5 to 11 times the median error.
    At 5 and 10 standard deviations from the data they hold as often, and are up to 19 times the median
    error. At 30 standard deviations they hold for 99 % without fine features, but for 88 to 99 % with them:
    the steps that the wider tolerance allows pass over some of their structure.
    `python benchmarks/density.py exact held-out learned` prints all of this.
    """

    denoiser: Denoiser
    moments: Distribution
    tolerance: float = TOLERANCE
    max_evaluations: int = MAX_EVALUATIONS
    precision: torch.dtype = torch.float64
    device: torch.device = CPU

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
        n, _ = z.shape
        knee = 4 * math.sqrt(float(self.moments.covariance.diagonal().mean()))
        field = _Field(self.denoiser, Reference.of(self.moments, z, label), label, knee, probes, create_graph)
        end = torch.full_like(sigma, target)
        columns = 1 if probes is None else probes.shape[1]
        start = torch.cat([field.reference.whitened(z, sigma), z.new_zeros(n, columns)], 1)
        strict = torch.ones_like(sigma)
        best = self._solve(field, start, sigma, end, strict, torch.zeros_like(sigma, dtype=torch.int64))

        # A step is checked when the next one is done, too late to take it back. So points whose bar is too
        # wide start again, stricter by twice the missing factor (ten at most, since less may do). They only
        # do so if their evaluations suffice: the cost grows as the steps get shorter.
        while True:
            stricter = 2 * (best.error / (self.tolerance * best.depth)).clamp(max=5.0)
            cost = best.evaluations * (1 + stricter ** (1 / 5))
            rows = (best.wide(self.tolerance) & (cost <= self.max_evaluations)).nonzero()[:, 0]
            if not len(rows):
                break
            strict[rows] *= stricter[rows]
            again = self._solve(
                field.rows(rows), start[rows], sigma[rows], end[rows], strict[rows], best.evaluations[rows]
            )
            best = best.improved(rows, again)

        reference = field.reference
        height = reference.log_height(end) - reference.log_height(sigma)
        d = z.shape[1]
        nats = best.state.detach()[:, d:].mean(1).abs() + best.state.detach()[:, :d].square().sum(1) / 2
        rounding = 2 * torch.finfo(self.precision).eps * best.evaluations.sqrt() * (1 + nats)
        return FlowResult(
            z=reference.points(best.state[:, :d], end),
            change=height[:, None] + best.state[:, d:],
            error=best.error + rounding,
            evaluations=best.evaluations,
            met=~best.wide(self.tolerance),
        )

    def _solve(
        self, field: _Field, state: Tensor, sigma: Levels, end: Levels, strict: Tensor, spent: Tensor
    ) -> _Solution:
        """Carry `state` `(n, d + k)` from levels sigma to `end`, every step `strict` times as exact as usual.

        `spent` `(n,)` are the evaluations of earlier solutions. In every round each active point tries one
        step of its own length. The points whose step is accepted move on.
        """
        d = field.reference.means.shape[1]
        u, goal = field.time(sigma), field.time(end)
        ahead = (goal - u).sign()
        span = (goal - u).abs().clamp(min=1e-300)
        # What the estimates may add in one unit of u. The longest step must shrink too, as no estimate asks
        # for it where structure is passed over. Estimates go like the fifth power of the step, so it shrinks
        # like the fifth root.
        share = _AIM * self.tolerance / strict / span
        longest = MAX_STEP * strict ** (-1 / 5)
        rate, _ = field.rate(state, u)
        step, depth = longest.clone(), torch.ones_like(u)
        evaluations = spent + 1
        checks = _StepChecks.before(u, rate.detach())

        active = (u != goal).nonzero()[:, 0]
        while len(active):
            local, now = field.rows(active), u[active]
            left = (goal[active] - now).abs()
            # The last two steps share what is left, so that no tiny one remains.
            length = torch.where(
                left < 2 * step[active], torch.where(left < step[active], left, left / 2), step[active]
            )
            h = (length * ahead[active])[:, None]
            slopes, inner, steepness = _stages(local, state[active], rate[active], now, h)
            # The pair's own estimate decides on the step.
            size = steepness.size((h * _combine(DORMAND_PRINCE.error, slopes)).detach())
            nats = inner[:, :d].detach().square().sum(1) / 2 + inner[:, d:].detach().mean(1).abs()
            # Far out the tolerance is wider. The steps use only the root of that, to see enough.
            far = (nats / 10).clamp(min=1.0)
            allowed = (share[active] * length * far.sqrt()).nan_to_num()
            evaluations[active] += len(slopes) - 1
            exhausted = evaluations[active] >= self.max_evaluations
            accepted = (size <= allowed) | (exhausted & (length <= _FORCED))
            rows, arrived = active[accepted], accepted & (length == left)
            # Exactly the goal where it is reached: rounding must not leave a tiny last step.
            then = torch.where(arrived, goal[active], now + h[:, 0])[accepted]

            # For the bar alone, hence without a graph: the slope in the middle of the accepted steps. With it
            # and the slope at the end, the steps before these have all their neighbours and can be checked.
            taken = [slope[accepted].detach() for slope in slopes]
            before, after = state[rows].detach(), inner[accepted].detach()
            halfway = before + h[accepted] * _combine(DORMAND_PRINCE.middle, taken)
            middle, _ = field.rows(rows).without_graph().rate(halfway, (u[rows] + then) / 2)
            evaluations[rows] += 1
            checks.step(rows, then, middle, taken[-1], after - before, steepness.rows(accepted))
            checks.finish(active[arrived])

            state = state.index_copy(0, rows, inner[accepted])
            rate = rate.index_copy(0, rows, slopes[-1][accepted])
            u[rows] = then
            depth[rows] = torch.maximum(depth[rows], far[accepted])
            # At most doubled, because a small estimate may be one that vanishes by chance.
            growth = (0.9 * (allowed / size.clamp(min=1e-300)) ** 0.25).clamp(0.2, 2.0)
            # Out of evaluations, steps double up to a moderate length, so that stiff stretches are not passed
            # over in one step.
            forced = (2 * length).clamp(max=_FORCED)
            step[active] = torch.where(exhausted, forced, torch.minimum(length * growth, longest[active]))
            active = active[~arrived]

        error = (CAUTION * checks.total).nan_to_num(nan=math.inf)
        return _Solution(state, error, depth, evaluations)


def _stages(
    field: _Field, state: Tensor, rate: Tensor, u: Tensor, h: Tensor
) -> tuple[list[Tensor], Tensor, _Steepness]:
    """Return the slopes of a step of Dormand and Prince's pair, the state at its end, and the steepness.

    The last stage is the end of the step. Its slope is the first one of the next step.
    """
    slopes = [rate]
    for i in range(1, len(DORMAND_PRINCE.c)):
        inner = state + h * _combine(DORMAND_PRINCE.a[i], slopes)
        # The trace is not needed in the stage that neither the step nor its estimate uses.
        traced = DORMAND_PRINCE.error[i] != 0
        slope, steepness = field.rate(inner, u + DORMAND_PRINCE.c[i] * h[:, 0], traced=traced)
        slopes.append(slope)
    return slopes, inner, steepness


@dataclass(frozen=True, eq=False)
class _Solution:
    """One solution for n points.

    - `state` `(n, d + k)`: y and g at the end.
    - `error` `(n,)`: the error bar.
    - `depth` `(n,)`: how far out the point was, as a factor on the tolerance.
    - `evaluations` `(n,)`: the evaluations so far, those of earlier solutions included.
    """

    state: Tensor
    error: Tensor
    depth: Tensor
    evaluations: Tensor

    def wide(self, tolerance: float) -> Tensor:
        """Whether the error is above the tolerance, `(n,)`."""
        return ~(self.error.isfinite() & (self.error <= tolerance * self.depth))

    def improved(self, rows: Tensor, again: _Solution) -> _Solution:
        """Return the solution with those of `rows` replaced that have a smaller error in `again`."""
        better = again.error < self.error[rows]
        kept = rows[better]
        return _Solution(
            self.state.index_copy(0, kept, again.state[better]),
            self.error.index_copy(0, kept, again.error[better]),
            self.depth.index_copy(0, kept, again.depth[better]),
            self.evaluations.index_copy(0, rows, again.evaluations),
        )


@dataclass(eq=False)
class _StepChecks:
    """The checks of the steps of n points, each by the slopes of its neighbours too (`e'`).

    - `u` `(n, 7)`, `slopes` `(n, 7, d + k)`: the ends and the middles of the last three steps, the newest
      last. So the step before the newest is at places 2 to 4, with two moments on either side.
    - `number` `(n,)`: the number of steps so far.
    - `moved` `(n, d + k)`, `steepness`: the change over the newest step, and the steepness at its end.
    - `total` `(n,)`: the sum of the sizes of all e' so far.
    """

    u: Tensor
    slopes: Tensor
    number: Tensor
    moved: Tensor
    steepness: _Steepness
    total: Tensor

    @classmethod
    def before(cls, u: Tensor, rate: Tensor) -> _StepChecks:
        """Return the checks before the first step: only the last place is known."""
        n = len(rate)
        return cls(
            u[:, None].repeat(1, 7),
            rate[:, None].repeat(1, 7, 1),
            torch.zeros_like(u, dtype=torch.int64),
            torch.zeros_like(rate),
            _Steepness(rate.new_zeros(n, 0), rate.new_zeros(n, 0)),
            torch.zeros_like(u),
        )

    def step(
        self, rows: Tensor, u: Tensor, middle: Tensor, rate: Tensor, moved: Tensor, steepness: _Steepness
    ) -> None:
        """Add a new step of these rows, which ends at u, and check the one before it, if any."""
        old = self.u[rows]
        self.u[rows] = torch.cat([old[:, 2:], (old[:, -1:] + u[:, None]) / 2, u[:, None]], 1)
        self.slopes[rows] = torch.cat([self.slopes[rows][:, 2:], middle[:, None], rate[:, None]], 1)
        self.number[rows] += 1
        self._check(rows[self.number[rows] > 1], 2)
        if not self.steepness.levels.shape[1]:
            d = steepness.levels.shape[1]
            self.steepness = _Steepness(*self.moved.new_zeros(2, len(self.moved), d))
        self.moved[rows] = moved
        self.steepness.log_prob[rows] = steepness.log_prob
        self.steepness.levels[rows] = steepness.levels

    def finish(self, rows: Tensor) -> None:
        """Check the last step of rows that have arrived."""
        self._check(rows, 4)

    def _check(self, rows: Tensor, first: int) -> None:
        """Add the size of e' of the step that begins at place `first`; `moved` is that of this step."""
        if not len(rows):
            return
        u = self.u[rows]
        begin, h = u[:, first, None], u[:, first + 2, None] - u[:, first, None]
        place = torch.arange(7, device=u.device)
        known = place >= 6 - 2 * self.number[rows][:, None]
        # The last step has one neighbour. Like the first one it is checked by five moments.
        known &= place >= first - 2
        weights = _quadrature((u - begin) / h, known)
        change = h * torch.einsum("nm,nmc->nc", weights, self.slopes[rows])
        size = self.steepness.rows(rows).size(self.moved[rows] - change)
        self.total[rows] += size


def _quadrature(x: Tensor, known: Tensor) -> Tensor:
    """Return the weights `(n, m)` of the values at x in the integral over (0, 1) of their polynomial.

    Only the values that are `known` `(n, m)` count. The polynomial through them is evaluated by the
    barycentric formula at four Gauss-Legendre nodes. These are exact up to degree 7, and they meet none of
    the places 0, 1/2, 1 and outside, where the formula would divide by zero.
    """
    apart = x[:, :, None] - x[:, None, :]
    both = known[:, :, None] & known[:, None, :] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    # Distances in halves of the step, so that products of six neither vanish nor overflow.
    barycentric = known / torch.where(both, 2 * apart, 1.0).prod(2)
    nodes, gauss = (a.to(x) for a in _LEGENDRE)
    at = barycentric[:, None, :] / ((1 + nodes[:, None]) / 2 - x[:, None, :])
    weights: Tensor = torch.einsum("q,nqm->nm", gauss / 2, at / at.sum(2, keepdim=True))
    return weights


_LEGENDRE = [torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(4)]


@dataclass(frozen=True, eq=False)
class _Steepness:
    """The effect of a displacement of y: on log p, `(n, d)`, and in noise levels, `(n, d)`, per unit."""

    log_prob: Tensor
    levels: Tensor

    def rows(self, rows: Tensor) -> _Steepness:
        """Return these rows."""
        return _Steepness(self.log_prob[rows], self.levels[rows])

    def size(self, e: Tensor) -> Tensor:
        """Return `|tau| + r` of errors e of (y, g), `(n,)`; infinite where e is not a number."""
        d = self.levels.shape[1]
        tau = e[:, d:].mean(1) - (self.log_prob * e[:, :d]).sum(1)
        r = (self.levels * e[:, :d]).norm(dim=1)
        size: Tensor = (tau.abs() + r).nan_to_num(nan=math.inf)
        return size


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

    def without_graph(self) -> _Field:
        return replace(self, create_graph=False)

    def time(self, sigma: Levels) -> Tensor:
        return (sigma / (self.knee + sigma)).log()

    def sigma(self, u: Tensor) -> Levels:
        return self.knee * u.exp() / -torch.expm1(u)

    def rate(self, state: Tensor, u: Tensor, *, traced: bool = True) -> tuple[Tensor, _Steepness]:
        """Return d state / du, its g left 0 unless `traced`, and the steepness here."""
        d = self.reference.means.shape[1]
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
