"""Training on rows that do not fit in memory: which rows each step takes, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toydiffusion.processes import ALONE, Processes
from toydiffusion.row_noise import RowNoise
from toydiffusion.training.config import TrainConfig
from toydiffusion.training.loop import Batch, train_on
from toydiffusion.training.state import TrainState

MOST_APART = 10_000
"""The most rows that are kept apart to measure the loss on."""
_ROWS, _NUMBERS = 2**22, 2**25
"""The most rows, and numbers in them, that are in memory at once: 128 MB."""

Take = Callable[[NDArray[np.int64]], Batch]
"""From the numbers of rows, which ascend, to the rows."""


def train_streamed(
    state: TrainState, take: Take, num_rows: int, config: TrainConfig, processes: Processes = ALONE
) -> Iterator[TrainState]:
    """Carry `state` on to the last step, and yield it after every step; see `train_on`.

    Each step takes rows drawn uniformly, with replacement, from all of them, whatever their order. The rows
    of many steps are drawn ahead and fetched in one pass. Of the share `config.held_out` of all rows, at most
    10,000 are kept apart; a draw that hits one of them is drawn again.

    - `take`: fetches rows.
    - `num_rows`: how many there are.
    - `processes`: those that share the work; each fetches only its own part of the rows.
    """
    size = config.points_per_step(num_rows)
    steps = config.total_steps(num_rows, state.weights.network.num_classes)
    count = min(round(config.held_out * num_rows), MOST_APART, num_rows // 2)
    rng = np.random.default_rng([state.seed, 3])
    apart = np.unique(rng.integers(0, num_rows, count))
    held_out = take(apart) if len(apart) else None
    batches = _batches(state, take, num_rows, size, steps, apart, processes)
    return train_on(state, batches, held_out, config, size=size, steps=steps, processes=processes)


def _batches(
    state: TrainState,
    take: Take,
    num_rows: int,
    size: int,
    steps: int,
    apart: NDArray[np.int64],
    processes: Processes,
) -> Iterator[Batch]:
    dim = state.weights.network.dim
    together = max(1, min(_ROWS, _NUMBERS // dim) // size)
    first = state.step
    while first < steps:
        # The same groups of steps wherever training begins, so that a resumed run reads no more often.
        last = min((first // together + 1) * together, steps)
        drawn = [_drawn(state.seed, step, num_rows, size, apart) for step in range(first, last)]
        own = torch.stack([processes.own(rows) for rows in drawn])
        rows, places = np.unique(own, return_inverse=True)
        found = take(rows)
        for place in torch.from_numpy(places.reshape(own.shape)):
            yield Batch(found.points[place], None if found.labels is None else found.labels[place])
        first = last


def _drawn(seed: int, step: int, num_rows: int, size: int, apart: NDArray[np.int64]) -> Tensor:
    """Return the rows of a step, none of which is kept apart."""
    generator = RowNoise(seed, "rows").generator(step)
    found = torch.randint(num_rows, (size,), generator=generator).numpy()
    while len(apart) and (again := np.isin(found, apart)).any():
        found[again] = torch.randint(num_rows, (int(again.sum()),), generator=generator).numpy()
    return torch.from_numpy(found)
