"""Sampling from a fitted model: plain functions of (model, rows, plan, labels)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from toydiffusion.density import class_posterior
from toydiffusion.distributions import Prior
from toydiffusion.errors import InputError, seed_number, whole_number
from toydiffusion.model.fitted_model import FittedModel
from toydiffusion.progress import bar
from toydiffusion.row_noise import RowNoise
from toydiffusion.solvers import SampleConfig, last, solver, trajectory
from toydiffusion.threads import in_threads
from toydiffusion.types import FloatArray, LabelArray, Labels, Points


class Block(NamedTuple):
    """Some rows of a sample: points `(k, d)` in x, and their labels `(k,)` if they have any."""

    points: FloatArray
    labels: LabelArray | None


def rows_from(first_row: int, n: object) -> range:
    """Return the rows `first_row` to `first_row + n - 1` of an endless sample."""
    first = whole_number("first_row", first_row, 0)
    stop = first + whole_number("n", n, 0, hint=", the number of points")
    if stop >= 2**63:
        raise InputError(f"rows are numbered below 2**63, got rows up to {stop}")
    return range(first, stop)


def sample_blocks(
    model: FittedModel,
    rows: range,
    plan: SampleConfig | None,
    label: Labels | None = None,
    *,
    given: Points | None = None,
    seed: int = 0,
    batch_size: int = 8192,
    progress: bool | None = False,
) -> Iterator[Block]:
    """Yield the points of these rows, `batch_size` at a time, in constant memory.

    The arguments are checked here, before the first block.

    - `rows`: which rows of the endless sample of `seed`.
    - `plan`: how to sample. None is the model's own way: the student of a distilled model, if nothing is
      given to start from, and otherwise the settings of the model.
    - `label`: class indices `(n,)`, or None for the mixture of the classes.
    - `given`: points `(n, d)` in z to noise and start from, instead of the prior.
    """
    student = model.student.samples if model.student and plan is None and given is None else None
    plan = plan or model.sampling
    denoiser, levels = model.guided(plan.guidance), plan.levels(model.sigma_min, model.sigma_max)
    method, seed = solver(plan.solver), seed_number(seed)
    batch_size = whole_number("batch_size", batch_size, 1)
    top = float(levels[0]) if student is None else student.sigma

    @torch.no_grad()
    def block(part: slice) -> Block:
        own = None if label is None else label[part]
        start, own = _start(model, rows[part], top, own, None if given is None else given[part], seed)
        if student is not None:
            z = student.ends(start, model.prior.distribution, own)
            return Block(model.codec.to_x(z, snapped=True), model.codec.labels(own))
        points = trajectory(
            denoiser,
            start,
            levels,
            method,
            label=own,
            seed=seed,
            first_row=rows[part].start,
            churn=plan.churn,
            moments=model.prior.distribution,
        )
        return Block(model.codec.to_x(last(points), snapped=True), model.codec.labels(own))

    def blocks() -> Iterator[Block]:
        with bar("sampling", len(rows), progress) as move:
            parts = [slice(first, first + batch_size) for first in range(0, max(len(rows), 1), batch_size)]
            for part, found in zip(parts, in_threads(block, parts, model.device), strict=True):
                yield found
                move(min(part.stop, len(rows)), "")

    return blocks()


def joined(blocks: Iterable[Block]) -> Block:
    """Return the blocks one after another, as one."""
    points, labels = zip(*blocks, strict=True)
    known = [part for part in labels if part is not None]
    return Block(np.concatenate(points), np.concatenate(known) if known else None)


@torch.no_grad()
def sample_trajectory(
    model: FittedModel, rows: range, plan: SampleConfig, label: Labels | None = None, *, seed: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Return the points of these rows at every level, `(steps + 1, n, d)`, and the levels, the last one 0."""
    denoiser, levels = model.guided(plan.guidance), plan.levels(model.sigma_min, model.sigma_max)
    start, own = _start(model, rows, float(levels[0]), label, None, seed)
    points = list(
        trajectory(
            denoiser,
            start,
            levels,
            solver(plan.solver),
            label=own,
            seed=seed,
            first_row=rows.start,
            churn=plan.churn,
            moments=model.prior.distribution,
        )
    )
    stages = [model.codec.to_x(z, snapped=i == len(points) - 1) for i, z in enumerate(points)]
    return np.stack(stages), np.append(levels.numpy(), 0.0)


def _start(
    model: FittedModel, rows: range, sigma: float, label: Labels | None, given: Points | None, seed: int
) -> tuple[Points, Labels | None]:
    """Return noisy points at `sigma` to start from, and their labels; None in a model without labels.

    Both are on the device of the model. The random numbers are made on the CPU.
    """
    if given is None:
        start, label = Prior(model.prior.distribution, sigma).rows(rows, seed=seed, label=label)
    else:
        start = given + sigma * RowNoise(seed, "renoise").normal(rows.start, rows.stop, dim=model.dim)
        if label is None and model.codec.classes is not None:
            # Given a noisy point, its class in the mixture has this posterior.
            level = torch.full((len(rows),), sigma, dtype=torch.float64)
            below = torch.from_numpy(class_posterior(model.density(), start, level)).cumsum(1)
            choice = RowNoise(seed, "class of a given point").uniform(rows.start, rows.stop, dim=1)
            label = (choice >= below[:, :-1]).sum(1)
    if model.codec.classes is None or label is None:
        return start.to(model.device), None
    return start.to(model.device), label.to(model.device)
