"""Drawing points from a fitted model: users' labels and coordinates in, the core's sampler, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from toydiffusion.denoisers import guided
from toydiffusion.distributions import Prior
from toydiffusion.errors import InputError, whole_number
from toydiffusion.model.fitted import Fitted
from toydiffusion.progress import bar
from toydiffusion.row_noise import RowNoise
from toydiffusion.solvers import SampleConfig, reverse, sample, solver
from toydiffusion.tables import from_frame
from toydiffusion.types import Denoiser, Points

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
        RowNoise(seed, "check")  # refuses a seed that is none

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


class Draws(ABC):
    """The half of `Diffusion` that draws points, as its `sampling` says unless a call says otherwise."""

    sampling: SampleConfig

    @property
    @abstractmethod
    def _learned(self) -> Fitted: ...

    def sample(
        self,
        n: int | None = None,
        label: Any = None,
        *,
        steps: int | None = None,
        solver: str | None = None,
        schedule: str | None = None,
        sigma_start: float | None = None,
        guidance: float | None = None,
        churn: float | None = None,
        start: ArrayLike | Any | None = None,
        seed: int = 0,
        return_labels: bool = False,
        batch_size: int = 8192,
        progress: bool | None = False,
    ) -> Any:
        """Return n new points, `(n, d)` float64; with `return_labels` also their labels, `(n,)`.

        `label` is one of `classes` for all points, or one for each; without it a conditional model draws
        labels by class frequency. What is None here comes from the model's `sampling` (`SampleConfig`, which
        says what each means).

        `start` `(n, d)`: points to start from instead of the prior, in x. They are noised to `sigma_start`
        and denoised again: the higher sigma_start, the less is left of them.

        Row i depends on the seed and i only: n points are the first n of n + 1, whatever `batch_size` (rows
        in memory at once). Points are never clipped to the data's range.

        Raises `InputError` for an unknown label, solver or schedule, and numbers out of range.
        """
        if return_labels and self._learned.classes is None:
            raise InputError("return_labels needs a model with labels; this one was fitted without")
        if return_labels and start is not None and label is None:
            raise InputError("return_labels with start needs label: given points have none of their own")
        blocks = self.sample_blocks(
            n,
            label,
            sampling=self._sampling(steps, solver, schedule, sigma_start, guidance, churn),
            start=start,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
        points, labels = zip(*blocks, strict=True)
        x = np.concatenate(points)
        if not return_labels:
            return x
        return x, np.concatenate(labels)

    def sample_blocks(
        self,
        n: int | None = None,
        label: Any = None,
        *,
        sampling: SampleConfig | None = None,
        start: ArrayLike | Any | None = None,
        seed: int = 0,
        batch_size: int = 8192,
        progress: bool | None = False,
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[Any] | None]]:
        """Yield what `sample` returns a block at a time, in constant memory: points and labels.

        Labels are None in a model without, and for `start` points without `label`. The arguments are checked
        here, before the first block.
        """
        return Drawing(self._learned, sampling or self.sampling).blocks(
            n,
            label,
            start=start,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )

    def trajectory(
        self,
        n: int,
        label: Any = None,
        *,
        sampling: SampleConfig | None = None,
        seed: int = 0,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the whole way of n points, `(steps + 1, n, d)` in x, and the noise levels, `(steps + 1,)`.

        The last row is the denoised points, at level 0: the same points as `sample` gives for this seed.
        """
        return Drawing(self._learned, sampling or self.sampling).trajectory(n, label, seed=seed)

    def _sampling(
        self,
        steps: int | None,
        solver: str | None,
        schedule: str | None,
        sigma_start: float | None,
        guidance: float | None,
        churn: float | None,
    ) -> SampleConfig:
        chosen: dict[str, Any] = {
            "steps": steps,
            "solver": solver,
            "schedule": schedule,
            "sigma_start": sigma_start,
            "guidance": guidance,
            "churn": churn,
        }
        return replace(self.sampling, **{key: value for key, value in chosen.items() if value is not None})
