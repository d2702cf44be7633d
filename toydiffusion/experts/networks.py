"""Training networks side by side, one for each fold, each stopped on the fold that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from toydiffusion.denoisers import EDM, GaussianExpert, Residuals, ResidualSizes
from toydiffusion.errors import whole_number
from toydiffusion.files import Archive
from toydiffusion.row_noise import RowNoise
from toydiffusion.types import Labels, Points

SIGMA_LOW = 0.01
"""The lowest noise level that networks are trained at. Below it they count where held-out points say so."""
SIGMA_HIGH = 10.0
"""The highest one. Above it the data look like a Gaussian."""
_LOOKS = 40
"""How often the held-out loss is measured."""
_HELD_OUT = 2000
"""The points of a fold on which it is measured, at most, and about how many noisy ones, at least."""
_WARM_UP = 20
_AVERAGING = 0.3
"""The share of the steps so far over which the weights are averaged."""


@dataclass(frozen=True, eq=False)
class FoldNetworks:
    """Networks side by side: member k was trained without fold k.

    - `networks`: the weights with the smallest held-out loss of each.
    - `held_out` `(looks, members)`: the held-out losses over that of the Gaussian alone, less 1.
    - `steps` `(looks,)`: the steps at which they were measured.
    """

    networks: Residuals
    held_out: Tensor
    steps: tuple[int, ...]

    @property
    def gain(self) -> float:
        """The mean over the members of their smallest held-out loss, over that of the Gaussian, less 1."""
        return float(self.held_out.min(0).values.mean())


@dataclass
class FoldState:
    """Everything that training changes, for a `Checkpoint`.

    - `networks`, `average`: the weights, and their average over the last steps.
    - `best`: for each member the average at the look with its smallest held-out loss.
    - `adam`: the optimiser of `networks`.
    - `step`: the steps done so far.
    - `looks`, `losses`: the steps at which the held-out loss was measured, and what it was, `(members,)`.
    """

    networks: Residuals
    average: Residuals
    best: Residuals
    adam: torch.optim.Adam
    step: int
    looks: list[int]
    losses: list[Tensor]

    @classmethod
    def start(cls, sizes: ResidualSizes, *, seed: int) -> FoldState:
        """Return the state before the first step and the first look."""
        networks = Residuals(sizes, RowNoise(seed, "residuals").generator(sizes.edges))
        average, best = (deepcopy(networks).requires_grad_(False) for _ in range(2))
        return cls(networks, average, best, torch.optim.Adam(networks.parameters(), fused=True), 0, [], [])

    def look(self, held_out: _HeldOut) -> None:
        """Measure the average, and keep the members that are better than ever."""
        found = held_out.loss(self.average)
        better = found < torch.stack(self.losses).amin(0) if self.losses else torch.ones_like(found) > 0
        for best, now in zip(self.best.parameters(), self.average.parameters(), strict=True):
            best[better] = now[better]
        self.looks.append(self.step)
        self.losses.append(found)

    def found(self) -> FoldNetworks:
        """Return the best so far."""
        losses = torch.stack(self.losses)
        return FoldNetworks(deepcopy(self.best), losses / losses[0] - 1, tuple(self.looks))

    def archive(self) -> Archive:
        """Return the state as tensors."""
        tensors = {f"{part}.{name}": one for part, name, one in self._weights()}
        for name, weight in self.networks.named_parameters():
            moments = self.adam.state.get(weight, {})
            tensors |= {f"{key}.{name}": moments[key] for key in _MOMENTS if moments}
        tensors["looks"], tensors["losses"] = torch.tensor(self.looks), torch.stack(self.losses)
        return Archive(tensors, {"step": self.step})

    def take(self, archive: Archive) -> None:
        """Become the state that `archive` gave."""
        given = archive.tensors
        self.step = whole_number("step", archive.metadata["step"], 0)
        for part, name, one in self._weights():
            one.data.copy_(given[f"{part}.{name}"].view_as(one))
        for name, weight in self.networks.named_parameters():
            if self.step:
                moments = {key: given[f"{key}.{name}"].view_as(weight) for key in _MOMENTS}
                self.adam.state[weight] = {"step": torch.tensor(float(self.step)), **moments}
        self.looks, self.losses = given["looks"].tolist(), list(given["losses"])

    def _weights(self) -> Iterator[tuple[str, str, Tensor]]:
        for part in ("networks", "average", "best"):
            for name, one in getattr(self, part).named_parameters():
                yield part, name, one


_MOMENTS = ("exp_avg", "exp_avg_sq")
"""What torch's Adam calls the running means of the gradient and of its square."""


def train_folds(
    state: FoldState,
    z: Points,
    label: Labels | None,
    fold: Tensor,
    gaussians: Sequence[GaussianExpert],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    low: float,
    seed: int,
) -> Iterator[FoldState]:
    """Carry `state` on to the last step: each member learns from the folds that are not its own.

    It yields the state before the first step and after each. The loss is `|F - T|^2` with the target
    `T = (z0 - D_G) / c_out`, at points with a noise and its opposite. Each member keeps the averaged weights
    of the look at which the loss on its own fold was smallest. The first look is before the first step, where
    F is 0: a network that does not help stays at 0.

    The random numbers of step i depend on the seed and on i only. So an interrupted and resumed run ends with
    the same weights.

    - `z` `(n, d)` float64, `label` `(n,)` or None: the points and their classes.
    - `fold` `(n,)`: the fold of each point, 0..B-1.
    - `gaussians`: for each fold the denoiser `D_G` of the Gaussian fitted without it.
    - `low`: the lowest noise level.
    - `seed`: of batches and noise.
    """
    members, d = int(fold.max()) + 1, z.shape[1]
    networks = state.networks
    rows = [(fold != k).nonzero()[:, 0] for k in range(members)]
    held_out = _HeldOut.of(z, label, fold, gaussians, low, RowNoise(seed, "held-out noise").generator())
    if not state.looks:
        state.look(held_out)
    yield state
    single = z.float()
    while state.step < steps:
        generator = RowNoise(seed, "batches").generator(state.step)
        pick = torch.stack([own[torch.randint(len(own), (batch_size,), generator=generator)] for own in rows])
        strata = torch.rand(members, batch_size, generator=generator).argsort(1)
        u = (strata + torch.rand(members, batch_size, generator=generator)) / batch_size
        sigma = _levels(u, low)
        eps = torch.randn(members, batch_size, d, generator=generator)
        clean = single[pick]
        kind = None if label is None else label[pick].repeat(1, 2)
        noise = sigma[..., None] * eps
        noisy, level = torch.cat([clean + noise, clean - noise], 1), sigma.repeat(1, 2)
        target = _target(gaussians, clean.repeat(1, 2, 1), noisy, level, kind)
        loss = (networks(noisy, level, kind) - target).square().mean((1, 2)).sum()
        state.adam.zero_grad(set_to_none=False)
        loss.backward()
        falling = (steps - state.step) / steps
        for group in state.adam.param_groups:
            group["lr"] = learning_rate * min(1.0, (state.step + 1) / _WARM_UP) * falling
        state.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(state.average.parameters()),
                list(networks.parameters()),
                1 / (1 + _AVERAGING * state.step),
            )
        state.step += 1
        if state.step % max(1, steps // _LOOKS) == 0 or state.step == steps:
            state.look(held_out)
        yield state


def _levels(u: Tensor, low: float) -> Tensor:
    """Return noise levels for uniforms u: `sigma = t / (1 - t)` with t uniform, between the ends."""
    first, last = low / (1 + low), SIGMA_HIGH / (1 + SIGMA_HIGH)
    t = first + (last - first) * u
    return t / (1 - t)


def _target(
    gaussians: Sequence[GaussianExpert], clean: Tensor, noisy: Tensor, sigma: Tensor, label: Labels | None
) -> Tensor:
    """Return `(z0 - D_G) / c_out` for points `(members, b, d)`, in the precision of `clean`."""
    expected = [
        gaussian(noisy[k].double(), sigma[k].double(), None if label is None else label[k])[0]
        for k, gaussian in enumerate(gaussians)
    ]
    return (clean - torch.stack(expected).to(clean)) / EDM.c_out(sigma)[..., None]


@dataclass(frozen=True, eq=False)
class _HeldOut:
    """Noisy points of each fold, always the same, so that differences of losses are those of the weights."""

    noisy: Tensor
    sigma: Tensor
    label: Labels | None
    target: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls,
        z: Points,
        label: Labels | None,
        fold: Tensor,
        gaussians: Sequence[GaussianExpert],
        low: float,
        generator: torch.Generator,
    ) -> _HeldOut:
        members = int(fold.max()) + 1
        own = [_few((fold == k).nonzero()[:, 0], generator) for k in range(members)]
        most = max(len(rows) for rows in own)
        copies = max(1, math.ceil(_HELD_OUT / (2 * most)))
        # Smaller folds are filled up with points of weight 0.
        pick = torch.stack([torch.cat([r, r[:1].expand(most - len(r))]) for r in own]).repeat(1, copies)
        weight = torch.stack([(torch.arange(most) < len(r)).float() for r in own]).repeat(1, 2 * copies)
        size = most * copies
        strata = torch.rand(members, size, generator=generator).argsort(1)
        sigma = _levels((strata + 0.5) / size, low)
        clean = z[pick].float()
        noise = sigma[..., None] * torch.randn(clean.shape, generator=generator)
        noisy, level = torch.cat([clean + noise, clean - noise], 1), sigma.repeat(1, 2)
        kind = None if label is None else label[pick].repeat(1, 2)
        target = _target(gaussians, clean.repeat(1, 2, 1), noisy, level, kind)
        return cls(noisy, level, kind, target, weight / weight.sum(1, keepdim=True))

    @torch.no_grad()
    def loss(self, network: Residuals) -> Tensor:
        """Return the mean squared error of each member on its own fold, `(members,)`."""
        error = network(self.noisy, self.sigma, self.label) - self.target
        loss: Tensor = (error.square().mean(2) * self.weight).sum(1)
        return loss


def _few(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return the rows, or as many of them at random as are measured."""
    if len(rows) <= _HELD_OUT:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:_HELD_OUT]]
