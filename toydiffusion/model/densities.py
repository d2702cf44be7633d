"""Densities, classes and latents of points: plain functions of (model, table, plan, labels).

All densities are those of the learned law at sigma_min: the law of `x + noise`, whose noise in each column
has a standard deviation of sigma_min times the column's own. They are in nats, of x and not of z. The network
computes in float64, or in float32 where the tolerance allows; everything else is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toydiffusion.certificate import Certificate, check
from toydiffusion.density import (
    DensityConfig,
    DensityModel,
    Elbo,
    LogDensity,
    Term,
    evidence_lower_bound,
)
from toydiffusion.density import grad_log_prob as grad_log_prob_z
from toydiffusion.density import log_prob as log_prob_z
from toydiffusion.density import sample_with_log_prob as sample_z_with_log_prob
from toydiffusion.density import score as score_z
from toydiffusion.distributions import Distribution
from toydiffusion.errors import InputError, seed_number, whole_number
from toydiffusion.model.fitted_model import FittedModel
from toydiffusion.model.fitting import fit_endless
from toydiffusion.model.sampling import joined as joined_samples
from toydiffusion.model.sampling import rows_from, sample_blocks
from toydiffusion.progress import bar
from toydiffusion.row_noise import RowNoise
from toydiffusion.students import DensityStudent
from toydiffusion.tables import Table
from toydiffusion.threads import in_threads
from toydiffusion.types import FloatArray, LabelArray, Labels, Levels, Points


class Densities(NamedTuple):
    """Log-densities of k points, and their class probabilities `(k, K)` if those were asked for."""

    log_prob: LogDensity
    class_probabilities: FloatArray | None

    def replaced(self, rows: NDArray[np.int64], others: Densities) -> Densities:
        """Return the same with the others, of `len(rows)` points, in the places of these rows."""
        if self.class_probabilities is not None and others.class_probabilities is not None:
            self.class_probabilities[rows] = others.class_probabilities
        return self._replace(log_prob=self.log_prob.replaced(rows, others.log_prob))


def _asked_for(
    density: DensityModel,
    n: int,
    under: Callable[[Labels | None], LogDensity],
    own: Labels | None,
    classes: bool,
) -> Densities:
    """Return log-densities of n points under their own classes or the mixture, from those `under` a class.

    - `classes`: whether to give class probabilities too, in a model with labels.
    """
    if density.num_classes == 1 or (own is not None and not classes):
        return Densities(under(own), None)
    each = density.for_each_class(n, under)
    mixture, posterior = LogDensity.mixed(each, density.frequencies)
    chosen = mixture if own is None else LogDensity.chosen(each, own.numpy())
    return Densities(chosen, posterior if classes else None)


def levels_of(model: FittedModel, sigma: Any, n: int) -> Levels:
    """Return the user's noise levels in z, one or n of them, as `(n,)`; None is sigma_min.

    Raises `InputError` for levels outside the range of the model.
    """
    low, high = model.sigma_min, model.sigma_max
    given = sigma.detach().cpu() if isinstance(sigma, Tensor) else sigma
    try:
        level = np.asarray(low if sigma is None else given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"sigma must be a number or {n} of them, got {sigma!r}") from error
    if level.shape not in ((), (n,)):
        raise InputError(f"sigma must be one number or {n} of them, got shape {level.shape}")
    if not ((level >= low) & (level <= high)).all():
        raise InputError(f"sigma must lie in the model's range, {low:g} to {high:g}")
    return torch.from_numpy(np.broadcast_to(level, (n,)).copy())


def log_prob_blocks(
    model: FittedModel,
    table: Table,
    plan: DensityConfig,
    label: Labels | None = None,
    *,
    sigma: Levels | None = None,
    classes: bool = False,
    seed: int = 0,
    first_row: int = 0,
    batch_size: int | None = None,
    progress: bool | None = False,
) -> Iterator[Densities]:
    """Yield the log-densities of a table's points in blocks, in constant memory.

    The arguments are checked here, before the first block.

    - `table`: points with the columns of the model. Rows that are missing come out as NaN.
    - `plan`: how exactly to compute. The student of a distilled model answers where its error bar is within
      the tolerance asked for, in its training range; the flow answers elsewhere, and all with probes.
    - `label`: class indices `(n,)`, or None for the mixture of the classes.
    - `sigma`: noise levels in z, `(n,)`, for the flow; None is sigma_min.
    - `classes`: whether to give class probabilities too, in a model with labels.
    - `batch_size`: the points in a block. None (default) takes as many as the processor's cache holds: 8,192
      in two columns, fewer in more, and four times as many where a student answers.
    - `seed`, `first_row`: row i of the table has row `first_row + i` of the random probes, if there are any.
    """
    points, missing, n = model.codec.to_z(table), table.missing, len(table.points)
    levels = levels_of(model, None, n) if sigma is None else sigma
    density, seed = model.density(plan), seed_number(seed)
    student = None if model.student is None or sigma is not None or plan.probes else model.student.density
    first_row = rows_from(first_row, n).start
    if batch_size is None:
        fast = max(256, _NUMBERS // (points.shape[1] + 1)) * (1 if student is None else 4)
        # Few points are shared by the threads, unless the parts would be too small.
        batch_size = min(fast, max(4096, -(-n // torch.get_num_threads())))
    batch_size = whole_number("batch_size", batch_size, 1)

    def by_flow(z: Points, level: Levels, own: Labels | None, first: int) -> Densities:
        def under(c: Labels | None) -> LogDensity:
            return log_prob_z(density, z, level, c, seed=seed, first_row=first)

        return _asked_for(density, len(z), under, own, classes)

    def by_student(
        student: DensityStudent, z: Points, level: Levels, own: Labels | None, first: int
    ) -> Densities:
        found = _asked_for(density, len(z), lambda c: student.log_prob(z, c), own, classes)
        good = student.knows(z).numpy()
        if plan.tolerance is not None:
            good &= found.log_prob.error <= plan.tolerance
        if good.all():
            return found
        rows = np.flatnonzero(~good)
        return found.replaced(rows, by_flow(z[rows], level[rows], None if own is None else own[rows], first))

    def block(part: slice) -> Densities:
        gone, z = missing[part], points[part]
        if gone.any():
            # In the place of missing points, the mean of the data: every row keeps its number.
            z = z.masked_fill(torch.from_numpy(gone)[:, None], 0.0)
        own = None if label is None else label[part]
        if student is None:
            found = by_flow(z, levels[part], own, first_row + part.start)
        else:
            found = by_student(student, z, levels[part], own, first_row + part.start)
        log_prob = found.log_prob.shifted(model.codec.log_det(table.points[part]))
        if gone.any():
            log_prob = log_prob.without(gone)
            if found.class_probabilities is not None:
                found.class_probabilities[gone] = np.nan
        return found._replace(log_prob=log_prob)

    def blocks() -> Iterator[Densities]:
        with bar("log-densities", n, progress) as move:
            parts = [slice(first, first + batch_size) for first in range(0, max(n, 1), batch_size)]
            for part, found in zip(parts, in_threads(block, parts, model.device), strict=True):
                yield found
                move(min(part.stop, n), "")

    return blocks()


_NUMBERS = 3 * 8192
"""The numbers of the states (point, log-density) in a block of the flow."""


def joined(blocks: Iterable[Densities]) -> Densities:
    """Return the blocks one after another, as one."""
    log_probs, probabilities = zip(*blocks, strict=True)
    known = [part for part in probabilities if part is not None]
    return Densities(LogDensity.joined(log_probs), np.concatenate(known) if known else None)


def log_mass(
    model: FittedModel,
    table: Table,
    plan: DensityConfig,
    label: Labels | None = None,
    *,
    samples: int = 64,
    seed: int = 0,
    first_row: int = 0,
) -> Term:
    """Return the logarithm of the probability of each row's cell, `(n,)`, with its standard error.

    A cell is the box of values that are rounded to the row (`Cells`). In columns without a grid the density
    stays a density. With the volume V of the cell and points u spread evenly over it,

        log mass = log V + log mean_u p(u),

    by scrambled Sobol points in four nets with random shifts, whose spread is the standard error.

    - `samples`: the points in each cell, a multiple of 4.
    - `seed`, `first_row`: row i takes row `first_row + i` of the shifts of `seed`.

    Raises `InputError` for a model without cells, and for rows that are missing.
    """
    codec, n = model.codec, len(table.points)
    if codec.cells is None:
        raise InputError("a mass needs the cells of a model for tables: fit it with preset 'table'")
    if table.missing.any():
        raise InputError(
            f"{table.source}: {int(table.missing.sum())} rows have missing numbers; leave them out"
        )
    size = whole_number("samples", samples, 4 * _NETS, hint=", the points in a cell") // _NETS
    even = torch.quasirandom.SobolEngine(codec.dim, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    nets = even.draw(_NETS * size, dtype=torch.float64).numpy().reshape(_NETS, size, codec.dim)
    noise, rows = RowNoise(seed_number(seed), "mass"), max(1, _CELL_POINTS // (_NETS * size))
    parts = []
    for first in range(0, max(n, 1), rows):
        some = replace(table, points=table.points[first : first + rows], labels=None)
        own = None if label is None else label[first : first + rows]
        start = first_row + first
        shift = noise.uniform(start, start + len(some.points), dim=_NETS * codec.dim).numpy()
        parts.append(_masses(model, some, plan, own, nets, shift.reshape(-1, _NETS, 1, codec.dim)))
    return Term(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("value", "std_error")))


def _masses(
    model: FittedModel,
    table: Table,
    plan: DensityConfig,
    label: Labels | None,
    nets: FloatArray,
    shift: FloatArray,
) -> Term:
    """Return `log_mass` of some rows, by the points of `nets` `(nets, size, d)` after their own shifts."""
    codec = model.codec
    assert codec.cells is not None
    low, high = codec.cells.bounds(table.points[:, codec.varying])
    width = high - low
    # Folded like a tent, so that a shift around the end leaves no jump (Hickernell 2002).
    u = 1 - np.abs(2 * ((nets + shift) % 1.0) - 1)
    each_row = nets.shape[0] * nets.shape[1]
    points = np.repeat(table.points, each_row, axis=0)
    points[:, codec.varying] = (low[:, None, None] + width[:, None, None] * u).reshape(-1, codec.dim)
    own = None if label is None else label.repeat_interleave(each_row)
    found = joined(log_prob_blocks(model, replace(table, points=points), plan, own)).log_prob
    each = found.value.reshape(len(table.points), *nets.shape[:2])
    highest = each.max(axis=(1, 2), keepdims=True)
    means = np.exp(each - highest).mean(axis=2)
    mass = means.mean(axis=1)
    volume = np.log(np.where(width > 0, width, 1.0)).sum(axis=1)
    return Term(
        volume + highest[:, 0, 0] + np.log(mass),
        means.std(axis=1, ddof=1) / math.sqrt(len(nets[:, 0])) / mass,
    )


_NETS = 4
_CELL_POINTS = 2**18
"""The points in cells that are computed together."""


def sample_with_log_prob(
    model: FittedModel, rows: range, plan: DensityConfig, label: Labels | None = None, *, seed: int = 0
) -> tuple[FloatArray, LogDensity, LabelArray | None]:
    """Return samples `(n, d)`, their log-densities, and their labels.

    They are samples of the model's own density, by its flow. In a distilled model of which no tolerance is
    asked they are those of the student of the sampler, and the densities those of the other student.
    """
    if model.student is None or plan.tolerance is not None:
        z, density, own = sample_z_with_log_prob(model.density(plan), rows, label, seed=seed)
        points = model.codec.to_x(z)
        return points, density.shifted(model.codec.log_det(points)), model.codec.labels(own)
    points, labels = joined_samples(sample_blocks(model, rows, None, label, seed=seed))
    found = joined(log_prob_blocks(model, Table(points, None), plan, label))
    return points, found.log_prob, labels


def grad_log_prob(
    model: FittedModel, table: Table, plan: DensityConfig, label: Labels | None, sigma: Levels
) -> FloatArray:
    """Return the gradient of the log-density in x, `(n, d)`, in nats per unit of x."""
    slope = grad_log_prob_z(model.density(plan), model.codec.to_z(table), sigma, label)
    return model.codec.gradient_to_x(table.points, slope)


def score(model: FittedModel, table: Table, label: Labels | None, sigma: Levels) -> FloatArray:
    """Return the denoiser's score at x, `(n, d)`, in nats per unit of x."""
    slope = score_z(model.density(), model.codec.to_z(table), sigma, label)
    return model.codec.gradient_to_x(table.points, slope)


def elbo(
    model: FittedModel,
    table: Table,
    label: Labels | None,
    *,
    evaluations: int = 256,
    steps: int | None = None,
    seed: int = 0,
    first_row: int = 0,
) -> Elbo:
    """Return the evidence lower bound at the table's points, in nats of x."""
    bound = evidence_lower_bound(
        model.density(),
        model.codec.to_z(table),
        label,
        evaluations=evaluations,
        steps=steps,
        seed=seed,
        first_row=first_row,
    )
    return bound.shifted(model.codec.log_det(table.points))


@torch.no_grad()
def encode(model: FittedModel, table: Table, label: Labels | None, *, tolerance: float) -> FloatArray:
    """Carry points up the probability flow: return their latents at sigma_max, `(n, d)`, in z."""
    _one_class_each(model, label, "encode")
    z = model.codec.to_z(table)
    flow = model.density(DensityConfig(tolerance)).flow
    return flow.carry(z, levels_of(model, None, len(z)), model.sigma_max, label).z.numpy()


@torch.no_grad()
def decode(model: FittedModel, latent: Points, label: Labels | None, *, tolerance: float) -> FloatArray:
    """Carry latents `(n, d)` down the probability flow: return the points x at sigma_min, `(n, d)`."""
    _one_class_each(model, label, "decode")
    flow = model.density(DensityConfig(tolerance)).flow
    top = levels_of(model, model.sigma_max, len(latent))
    return model.codec.to_x(flow.carry(latent, top, model.sigma_min, label).z)


def _one_class_each(model: FittedModel, label: Labels | None, what: str) -> None:
    if label is None and model.codec.classes is not None:
        raise InputError(
            f"{what} needs a label in a model with labels: each class has a flow of its own, and their "
            "mixture has none"
        )


def standardized(model: FittedModel, truth: Distribution) -> Distribution:
    """Return an exact law of x in the coordinates z of the model.

    Raises `InputError` for a law of other columns, or of other classes than those of a model with labels.
    """
    if not isinstance(truth, Distribution):
        raise InputError(f"truth must be a distribution, got a {type(truth).__name__}")
    classes = model.codec.num_classes
    if model.codec.power is not None or model.codec.bounds is not None or model.codec.constants:
        raise InputError(
            "this model has power transforms, bounds or constant columns, so its z is no shifted and scaled "
            "x; compare log-densities in x, or fit with TableConfig(power=False)"
        )
    if truth.dim != model.dim or (classes > 1 and truth.num_classes != classes):
        kind = f"{classes} classes" if classes > 1 else "no classes"
        raise InputError(
            f"the model has {model.dim} columns and {kind}, "
            f"the truth given has {truth.dim} and {truth.num_classes}"
        )
    return truth.standardized(model.codec.standardizer.mean, model.codec.standardizer.scale)


def check_density(
    model: FittedModel,
    truth: Distribution | None,
    plan: DensityConfig,
    label: int | None = None,
    *,
    endless: bool = False,
    points: int,
    most: int,
    seed: int,
    progress: bool | None = None,
) -> Certificate:
    """Return the certificate of the density of one class, or of the mixture of all. `truth` is in x.

    - `most`: the densities that the mass of a class may take.
    """
    if endless and truth is None:
        raise InputError("endless fresh points need the truth they are sampled from")
    known = None if truth is None else standardized(model, truth)
    masses = model.codec.num_classes if label is None else 1
    with bar("checking", 4 + masses, progress) as move:
        done = 0

        def note(text: str) -> None:
            nonlocal done
            move(done, text)
            done += 1

        return check(
            model.density(plan),
            label=label,
            truth=known,
            endless=fit_endless(model, known) if endless and known is not None else None,
            points=points,
            densities=most,
            seed=seed,
            note=note,
        )
