"""What training changes, and how it is kept in a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from toydiffusion.denoisers import Network, preconditioning
from toydiffusion.errors import InputError
from toydiffusion.files import Archive
from toydiffusion.row_noise import RowNoise
from toydiffusion.training.config import TrainConfig
from toydiffusion.types import Labels, Points


@dataclass
class History:
    """The loss of every step so far, and of the held-out points at some of them.

    `loss[i]` is the mean weighted squared error per coordinate of step i's batch; `held_out` holds pairs
    (step, loss of the averaged weights), empty where nothing is held out.
    """

    loss: list[float] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """Return the history as tensors, for a file."""
        return {
            "history.loss": torch.tensor(self.loss, dtype=torch.float32),
            "history.held_out": torch.tensor(self.held_out, dtype=torch.float64).reshape(-1, 2),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> History:
        """Return the history that `tensors` put into a file."""
        held_out = [(int(step), float(loss)) for step, loss in tensors["history.held_out"].tolist()]
        return cls(tensors["history.loss"].tolist(), held_out)


@dataclass
class TrainState:
    """Everything that training changes; `train` carries it forward, `save` and `resume` keep it in a file."""

    network: Network
    average: Network
    optimizer: torch.optim.Adam
    seed: int
    step: int = 0
    history: History = field(default_factory=History)

    @classmethod
    def start(cls, dim: int, num_classes: int, config: TrainConfig, *, seed: int) -> TrainState:
        """Return the state before the first step."""
        device = config.torch_device()
        network = build(dim, num_classes, config, seed=seed).to(device)
        average = build(dim, num_classes, config, seed=seed).to(device).requires_grad_(False)
        # One fused pass over the parameters: a third of the step's time with networks this small.
        optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.999), fused=True)
        return cls(network, average, optimizer, seed)

    def save(self, path: str | os.PathLike[str], fingerprint: str) -> None:
        """Write a checkpoint; `fingerprint` says which data and settings it belongs to."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
        tensors |= self.history.tensors()
        metadata = {"step": self.step, "seed": self.seed, "fingerprint": fingerprint}
        Archive(tensors, metadata).write(path, "checkpoint")

    def resume(self, path: str | os.PathLike[str], fingerprint: str) -> None:
        """Take over a checkpoint of the same data and settings; of others it is an `InputError`."""
        archive = Archive.read(path, "checkpoint")
        if archive.metadata["fingerprint"] != fingerprint:
            raise InputError(
                f"checkpoint {str(path)!r} belongs to other points, settings or seed; "
                "remove it or train without resuming"
            )
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}, "history": {}}
        for name, tensor in archive.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.network.load_state_dict(parts["network"])
        self.average.load_state_dict(parts["average"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            i, _, key = name.partition(".")
            moments.setdefault(int(i), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.history = History.from_tensors(archive.tensors)
        self.step = archive.metadata["step"]


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


def fingerprint(z: Points, label: Labels | None, config: TrainConfig, *, seed: int) -> str:
    """Return a digest of all that decides the trained weights: points, labels, settings, seed."""
    digest = hashlib.sha256(json.dumps([asdict(config), seed, list(z.shape)]).encode())
    digest.update(z.double().numpy().tobytes())
    if label is not None:
        digest.update(label.numpy().tobytes())
    return digest.hexdigest()
