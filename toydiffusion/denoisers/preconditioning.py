"""Preconditioning: the coefficients that turn the output of a network into a denoiser."""

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
    """The coefficients of a denoiser `D(z; sigma) = c_skip z + c_out F(c_in z; sigma)` with a network F.

    - `c_skip`, `c_out`: functions of sigma.

    The target of F is `(z0 - c_skip z) / c_out`. With the loss weight `1 / c_out^2` the denoising loss is the
    squared error of F (Karras et al. 2022, equations 7 and 8). For data of unit variance, the input `c_in z`
    has unit variance at every noise level, and so has the target of "noise" and "edm".
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


# Named functions, not lambdas, so that a network that holds them can be pickled.
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

- "noise": F predicts the added noise eps.
- "data": F predicts the clean point.
- "edm": F predicts the combination of both whose error is amplified least.
"""


def preconditioning(name: str) -> Preconditioning:
    """Return the preconditioning of this name. Raises `InputError` for an unknown name."""
    return PRECONDITIONINGS[choice("preconditioning", name, PRECONDITIONINGS)]
