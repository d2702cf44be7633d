"""Noise schedules: monotone maps from time to the noise level, with inverse and derivatives.

Inside the core a noisy point is always `z + sigma eps`. Some processes also shrink the data (variance
preserving, cosine, flow matching): `x_t = alpha(t) (z + sigma(t) eps)`. Divided by `alpha(t)` they are the
same process, so each of them is a schedule with its own `alpha`.

There are two time variables. `t` is the schedule's own time, in which its formula is written. `u` in [0, 1]
is an affine function of t: sigma is `sigma_min` at u = 0 and `sigma_max` at u = 1.

All sigmas are in standard deviations of the standardised data, or in the data's own units if standardising is
off.
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
"""Every schedule by name. A new schedule is a small class and an entry here."""


def schedule(name: str, parameters: Mapping[str, float] | None = None) -> Schedule:
    """Return the schedule of this name.

    - `name`: a key of `SCHEDULES`.
    - `parameters`: values of its fields: sigma_min, sigma_max and its own. Missing fields take their
      defaults.

    Raises `InputError` for an unknown name or field. The message suggests the nearest valid one.

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
