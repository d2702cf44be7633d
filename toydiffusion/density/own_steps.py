"""Each point in steps of its own: Dormand and Prince's pair, and the check of each step by its neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toydiffusion.density.flow_field import FlowField, Solution, Steepness, combine, depth_of
from toydiffusion.solvers import DORMAND_PRINCE
from toydiffusion.types import Levels

CAUTION = 0.36
"""The error bar over the sum of the step checks (`own_steps`). With this factor it holds for 99 % of
points, on exact and on learned denoisers (`python benchmarks/density.py exact held-out learned`)."""
MAX_STEP = 0.73
"""The longest step in u. Longer ones would pass over structure without a sign of it."""
_AIM = 0.5
"""The share of the tolerance that the pair's own estimates may use up. Few step checks then exceed it."""
_FORCED = MAX_STEP / 5
"""The longest step of points whose evaluations are used up."""


def own_steps(
    field: FlowField,
    state: Tensor,
    sigma: Levels,
    end: Levels,
    strict: Tensor,
    most: Tensor,
    tolerance: float,
) -> Solution:
    """Carry `state` `(n, d + k)` from levels sigma `(n,)` to `end` `(n,)`, each row in steps of its own.

    The method is Dormand and Prince's 5(4) pair. In every round each active point tries one step of its own
    length. The points whose step is accepted move on. Each point takes the steps that keep the size of the
    pair's own estimate in proportion to the tolerance, whatever its batch.

    The pair's estimate is a fourth difference of the slopes at five moments, none of them between 0.3 and 0.8
    of the step. Where the slope turns quickly, as it does for learned networks, the estimate is often near 0
    by chance while the true error is not. So each step is checked once the next one is done:

        e' = (y, g) at its end - (y, g) at its beginning - int p(u) du.

    Here p is the polynomial of degree 6 through the slopes at both ends and in the middle of this step, the
    one before and the one after (degree 4 for the first and the last step). The middle costs one evaluation
    more. With tau' and r' of e' defined as in `ProbabilityFlow`,

        error = CAUTION sum_i (|tau'_i| + r'_i).

    e' is mostly larger than the true error, because p follows the slope less closely than the stages do. But
    it grows with the true error, on smooth and on rough slopes alike.

    - `strict` `(n,)`: every step is so many times as exact as usual.
    - `most` `(n,)`: the evaluations after which a row is refined no further.
    - `tolerance`: the error bar asked for, in nats.
    """
    d = field.reference.means.shape[1]
    u, goal = field.time(sigma), field.time(end)
    ahead = (goal - u).sign()
    span = (goal - u).abs().clamp(min=1e-300)
    # What the estimates may add in one unit of u. The longest step must shrink too, as no estimate asks
    # for it where structure is passed over. Estimates go like the fifth power of the step, so it shrinks
    # like the fifth root.
    share = _AIM * tolerance / strict / span
    longest = MAX_STEP * strict ** (-1 / 5)
    rate, _ = field.rate(state, u)
    step, depth = longest.clone(), torch.ones_like(u)
    evaluations = torch.ones_like(most)
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
        size = steepness.size((h * combine(DORMAND_PRINCE.error, slopes)).detach())
        # Far out the tolerance is wider. The steps use only the root of that, to see enough.
        far = depth_of(inner, d)
        allowed = (share[active] * length * far.sqrt()).nan_to_num()
        evaluations[active] += len(slopes) - 1
        exhausted = evaluations[active] >= most[active]
        accepted = (size <= allowed) | (exhausted & (length <= _FORCED))
        rows, arrived = active[accepted], accepted & (length == left)
        # Exactly the goal where it is reached: rounding must not leave a tiny last step.
        then = torch.where(arrived, goal[active], now + h[:, 0])[accepted]

        # For the bar alone, hence without a graph: the slope in the middle of the accepted steps. With it
        # and the slope at the end, the steps before these have all their neighbours and can be checked.
        taken = [slope[accepted].detach() for slope in slopes]
        before, after = state[rows].detach(), inner[accepted].detach()
        halfway = before + h[accepted] * combine(DORMAND_PRINCE.middle, taken)
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
    return Solution(state, error, depth, evaluations)


def _stages(
    field: FlowField, state: Tensor, rate: Tensor, u: Tensor, h: Tensor
) -> tuple[list[Tensor], Tensor, Steepness]:
    """Return the slopes of a step of Dormand and Prince's pair, the state at its end, and the steepness.

    The last stage is the end of the step. Its slope is the first one of the next step.
    """
    slopes = [rate]
    for i in range(1, len(DORMAND_PRINCE.c)):
        inner = state + h * combine(DORMAND_PRINCE.a[i], slopes)
        # The trace is not needed in the stage that neither the step nor its estimate uses.
        traced = DORMAND_PRINCE.error[i] != 0
        slope, steepness = field.rate(inner, u + DORMAND_PRINCE.c[i] * h[:, 0], traced=traced)
        slopes.append(slope)
    return slopes, inner, steepness


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
    steepness: Steepness
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
            Steepness(rate.new_zeros(n, 0), rate.new_zeros(n, 0)),
            torch.zeros_like(u),
        )

    def step(
        self, rows: Tensor, u: Tensor, middle: Tensor, rate: Tensor, moved: Tensor, steepness: Steepness
    ) -> None:
        """Add a new step of these rows, which ends at u, and check the one before it, if any."""
        old = self.u[rows]
        self.u[rows] = torch.cat([old[:, 2:], (old[:, -1:] + u[:, None]) / 2, u[:, None]], 1)
        self.slopes[rows] = torch.cat([self.slopes[rows][:, 2:], middle[:, None], rate[:, None]], 1)
        self.number[rows] += 1
        self._check(rows[self.number[rows] > 1], 2)
        if not self.steepness.levels.shape[1]:
            d = steepness.levels.shape[1]
            self.steepness = Steepness(*self.moved.new_zeros(2, len(self.moved), d))
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
