"""Row 3: training a network to denoise, a step at a time, interruptible and resumable."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from toydiffusion.archive import Archive
from toydiffusion.denoisers import Network, Preconditioning, preconditioning
from toydiffusion.schedules import Schedule, schedule
from toydiffusion.streams import Stream
from toydiffusion.types import Denoiser, InputError, Labels, Levels, Points, nearest


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a model and its training: the one page of defaults.

    The point set:
    - `standardize`: give every column mean 0 and standard deviation 1 first; off, z is x.

    The noise (sigma in standard deviations of the standardised data):
    - `sigma_min`, `sigma_max`: the model's range.
    - `schedule`: a name in `schedules.SCHEDULES`; training draws sigma = schedule(u) with u stratified.

    The network:
    - `preconditioning`: what it predicts, "edm", "noise" or "data".
    - `width`, `hidden_layers`: its fully connected layers.
    - `edges`: learned hyperplanes seen at the scale of the noise; they make edges sharp.
    - `waves`: random Fourier features of position.

    The optimisation (Adam, learning rate falling linearly to 0):
    - `steps`: how many.
    - `batch_size`: points a step for each class (ten at most), each seen with a noise and its opposite;
      small ones keep a model of few points from learning them by heart.
    - `learning_rate`: the highest, after a short warm-up.
    - `averaging`: the weights kept are an average over about this fraction of the steps so far.
    - `label_dropout`: share of labels hidden, so that the model also learns the whole.
    - `held_out`: share of points kept apart to measure the loss on.
    - `device`: "auto" is CUDA where there is one; any torch device name.
    """

    standardize: bool = True
    sigma_min: float = 0.005
    sigma_max: float = 10.0
    schedule: str = "lognormal"
    preconditioning: str = "edm"
    width: int = 96
    hidden_layers: int = 2
    edges: int = 64
    waves: int = 0
    steps: int = 2000
    batch_size: int = 500
    learning_rate: float = 1e-2
    averaging: float = 0.1
    label_dropout: float = 0.1
    held_out: float = 0.0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check every field, so that a `TrainConfig` that exists can be trained."""
        lowest = {"width": 1, "hidden_layers": 1, "edges": 0, "waves": 0, "steps": 1, "batch_size": 1}
        for name, low in lowest.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"{name} must be a whole number >= {low}, got {value!r}")
        for name in ("averaging", "label_dropout", "held_out", "learning_rate"):
            value = getattr(self, name)
            above = name == "learning_rate"
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise InputError(f"{name} must be a number from 0 up to 1, got {value!r}")
            if above and value == 0:
                raise InputError("learning_rate must be > 0, got 0")
        if not isinstance(self.standardize, bool):
            raise InputError(f"standardize must be True or False, got {self.standardize!r}")
        preconditioning(self.preconditioning)
        self.noise()
        self.torch_device()

    def noise(self) -> Schedule:
        """Return the schedule that training draws its noise levels from."""
        return schedule(self.schedule, {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max})

    def torch_device(self) -> torch.device:
        """Return the device that training runs on."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise InputError(f"unknown device {self.device!r}: allowed are 'auto', 'cpu', 'cuda'") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise InputError("device 'cuda' was asked for, but torch finds none; allowed: 'auto', 'cpu'")
        return device

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> TrainConfig:
        """Return the configuration with these fields set; an unknown one is an error naming the nearest."""
        known = [f.name for f in fields(cls)]
        for key in settings:
            if key not in known:
                raise InputError(f"unknown setting {key!r}: {nearest(key, known)}")
        return cls(**settings)


class TrainingError(ArithmeticError):
    """The loss is no longer a number."""


@dataclass
class History:
    """The loss of every step so far, and of the held-out points at some of them.

    `loss[i]` is the mean weighted squared error per coordinate of step i's batch; `held_out` holds pairs
    (step, loss of the averaged weights), empty where nothing is held out.
    """

    loss: list[float] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)


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
        tensors |= history_tensors(self.history)
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
        self.history = history_from(archive.tensors)
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
        generator=Stream(seed, "network").generator(),
    )


def denoising_loss(
    denoiser: Denoiser,
    scheme: Preconditioning,
    z: Points,
    sigma: Levels,
    eps: Tensor,
    label: Labels | None,
) -> Tensor:
    """Return the mean over points and coordinates of `weight(sigma) (D(z + sigma eps; sigma) - z)^2`.

    The one formula for training, for held-out points and for the least possible loss (D exact).
    """
    error = denoiser(z + sigma[:, None] * eps, sigma, label) - z
    return (scheme.weight(sigma) * error.square().mean(1)).mean()


@torch.no_grad()
def expected_loss(
    denoiser: Denoiser, config: TrainConfig, z: Points, label: Labels | None, *, seed: int = 0
) -> tuple[float, float]:
    """Return the loss that training minimises, for any denoiser at points `z`, and its standard error.

    With the exact denoiser of the (standardised) distribution and fresh points of it, this is the least
    possible loss of any model of that distribution.
    """
    generator = Stream(seed, "expected loss").generator()
    sigma = config.noise().draw(len(z), generator).to(z)
    eps = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
    scheme = preconditioning(config.preconditioning)
    each, sizes = list[Tensor](), list[int]()
    for first in range(0, len(z), _ROWS):
        rows = slice(first, first + _ROWS)
        chosen = None if label is None else label[rows]
        each.append(denoising_loss(denoiser, scheme, z[rows], sigma[rows], eps[rows], chosen).double().cpu())
        sizes.append(len(z[rows]))
    losses, share = torch.stack(each), torch.tensor(sizes, dtype=torch.float64)
    mean = float((losses * share).sum() / share.sum())
    return mean, float(losses.std() / math.sqrt(len(losses))) if len(losses) > 1 else math.nan


_ROWS = 1000


def train(state: TrainState, z: Points, label: Labels | None, config: TrainConfig) -> Iterator[TrainState]:
    """Carry `state` on to the last step, yielding it after every step.

    Each step takes `batch_size` points for each class (epochs in fresh random order, one after the other), one noise level
    from each of as many strata, and moves the weights down the gradient of `denoising_loss`. Every point is
    seen with its noise and with the opposite noise: at low sigma the network's target is -eps nearly
    everywhere, and what the two contribute to the gradient cancels, but for the edges. What step i draws
    depends on the seed and i only: interrupted and resumed gives the same weights.

    Raises `TrainingError` as soon as the loss is not finite.
    """
    device = config.torch_device()
    num_classes = state.network.num_classes
    steps, size = config.steps, config.batch_size * min(num_classes, 10)
    order = torch.randperm(len(z), generator=Stream(state.seed, "held out").generator())
    kept_apart = order[: round(config.held_out * len(z))]
    kept = order[len(kept_apart) :].sort().values
    if len(kept) < 1:
        raise InputError(f"held_out {config.held_out} leaves none of {len(z)} points to train on")
    points = z.float()
    batches = _batches(kept, size, state)
    noise = config.noise()
    scheme = preconditioning(config.preconditioning)
    averaged: list[Tensor] = list(state.average.parameters())
    current = [parameter.detach() for parameter in state.network.parameters()]

    while state.step < steps:
        generator = Stream(state.seed, "training").generator(state.step)
        rows = next(batches)
        sigma = noise.draw(len(rows), generator).float().repeat(2)
        eps = torch.randn(len(rows), points.shape[1], generator=generator)
        eps = torch.cat([eps, -eps])
        chosen = None
        if label is not None:
            dropped = torch.rand(len(rows), generator=generator) < config.label_dropout
            chosen = torch.where(dropped, num_classes, label[rows]).repeat(2).to(device)
        rate = config.learning_rate * (1 - state.step / steps) * min(1, (state.step + 1) / _WARM_UP)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        loss = denoising_loss(
            state.network,
            scheme,
            points[rows].repeat(2, 1).to(device),
            sigma.to(device),
            eps.to(device),
            chosen,
        )
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {state.step + 1} of {steps}, learning rate {rate:.3g}; "
                "try a lower learning_rate"
            )
        state.optimizer.step()
        torch._foreach_lerp_(averaged, current, 1 / (1 + config.averaging * state.step))
        state.history.loss.append(value)
        state.step += 1
        if len(kept_apart) and (state.step % max(1, steps // 50) == 0 or state.step == steps):
            held = kept_apart
            apart = None if label is None else label[held].to(device)
            held_loss, _ = expected_loss(state.average, config, points[held].to(device), apart)
            state.history.held_out.append((state.step, held_loss))
        yield state


_WARM_UP = 20


def _batches(rows: Tensor, size: int, state: TrainState) -> Iterator[Tensor]:
    """Yield the rows of each step from `state.step` on, cut from one endless run of shuffled epochs."""
    n = len(rows)
    first = state.step * size
    epoch, skip = divmod(first, n)
    deck = rows.new_empty(0)
    while True:
        while len(deck) < size + skip:
            shuffled = rows[torch.randperm(n, generator=Stream(state.seed, "epoch").generator(epoch))]
            deck, epoch = torch.cat([deck, shuffled]), epoch + 1
        yield deck[skip : skip + size]
        deck, skip = deck[skip + size :], 0


def fingerprint(z: Points, label: Labels | None, config: TrainConfig, *, seed: int) -> str:
    """Return a digest of all that decides the trained weights: points, labels, settings, seed."""
    digest = hashlib.sha256(json.dumps([asdict(config), seed, list(z.shape)]).encode())
    digest.update(z.double().numpy().tobytes())
    if label is not None:
        digest.update(label.numpy().tobytes())
    return digest.hexdigest()


def history_tensors(history: History) -> dict[str, Tensor]:
    """Return the history as tensors, for a file."""
    return {
        "history.loss": torch.tensor(history.loss, dtype=torch.float32),
        "history.held_out": torch.tensor(history.held_out, dtype=torch.float64).reshape(-1, 2),
    }


def history_from(tensors: dict[str, Tensor] | Any) -> History:
    """Return the history that `history_tensors` put into a file."""
    held_out = [(int(step), float(loss)) for step, loss in tensors["history.held_out"].tolist()]
    return History(tensors["history.loss"].tolist(), held_out)
