"""The training of students on what their teacher computed for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from toydiffusion.denoisers import Network
from toydiffusion.distillation.checks import COVERAGE, normalised
from toydiffusion.distillation.config import DistillConfig
from toydiffusion.distillation.lessons import Ground, Note, log_densities, slopes, start_level
from toydiffusion.distillation.soap import Soap
from toydiffusion.model import FittedModel
from toydiffusion.row_noise import RowNoise
from toydiffusion.students import (
    SCALES,
    ZONES,
    DensityStudent,
    SampleStudent,
    StudentNetwork,
    student_sizes,
)
from toydiffusion.training import TrainingError
from toydiffusion.types import Labels, Points


def networks_of(teacher: FittedModel, config: DistillConfig, seed: int) -> dict[str, StudentNetwork]:
    """Return the networks of both students before their training, by name, with the teacher's edges."""
    own = teacher.denoiser
    assert isinstance(own, Network)
    sizes = student_sizes(
        teacher.dim,
        teacher.codec.num_classes,
        width=config.units(teacher.codec.num_classes),
        hidden_layers=config.hidden_layers,
        edges=len(SCALES) * len(own.edge_offset),
    )
    networks = {}
    for name, one in sizes.items():
        network = StudentNetwork(one, RowNoise(seed, f"student {name}").generator())
        if one.edges:
            network.take_edges(own, teacher.sigma_min)
        networks[name] = network.to(teacher.device)
    return networks


def _minimise(
    networks: Iterable[StudentNetwork],
    n: int,
    loss_at: Callable[[Tensor], Tensor],
    config: DistillConfig,
    seed: int,
    note: Note,
) -> None:
    """Train networks on n rows by `Soap`, and leave the average of their weights over the last steps.

    - `loss_at`: maps row numbers `(batch,)` to their mean loss.
    """
    weights: list[Tensor] = [
        weight for network in networks for weight in network.parameters() if weight.numel()
    ]
    average = [weight.detach().clone() for weight in weights]
    optimiser, deck = Soap(weights), torch.empty(0, dtype=torch.int64)
    generator = RowNoise(seed, "student batches").generator()
    size = min(config.batch_size, n)
    for step in range(config.steps):
        if len(deck) < size:
            deck = torch.cat([deck, torch.randperm(n, generator=generator)])
        rows, deck = deck[:size], deck[size:]
        loss = loss_at(rows)
        rate = config.learning_rate * (1 - step / config.steps) * min(1, (step + 1) / _WARM_UP)
        if step % 100 == 0:
            note(step)
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"the loss of a student is {loss.item()} at step {step + 1} of {config.steps}, learning "
                    f"rate {rate:.3g}; try a lower learning_rate"
                )
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = torch.zeros_like(weight) if gradient is None else gradient
        optimiser.step(rate)
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 / (1 + _AVERAGING * step))
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=True):
            weight.copy_(mean)
            weight.grad = None
            weight.requires_grad_(False)


_WARM_UP = 20
_AVERAGING = 0.3
"""The share of the steps so far over which the weights are averaged."""


def sample_student(
    teacher: FittedModel,
    networks: Mapping[str, StudentNetwork],
    z: Points,
    label: Labels | None,
    ends: Points,
    config: DistillConfig,
    seed: int,
    note: Note,
) -> SampleStudent:
    """Return a student of the pairs of start and end point, trained by their mean absolute distance."""
    device = teacher.device
    student = SampleStudent(networks["coarse"], networks["fine"], start_level(teacher))
    g = student.gaussian(z, teacher.prior.distribution, label).float().to(device)
    goal, own = ends.float().to(device), None if label is None else label.to(device)

    def loss_at(rows: Tensor) -> Tensor:
        there = rows.to(device)
        first, end = student.both(g[there], None if own is None else own[there])
        return (end - goal[there]).abs().mean() + _COARSE * (first - goal[there]).abs().mean()

    _minimise([student.coarse, student.fine], len(z), loss_at, config, seed, note)
    return student


_COARSE = 0.1
"""The weight of the coarse points in the loss. They need to be near enough to see the right edges."""


def density_student(
    teacher: FittedModel,
    network: StudentNetwork,
    ground: Ground,
    samples: Points,
    sample_label: Labels | None,
    config: DistillConfig,
    seed: int,
    notes: tuple[Note, Note],
) -> DensityStudent:
    """Return a student of the log-densities, before its error bars are calibrated.

    - `samples`, `sample_label`: the teacher's samples, from which the points to learn from are made.
    - `notes`: are called while the teacher computes, and while the student learns.

    The loss is Huber's for the value, the pinball loss at 99 % for the logarithms of the error and of the
    mismatch of the prior, and the absolute error of the logarithm of the slope.
    """
    device, classes = teacher.device, teacher.codec.num_classes
    rows = torch.arange(config.num_points(classes)) % len(samples)
    z = ground.points(samples[rows], _SHARES, seed=seed, purpose="lessons")
    label = None if sample_label is None else sample_label[rows]
    found = log_densities(teacher, z, label, note=notes[0])
    value = torch.from_numpy(found.value)
    prior = torch.from_numpy(found.prior_error).clamp(min=_LEAST).log()
    slope = slopes(teacher, z, label).clamp(min=1.0).log()
    with torch.no_grad():
        # From what is typical, so that no step goes into that.
        typical = [value.median(), torch.tensor(_TYPICAL).log(), prior.median(), slope.median()]
        network.biases[-1].copy_(torch.stack(typical))
    places, goals = z.float().to(device), torch.stack([value, prior, slope], 1).float().to(device)
    own = None if label is None else label.to(device)

    def loss_at(rows: Tensor) -> Tensor:
        there = rows.to(device)
        at, goal = places[there], goals[there]
        outputs = network(at, None if own is None else own[there])
        miss = outputs[:, 0] - goal[:, 0]
        main = torch.nn.functional.huber_loss(miss, torch.zeros_like(miss), delta=_HUBER) / _HUBER
        error = miss.detach().abs().clamp(min=_LEAST).log()
        beside = _pinball(error - outputs[:, 1]) + _pinball(goal[:, 1] - outputs[:, 2])
        loss: Tensor = main + _BESIDE * (beside + (goal[:, 2] - outputs[:, 3]).abs().mean())
        return loss

    _minimise([network], len(z), loss_at, config, seed, notes[1])
    zero, one = torch.zeros(classes).double(), torch.ones(len(ZONES)).double()
    bare = DensityStudent(network, ground.low, ground.high, log_mass=zero, threshold=zero, factors=one)
    student = normalised(
        teacher, bare, samples[:_GUIDES], None if sample_label is None else sample_label[:_GUIDES]
    )
    inside = torch.from_numpy(student.log_prob(samples, sample_label).value)
    kinds = [slice(None)] if sample_label is None else [sample_label == c for c in range(classes)]
    return replace(student, threshold=torch.stack([inside[kind].quantile(_RARE) for kind in kinds]))


_SHARES = (0.5, 0.2)
"""The shares of samples, and of samples with noise, among the points to learn from (`Ground.points`)."""
_GUIDES = 20_000
"""Samples that show where the mass is."""
_RARE = 0.005
"""The share of the samples that are outside."""
_HUBER = 0.1
"""Where the loss turns from squared to absolute, in nats."""
_BESIDE = 0.1
"""The weight of what is learned beside the value."""
_TYPICAL = 0.02
"""A typical error, in nats."""
_LEAST = 1e-5
"""Errors and mismatches below this, in nats, are taken as this."""


def _pinball(miss: Tensor) -> Tensor:
    return torch.maximum(COVERAGE * miss, (COVERAGE - 1) * miss).mean()
