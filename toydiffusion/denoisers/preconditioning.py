"""What the network predicts, as four coefficients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from toydiffusion.errors import choice
from toydiffusion.types import Levels

Coefficient: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Preconditioning:
    """How a raw network output F becomes a denoiser: `D(z; sigma) = c_skip z + c_out F(c_in z; sigma)`.

    The target of F is `(z0 - c_skip z) / c_out`. The loss weight `1 / c_out^2` makes the denoising loss the
    plain squared error of F (Karras et al. 2022, equations 7 and 8). For data of unit variance the input
    `c_in z` has unit variance. So has the target of "noise" and "edm", at every noise level.
    """

    c_skip: Coefficient
    c_out: Coefficient

    @staticmethod
    def c_in(sigma: Tensor) -> Tensor:
        """Return `1 / sqrt(1 + sigma^2)`."""
        return (1 + sigma**2).rsqrt()

    def weight(self, sigma: Levels) -> Tensor:
        """Return the loss weight `1 / c_out(sigma)^2`, `(n,)`."""
        return self.c_out(sigma) ** -2


# Functions with names, not lambdas: a network that holds them can then be pickled.
def _zero(sigma: Tensor) -> Tensor:
    return torch.zeros_like(sigma)


def _one(sigma: Tensor) -> Tensor:
    return torch.ones_like(sigma)


def _minus_sigma(sigma: Tensor) -> Tensor:
    return -sigma


def _edm_skip(sigma: Tensor) -> Tensor:
    return 1 / (1 + sigma**2)


def _edm_out(sigma: Tensor) -> Tensor:
    return sigma * (1 + sigma**2).rsqrt()


PRECONDITIONINGS: dict[str, Preconditioning] = {
    "noise": Preconditioning(c_skip=_one, c_out=_minus_sigma),
    "data": Preconditioning(c_skip=_zero, c_out=_one),
    "edm": Preconditioning(c_skip=_edm_skip, c_out=_edm_out),
}
"""Each preconditioning by name.

"noise" predicts the added noise eps, "data" the clean point, and "edm" the mix of the two whose error is
amplified least.
"""


def preconditioning(name: str) -> Preconditioning:
    """Return the preconditioning of this name; an unknown one is an `InputError` that names the nearest."""
    return PRECONDITIONINGS[choice("preconditioning", name, PRECONDITIONINGS)]
