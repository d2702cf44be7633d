"""What a teacher computes for its students: log-densities of points, and end points of starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from toydiffusion.density import DensityConfig, LogDensity, log_prob, score
from toydiffusion.distributions import Prior
from toydiffusion.model import FittedModel
from toydiffusion.row_noise import RowNoise
from toydiffusion.solvers import SampleConfig, last, solver, trajectory
from toydiffusion.types import Labels, Points

Note = Callable[[int], None]
"""Is called with the number of points that are done."""
_ROWS = 8192
_TOLERANCE = 1e-2
"""The tolerance of the log-densities to learn from, in nats. Students do not come as near."""
_EXACT_STEPS = 60
"""Steps to an end point, four times those of the default sampling."""
_NEAR = (0.02, 0.5)
"""The standard deviations of the noise that leads off the samples, log-uniform, in z."""
_MARGIN, _WIDER = 1.0, 0.2
"""How far the training range reaches beyond the samples at least: in z, and as a share of their range."""


def own_seed(seed: int, purpose: str) -> int:
    """Return a seed for one purpose of a distillation."""
    return RowNoise(seed, f"distillation: {purpose}").generator().initial_seed()


def starts(
    model: FittedModel, rows: range, label: Labels | None, *, seed: int
) -> tuple[Points, Labels | None]:
    """Return rows of the prior at `start_level`, and their labels; None in a model without labels."""
    z, own = Prior(model.prior.distribution, start_level(model)).rows(rows, seed=seed, label=label)
    return z, None if model.codec.classes is None else own


def start_level(model: FittedModel) -> float:
    """Return the noise level that a student of the sampler starts from: that of the default sampling."""
    return float(SampleConfig().levels(model.sigma_min, model.sigma_max)[0])


@torch.no_grad()
def end_points(
    model: FittedModel,
    z: Points,
    label: Labels | None,
    *,
    steps: int = _EXACT_STEPS,
    note: Note = lambda _: None,
) -> Points:
    """Return where the probability flow leads starts z at `start_level`, in so many steps; on the CPU."""
    plan = SampleConfig(steps, sigma_start=start_level(model))
    levels, found = plan.levels(model.sigma_min, model.sigma_max), [torch.empty(0, model.dim).double()]
    for part in _parts(len(z)):
        own = None if label is None else label[part].to(model.device)
        points = trajectory(
            model.denoiser,
            z[part].to(model.device),
            levels,
            solver(plan.solver),
            label=own,
            moments=model.prior.distribution,
        )
        found.append(last(points).cpu())
        note(part.stop)
    return torch.cat(found)


def every_class(model: FittedModel, n: int) -> Labels | None:
    """Return n labels, all classes in turn; None in a model without labels."""
    return None if model.codec.classes is None else torch.arange(n) % model.codec.num_classes


@dataclass(frozen=True)
class Ground:
    """Where points to learn from lie: the range of the teacher's samples, and a margin.

    - `low`, `high` `(d,)`: the training range in z.
    """

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, samples: Points) -> Ground:
        """Return the range of samples, with a margin."""
        low, high = samples.min(0).values, samples.max(0).values
        margin = torch.maximum(_MARGIN * torch.ones_like(low), _WIDER * (high - low))
        return cls(low - margin, high + margin)

    def points(self, samples: Points, shares: tuple[float, float], *, seed: int, purpose: str) -> Points:
        """Return points of three kinds, in the order of the samples, within the range.

        - `samples` `(n, d)`: the teacher's.
        - `shares`: the shares of points that are the samples themselves, and samples with noise. The others
          are uniform over the range.
        """
        n, d = samples.shape
        uniform = RowNoise(seed, f"{purpose} places").uniform(0, n, dim=d + 2)
        normal = RowNoise(seed, f"{purpose} noise").normal(0, n, dim=d)
        kind, size = uniform[:, 0], uniform[:, 1]
        sigma = _NEAR[0] * (_NEAR[1] / _NEAR[0]) ** size
        near = torch.where((kind < shares[0])[:, None], samples, samples + sigma[:, None] * normal)
        box = self.low + (self.high - self.low) * uniform[:, 2:]
        found = torch.where((kind < sum(shares))[:, None], near, box)
        return torch.maximum(torch.minimum(found, self.high), self.low)


def log_densities(
    model: FittedModel,
    z: Points,
    label: Labels | None,
    *,
    tolerance: float = _TOLERANCE,
    note: Note = lambda _: None,
) -> LogDensity:
    """Return the log-densities of the teacher's flow at sigma_min, in nats of z."""
    density = model.density(DensityConfig(tolerance))
    parts = []
    for part in _parts(len(z)):
        own = None if label is None else label[part]
        parts.append(log_prob(density, z[part], density.lowest(len(z[part])), own))
        note(part.stop)
    return LogDensity.joined(parts)


def slopes(model: FittedModel, z: Points, label: Labels | None) -> Tensor:
    """Return the sizes of the teacher's scores at sigma_min, `(n,)`."""
    density = model.density()
    parts = [
        score(density, z[part], density.lowest(len(z[part])), None if label is None else label[part])
        for part in _parts(len(z))
    ]
    size: Tensor = torch.cat(parts).norm(dim=1)
    return size


def _parts(n: int) -> Iterator[slice]:
    return (slice(first, min(first + _ROWS, n)) for first in range(0, n, _ROWS))
