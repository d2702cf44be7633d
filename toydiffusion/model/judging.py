"""Judging points by a fitted model: a table in, blocks of log-densities and class probabilities out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from toydiffusion.density import LogDensity, ProbabilityFlow, log_density
from toydiffusion.errors import whole_number
from toydiffusion.model.fitted import Fitted
from toydiffusion.progress import bar
from toydiffusion.tables import Table
from toydiffusion.types import Labels, Levels, Points

Scores: TypeAlias = tuple[LogDensity, NDArray[np.float64] | None]
"""Log-densities of k points, in x, and their class probabilities `(k, K)` in a model with labels."""


@dataclass(frozen=True)
class Judging:
    """A fitted model and the flow to judge points by. `Diffusion.log_prob` says what the arguments mean."""

    learned: Fitted
    flow: ProbabilityFlow
    probes: int | None = None
    seed: int = 0

    def blocks(
        self,
        table: Table,
        label: Labels | None,
        sigma: Levels,
        *,
        shares: bool,
        batch_size: int,
        progress: bool | None,
    ) -> Iterator[Scores]:
        """Yield scores a block at a time; the arguments are checked here, before the first.

        With `shares` the class probabilities are found even where labels would do without. Rows that are
        missing are NaN.
        """
        batch_size = whole_number("batch_size", batch_size, 1)
        points = self.learned.z(table)
        n, missing = len(table.points), table.missing

        def blocks() -> Iterator[Scores]:
            with bar("scoring", n, progress) as move:
                for first in range(0, max(n, 1), batch_size):
                    rows = slice(first, first + batch_size)
                    gone = missing[rows]
                    # In the place of missing points, the mean of the data: every row keeps its number.
                    z = points[rows].masked_fill(torch.from_numpy(gone)[:, None], 0.0)
                    own = None if label is None else label[rows]
                    density, share = self._judged(z, sigma[rows], own, first, shares)
                    if share is not None:
                        share[gone] = np.nan
                    yield density.without(gone), share
                    move(min(first + batch_size, n), "")

        return blocks()

    def _judged(self, z: Points, sigma: Levels, label: Labels | None, first: int, shares: bool) -> Scores:
        classes = self.learned.classes
        if classes is None or (label is not None and not shares):
            return self._under(z, sigma, label, first), None
        each = [self._under(z, sigma, torch.full((len(z),), c), first) for c in range(len(classes))]
        whole, share = LogDensity.mixed(each, self.learned.moments.frequencies.numpy())
        return (whole if label is None else LogDensity.chosen(each, label.numpy())), share

    def _under(self, z: Points, sigma: Levels, label: Labels | None, first: int) -> LogDensity:
        found = log_density(
            self.flow,
            self.learned.prior(),
            z,
            sigma,
            label,
            probes=self.probes,
            seed=self.seed,
            first_row=first,
        )
        return found.shifted(self.learned.standardizer.log_det)
