"""Fitting: from a table to a `FittedModel`."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from toydiffusion.codec import Bounds, Cells, Codec, PowerMap, Standardizer
from toydiffusion.denoisers import Network
from toydiffusion.distributions import Distribution, Prior, moments
from toydiffusion.errors import InputError, seed_number, shown
from toydiffusion.experts import Experts, ExpertsReport, TableConfig, fit_experts, prefers_power
from toydiffusion.model.fitted_model import FittedModel, Provenance
from toydiffusion.model.folder_fitting import batch_of, codec_of, moments_of, survey
from toydiffusion.processes import Processes, processes
from toydiffusion.progress import bar
from toydiffusion.solvers import SampleConfig
from toydiffusion.tables import Table, TableFolder, check_for_fit, default_columns
from toydiffusion.threads import one_thread
from toydiffusion.training import (
    Checkpoint,
    History,
    TrainConfig,
    TrainState,
    check_checkpoint,
    fingerprint,
    run,
    train,
    train_streamed,
)
from toydiffusion.types import Denoiser, FloatArray, Points

MOST_IN_MEMORY = 100_000
"""The rows of a folder, chosen at random, to which a model for tables is fitted."""
_FEW = 4000
"""Up to so many rows a second thread does not pay for the mixtures."""


def fit(
    table: Table | TableFolder,
    config: TrainConfig | TableConfig,
    sampling: SampleConfig,
    *,
    seed: int = 0,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 30.0,
    resume: bool = False,
) -> FittedModel:
    """Fit a model to the table. `Diffusion.fit` explains the arguments."""
    import toydiffusion

    seed = seed_number(seed)
    if resume and checkpoint is None:
        raise InputError("resume needs the checkpoint to go on from")
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    keeping = _Keeping(checkpoint, checkpoint_every, resume)
    together = processes()
    progress = progress if together.first else False
    num_points = table.num_rows if isinstance(table, TableFolder) else len(table.points)
    if isinstance(config, TableConfig):
        if together.count > 1:
            raise InputError(
                "a stack of experts is fitted by one process; torchrun shares the training of one network, "
                "so take another preset than table"
            )
        if isinstance(table, TableFolder):
            table = table.sample(MOST_IN_MEMORY, seed=seed)
            num_points = len(table.points)
        with one_thread() if num_points <= _FEW else nullcontext():
            found = _fit_experts(table, config, seed, progress, keeping)
    elif isinstance(table, TableFolder):
        found = _fit_folder(table, config, seed, progress, keeping, together)
    else:
        found = _fit_network(table, config, seed, progress, keeping, together)
    return FittedModel(
        codec=found.codec,
        denoiser=found.denoiser,
        prior=found.prior,
        config=found.config,
        sampling=sampling,
        history=found.history,
        provenance=Provenance(
            seed=seed,
            num_points=num_points,
            versions=(("toydiffusion", toydiffusion.__version__), ("torch", str(torch.__version__))),
            source_digest=table.digest if isinstance(table, Table) else None,
        ),
        experts=found.experts,
    )


class _Keeping(NamedTuple):
    """The file of the checkpoint, if there is one, and whether to go on from it."""

    path: str | os.PathLike[str] | None
    every: float
    resume: bool

    def checkpoint(self, key: str) -> Checkpoint | None:
        """Return the checkpoint of this fingerprint, or None without a file."""
        return None if self.path is None else Checkpoint(self.path, key, self.every)


class _Found(NamedTuple):
    """What fitting finds: the parts of a `FittedModel`."""

    codec: Codec
    denoiser: Denoiser
    prior: Prior
    config: TrainConfig | TableConfig
    history: History
    experts: ExpertsReport | None = None


def _fit_network(
    table: Table,
    config: TrainConfig,
    seed: int,
    progress: bool | None,
    keeping: _Keeping,
    together: Processes,
) -> _Found:
    """Train one network."""
    check_for_fit(table)
    codec = Codec.fit(table, standardize=config.standardize)
    z, label = codec.to_z(table), codec.table_index(table)
    state = TrainState.start(codec.dim, codec.num_classes, config, seed=seed)
    training = train(state, z, label, config, together)
    steps = config.total_steps(len(z), codec.num_classes)
    key = fingerprint(z, label, config, seed=seed)
    _train(state, training, steps, key, progress, keeping, together)
    prior = Prior(moments(z, label), config.sigma_max)
    return _Found(codec, state.trained.cpu().eval(), prior, config, state.history)


def _train(
    state: TrainState,
    training: Iterator[TrainState],
    steps: int,
    key: str,
    progress: bool | None,
    keeping: _Keeping,
    together: Processes,
) -> None:
    """Train to the end, with a progress bar; `key` is the fingerprint of the points and settings."""
    checkpoint = keeping.checkpoint(key)
    if keeping.resume and checkpoint is not None:
        checkpoint.resume(state)
    together.check_same(f"{key} at step {state.step}", "points, settings, seeds or checkpoints")
    with bar("training", steps, progress) as move:
        for event in run(state, training, steps, checkpoint, together):
            if event.step % 10 == 0 or event.step == event.steps:
                move(event.step, f"loss {event.loss:.4f}")


def _fit_folder(
    folder: TableFolder,
    config: TrainConfig,
    seed: int,
    progress: bool | None,
    keeping: _Keeping,
    together: Processes,
) -> _Found:
    """Train one network on rows that are fetched as they are needed."""
    found = survey(folder, progress)
    codec = codec_of(folder, found, standardize=config.standardize)
    state = TrainState.start(codec.dim, codec.num_classes, config, seed=seed)
    key = hashlib.sha256(json.dumps([asdict(config), seed, found.digest]).encode()).hexdigest()
    take = partial(batch_of, folder, codec)
    training = train_streamed(state, take, folder.num_rows, config, together)
    steps = config.total_steps(folder.num_rows, codec.num_classes)
    _train(state, training, steps, key, progress, keeping, together)
    prior = Prior(moments_of(found, codec), config.sigma_max)
    return _Found(codec, state.trained.cpu().eval(), prior, config, state.history)


def _fit_experts(
    table: Table, config: TableConfig, seed: int, progress: bool | None, keeping: _Keeping
) -> _Found:
    """Fit a mixture and networks, and stack them."""
    codec, points = _table_codec(table, config, seed)
    z, label = codec.to_z(replace(table, points=points)), codec.table_index(table)
    found: Experts | None = None
    with bar("fitting", max(1, config.most_steps(len(z))), progress) as move:
        checkpoint = keeping.checkpoint(fingerprint(z, label, config, seed=seed))
        for event in fit_experts(z, label, config, seed=seed, checkpoint=checkpoint, resume=keeping.resume):
            if isinstance(event, Experts):
                found = event
            else:
                move(event.step, event.note)
    assert found is not None
    return _Found(
        codec,
        found.denoiser,
        Prior(found.denoiser.law, config.sigma_max),
        replace(config, sigma_min=found.sigma_min),
        History(),
        found.report,
    )


def _table_codec(table: Table, config: TableConfig, seed: int) -> tuple[Codec, FloatArray]:
    """Return the codec of a table, and its points with the values of rounded columns spread over cells."""
    points = table.points
    check_for_fit(table, constants=True)
    constant = points.min(axis=0) == points.max(axis=0)
    varying = np.flatnonzero(~constant)
    declared = config.steps_of_grid
    if declared is not None and len(declared) != points.shape[1]:
        raise InputError(f"steps_of_grid has {len(declared)} steps for {points.shape[1]} columns")
    names = [(table.columns or default_columns(points.shape[1]))[j] for j in varying]
    cells = Cells.find(points[:, varying], declared and [declared[j] for j in varying], names)
    _check_independent(points[:, varying], names, table.source)
    ends = config.bounds
    if ends is not None and len(ends) != points.shape[1]:
        raise InputError(f"bounds has {len(ends)} pairs for {points.shape[1]} columns")
    points = points.copy()
    points[:, varying] = cells.spread(points[:, varying], seed=seed)
    x = torch.from_numpy(points[:, varying])
    bounds = None
    if ends is not None and any(ends[j] for j in varying):
        bounds = _bounds(x, [ends[j] for j in varying], cells, names, table.source)
        x = bounds.forward(x)
    codec = Codec(
        Standardizer.fit(x),
        table.columns,
        None if table.labels is None else np.unique(table.labels),
        table.label_column,
        cells=cells,
        constants=tuple((int(j), float(points[0, j])) for j in np.flatnonzero(constant)),
        bounds=bounds,
    )
    power = PowerMap.fit(x)
    if not config.power or bool((power.power == 1).all()):
        return codec, points
    powered = replace(codec, power=power, standardizer=Standardizer.fit(power.forward(x)))
    spread = replace(table, points=points)
    gain = torch.from_numpy(powered.log_det(points) - codec.log_det(points))
    better = prefers_power(
        codec.to_z(spread), powered.to_z(spread), gain, codec.table_index(table), config, seed=seed
    )
    return powered if better else codec, points


def _bounds(
    x: Points,
    ends: Sequence[tuple[float | None, float | None] | None],
    cells: Cells,
    names: Sequence[str],
    source: str,
) -> Bounds:
    """Return the bounds of columns x `(n, d)`. In rounded ones they hold whole cells."""
    pairs = [pair or (None, None) for pair in ends]
    low = np.array([-math.inf if one is None else one for one, _ in pairs])
    high = np.array([math.inf if one is None else one for _, one in pairs])
    low, high = cells.ends(low, high)
    found = Bounds(torch.from_numpy(low), torch.from_numpy(high), x.std(0, correction=0))
    if not bool((inside := found.inside(x)).all()):
        row, j = (int(one) for one in (~inside).nonzero()[0])
        raise InputError(
            f"{source}: column {shown(names[j])} has {float(x[row, j]):g} in row {row + 1} (counted from 1), "
            "which is not between its bounds; a bound must lie beyond all values that are not rounded"
        )
    return found


def _check_independent(points: FloatArray, names: Sequence[str], source: str) -> None:
    """Raise `InputError` for a column that is a linear function of others: it has no density beside them."""
    z = points - points.mean(axis=0)
    z /= np.abs(z).max(axis=0)
    z /= np.sqrt((z**2).mean(axis=0))
    n, dim = z.shape
    if dim < 2 or n < 3:
        return
    correlation = z.T @ z / n
    alike = np.argwhere(np.triu(np.abs(correlation) > 1 - 1e-14, 1))
    if len(alike):
        first, second = (shown(names[j]) for j in alike[0])
        raise InputError(
            f"{source}: columns {first} and {second} are the same up to a shift and a scale; leave one out"
        )
    if n <= dim:
        return
    _, sizes, directions = np.linalg.svd(z / math.sqrt(n), full_matrices=False)
    if sizes[-1] < 1e-9:
        part = [shown(name) for name, one in zip(names, directions[-1], strict=True) if abs(one) > 1e-3]
        raise InputError(
            f"{source}: columns {', '.join(part)} depend on each other linearly, so they have no density "
            "together; leave one out"
        )


def fit_endless(model: FittedModel, truth: Distribution) -> Denoiser:
    """Train the same network on fresh points of `truth`, in z, none of them seen twice; in float64."""
    classes, num_points = model.codec.num_classes, model.provenance.num_points
    given = model.config
    if not isinstance(given, TrainConfig):
        raise InputError("endless needs a model with one network; a model for tables has a stack of experts")
    config = replace(
        given,
        steps=given.total_steps(num_points, classes),
        batch_size=given.points_per_step(num_points),
    )
    assert config.steps is not None
    assert config.batch_size is not None
    z, label = truth.rows(0, config.steps * config.batch_size, seed=model.provenance.seed + 1)
    state = TrainState.start(model.dim, classes, config, seed=model.provenance.seed)
    for _ in run(state, train(state, z, label if classes > 1 else None, config), config.steps):
        pass
    network: Network = deepcopy(state.trained).cpu().double().requires_grad_(False)
    return network
