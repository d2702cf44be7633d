"""Methods for the reverse process as tables of numbers, each with its declared order.

The equations they solve, with D the denoiser and `score = (D - z) / sigma^2` (EDM, Karras et al. 2022,
equation 1 with s = 1; Song et al. 2021, equations 6 and 13):

    ODE in sigma    dz/dsigma = (z - D(z; sigma)) / sigma
    SDE in sigma    dz = (sigma^2)' (z - D) / sigma^2 dsigma + sqrt((sigma^2)') dw     (sigma running down)

A new method is a row in `SOLVERS`; how a table is stepped is in `sampling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from toydiffusion.errors import choice


@dataclass(frozen=True)
class RungeKutta:
    """An explicit Runge-Kutta method for the ODE: the Butcher tableau `a`, `b`, `c`.

    Stage i is at `s + c_i h` from `z + h sum_j a_ij k_j`; the step is `z + h sum_i b_i k_i`.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]


@dataclass(frozen=True)
class ExponentialMultistep:
    """The exact solution of the ODE's linear part with D extrapolated through its last `order` values.

    In `lambda = -log sigma` the ODE reads `dz/dlambda = D - z`, so over a step of length h

        z(lambda + h) = e^-h z(lambda) + int_0^h e^(s - h) D(lambda + s) ds,

    and a polynomial through the past values of D makes the integral a weighted sum of them. Order 1 is DDIM
    (= Euler in sigma), order 2 is DPM-Solver++(2M), order 3 its (3M) kin (Lu et al. 2022, arXiv:2211.01095);
    one evaluation a step. From order 3 on, the first step, which has no past, is corrected with D at its
    end, so that the start does not cost an order: one more evaluation in all.
    """

    order: int

    @staticmethod
    def weights(step: float, nodes: list[float]) -> list[float]:
        """Return `w_j = int_0^h e^(s - h) L_j(s) ds` for a step h and the Lagrange basis of the nodes.

        `nodes` are the lambdas of the values of D, counted from the start of the step. Gauss-Legendre
        quadrature: exact to rounding, with no cancellation at small h.

        >>> w = ExponentialMultistep.weights(0.5, [0.0, -0.5])
        >>> bool(np.isclose(sum(w), 1 - np.exp(-0.5)))
        True
        """
        s, gauss = np.polynomial.legendre.leggauss(24)
        s = step * (s + 1) / 2
        measure = gauss * step / 2 * np.exp(s - step)
        weights = []
        for j, node in enumerate(nodes):
            others = [other for i, other in enumerate(nodes) if i != j]
            basis = np.prod([(s - other) / (node - other) for other in others], axis=0)
            weights.append(float((measure * basis).sum()))
        return weights


@dataclass(frozen=True)
class ReverseSDE:
    """Euler-Maruyama on the reverse SDE, each step followed by `corrections` Langevin steps at its end.

    The order is the weak one. With corrections it is Song et al.'s predictor-corrector (algorithms 2 and 4):
    `z + delta score + sqrt(2 delta) eps` with `delta = 2 (snr sigma)^2`. Song sets delta from the norms of
    score and noise over the batch; their expected ratio is sigma, which keeps a point independent of its
    batch.
    """

    order: int
    corrections: int = 0
    snr: float = 0.16


@dataclass(frozen=True)
class EmbeddedPair:
    """An explicit Runge-Kutta method whose last stage is its result, with a lower order beside it.

    Stages as in `RungeKutta`; the step is the state of the last stage, whose slope begins the next one.
    `h sum_i error_i k_i` is its difference from the result of the lower order, the estimate of the error.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    c: tuple[float, ...]
    error: tuple[float, ...]


DORMAND_PRINCE = EmbeddedPair(
    order=5,
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
"""Dormand and Prince's pair of orders 5 and 4 (1980, RK5(4)7M): the method of the log-density, where each
point chooses its own steps."""

Solver: TypeAlias = RungeKutta | ExponentialMultistep | ReverseSDE

SOLVERS: dict[str, Solver] = {
    "euler": RungeKutta(order=1, a=((),), b=(1.0,), c=(0.0,)),
    "heun": RungeKutta(order=2, a=((), (1.0,)), b=(0.5, 0.5), c=(0.0, 1.0)),
    "rk4": RungeKutta(
        order=4,
        a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
        c=(0.0, 0.5, 0.5, 1.0),
    ),
    "multistep2": ExponentialMultistep(order=2),
    "multistep3": ExponentialMultistep(order=3),
    "euler-maruyama": ReverseSDE(order=1),
    "predictor-corrector": ReverseSDE(order=1, corrections=1),
}
"""Every method by name."""


def solver(name: str) -> Solver:
    """Return the method of this name; an unknown one is an `InputError` that names the nearest.

    >>> solver("heun").order
    2
    """
    return SOLVERS[choice("solver", name, SOLVERS)]
