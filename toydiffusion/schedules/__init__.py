"""Noise schedules: monotone maps from time to the noise level, with inverse and derivatives.

Inside the core a noisy point is always `z + sigma eps`. A path `x_t = alpha(t) (z + sigma(t) eps)` that also
shrinks the data (variance preserving, cosine, flow matching) is the same thing in `x_t / alpha(t)`, so it is
a schedule too and carries its `alpha`.

Two clocks: `t` is the schedule's own time, in which its formula is written; `u` in [0, 1] runs affinely over
the stretch of t where sigma goes from `sigma_min` to `sigma_max`. All sigmas are in standard deviations of
the standardised data (or in the data's own units, where standardising is off).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from toydiffusion.errors import InputError, choice, nearest
from toydiffusion.schedules.base import Schedule
from toydiffusion.schedules.formulas import (
    Cosine,
    Exponential,
    FlowMatching,
    Karras,
    Linear,
    LogNormal,
    SquareRoot,
    VariancePreserving,
)

SCHEDULES: dict[str, type[Schedule]] = {
    kind.name: kind
    for kind in (Exponential, Linear, SquareRoot, Karras, LogNormal, VariancePreserving, Cosine, FlowMatching)
}
"""Every schedule by name; a new one is a small class and its entry here."""


def schedule(name: str, parameters: Mapping[str, float] | None = None) -> Schedule:
    """Return the schedule of this name; `parameters` are its fields (sigma_min, sigma_max and its own).

    Raises `InputError` for an unknown name or field, naming the nearest valid one.

    >>> schedule("karras", {"sigma_max": 80.0})
    Karras(sigma_min=0.005, sigma_max=80.0, rho=7.0)
    >>> schedule("cosin")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    toydiffusion.errors.InputError: unknown schedule 'cosin': did you mean 'cosine'? Allowed: ...
    """
    choice("schedule", name, SCHEDULES)
    kind = SCHEDULES[name]
    known = [field.name for field in fields(kind)]
    for key in parameters or {}:
        if key not in known:
            raise InputError(f"schedule {name!r} has no {key!r}: {nearest(key, known)}")
    return kind(**(parameters or {}))


__all__ = [
    "SCHEDULES",
    "Cosine",
    "Exponential",
    "FlowMatching",
    "Karras",
    "Linear",
    "LogNormal",
    "Schedule",
    "SquareRoot",
    "VariancePreserving",
    "schedule",
]
