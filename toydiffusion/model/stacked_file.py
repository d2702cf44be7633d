"""The parts of a model for tables in a file, and back: the codec of its columns, and its stack of experts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from toydiffusion.codec import Bounds, Cells, Codec, PowerMap
from toydiffusion.denoisers import MOST_WEIGHTS, Residuals, ResidualSizes, Stacked
from toydiffusion.distributions import GaussianMixture
from toydiffusion.errors import InputError, finite_number, whole_number
from toydiffusion.experts import Candidate, ExpertsReport, Shape

_MOST_COMPONENTS = 100_000
_LAW = ("means", "covariances", "weights", "component_labels")


def stack_tensors(stack: Stacked) -> dict[str, Tensor]:
    """Return all tensors of the stack by name."""
    tensors = {"stack.knots": stack.knots, "stack.weights": stack.weights}
    for part, law in (("mixture", stack.law), ("gaussian", stack.gaussian_law)):
        tensors |= {f"{part}.{name}": getattr(law, name) for name in _LAW}
    for j, network in enumerate(stack.networks):
        tensors |= {f"experts.{j}.{name}": value for name, value in network.state_dict().items()}
    return tensors


def stack_sizes(stack: Stacked) -> list[dict[str, int]]:
    """Return the sizes of the networks of the stack."""
    return [asdict(network.sizes) for network in stack.networks]


def stack_of(tensors: Mapping[str, Tensor], given: object, dim: int, num_classes: int) -> Stacked:
    """Return the stack of which `stack_tensors` and `stack_sizes` gave the parts.

    Raises `InputError` unless every name, shape and number is as it must be.
    """
    sizes = _sizes(given, dim, num_classes)
    shapes: dict[str, tuple[int | None, ...]] = {
        "stack.knots": (None,),
        "stack.weights": (1 + len(sizes), None),
    }
    for part in ("mixture", "gaussian"):
        shapes |= {
            f"{part}.means": (None, dim),
            f"{part}.covariances": (None, dim, dim),
            f"{part}.weights": (None,),
            f"{part}.component_labels": (None,),
        }
    single = {f"experts.{j}.{name}": s for j, one in enumerate(sizes) for name, s in one.shapes().items()}
    check_tensors(tensors, shapes | single, single=set(single))
    laws = []
    for part in ("mixture", "gaussian"):
        means, covariances, weights, labels = (tensors[f"{part}.{name}"] for name in _LAW)
        count = len(means)
        if not 1 <= count <= _MOST_COMPONENTS or not count == len(covariances) == len(weights) == len(labels):
            raise InputError(f"its {part} has parts of different lengths")
        law = GaussianMixture(means, covariances, weights=weights, labels=labels)
        if law.num_classes != num_classes:
            raise InputError(f"its {part} has {law.num_classes} classes, not {num_classes}")
        laws.append(law)
    knots, weights = tensors["stack.knots"], tensors["stack.weights"]
    if len(knots) < 2 or not bool((knots > 0).all()) or not bool((knots.diff() > 0).all()):
        raise InputError("the knots of its stack must be > 0 and ascending")
    networks = []
    for j, one in enumerate(sizes):
        network = Residuals(one, torch.Generator())
        network.load_state_dict({name: tensors[f"experts.{j}.{name}"] for name in one.shapes()})
        networks.append(network.eval())
    return Stacked(laws[0], laws[1], networks, knots, weights)


def _sizes(given: object, dim: int, num_classes: int) -> list[ResidualSizes]:
    names = {f.name for f in fields(ResidualSizes)}
    if not isinstance(given, list) or not all(isinstance(one, dict) and set(one) == names for one in given):
        raise InputError("its experts are not described as networks")
    sizes = [ResidualSizes(**{name: whole_number(name, one[name], 0) for name in names}) for one in given]
    total = sum(math.prod(shape) for one in sizes for shape in one.shapes().values())
    if total > MOST_WEIGHTS:
        raise InputError(f"its networks have more than {MOST_WEIGHTS:,} weights")
    if any((one.dim, one.num_classes) != (dim, num_classes) or not one.members for one in sizes):
        raise InputError(f"its networks are not of {dim} columns and {num_classes} classes")
    return sizes


def check_tensors(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int | None, ...]], *, single: set[str]
) -> None:
    """Raise `InputError` unless every tensor has its shape and type, and is finite.

    - `shapes`: None for a length that may be any.
    - `single`: the names of those in float32. Labels are int64, all others float64.
    """
    for name, shape in shapes.items():
        if name not in tensors:
            raise InputError(f"its tensors lack {name!r}")
        tensor = tensors[name]
        kind = torch.float32 if name in single else torch.float64
        if name.endswith("labels"):
            kind = torch.int64
        allowed = tensor.ndim == len(shape) and all(
            want in (None, got) for want, got in zip(shape, tensor.shape, strict=True)
        )
        if not allowed or tensor.dtype != kind:
            raise InputError(
                f"tensor {name!r} must have shape {shape} and type {kind}, "
                f"got {tuple(tensor.shape)} and {tensor.dtype}"
            )
        if not bool(tensor.isfinite().all()):
            raise InputError(f"tensor {name!r} has numbers that are not finite")
    if unknown := sorted(set(tensors) - set(shapes)):
        raise InputError(f"its tensors have an unknown {unknown[0]!r}")


# Columns ---------------------------------------------------------------------------------------------


def column_tensors(codec: Codec) -> dict[str, Tensor]:
    """Return what the codec knows of the columns, as tensors by name."""
    tensors: dict[str, Tensor] = {}
    if codec.power is not None:
        tensors |= {f"power.{name}": getattr(codec.power, name) for name in ("center", "spread", "power")}
    if codec.cells is not None:
        for name in ("step", "origin", "tied"):
            tensors[f"cells.{name}"] = torch.from_numpy(getattr(codec.cells, name))
        tensors["cells.spikes"] = torch.tensor(codec.cells.spikes, dtype=torch.float64).reshape(-1, 4)
    if codec.bounds is not None:
        # All numbers of a file are finite. So a flag says whether there is a bound, and 0 stands for none.
        for name in ("low", "high"):
            ends = getattr(codec.bounds, name)
            tensors[f"bounds.{name}"] = torch.where(ends.isfinite(), ends, torch.zeros_like(ends))
            tensors[f"bounds.has_{name}"] = ends.isfinite().double()
        tensors["bounds.scale"] = codec.bounds.scale
    if codec.constants:
        tensors["constants"] = torch.tensor(codec.constants, dtype=torch.float64)
    return tensors


class Columns(NamedTuple):
    """What a codec knows of the columns of a table."""

    power: PowerMap | None = None
    cells: Cells | None = None
    constants: tuple[tuple[int, float], ...] = ()
    bounds: Bounds | None = None


def columns_of(tensors: Mapping[str, Tensor], dim: int) -> Columns:
    """Return the columns of which `column_tensors` gave the tensors."""
    shapes: dict[str, tuple[int | None, ...]] = {}
    if any(name.startswith("power.") for name in tensors):
        shapes |= {f"power.{name}": (dim,) for name in ("center", "spread", "power")}
    if any(name.startswith("cells.") for name in tensors):
        shapes |= {f"cells.{name}": (dim,) for name in ("step", "origin", "tied")}
        shapes["cells.spikes"] = (None, 4)
    if "constants" in tensors:
        shapes["constants"] = (None, 2)
    if any(name.startswith("bounds.") for name in tensors):
        shapes |= {f"bounds.{name}": (dim,) for name in ("low", "has_low", "high", "has_high", "scale")}
    check_tensors(tensors, shapes, single=set())
    power, cells, constants = None, None, []
    if "power.power" in shapes:
        power = PowerMap(*(tensors[f"power.{name}"] for name in ("center", "spread", "power")))
    if "cells.step" in shapes:
        spikes = []
        for j, value, low, high in tensors["cells.spikes"].tolist():
            if j not in range(dim) or not low < value < high:
                raise InputError("a value that repeats has no cell in a column")
            spikes.append((int(j), value, low, high))
        step, origin, tied = (tensors[f"cells.{name}"].numpy() for name in ("step", "origin", "tied"))
        cells = Cells(step, origin, tied, tuple(spikes))
    if "constants" in shapes:
        constants = tensors["constants"].tolist()
        places = [j for j, _ in constants]
        if sorted(set(places)) != places or not set(places) <= set(range(dim + len(places))):
            raise InputError("its constant columns are not columns")
    bounds = None
    if "bounds.scale" in shapes:
        low, high = (
            torch.where(tensors[f"bounds.has_{name}"] > 0, tensors[f"bounds.{name}"], none)
            for name, none in (("low", -math.inf), ("high", math.inf))
        )
        bounds = Bounds(low, high, tensors["bounds.scale"])
    return Columns(power, cells, tuple((int(j), value) for j, value in constants), bounds)


# What was found out ----------------------------------------------------------------------------------


def report_dict(report: ExpertsReport) -> dict[str, Any]:
    """Return the report for a file. Infinity, which JSON does not have, is None."""
    found = asdict(report)
    del found["calibration"]  # among the tensors
    found["ridge"] = _finite(report.ridge)
    for one in found["candidates"]:
        one["shape"]["shrinkage"] = _finite(one["shape"]["shrinkage"])
    return found


def report_of(given: object, tensors: Mapping[str, Tensor]) -> ExpertsReport:
    """Return the report of which `report_dict` gave the parts; `InputError` for anything else."""
    names = {f.name for f in fields(ExpertsReport)} - {"calibration"}
    if not isinstance(given, dict) or set(given) != names:
        raise InputError("its experts' report is not one")
    if not isinstance(given["candidates"], list):
        raise InputError("its experts' report has no list of candidates")
    candidates = []
    for one in given["candidates"]:
        shape = one.get("shape") if isinstance(one, dict) else None
        if not isinstance(shape, dict) or set(shape) != {f.name for f in fields(Shape)}:
            raise InputError("a candidate in its experts' report has no shape")
        if set(one) != {f.name for f in fields(Candidate)}:
            raise InputError("a candidate in its experts' report is not one")
        candidates.append(
            Candidate(
                Shape(
                    whole_number("components", shape["components"], 1),
                    _infinite("shrinkage", shape["shrinkage"]),
                    finite_number("flattening", shape["flattening"], least=0),
                ),
                finite_number("held_out", one["held_out"]),
                finite_number("share", one["share"], least=0),
            )
        )
    numbers = {
        name: finite_number(name, given[name])
        for name in ("mixture", "gaussian", "gain", "gain_error", "network_gain")
    }
    check_tensors(tensors, {"calibration": (None,)}, single=set())
    return ExpertsReport(
        **numbers,
        ridge=_infinite("ridge", given["ridge"]),
        candidates=tuple(candidates),
        network_steps=whole_number("network_steps", given["network_steps"], 0),
        temperature=finite_number("temperature", given["temperature"], above=0),
        calibration=tuple(tensors["calibration"].tolist()),
    )


def _finite(number: float) -> float | None:
    return None if math.isinf(number) else number


def _infinite(name: str, value: object) -> float:
    return math.inf if value is None else finite_number(name, value, least=0)
