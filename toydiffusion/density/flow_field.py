"""The right-hand side of the probability flow, and what a solver of it returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from toydiffusion.density.trace import denoise_with_trace
from toydiffusion.distributions import Reference
from toydiffusion.types import Denoiser, Labels, Levels


@dataclass(frozen=True, eq=False)
class FlowField:
    """The right-hand side of the flow (`ProbabilityFlow`) for n rows.

    The state is (y, g), `(n, d + k)`. The time u is `(n,)`, or `(1,)` where it is the same for all rows.
    """

    denoiser: Denoiser
    reference: Reference
    label: Labels | None
    knee: float
    probes: Tensor | None
    create_graph: bool

    def rows(self, rows: Tensor) -> FlowField:
        """Return the field of these rows: different ones, in ascending order."""
        if len(rows) == len(self.reference.kind):
            return self
        return FlowField(
            self.denoiser,
            self.reference.rows(rows),
            None if self.label is None else self.label[rows],
            self.knee,
            None if self.probes is None else self.probes[rows],
            self.create_graph,
        )

    def without_graph(self) -> FlowField:
        """Return the same, not to be differentiated."""
        return replace(self, create_graph=False)

    def time(self, sigma: Levels) -> Tensor:
        """Return u."""
        return (sigma / (self.knee + sigma)).log()

    def sigma(self, u: Tensor) -> Levels:
        """Return the noise level at u."""
        return self.knee * u.exp() / -torch.expm1(u)

    def rate(self, state: Tensor, u: Tensor, *, traced: bool = True) -> tuple[Tensor, Steepness]:
        """Return d state / du, its g left 0 unless `traced`, and the steepness here."""
        d = self.reference.means.shape[1]
        sigma = self.sigma(u)
        y, reference = state[:, :d], self.reference
        spread, shrinkage = reference.spread(sigma), reference.shrinkage(sigma)
        z = reference.turned_back(spread * y)
        levels = sigma.expand(len(z))
        if traced:
            clean, trace = denoise_with_trace(
                self.denoiser, z, levels, self.label, probes=self.probes, create_graph=self.create_graph
            )
            dg = trace - shrinkage.sum(1, keepdim=True)
        else:
            clean, dg = self.denoiser(z, levels, self.label), torch.zeros_like(state[:, d:])
        turned = reference.turned(clean)
        dy = shrinkage * y - turned / spread
        ds = 1 + sigma / self.knee
        score = (turned - spread * y).detach() / sigma[:, None].square()
        return ds[:, None] * torch.cat([dy, dg], 1), Steepness(score * spread, spread / sigma[:, None])


@dataclass(frozen=True, eq=False)
class Steepness:
    """The effect of a displacement of y: on log p, `(..., d)`, and in noise levels, `(..., d)`, per unit."""

    log_prob: Tensor
    levels: Tensor

    def rows(self, rows: Tensor) -> Steepness:
        """Return these rows."""
        return Steepness(self.log_prob[rows], self.levels[rows])

    def tau(self, e: Tensor) -> Tensor:
        """Return `e_g - grad_y log p . e_y` of errors e of (y, g), `(..., k)`."""
        d = self.levels.shape[-1]
        return e[..., d:] - (self.log_prob * e[..., :d]).sum(-1, keepdim=True)

    def size(self, e: Tensor) -> Tensor:
        """Return `|tau| + r` of errors e of (y, g), `(...)`; infinite where e is not a number."""
        d = self.levels.shape[-1]
        r = (self.levels * e[..., :d]).norm(dim=-1)
        size: Tensor = (self.tau(e).mean(-1).abs() + r).nan_to_num(nan=math.inf)
        return size


@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver of the flow returns for n points.

    - `state` `(n, d + k)`: y and g at the end.
    - `error` `(n,)`: the error bar.
    - `depth` `(n,)`: how far out the point was, as a factor on the tolerance.
    - `evaluations` `(n,)`: the number of evaluations.
    """

    state: Tensor
    error: Tensor
    depth: Tensor
    evaluations: Tensor

    def wide(self, tolerance: float) -> Tensor:
        """Whether the error is above the tolerance, `(n,)`."""
        return ~(self.error.isfinite() & (self.error <= tolerance * self.depth))

    @classmethod
    def unsolved(cls, state: Tensor) -> Solution:
        """Return the state at the beginning, for a solver to improve."""
        n = len(state)
        return cls(
            state,
            state.new_full((n,), math.inf, dtype=torch.float64),
            torch.ones(n, dtype=torch.float64, device=state.device),
            torch.zeros(n, dtype=torch.int64, device=state.device),
        )

    def improved(self, rows: Tensor, again: Solution) -> Solution:
        """Return the solution with those of `rows` replaced that `again` solves better, or at all."""
        before = self.error[rows]
        better = (again.error < before) | before.isinf()
        kept = rows[better]
        return Solution(
            self.state.index_copy(0, kept, again.state[better]),
            self.error.index_copy(0, kept, again.error[better]),
            self.depth.index_copy(0, kept, again.depth[better]),
            self.evaluations.index_add(0, rows, again.evaluations),
        )


def depth_of(state: Tensor, d: int) -> Tensor:
    """Return the factor on the tolerance at a state (y, g) `(n, d + k)`: a tenth of its nats, 1 or more."""
    return (nats_of(state, d) / 10).clamp(min=1.0)


def nats_of(state: Tensor, d: int) -> Tensor:
    """Return how far the log-density of a state (y, g) is below that of the reference's mean, `(n,)`."""
    state = state.detach()
    return state[:, :d].square().sum(1) / 2 + state[:, d:].mean(1).abs()


def combine(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Return the sum of the values, each times its weight."""
    terms = [(w, value) for w, value in zip(weights, values, strict=True) if w]
    total = terms[0][0] * terms[0][1]
    for w, value in terms[1:]:
        total = torch.add(total, value, alpha=w)
    return total
