"""All points in the same even steps: Adams' method, and the check of each step by its neighbours."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from toydiffusion.density.flow_field import FlowField, Solution, Steepness, combine, depth_of
from toydiffusion.types import Levels

CAUTION = 0.4
"""The error bar over the sum of the step checks (`even_steps`)."""
LENGTH = 0.53
"""The length of a step in u at a tolerance of 1 nat (`even_steps_for`)."""
MOST_NUMBERS = 2**21
"""The numbers in all slopes of the rows that are solved at once: 16 MB. Steps and checks take as much."""
_ORDER = 5
"""The order of Adams' method."""
_AROUND = 8
"""The slopes in the check of a step: four on either side of its middle."""


def even_steps_for(tolerance: float, span: Tensor) -> Tensor:
    """Return how many steps over each `span` in u suffice for most points at this tolerance, in nats.

    The step is `LENGTH tolerance^(1/5)`, since the error of the method goes like its fifth power.
    """
    steps: Tensor = (span / (LENGTH * tolerance ** (1 / 5))).ceil().long().clamp(min=_AROUND)
    return steps


def even_steps(field: FlowField, state: Tensor, sigma: Levels, end: Levels, steps: int) -> Solution:
    """Carry `state` `(n, d + k)` from levels sigma `(n,)` to `end` `(n,)` in so many even steps of u.

    Adams' method of order 5, predicted, evaluated and corrected once: one evaluation a step,

        ahead = x_i + h sum_j b_j f_{i-j},    f_{i+1} = f(ahead),    x_{i+1} = x_i + h sum_j m_j f_{i+1-j}.

    The weights b and m integrate the polynomial through the four slopes before, and through these and the
    new one (Hairer, Norsett and Wanner 1993, chapter III.1). The first steps have fewer slopes before them.
    (Shorter first steps, at two to four evaluations more, change the errors on networks by less than 10 %.)

    In the end every step is integrated again, by the polynomial q of degree 7 through the slopes at four
    nodes on either side of its middle (at the ends, through the eight nearest). With

        e'_i = x_{i+1} - x_i - h int q(u) du

    and tau', r' of e' as in `ProbabilityFlow`, the error bar is

        error = CAUTION sum_i (|tau'_i| + r'_i).

    Upward, errors of y fade and hardly change the slopes. There the answer is `x_0 + sum_i h int q(u) du`.
    Downward they grow. There it is the last x_i, with its g less `sum_i tau'_i`: the point is then not the
    one that a perfect solver would reach, but its log-density is its own.

    All slopes are kept to the end, so the memory grows with rows times steps (`MOST_NUMBERS`).
    """
    d = field.reference.means.shape[1]
    u, goal = field.time(sigma), field.time(end)
    if bool((u == u[0]).all()):
        # One level for all rows: what depends on it alone is computed once.
        u, goal = u[:1], goal[:1]
    h = ((goal - u) / steps)[:, None]

    here = state
    slope, _ = field.rate(here, u)
    slopes, moves, steepness = [slope], [], []
    for i in range(1, steps + 1):
        before = slopes[:-_ORDER:-1]
        ahead = here + h * combine(_weights(range(0, -len(before), -1)), before)
        slope, steep = field.rate(ahead, torch.lerp(u, goal, i / steps))
        move = h * combine(_weights(range(1, -len(before), -1)), [slope, *before])
        here = here + move
        slopes.append(slope)
        moves.append(move)
        steepness.append(steep)

    again = (_checks(steps).to(state) @ torch.stack(slopes).flatten(1)).view(steps, *state.shape) * h
    along = Steepness(
        *(torch.stack([getattr(one, name) for one in steepness]) for name in ("log_prob", "levels"))
    )
    e = torch.stack(moves) - again
    error = CAUTION * along.size(e).sum(0)
    if float(h[0]) > 0:
        final = state + again.sum(0)
    else:
        final = torch.cat([here[:, :d], here[:, d:] - along.tau(e).sum(0)], 1)
    depth = torch.maximum(depth_of(state, d), depth_of(final, d))
    evaluations = torch.full_like(error, steps + 1, dtype=torch.int64)
    return Solution(final, error, depth, evaluations)


@functools.cache
def _weights(nodes: range) -> list[float]:
    """Return the weights of the values at these nodes in the integral of their polynomial over (0, 1)."""
    powers = np.arange(float(len(nodes)))
    weights: list[float] = np.linalg.solve(np.array(nodes) ** powers[:, None], 1 / (powers + 1)).tolist()
    return weights


def _checks(steps: int) -> Tensor:
    """Return the weights `(steps, steps + 1)` of all slopes in the integral of each step, in units of h."""
    weights = np.zeros((steps, steps + 1))
    for i in range(steps):
        first = min(max(i + 1 - _AROUND // 2, 0), steps + 1 - _AROUND)
        nodes = range(first - i, first - i + _AROUND)
        weights[i, first : first + _AROUND] = _weights(nodes)
    return torch.from_numpy(weights)
