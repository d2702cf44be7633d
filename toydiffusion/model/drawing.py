"""Drawing points from a fitted model: users' labels and coordinates in, the core's sampler, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toydiffusion.denoisers import guided
from toydiffusion.distributions import Prior
from toydiffusion.model.fitted import Fitted
from toydiffusion.progress import bar
from toydiffusion.sampling import SampleConfig, reverse, sample
from toydiffusion.solvers import solver
from toydiffusion.streams import Stream
from toydiffusion.tables import from_frame
from toydiffusion.types import Denoiser, InputError, Points, whole_number

Block: TypeAlias = tuple[NDArray[np.float64], NDArray[Any] | None]
"""Points `(k, d)` in x, and their labels `(k,)`."""


@dataclass(frozen=True)
class Drawing:
    """A fitted model and how to draw from it. `Diffusion.sample` says what the arguments mean."""

    learned: Fitted
    sampling: SampleConfig

    def blocks(
        self,
        n: int | None,
        label: Any,
        *,
        start: Any,
        seed: int,
        batch_size: int,
        progress: bool | None,
    ) -> Iterator[Block]:
        """Yield blocks of points and labels; the arguments are checked here, before the first."""
        classes = self.learned.classes
        given = None if start is None else self._given(start)
        total = self._count(n, given)
        index = self.learned.label_index(label, total)
        denoiser = self._denoiser(labelled=given is None or index is not None)
        levels = self._levels()
        batch_size = whole_number("batch_size", batch_size, 1)
        Stream(seed, "check")  # refuses a seed that is none

        @torch.no_grad()
        def draw(first: int, last: int) -> Block:
            z, chosen = sample(
                denoiser,
                self.learned.moments,
                levels,
                solver(self.sampling.solver),
                rows=(first, last),
                seed=seed,
                label=None if index is None else index[first:last],
                churn=self.sampling.churn,
                given=None if given is None else given[first:last],
            )
            return self._x(z), None if classes is None or chosen is None else classes[chosen.numpy()]

        def blocks() -> Iterator[Block]:
            with bar("sampling", total, progress) as move:
                for first in range(0, total, batch_size):
                    last = min(first + batch_size, total)
                    yield draw(first, last)
                    move(last, "")

        return blocks()

    @torch.no_grad()
    def trajectory(self, n: int, label: Any, *, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the whole way of n points, `(steps + 1, n, d)` in x, and its levels, the last one 0."""
        total = self._count(n, None)
        index = self.learned.label_index(label, total)
        denoiser, levels = self._denoiser(labelled=True), self._levels()
        start, chosen = Prior(self.learned.moments, float(levels[0])).sample(0, total, seed=seed, label=index)
        method, churn = solver(self.sampling.solver), self.sampling.churn
        path = list(reverse(denoiser, start, levels, method, label=chosen, seed=seed, churn=churn))
        path.append(denoiser(path[-1], levels[-1].expand(total), chosen))
        return np.stack([self._x(z) for z in path]), np.append(levels.numpy(), 0.0)

    def _levels(self) -> Tensor:
        config = self.learned.config
        return self.sampling.levels(config.sigma_min, config.sigma_max)

    def _x(self, z: Points) -> NDArray[np.float64]:
        return self.learned.standardizer.x(z).numpy()

    def _given(self, start: Any) -> Points:
        return self.learned.z(self.learned.own(from_frame(start, columns=self.learned.columns), "start"))

    @staticmethod
    def _count(n: int | None, given: Points | None) -> int:
        if given is not None:
            if n is not None and n != len(given):
                raise InputError(f"n is {n} but start has {len(given)} points; leave n out")
            return len(given)
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise InputError(f"the number of points must be a whole number >= 1, got {n!r}")
        if n >= 2**63:
            raise InputError(f"the number of points must be below 2**63, got {n}")
        return int(n)

    def _denoiser(self, *, labelled: bool) -> Denoiser:
        if self.sampling.guidance != 1 and (self.learned.classes is None or not labelled):
            raise InputError("guidance needs labels: it is the pull from the whole towards one class")
        return guided(self.learned.network, self.sampling.guidance)
