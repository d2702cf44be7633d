"""What training changes, and how it is kept in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toydiffusion.denoisers import Network, preconditioning
from toydiffusion.errors import InputError, whole_number
from toydiffusion.files import Archive
from toydiffusion.row_noise import RowNoise
from toydiffusion.training.config import TrainConfig
from toydiffusion.training.gradient import FlatWeights
from toydiffusion.views import data_frame

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class History:
    """The loss during training.

    - `loss`: for each step the mean weighted squared error per coordinate of its batch.
    - `held_out`: pairs (step, loss of the averaged weights at the held-out points). Empty without.
    """

    loss: tuple[float, ...] = ()
    held_out: tuple[tuple[int, float], ...] = ()

    def to_pandas(self) -> DataFrame:
        """Return a pandas data frame with a row for each step.

        The index `step` counts from 1. The columns are `loss` and `held_out`, which is NaN in the steps
        without a measurement: in all of them unless `TrainConfig.held_out` is above 0. Raises `ImportError`
        without pandas.
        """
        steps = range(1, len(self.loss) + 1)
        held_out = dict(self.held_out)
        columns = {"loss": list(self.loss), "held_out": [held_out.get(step, math.nan) for step in steps]}
        return data_frame(columns, index=steps, name="step")

    def tensors(self) -> dict[str, Tensor]:
        """Return the history as tensors, for a file."""
        return {
            "history.loss": torch.tensor(self.loss, dtype=torch.float32),
            "history.held_out": torch.tensor(self.held_out, dtype=torch.float64).reshape(-1, 2),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> History:
        """Return the history that `tensors` put into a file."""
        held_out = tuple((int(step), float(loss)) for step, loss in tensors["history.held_out"].tolist())
        return cls(tuple(tensors["history.loss"].tolist()), held_out)


@dataclass
class TrainState:
    """Everything that training changes; `train` carries it forward, and a `Checkpoint` keeps it in a file.

    - `weights`, `average`: those of the network, and their average over the last steps.
    - `moments` `(2, size)`: the running means of the gradient and of its square (Adam).
    - `seed`, `step`: the seed, and the steps done so far.
    - `best` `(size,)`: the average with the smallest loss at the held-out points, if there are any.
    - `loss`, `held_out`: see `History`.
    """

    weights: FlatWeights
    average: FlatWeights
    moments: Tensor
    seed: int
    step: int = 0
    best: Tensor | None = None
    loss: list[float] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)

    @property
    def history(self) -> History:
        """The losses so far."""
        return History(tuple(self.loss), tuple(self.held_out))

    @classmethod
    def start(cls, dim: int, num_classes: int, config: TrainConfig, *, seed: int) -> TrainState:
        """Return the state before the first step."""
        device = config.torch_device()
        weights, average = (
            FlatWeights(build(dim, num_classes, config, seed=seed).to(device)) for _ in range(2)
        )
        return cls(weights, average, torch.zeros(2, len(weights.values), device=device), seed)

    @property
    def trained(self) -> Network:
        """The network of the averaged weights: of the best average with held-out points, else of the last."""
        if self.best is not None:
            self.average.values.copy_(self.best)
        return self.average.network

    def archive(self) -> Archive:
        """Return everything that training changes, for a `Checkpoint`."""
        tensors = {"weights": self.weights.values, "average": self.average.values, "moments": self.moments}
        if self.best is not None:
            tensors["best"] = self.best
        return Archive(tensors | self.history.tensors(), {"step": self.step, "seed": self.seed})

    def take(self, archive: Archive) -> None:
        """Become the state that `archive` gave."""
        own = {"weights": self.weights.values, "average": self.average.values, "moments": self.moments}
        for name, tensor in own.items():
            given = archive.tensors[name]
            if given.shape != tensor.shape:
                raise InputError(
                    f"it has {given.numel():,} {name}, this version of toydiffusion {tensor.numel():,}; "
                    "remove it or train without resuming"
                )
            tensor.copy_(given)
        if "best" in archive.tensors:
            self.best = torch.empty_like(self.average.values).copy_(archive.tensors["best"])
        history = History.from_tensors(archive.tensors)
        self.loss, self.held_out = list(history.loss), list(history.held_out)
        self.step = whole_number("step", archive.metadata["step"], 0)
        if len(self.loss) != self.step:
            raise InputError(f"{self.step} steps, but {len(self.loss)} losses")


def build(dim: int, num_classes: int, config: TrainConfig, *, seed: int) -> Network:
    """Return the untrained network of this configuration, on the CPU."""
    return Network(
        dim,
        num_classes,
        width=config.width,
        hidden_layers=config.hidden_layers,
        edges=config.edges,
        waves=config.waves,
        preconditioning=preconditioning(config.preconditioning),
        generator=RowNoise(seed, "network").generator(),
    )
