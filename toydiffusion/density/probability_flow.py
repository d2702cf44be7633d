"""Probability flow: points carried from one noise level to another, with the change of their log-density."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
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
CAUTION = 0.36
"""The error bar over the sum of the steps' afterthoughts (`ProbabilityFlow`): so large, it holds for 99 % of
points of exact and learned distributions (`python benchmarks/density.py exact held-out learned`)."""
MAX_STEP = 0.73
"""The longest step in u: longer ones would step over structure without a sign of it."""
_AIM = 0.5
"""The share of the tolerance that the steps' own estimates may use up: few afterthoughts then exceed it."""
_FORCED = MAX_STEP / 5
"""The longest step of points whose evaluations are spent."""
_MIDDLE = (
    6025192743 / 60171106304,
    0.0,
    51252292925 / 130801643196,
    -2691868925 / 90256659456,
    187940372067 / 3189068634112,
    -1776094331 / 39487288512,
    11237099 / 470086768,
)
"""Weights of the seven slopes of a step of Dormand and Prince in the state at its middle, of order 4
(Shampine 1986, Math. Comp. 46, 135)."""


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

    **Steps.** The method is Dormand and Prince's 5(4) pair. An error e of (y, g) made in one step moves log p
    by `tau = e_g - grad_y log p . e_y` at first order, the score being known (it is D again), and displaces
    the point by `r = |(C + sigma^2)^(1/2) e_y| / sigma` noise levels. Its size is `|tau| + r`. Each point
    takes the steps that keep the size of the pair's own estimate of e in proportion, whatever its batch.

    **Bars.** That estimate is a fourth difference of the slopes at five moments, none of them between 0.3 and
    0.8 of the step. Where the slope turns quickly, as along learned networks, it is often near 0 by chance,
    and the true error, of order 5, is larger. So each step is judged a second time, once the next one is
    done, by

        e' = (y, g) at its end - (y, g) at its beginning - int p(u) du,

    where p is the polynomial of degree 6 through the slopes at both ends and in the middle of this step, the
    one before and the one after (degree 4 for the first and the last step). The middle costs one evaluation
    more. With tau' and r' made of e' as tau and r are of e,

        error = CAUTION sum_i (|tau'_i| + r'_i).

    e' is mostly larger than the true error, since p follows the slope less closely than the stages do. But it
    grows with the true error from smooth to rough slopes, which the estimate does not. A point whose error
    comes out above the tolerance is solved again with shorter steps; the better answer stands.

    **How far to trust it.** On exact denoisers and on networks, with labels and with fine features
    (`waves=32`), the bars hold for 99 % of points and are 4.8 to 11 times the median error; so they do at 5
    and 10 standard deviations from the data, there up to 19 times as wide. At 30 they hold for 99 % too, but
    with fine features for 88 to 99 %: steps as long as that tolerance allows then pass over some of what the
    network does. `python benchmarks/density.py exact held-out learned` prints all of this.

    `tolerance` is what `error` may come to, in nats, or for points more than 10 nats from the mean of the
    reference that many tenths of it. Past `max_evaluations` a point is refined no further: it ends in
    steps that double up to a moderate length, and its `error` says what came of it.
    """

    denoiser: Denoiser
    moments: Distribution
    tolerance: float = TOLERANCE
    max_evaluations: int = 2000

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
        n, _ = z.shape
        knee = 4 * math.sqrt(float(self.moments.covariance.diagonal().mean()))
        field = _Field(self.denoiser, Reference.of(self.moments, n, label), label, knee, probes, create_graph)
        end = torch.full_like(sigma, target)
        columns = 1 if probes is None else probes.shape[1]
        start = torch.cat([field.reference.whitened(z, sigma), z.new_zeros(n, columns)], 1)
        strict = torch.ones_like(sigma)
        best = self._solve(field, start, sigma, end, strict, torch.zeros_like(sigma, dtype=torch.int64))

        # A step is judged when the next one is done: too late to take it back. So points whose bar came out
        # too wide go again from the start, stricter by twice the factor (ten at most: it may need less),
        # if that can be done within their evaluations: shorter steps cost in proportion.
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
        rounding = 2 * torch.finfo(torch.float64).eps * best.evaluations.sqrt() * (1 + nats)
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

        `spent` `(n,)` are the evaluations of earlier solutions. Every round each active point tries one step
        of its own length; the rows of those that accept it move on.
        """
        d = field.reference.mean.shape[1]
        u, goal = field.time(sigma), field.time(end)
        ahead = (goal - u).sign()
        span = (goal - u).abs().clamp(min=1e-300)
        # What one unit of u may add. Estimates go like the fifth power of the step, hence the root: the
        # longest step must shrink too, for where structure is passed over, no estimate asks for it.
        share = _AIM * self.tolerance / strict / span
        longest = MAX_STEP * strict ** (-1 / 5)
        rate, _ = field.rate(state, u)
        step, depth = longest.clone(), torch.ones_like(u)
        evaluations = spent + 1
        thought = _Afterthought.before(u, rate.detach())

        active = (u != goal).nonzero()[:, 0]
        while len(active):
            local, now = field.rows(active), u[active]
            left = (goal[active] - now).abs()
            # The last two steps share what is left, so that no crumb remains.
            length = torch.where(
                left < 2 * step[active], torch.where(left < step[active], left, left / 2), step[active]
            )
            h = (length * ahead[active])[:, None]
            slopes, inner, steepness = _stages(local, state[active], rate[active], now, h)
            # The pair's own estimate decides on the step.
            size = steepness.size((h * _combine(DORMAND_PRINCE.error, slopes)).detach())
            nats = inner[:, :d].detach().square().sum(1) / 2 + inner[:, d:].detach().mean(1).abs()
            # Far out the tolerance is wider; the steps take only the root of it, lest they see too little.
            far = (nats / 10).clamp(min=1.0)
            allowed = (share[active] * length * far.sqrt()).nan_to_num()
            evaluations[active] += len(slopes) - 1
            exhausted = evaluations[active] >= self.max_evaluations
            accepted = (size <= allowed) | (exhausted & (length <= _FORCED))
            rows, arrived = active[accepted], accepted & (length == left)
            # Exactly the goal where it is reached: rounding must not leave a crumb.
            then = torch.where(arrived, goal[active], now + h[:, 0])[accepted]

            # For the bar alone, hence without a graph: the slope in the middle of the steps accepted. With
            # it and the slope at the end, the steps before these have all their neighbours, and are judged.
            taken = [slope[accepted].detach() for slope in slopes]
            before, after = state[rows].detach(), inner[accepted].detach()
            halfway = before + h[accepted] * _combine(_MIDDLE, taken)
            middle, _ = field.rows(rows).without_graph().rate(halfway, (u[rows] + then) / 2)
            evaluations[rows] += 1
            thought.step(rows, then, middle, taken[-1], after - before, steepness.rows(accepted))
            thought.finish(active[arrived])

            state = state.index_copy(0, rows, inner[accepted])
            rate = rate.index_copy(0, rows, slopes[-1][accepted])
            u[rows] = then
            depth[rows] = torch.maximum(depth[rows], far[accepted])
            # At most doubled: a small estimate may be one that happens to vanish.
            growth = (0.9 * (allowed / size.clamp(min=1e-300)) ** 0.25).clamp(0.2, 2.0)
            # Out of evaluations, steps double up to a moderate length: what is stiff here is not leapt over.
            forced = (2 * length).clamp(max=_FORCED)
            step[active] = torch.where(exhausted, forced, torch.minimum(length * growth, longest[active]))
            active = active[~arrived]

        error = (CAUTION * thought.total).nan_to_num(nan=math.inf)
        return _Solution(state, error, depth, evaluations)


def _stages(
    field: _Field, state: Tensor, rate: Tensor, u: Tensor, h: Tensor
) -> tuple[list[Tensor], Tensor, _Steepness]:
    """Return the slopes of a step of Dormand and Prince's pair, where it ends, and the steepness there.

    The last stage ends the step: its state is the new one, its slope the first of the next.
    """
    slopes = [rate]
    for i in range(1, len(DORMAND_PRINCE.c)):
        inner = state + h * _combine(DORMAND_PRINCE.a[i], slopes)
        # No trace where neither the step nor its estimate heeds it.
        traced = DORMAND_PRINCE.error[i] != 0
        slope, steepness = field.rate(inner, u + DORMAND_PRINCE.c[i] * h[:, 0], traced=traced)
        slopes.append(slope)
    return slopes, inner, steepness


@dataclass(frozen=True, eq=False)
class _Solution:
    """The state at the end `(n, d + k)`, and for each point its error, how far out it was, and the cost."""

    state: Tensor
    error: Tensor
    depth: Tensor
    evaluations: Tensor

    def wide(self, tolerance: float) -> Tensor:
        """Whether the error is above the tolerance, `(n,)`."""
        return ~(self.error.isfinite() & (self.error <= tolerance * self.depth))

    def improved(self, rows: Tensor, again: _Solution) -> _Solution:
        """Return the same with the rows that came out better `again`, and all that was spent."""
        better = again.error < self.error[rows]
        kept = rows[better]
        return _Solution(
            self.state.index_copy(0, kept, again.state[better]),
            self.error.index_copy(0, kept, again.error[better]),
            self.depth.index_copy(0, kept, again.depth[better]),
            self.evaluations.index_copy(0, rows, again.evaluations),
        )


@dataclass(eq=False)
class _Afterthought:
    """What the steps come to when judged once more, each by the slopes of its neighbours too.

    For each of n points the last three steps are remembered as seven moments `u` `(n, 7)` and the `slopes`
    there `(n, 7, d + k)`: the ends and the middles, the newest last. So the step before the newest lies at
    places 2 to 4, with two moments on either side. `number` `(n,)` counts the steps so far, `moved` and
    `steepness` are those of the newest, `total` `(n,)` is the sum of the sizes of all that were judged.
    """

    u: Tensor
    slopes: Tensor
    number: Tensor
    moved: Tensor
    steepness: _Steepness
    total: Tensor

    @classmethod
    def before(cls, u: Tensor, rate: Tensor) -> _Afterthought:
        """Return that of no steps yet: one moment, the last place, and its slope."""
        n = len(rate)
        return cls(
            u[:, None].repeat(1, 7),
            rate[:, None].repeat(1, 7, 1),
            torch.zeros(n, dtype=torch.int64),
            torch.zeros_like(rate),
            _Steepness(rate.new_zeros(n, 0), rate.new_zeros(n, 0)),
            torch.zeros_like(u),
        )

    def step(
        self, rows: Tensor, u: Tensor, middle: Tensor, rate: Tensor, moved: Tensor, steepness: _Steepness
    ) -> None:
        """Take in a new step of these rows, to the moment u, and judge the one before it, if any."""
        old = self.u[rows]
        self.u[rows] = torch.cat([old[:, 2:], (old[:, -1:] + u[:, None]) / 2, u[:, None]], 1)
        self.slopes[rows] = torch.cat([self.slopes[rows][:, 2:], middle[:, None], rate[:, None]], 1)
        self.number[rows] += 1
        self._judge(rows[self.number[rows] > 1], 2)
        if not self.steepness.levels.shape[1]:
            d = steepness.levels.shape[1]
            self.steepness = _Steepness(*self.moved.new_zeros(2, len(self.moved), d))
        self.moved[rows] = moved
        self.steepness.log_prob[rows] = steepness.log_prob
        self.steepness.levels[rows] = steepness.levels

    def finish(self, rows: Tensor) -> None:
        """Judge the newest step of rows that take no more: nothing comes after it."""
        self._judge(rows, 4)

    def _judge(self, rows: Tensor, first: int) -> None:
        """Add the size of `e'` of the step that begins at place `first`, `moved` being its own."""
        if not len(rows):
            return
        u = self.u[rows]
        begin, h = u[:, first, None], u[:, first + 2, None] - u[:, first, None]
        place = torch.arange(7)
        known = place >= 6 - 2 * self.number[rows][:, None]
        # The last step has one neighbour: as the first one it is judged by five moments.
        known &= place >= first - 2
        weights = _quadrature((u - begin) / h, known)
        change = h * torch.einsum("nm,nmc->nc", weights, self.slopes[rows])
        size = self.steepness.rows(rows).size(self.moved[rows] - change)
        self.total[rows] += size


def _quadrature(x: Tensor, known: Tensor) -> Tensor:
    """Return weights `(n, m)` of values at places x `(n, m)` in the integral over (0, 1), where `known`.

    That of the polynomial through the known values, by the barycentric formula at four Gauss-Legendre nodes,
    which are exact up to degree 7 and meet none of the places 0, 1/2, 1 and outside.
    """
    apart = x[:, :, None] - x[:, None, :]
    both = known[:, :, None] & known[:, None, :] & ~torch.eye(x.shape[1], dtype=torch.bool)
    # Distances in halves of the step, so that products of six neither vanish nor overflow.
    barycentric = known / torch.where(both, 2 * apart, 1.0).prod(2)
    nodes, gauss = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(4))
    at = barycentric[:, None, :] / ((1 + nodes[:, None]) / 2 - x[:, None, :])
    weights: Tensor = torch.einsum("q,nqm->nm", gauss / 2, at / at.sum(2, keepdim=True))
    return weights


@dataclass(frozen=True, eq=False)
class _Steepness:
    """What a displacement of y does: to log p `(n, d)`, and in noise levels per unit `(n, d)`."""

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
