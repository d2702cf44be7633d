"""Random numbers for each row that depend only on the seed, the purpose, the step and the row.

Random numbers are generated in fixed blocks of rows. Each block has its own generator, seeded by (seed,
purpose, step, block). So the numbers are bitwise the same for every batch size and thread count, and the
first n rows are the same however many follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from toydiffusion.errors import seed_number, store

BLOCK = 1024
"""Rows generated together. Changing it changes every sample of every seed."""


@dataclass(frozen=True)
class RowNoise:
    """An infinite table of random rows for one seed and one purpose.

    - `seed`: any integer >= 0.
    - `purpose`: a text that separates the streams of one seed ("start", "noise", ...).

    >>> s = RowNoise(0, "noise")
    >>> bool((s.normal(0, 5, dim=2)[3:] == s.normal(3, 5, dim=2)).all())
    True
    """

    seed: int
    purpose: str

    def __post_init__(self) -> None:
        """Check the seed."""
        store(self, "seed", seed_number(self.seed))

    def generator(self, step: int = 0, block: int = 0) -> torch.Generator:
        """Return a fresh CPU generator for this block of rows at this step."""
        key = [self.seed, crc32(self.purpose.encode()), step, block]
        state = np.random.SeedSequence(key).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))

    def rows(
        self, start: int, stop: int, sample: Callable[[torch.Generator], Tensor], step: int = 0
    ) -> Tensor:
        """Return rows `start..stop` of the table whose block b is `sample(generator of b)`, `BLOCK` rows."""
        parts = []
        for block in range(start // BLOCK, (max(stop, start + 1) - 1) // BLOCK + 1):
            first = block * BLOCK
            rows = sample(self.generator(step, block))
            parts.append(rows[max(start - first, 0) : stop - first])
        return torch.cat(parts)

    def normal(self, start: int, stop: int, *, dim: int, step: int = 0) -> Tensor:
        """Return rows `start..stop` of standard normal noise, `(stop - start, dim)` float64."""
        return self.rows(
            start, stop, lambda g: torch.randn(BLOCK, dim, generator=g, dtype=torch.float64), step
        )

    def uniform(self, start: int, stop: int, *, dim: int, step: int = 0) -> Tensor:
        """Return rows `start..stop` of uniform numbers in [0, 1), `(stop - start, dim)` float64."""
        return self.rows(
            start, stop, lambda g: torch.rand(BLOCK, dim, generator=g, dtype=torch.float64), step
        )
