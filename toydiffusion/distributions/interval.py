"""The noised uniform interval: its log-density and posterior mean, without cancellation."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_NODE, _WEIGHT = (
    (side + shift) / 2 for side, shift in zip(np.polynomial.legendre.leggauss(8), (1, 0), strict=True)
)
_HALF_LOG_TAU = math.log(2 * math.pi) / 2


def interval(x: Tensor, sigma: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-density at `x = y + sigma eps`, with y uniform on [low, high], and `E[y | x]`.

    The arguments broadcast. Let `a` be the distance from x to the nearer end in units of sigma, negative
    inside, and `w` the width in the same units. With s the distance from that end into the interval,

        p(x) = exp(-a^2/2) / (sqrt(2 pi) sigma w) * int_0^w exp(-a s - s^2/2) ds,
        E[y | x] = nearer end + sigma E[s]   (towards the other end).

    *Narrow* intervals, over which the exponent changes by less than 1/2: 8 Gauss-Legendre nodes give the
    integral and the mean of s, exact to rounding.

    *Wide* intervals: with b = a + w,

        int = sqrt(pi/2) (erfcx(a / sqrt 2) - exp((a^2 - b^2) / 2) erfcx(b / sqrt 2)),
        E[y | x] = x + sigma (1 - exp((a^2 - b^2) / 2)) / int   (towards the interval),

    where `erfcx` is the tail of the normal without its exponential, so nothing underflows however far x is.
    Inside the interval the factor `exp(-a^2/2)` is not taken out.

    The relative error of the density is 1e-15 (1 + a^2). The absolute error of the mean is
    1e-15 (|x| + |low| + |high|).

    Autograd passes through both branches. So the branch that is not taken gets arguments at which it is
    finite.

    At sigma = 0 the log-density is `-log(high - low)` on the closed interval, and -inf outside.
    """
    known = sigma == 0
    sigma = sigma.masked_fill(known, 1.0)
    width = high - low
    beyond = x - (low + width / 2)
    side = torch.copysign(torch.ones_like(beyond), beyond)
    end = torch.where(side > 0, high, low)
    a, w = side * (x - end) / sigma, width / sigma

    aw, ww = (a * w).clamp(-0.5, 0.5), w.square().clamp(max=1.0)
    mass = moment = torch.zeros_like(a)
    for node, weight in zip(_NODE.tolist(), _WEIGHT.tolist(), strict=True):
        part = weight * torch.exp(-node * aw - node**2 / 2 * ww)
        mass, moment = mass + part, moment + node * part
    log_narrow = mass.log() - a.square() / 2 - _HALF_LOG_TAU - sigma.log()
    mean_narrow = end - side * width * (moment / mass)

    # Not by abs and clamp, whose derivatives at a = 0, on the end itself, are those of neither side.
    out, into = torch.where(a > 0, a, 0.0), torch.where(a > 0, 0.0, a)
    away = out - into
    v = torch.maximum(w, 0.5 / (away + 1))
    b = a + v
    at_a, at_b = torch.exp(-into.square() / 2), torch.exp(-(v + into) * (b + out) / 2)
    tail = torch.special.erfcx(away * math.sqrt(0.5))
    mass = torch.where(a > 0, tail, 2 - at_a * tail) - at_b * torch.special.erfcx(b * math.sqrt(0.5))
    log_wide = mass.log() - out.square() / 2 - torch.log(2 * width)
    mean_wide = x - side * sigma * math.sqrt(2 / math.pi) * ((at_a - at_b) / mass)

    narrow = w * (away + w / 2) < 0.5
    log_density = torch.where(narrow, log_narrow, log_wide)
    if bool(known.any()):
        log_known = torch.where((low <= x) & (x <= high), -width.log(), -math.inf)
        log_density = torch.where(known, log_known, log_density)
    return log_density, torch.where(narrow, mean_narrow, mean_wide).clamp(low, high)
