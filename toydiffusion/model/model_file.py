"""A fitted model in a file, and back.

A model file may come from anyone. So reading compares all names, shapes and numbers with what they must be,
before anything is built from them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from toydiffusion.baselines import Comparison
from toydiffusion.codec import Codec, Standardizer
from toydiffusion.denoisers import MOST_WEIGHTS, Network, Stacked
from toydiffusion.distributions import GaussianMixture, Prior
from toydiffusion.errors import InputError, nearest, seed_number, shown, whole_number
from toydiffusion.experts import ExpertsReport, TableConfig
from toydiffusion.files import Archive
from toydiffusion.model.fitted_model import FittedModel, Provenance
from toydiffusion.model.stacked_file import (
    Columns,
    check_tensors,
    column_tensors,
    columns_of,
    report_dict,
    report_of,
    stack_of,
    stack_sizes,
    stack_tensors,
)
from toydiffusion.solvers import SampleConfig
from toydiffusion.students import Student
from toydiffusion.training import History, TrainConfig, build
from toydiffusion.types import LabelArray


def save(model: FittedModel, path: str | os.PathLike[str]) -> None:
    """Write the model to a `.safetensors` file, whole or not at all."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or not text.endswith(".safetensors"):
        raise InputError(f"a model file ends in '.safetensors', got {shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of a model file must be text in UTF-8, got {shown(text)}") from None
    denoiser, law, codec = model.denoiser, model.prior.distribution, model.codec
    tensors = {"standardizer.mean": codec.standardizer.mean, "standardizer.scale": codec.standardizer.scale}
    more: dict[str, Any] = {}
    if isinstance(denoiser, Network):
        tensors |= {f"network.{name}": value for name, value in denoiser.state_dict().items()}
        tensors |= model.history.tensors()
        tensors |= {
            "moments.means": law.class_means,
            "moments.covariances": law.class_covariances,
            "moments.frequencies": law.frequencies,
        }
    elif isinstance(denoiser, Stacked) and model.experts is not None:
        tensors |= {**stack_tensors(denoiser), **column_tensors(codec)}
        tensors["calibration"] = torch.tensor(model.experts.calibration, dtype=torch.float64)
        more = {"stack": stack_sizes(denoiser), "experts": report_dict(model.experts)}
    else:
        raise InputError("only a model with its own network can be saved; this one has another denoiser")
    metadata = {
        "config": asdict(model.config),
        "sampling": asdict(model.sampling),
        "columns": codec.columns,
        "label_column": codec.label_column,
        "classes": None if codec.classes is None else codec.classes.tolist(),
        **asdict(model.provenance),
        **more,
    }
    if model.comparison is not None:
        metadata["comparison"] = model.comparison.to_dict()
    if model.student is not None:
        tensors |= {f"student.{name}": value for name, value in model.student.tensors().items()}
        metadata["student"] = model.student.to_dict()
    Archive(tensors, metadata).write(path, "model")


def load(path: str | os.PathLike[str]) -> FittedModel:
    """Return the model that `save` wrote.

    Raises `InputError` for a file that is missing, cut off, altered, of another version, or not a model.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"a model file is named by a path, got {shown(path)}")
    archive = Archive.read(path, "model")
    try:
        return _model(archive)
    except InputError as error:
        raise InputError(f"{shown(str(path))} is not a usable model file: {error}") from None


def _model(archive: Archive) -> FittedModel:
    meta, tensors = archive.metadata, archive.tensors
    names = {
        "config",
        "sampling",
        "columns",
        "label_column",
        "classes",
        *(f.name for f in fields(Provenance)),
    }
    table = "stack" in meta
    _same(
        "metadata", set(meta) - {"student", "comparison"}, names | ({"stack", "experts"} if table else set())
    )
    classes, columns = _classes(meta["classes"]), _columns(meta["columns"])
    if meta["label_column"] is not None and not isinstance(meta["label_column"], str):
        raise InputError("label_column must be text")
    dim = tensors["standardizer.mean"].numel() if "standardizer.mean" in tensors else 0
    count = 1 if classes is None else len(classes)
    found = (_stack if table else _network)(archive, dim, count)
    if dim < 1 or (columns is not None and len(columns) != dim + len(found.columns.constants)):
        raise InputError(f"{dim} means of columns, but the columns are {shown(columns)}")
    prior = Prior(found.law, found.config.sigma_max)
    sigma_min = found.config.sigma_min
    if sigma_min is None:
        raise InputError("its sigma_min is missing")
    sampling = meta["sampling"]
    if isinstance(sampling, dict) and sampling.get("solver") == "adams-bashforth":
        # Files of earlier versions name the default solver after its first half.
        sampling = {**sampling, "solver": "adams"}
    _check_answers(found.denoiser, prior, sigma_min)
    return FittedModel(
        codec=Codec(
            Standardizer(tensors["standardizer.mean"], tensors["standardizer.scale"]),
            columns,
            classes,
            meta["label_column"],
            *found.columns,
        ),
        denoiser=found.denoiser,
        prior=prior,
        config=found.config,
        sampling=_config(SampleConfig, sampling),
        history=found.history,
        provenance=_provenance(meta),
        student=found.student,
        experts=found.experts,
        comparison=Comparison.from_dict(meta["comparison"]) if "comparison" in meta else None,
    )


class _Parts(NamedTuple):
    """What differs between a file with one network and one with a stack of experts."""

    denoiser: Network | Stacked
    law: GaussianMixture
    config: TrainConfig | TableConfig
    history: History
    student: Student | None = None
    experts: ExpertsReport | None = None
    columns: Columns = Columns()


def _network(archive: Archive, dim: int, count: int) -> _Parts:
    """Return the parts of a model of one network, and its students if there are any."""
    meta, tensors = archive.metadata, dict(archive.tensors)
    students = {
        name.removeprefix("student."): tensors.pop(name)
        for name in list(tensors)
        if name.startswith("student.")
    }
    config = _config(TrainConfig, meta["config"])
    # Files of earlier versions have sharp edges.
    tensors.setdefault("network.edge_softness", torch.zeros(config.edges))
    _check_tensors(tensors, dim, count, config)
    if ("student" in meta) != bool(students):
        raise InputError("its metadata and its tensors disagree about a student")
    network = build(dim, count, config, seed=0).requires_grad_(False)
    prefix = "network."
    network.load_state_dict(
        {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    )
    law = GaussianMixture(
        tensors["moments.means"], tensors["moments.covariances"], weights=tensors["moments.frequencies"]
    )
    student = Student.from_file(meta["student"], students, dim, count) if students else None
    return _Parts(network.eval(), law, config, History.from_tensors(tensors), student)


def _stack(archive: Archive, dim: int, count: int) -> _Parts:
    """Return the parts of a model for tables."""
    meta = archive.metadata
    if "student" in meta:
        raise InputError("a model for tables has no student")
    groups: dict[str, dict[str, Tensor]] = {"standardizer": {}, "columns": {}, "calibration": {}, "stack": {}}
    for name, tensor in archive.tensors.items():
        kind = name.partition(".")[0]
        part = "columns" if kind in ("power", "cells", "constants", "bounds") else kind
        groups[part if part in groups else "stack"][name] = tensor
    ends = {"standardizer.mean": (dim,), "standardizer.scale": (dim,)}
    check_tensors(groups["standardizer"], ends, single=set())
    stack = stack_of(groups["stack"], meta["stack"], dim, count)
    columns = columns_of(groups["columns"], dim)
    report = report_of(meta["experts"], groups["calibration"])
    config = _config(TableConfig, meta["config"])
    return _Parts(stack, stack.law, config, History(), None, report, columns)


@torch.no_grad()
def _check_answers(network: Network | Stacked, prior: Prior, sigma_min: float) -> None:
    """Raise `InputError` if the denoiser's answers are out of all proportion, so that samples would be NaN.

    Finite weights can be too large together. So a few noisy points are denoised, at levels over the range.
    """
    for sigma in np.geomspace(sigma_min, prior.sigma, 5):
        z, label = Prior(prior.distribution, float(sigma)).rows(range(64), seed=0)
        given = label if network.num_classes > 1 else None
        level = torch.full((64,), float(sigma), dtype=torch.float64)
        answers = [network(z, level, given)]
        if isinstance(network, Network):
            answers.append(network.unconditional(z, level))
        for clean in answers:
            if not bool((clean.abs() <= 1e6 * (1 + z.abs().max())).all()):
                raise InputError(
                    f"its network does not denoise: its answers at noise level {sigma:.3g} are wild"
                )


def _same(what: str, found: set[str], expected: set[str]) -> None:
    for name in sorted(expected - found):
        raise InputError(f"its {what} lack {name!r}")
    for name in sorted(found - expected):
        raise InputError(f"its {what} have an unknown {shown(name)}: {nearest(name, sorted(expected))}")


def _config(kind: type[Any], given: object) -> Any:
    """Return a configuration from its fields, all of them there."""
    if not isinstance(given, dict):
        raise InputError(f"its {kind.__name__} is not an object")
    _same(f"{kind.__name__} fields", set(given), {f.name for f in fields(kind)})
    return kind(**given)


def _classes(given: object) -> LabelArray | None:
    if given is None:
        return None
    if not isinstance(given, list) or len(given) < 2:
        raise InputError("classes must be two or more labels")
    kinds = {type(value) for value in given}
    if len(kinds) != 1 or not kinds <= {int, bool, str}:
        raise InputError("classes must be whole numbers, booleans or text, all of one kind")
    if kinds == {int} and not all(-(2**63) <= value < 2**63 for value in given):
        raise InputError("classes must be whole numbers of 64 bits")
    if sorted(set(given)) != given:
        raise InputError("classes must be different and in ascending order")
    return np.array(given, dtype={int: np.int64, bool: bool, str: object}[kinds.pop()])


def _columns(given: object) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(name, str) and name for name in given):
        raise InputError("columns must be names")
    if len(set(given)) != len(given):
        raise InputError("two columns have the same name")
    return tuple(given)


def _provenance(meta: Mapping[str, Any]) -> Provenance:
    versions = meta["versions"]
    if not isinstance(versions, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(word, str) for word in pair)
        for pair in versions
    ):
        raise InputError("versions must be pairs of package and version")
    digest = meta["source_digest"]
    if digest is not None and not isinstance(digest, str):
        raise InputError("source_digest must be text")
    return Provenance(
        seed=seed_number(meta["seed"]),
        num_points=whole_number("num_points", meta["num_points"], 2),
        versions=tuple((package, version) for package, version in versions),
        source_digest=digest,
    )


def _check_tensors(tensors: Mapping[str, Tensor], dim: int, count: int, config: TrainConfig) -> None:
    """Raise `InputError` unless every tensor has the right name, type and shape, and is finite."""
    network = Network.shapes(
        dim,
        count,
        width=config.width,
        hidden_layers=config.hidden_layers,
        edges=config.edges,
        waves=config.waves,
    )
    if sum(math.prod(shape) for shape in network.values()) > MOST_WEIGHTS:
        raise InputError(f"its network has more than {MOST_WEIGHTS:,} weights")
    single: dict[str, tuple[int | None, ...]] = {f"network.{name}": s for name, s in network.items()}
    single["history.loss"] = (None,)
    double: dict[str, tuple[int | None, ...]] = {
        "history.held_out": (None, 2),
        "standardizer.mean": (dim,),
        "standardizer.scale": (dim,),
        "moments.means": (count, dim),
        "moments.covariances": (count, dim, dim),
        "moments.frequencies": (count,),
    }
    _same("tensors", set(tensors), {*single, *double})
    check_tensors(tensors, single | double, single=set(single))
    if not bool((tensors["standardizer.scale"] > 0).all()):
        raise InputError("tensor 'standardizer.scale' must be > 0")
    frequencies = tensors["moments.frequencies"]
    if not bool((frequencies > 0).all()) or abs(float(frequencies.sum()) - 1) > 1e-6:
        raise InputError("tensor 'moments.frequencies' must be > 0 and sum to 1")
