"""How near students come to their teacher: the factors of the error bars, and the certificate."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from toydiffusion.certificate import Mass, importance, quadrature
from toydiffusion.density import TOLERANCE
from toydiffusion.distillation.lessons import (
    Ground,
    Note,
    end_points,
    every_class,
    log_densities,
    own_seed,
    starts,
)
from toydiffusion.metrics import Estimate
from toydiffusion.model import FittedModel
from toydiffusion.solvers import SampleConfig
from toydiffusion.students import ZONES, DensityStudent, SampleStudent, StudentCertificate, ZoneErrors
from toydiffusion.types import FloatArray, Labels, Points

COVERAGE = 0.99
"""The share of error bars that hold."""
_EACH = 4000
"""Points of each zone that a factor is found on."""
_EACH_FRESH = 2000
"""Points of each zone that the certificate is made on."""
CALIBRATION = len(ZONES) * _EACH
"""Points that the factors are found on."""
FRESH = len(ZONES) * _EACH_FRESH
"""Points that the certificate is made on."""
_POOL = 60_000
"""Points of all zones, from which those of each zone are taken."""
_PAIRS = 10_000
"""Starts whose end points are compared."""


def calibrated(
    teacher: FittedModel, student: DensityStudent, ground: Ground, seed: int, note: Note
) -> DensityStudent:
    """Return the student, whose factors are 1, with the split-conformal factors of its zones.

    With `r_i = |error of the value| / (learned error)` at n points of a zone, the factor is the
    `ceil(0.99 (n + 1))`-th smallest r_i. Then the bar of one more such point holds with probability 99 %, if
    the factor is among the n. A zone with too few points for that has the largest factor of the others.
    """
    z, label, zone = _points_of_zones(teacher, student, ground, _EACH, own_seed(seed, "calibration"))
    ratio, _ = _errors(teacher, student, z, label, note)
    factors = [conformal_factor(ratio[zone.numpy() == i]) for i in range(len(ZONES))]
    known = [factor for factor in factors if factor is not None] or [float(ratio.max(initial=1.0))]
    chosen = [max(known) if factor is None else factor for factor in factors]
    return replace(student, factors=torch.tensor(chosen, dtype=torch.float64))


def conformal_factor(ratio: FloatArray) -> float | None:
    """Return the `ceil(0.99 (n + 1))`-th smallest of n ratios; None if that is more than n.

    >>> conformal_factor(np.arange(1.0, 200.0))
    198.0
    """
    rank = math.ceil(COVERAGE * (len(ratio) + 1))
    return float(np.sort(ratio)[rank - 1]) if rank <= len(ratio) else None


def certify(
    teacher: FittedModel,
    density: DensityStudent,
    samples: SampleStudent,
    ground: Ground,
    seed: int,
    note: Note,
) -> StudentCertificate:
    """Return what fresh points show of both students."""
    z, label, zone = _points_of_zones(teacher, density, ground, _EACH_FRESH, own_seed(seed, "certificate"))
    ratio, bar = _errors(teacher, density, z, label, note)
    error = ratio * bar

    def errors(number: int) -> ZoneErrors | None:
        rows = zone.numpy() == number
        if not rows.any():
            return None
        return ZoneErrors(
            points=int(rows.sum()),
            mean_error=float(error[rows].mean()),
            median_error=float(np.median(error[rows])),
            error_99=float(np.quantile(error[rows], 0.99)),
            median_bar=float(np.median(bar[rows])),
            covered=float(np.mean(ratio[rows] <= 1)),
        )

    start, kind = starts(
        teacher, range(_PAIRS), every_class(teacher, _PAIRS), seed=own_seed(seed, "comparison of samples")
    )
    exact = end_points(teacher, start, kind)
    moments, device = teacher.prior.distribution, teacher.device
    found = samples.ends(start.to(device), moments, None if kind is None else kind.to(device)).cpu()
    by_default = end_points(teacher, start, kind, steps=SampleConfig().steps)
    return StudentCertificate(
        inside=errors(0),
        steep=errors(1),
        outside=errors(2),
        mass=_mass_of_mixture(teacher, density, exact, kind, seed),
        distance=_distance(found, exact),
        solver_distance=_distance(by_default, exact),
    )


def _points_of_zones(
    teacher: FittedModel, student: DensityStudent, ground: Ground, each: int, seed: int
) -> tuple[Points, Labels | None, Tensor]:
    """Return fresh points with at most `each` of every zone, their labels, and the numbers of their zones."""
    z, label = starts(teacher, range(_POOL), every_class(teacher, _POOL), seed=seed)
    samples = end_points(teacher, z, label, steps=SampleConfig().steps)
    pool = ground.points(samples, (1 / 3, 1 / 3), seed=seed, purpose="checks")
    zone = student.zones(pool, label)
    rows = torch.cat([(zone == i).nonzero()[:each, 0] for i in range(len(ZONES))])
    return pool[rows], None if label is None else label[rows], zone[rows]


def _errors(
    teacher: FittedModel, student: DensityStudent, z: Points, label: Labels | None, note: Note
) -> tuple[FloatArray, FloatArray]:
    """Return |value - teacher's| over the error bar, and the bar."""
    found = student.log_prob(z, label)
    exact = log_densities(teacher, z, label, tolerance=TOLERANCE, note=note)
    return np.abs(found.value - exact.value) / found.error, found.error


def _distance(a: Points, b: Points) -> float:
    return float((a - b).square().sum(1).mean().sqrt())


def normalised(
    teacher: FittedModel, student: DensityStudent, samples: Points, label: Labels | None
) -> DensityStudent:
    """Return the student, whose `log_mass` is 0, with the mass of every class at 1, in at most three columns.

    - `samples` `(m, d)`, `label` `(m,)`: points that show where the mass is.
    """
    if teacher.dim > 3:
        return student
    masses = [one.value for one in _masses(teacher, student, samples, label, seed=0)]
    return replace(student, log_mass=torch.tensor(masses, dtype=torch.float64).log())


def _mass_of_mixture(
    teacher: FittedModel, student: DensityStudent, samples: Points, label: Labels | None, seed: int
) -> Estimate:
    frequencies = teacher.prior.distribution.frequencies.tolist()
    masses = _masses(teacher, student, samples, label, seed)
    pairs = list(zip(frequencies, masses, strict=True))
    return Estimate(sum(f * one.value for f, one in pairs), sum(f * one.error for f, one in pairs))


def _masses(
    teacher: FittedModel, student: DensityStudent, samples: Points, label: Labels | None, seed: int
) -> list[Mass]:
    """Return the mass of the student's density in its training range, for each class."""
    masses = []
    for c in range(teacher.codec.num_classes):
        guide = samples if label is None else samples[label == c]

        def density(z: Points, c: int = c) -> Tensor:
            own = None if label is None else torch.tensor(c).expand(len(z))
            found = torch.from_numpy(student.log_prob(z, own).value)
            return torch.where(student.knows(z), found, -math.inf)

        found = quadrature(density, guide, step=teacher.sigma_min) if teacher.dim <= 3 else None
        masses.append(found or importance(density, guide, seed=seed))
    return masses
