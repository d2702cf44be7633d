"""The steps of training."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

import torch
from torch import Tensor

from toydiffusion.denoisers import preconditioning
from toydiffusion.errors import InputError
from toydiffusion.progress import bar
from toydiffusion.row_noise import RowNoise
from toydiffusion.training.config import TrainConfig
from toydiffusion.training.loss import denoising_loss, expected_loss
from toydiffusion.training.state import TrainState
from toydiffusion.types import Labels, Points


class TrainingError(ArithmeticError):
    """The loss is no longer a number."""


def train(state: TrainState, z: Points, label: Labels | None, config: TrainConfig) -> Iterator[TrainState]:
    """Carry `state` on to the last step, yielding it after every step.

    Each step takes points (epochs in fresh random order, one after the other) and one noise level from each
    of as many strata, and moves the weights down the gradient of `denoising_loss`. Every point is seen with
    its noise and with the opposite noise: at low sigma the network's target is -eps nearly everywhere, and
    what the two contribute to the gradient cancels, but for the edges. What step i draws depends on the
    seed and i only: interrupted and resumed gives the same weights.

    Raises `TrainingError` as soon as the loss is not finite.
    """
    device = config.torch_device()
    num_classes = state.network.num_classes
    steps, size = config.total_steps(len(z), num_classes), config.points_per_step(len(z))
    order = torch.randperm(len(z), generator=RowNoise(state.seed, "held out").generator())
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
        generator = RowNoise(state.seed, "training").generator(state.step)
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
            shuffled = rows[torch.randperm(n, generator=RowNoise(state.seed, "epoch").generator(epoch))]
            deck, epoch = torch.cat([deck, shuffled]), epoch + 1
        yield deck[skip : skip + size]
        deck, skip = deck[skip + size :], 0


def run(
    state: TrainState,
    z: Points,
    label: Labels | None,
    config: TrainConfig,
    *,
    key: str,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> None:
    """Train to the end, showing progress and keeping the checkpoint.

    `progress` None draws a bar where someone watches (`progress.bar`). `checkpoint` is written every half
    minute, at the end, and when `KeyboardInterrupt` stops the training, which then goes on; `key` is the
    `fingerprint` of data and settings.
    """
    total = config.total_steps(len(z), state.network.num_classes)
    saved = monotonic()
    threads = torch.get_num_threads()
    # Layers this small gain nothing from a second thread, lose much on a busy machine, and round
    # differently: with one, the weights do not depend on the thread count.
    torch.set_num_threads(1)
    try:
        with _between_steps() as stop_if_asked, bar("training", total, progress) as move:
            for _ in train(state, z, label, config):
                if state.step % 10 == 0 or state.step == total:
                    recent = state.history.loss[-50:]
                    move(state.step, f"loss {sum(recent) / len(recent):.4f}")
                if checkpoint is not None and monotonic() - saved > 30:
                    state.save(checkpoint, key)
                    saved = monotonic()
                stop_if_asked()
    except KeyboardInterrupt:
        if checkpoint is not None:
            state.save(checkpoint, key)
        raise
    finally:
        torch.set_num_threads(threads)
    if checkpoint is not None:
        state.save(checkpoint, key)


@contextmanager
def _between_steps() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back, which could tear a step in two; yield a function that lets it through."""
    asked: list[int] = []

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is signal.default_int_handler:
                handlers[number] = signal.signal(number, lambda number, _: asked.append(number))
    try:
        yield stop_if_asked
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
