"""Fitting: from a table to a `FittedModel`."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import replace

import torch

from toydiffusion.codec import Codec
from toydiffusion.denoisers import Network
from toydiffusion.distributions import Distribution, Prior, moments
from toydiffusion.errors import InputError, seed_number
from toydiffusion.model.fitted_model import FittedModel, Provenance
from toydiffusion.progress import bar
from toydiffusion.solvers import SampleConfig
from toydiffusion.tables import Table, check_for_fit
from toydiffusion.training import TrainConfig, TrainState, check_checkpoint, fingerprint, run
from toydiffusion.types import Denoiser


def fit(
    table: Table,
    config: TrainConfig,
    sampling: SampleConfig,
    *,
    seed: int = 0,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> FittedModel:
    """Train a network on the table, and return the fitted model. `Diffusion.fit` explains the arguments."""
    import toydiffusion

    check_for_fit(table)
    seed = seed_number(seed)
    if resume and checkpoint is None:
        raise InputError("resume needs the checkpoint to go on from")
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    codec = Codec.fit(table, standardize=config.standardize)
    z, label = codec.to_z(table), codec.table_index(table)
    key = fingerprint(z, label, config, seed=seed)
    state = TrainState.start(codec.dim, codec.num_classes, config, seed=seed)
    if resume and checkpoint is not None:
        state.resume(checkpoint, key)
    with bar("training", config.total_steps(len(z), codec.num_classes), progress) as move:
        for event in run(state, z, label, config, key=key, checkpoint=checkpoint):
            if event.step % 10 == 0 or event.step == event.steps:
                move(event.step, f"loss {event.loss:.4f}")
    return FittedModel(
        codec=codec,
        denoiser=state.trained.cpu().eval(),
        prior=Prior(moments(z, label), config.sigma_max),
        config=config,
        sampling=sampling,
        history=state.history,
        provenance=Provenance(
            seed=seed,
            num_points=len(z),
            versions=(("toydiffusion", toydiffusion.__version__), ("torch", str(torch.__version__))),
            source_digest=table.digest,
        ),
    )


def fit_endless(model: FittedModel, truth: Distribution) -> Denoiser:
    """Train the same network on fresh points of `truth`, in z, none of them seen twice; in float64."""
    classes, num_points = model.codec.num_classes, model.provenance.num_points
    config = replace(
        model.config,
        steps=model.config.total_steps(num_points, classes),
        batch_size=model.config.points_per_step(num_points),
    )
    assert config.steps is not None
    assert config.batch_size is not None
    z, label = truth.rows(0, config.steps * config.batch_size, seed=model.provenance.seed + 1)
    state = TrainState.start(model.dim, classes, config, seed=model.provenance.seed)
    for _ in run(state, z, label if classes > 1 else None, config, key="endless"):
        pass
    network: Network = deepcopy(state.trained).cpu().double().requires_grad_(False)
    return network
