"""The steps of training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from toydiffusion.errors import InputError
from toydiffusion.processes import ALONE, Processes
from toydiffusion.row_noise import RowNoise
from toydiffusion.threads import one_thread
from toydiffusion.training.checkpoint import Checkpoint, kept
from toydiffusion.training.config import TrainConfig
from toydiffusion.training.gradient import MirroredLoss
from toydiffusion.training.loss import expected_loss
from toydiffusion.training.state import TrainState
from toydiffusion.types import Labels, Points


class TrainingError(ArithmeticError):
    """The loss is no longer a finite number; the message names the step and the learning rate."""


class Batch(NamedTuple):
    """Points of a step: `points` `(b, d)` float32 in z, and their class indices `labels` `(b,)` or None."""

    points: Points
    labels: Labels | None


def train(
    state: TrainState,
    z: Points,
    label: Labels | None,
    config: TrainConfig,
    processes: Processes = ALONE,
) -> Iterator[TrainState]:
    """Carry `state` on to the last step, and yield it after every step; see `train_on`.

    A step takes the next points of a shuffled epoch. The share `config.held_out` of the points is kept apart.

    - `z` `(n, d)`, `label` `(n,)` or None: the points and their class indices.
    - `processes`: those that share the work, all of them given the same arguments.
    """
    order = torch.randperm(len(z), generator=RowNoise(state.seed, "held out").generator())
    kept_apart = order[: round(config.held_out * len(z))]
    rows = order[len(kept_apart) :].sort().values
    if len(rows) < 1:
        raise InputError(f"held_out {config.held_out} leaves none of {len(z)} points to train on")
    points = z.float()

    def at(rows: Tensor) -> Batch:
        return Batch(points[rows], None if label is None else label[rows])

    size = config.points_per_step(len(z))
    steps = config.total_steps(len(z), state.weights.network.num_classes)
    batches = map(at, map(processes.own, _batches(rows, size, state)))
    held_out = at(kept_apart) if len(kept_apart) else None
    return train_on(state, batches, held_out, config, size=size, steps=steps, processes=processes)


def train_on(
    state: TrainState,
    batches: Iterator[Batch],
    held_out: Batch | None,
    config: TrainConfig,
    *,
    size: int,
    steps: int,
    processes: Processes = ALONE,
) -> Iterator[TrainState]:
    """Carry `state` on to the last step, and yield it after every step.

    A step takes a batch and as many noise levels, one from each of as many strata. It moves the weights down
    the gradient of `denoising_loss`. Every point comes with its noise and with the opposite noise: at low
    sigma the network's target is -eps nearly everywhere, so the two contributions to the gradient cancel
    except at the edges.

    The random numbers of step i depend on the seed and on i only. So an interrupted and resumed run ends with
    the same weights.

    With several processes each computes the gradient at its own part of the points. One sum over all
    processes then gives each of them the gradient of the whole step. They draw the same noise, so the step is
    that of one process up to rounding.

    - `batches`: the points of step `state.step` and of those after it; of each only this process's part.
    - `held_out`: points to measure the loss on, or None.
    - `size`: the number of points of a step in all processes.
    - `steps`: the number of the last step.
    - `processes`: those that share each step.

    Raises `TrainingError` as soon as the loss is not finite, and `ConnectionError` when another process ends.
    """
    if size < processes.count:
        raise InputError(
            f"batch_size must be at least {processes.count}, the number of processes, got {size}"
        )
    network = state.weights.network
    device, num_classes = state.weights.values.device, network.num_classes
    noise = config.noise()
    mirrored_loss = MirroredLoss(state.weights)
    while state.step < steps:
        generator = RowNoise(state.seed, "training").generator(state.step)
        points, label = next(batches)
        sigma = processes.own(noise.sample_sigma(size, generator).float())
        eps = processes.own(torch.randn(size, network.dim, generator=generator))
        chosen = None
        if label is not None:
            dropped = processes.own(torch.rand(size, generator=generator)) < config.label_dropout
            chosen = torch.where(dropped, num_classes, label).to(device)
        loss, gradient = mirrored_loss(points.to(device), sigma.to(device), eps.to(device), chosen)
        if processes.count > 1:
            whole = processes.total(torch.cat([gradient, loss[None]]) * (len(points) / size))
            gradient, loss = whole[:-1], whole[-1]
        value = loss.item()
        rate = config.learning_rate * (1 - state.step / steps) * min(1, (state.step + 1) / _WARM_UP)
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {state.step + 1} of {steps}, learning rate {rate:.3g}; "
                "try a lower learning_rate"
            )
        _adam(state, gradient, rate)
        state.average.values.lerp_(state.weights.values, 1 / (1 + config.averaging * state.step))
        state.loss.append(value)
        state.step += 1
        if held_out is not None and (state.step % max(1, steps // 50) == 0 or state.step == steps):
            apart = None if held_out.labels is None else held_out.labels.to(device)
            # The same noise each time, so that differences of the losses are those of the weights.
            held_loss, _ = expected_loss(state.average.network, config, held_out.points.to(device), apart)
            if held_loss <= min((before for _, before in state.held_out), default=math.inf):
                state.best = state.average.values.clone()
            state.held_out.append((state.step, held_loss))
        yield state


def _adam(state: TrainState, gradient: Tensor, rate: float) -> None:
    """Change the weights by Adam's rule (Kingma & Ba 2015, algorithm 1), as step `state.step + 1`."""
    mean, square = state.moments
    mean.lerp_(gradient, 1 - _BETAS[0])
    square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
    first, second = (1 - beta ** (state.step + 1) for beta in _BETAS)
    state.weights.values.addcdiv_(mean, (square / second).sqrt_().add_(1e-8), value=-rate / first)


_BETAS = (0.9, 0.999)
"""The decay of the running means of the gradient and of its square."""
_WARM_UP = 20


def _batches(rows: Tensor, size: int, state: TrainState) -> Iterator[Tensor]:
    """Yield the rows of each step from `state.step` on, cut from one endless sequence of shuffled epochs."""
    n = len(rows)
    epoch, skip = divmod(state.step * size, n)
    deck = rows.new_empty(0)
    while True:
        # All the epochs that this step needs at once: a batch may be far larger than the points are many.
        epochs = range(epoch, epoch - (-max(size + skip - len(deck), 0) // n))
        deck = torch.cat([deck, *(rows[_shuffle(n, state.seed, e)] for e in epochs)])
        epoch = epochs.stop
        yield deck[skip : skip + size]
        deck, skip = deck[skip + size :], 0


def _shuffle(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=RowNoise(seed, "epoch").generator(epoch))


@dataclass(frozen=True)
class TrainEvent:
    """What training reports after each step.

    - `step`: the steps done so far.
    - `steps`: the steps in all.
    - `loss`: the mean loss over the last 50 steps.
    """

    step: int
    steps: int
    loss: float


def run(
    state: TrainState,
    training: Iterator[TrainState],
    steps: int,
    checkpoint: Checkpoint | None = None,
    processes: Processes = ALONE,
) -> Iterator[TrainEvent]:
    """Train to the end, and yield an event after each step; see `kept` for interruptions.

    - `training`: what `train` or `train_on` returned for the state.
    - `steps`: the number of the last step.
    - `checkpoint`: the file to go on from later, which the first process writes.
    - `processes`: those that share the work. All stop at the same step when one is interrupted.
    """
    with one_thread():
        for _ in kept(training, state, checkpoint if processes.first else None, processes.agreed):
            yield TrainEvent(state.step, steps, sum(state.loss[-50:]) / len(state.loss[-50:]))
