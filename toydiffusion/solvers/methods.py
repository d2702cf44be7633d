"""Methods for the reverse process as tables of coefficients, each with its order.

With D the denoiser and `score = (D - z) / sigma^2`, they solve (Karras et al. 2022, equation 1 with s = 1;
Song et al. 2021, equations 6 and 13):

    ODE in sigma    dz/dsigma = (z - D(z; sigma)) / sigma
    SDE in sigma    dz = (sigma^2)' (z - D) / sigma^2 dsigma + sqrt((sigma^2)') dw     (sigma running down)

A new method is an entry in `SOLVERS`. The loops that apply the tables are in `solvers.reverse`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from toydiffusion.errors import choice


@dataclass(frozen=True)
class RungeKutta:
    """An explicit Runge-Kutta method for the ODE.

    Stage i has the slope `k_i` at `s + c_i h` and `z + h sum_j a_ij k_j`. The step is `z + h sum_i b_i k_i`.

    - `order`: the order of the method.
    - `a`, `b`, `c`: the Butcher tableau.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]


@dataclass(frozen=True)
class ExponentialMultistep:
    """An exponential multistep method for the ODE: the linear part is exact, and D is extrapolated.

    - `order`: the order of the method, and the number of values of D that it uses.

    In `lambda = -log sigma` the ODE is `dz/dlambda = D - z`. So over a step of length h

        z(lambda + h) = e^-h z(lambda) + int_0^h e^(s - h) D(lambda + s) ds.

    With a polynomial through the past values of D the integral becomes a weighted sum of them. A step takes
    one evaluation of D.

    Order 1 is DDIM, which equals Euler in sigma. Order 2 is DPM-Solver++(2M), and order 3 is its (3M) version
    (Lu et al. 2022, arXiv:2211.01095). From order 3 on, the first step has no past values, so it is corrected
    with D at its end. Otherwise the first step would reduce the order. This costs one more evaluation in
    total.
    """

    order: int

    @staticmethod
    def weights(step: float, nodes: list[float]) -> list[float]:
        """Return `w_j = int_0^h e^(s - h) L_j(s) ds`, with L_j the Lagrange basis of the nodes.

        - `step`: the length h of the step in lambda.
        - `nodes`: the lambdas of the values of D, relative to the start of the step.

        Gauss-Legendre quadrature is exact to rounding, and does not cancel at small h.

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
class Adams:
    """A method of Adams for the departure of the ODE from its Gaussian solution: few steps suffice.

    - `order`: the order of the method, and the number of values of D that it uses.

    The data's Gaussian `N(m, C)` (`Reference`) has the denoiser D_G. With c an eigenvalue of C, the ODE along
    its axis is, in the whitened coordinate `y = axis . (z - m) / sqrt(c + sigma^2)`,

        dy/dtheta = f = sqrt((c + sigma^2) / c) axis . (D_G - D) / sigma,    theta = atan(sigma / sqrt(c)).

    For Gaussian data f is 0, so y does not move: one evaluation is exact. For other data f goes to 0 at high
    noise, and stays finite at low noise. theta runs from pi / 2, all noise, to 0, none.

    Each of k steps takes one evaluation f_i, at the predicted y_i. First f_i corrects the step that led to
    it, then the next step is predicted (Adams, Bashforth and Moulton; Hairer, Norsett and Wanner 1993,
    chapter III.1):

        corrected_i = y_i + (1 - 2 / k) int (p_i - q_{i-1}) dtheta       over the step that led to y_i
        y_{i+1}     = corrected_i + int q_i dtheta                       over the next step

    p_i goes through the last `order` values, f_i the newest, and q_i through one less. They are polynomials
    in `v = asinh(sigma / unit)`, with `unit` four times the lowest level above 0. That is like log sigma
    above the unit, and like sigma below it. So the last step can end at sigma = 0, where the other methods
    need one more evaluation, to denoise. The factor `1 - 2 / k` is for long steps: f_i belongs to the
    predicted point, and says less of the corrected one the longer the step is.

    The ideas are those of exponential integrators that take a Gaussian part exactly, and correct without
    another evaluation (Zheng et al. 2023, DPM-Solver-v3, arXiv:2310.13268; Zhao et al. 2023, UniPC,
    arXiv:2302.04867). Here the Gaussian has the covariance of the data, and the coordinate is regular at both
    ends.
    """

    order: int

    @staticmethod
    def levels(steps: int, sigma_min: float, top: float) -> Tensor:
        """Return the levels of so many steps, `(steps,)`, descending from `top`. The last step ends at 0.

        The lowest level is `0.4 (steps - 1)^(-1.3)`, at least sigma_min: a few steps need no finer one, since
        the last one ends at 0. With `theta = atan(sigma)` the levels are evenly spaced in `theta^p`,

            p = (1 + (3 / steps)^2) / 2,

        from theta itself for three steps to its root for many. With `top` at three fifths of `steps` this was
        chosen on ten trained models and fourteen other cases (`benchmarks/README.md`).

        >>> [round(sigma, 3) for sigma in Adams.levels(4, 0.01, 2.0).tolist()]
        [2.0, 0.88, 0.397, 0.096]
        """
        if steps == 1:
            return torch.tensor([top], dtype=torch.float64)
        low = max(sigma_min, min(0.4 * (steps - 1) ** -1.3, top / 2))
        p = (1 + (3 / steps) ** 2) / 2
        first, last = (math.atan(sigma) ** p for sigma in (top, low))
        levels = torch.linspace(first, last, steps, dtype=torch.float64).pow(1 / p).tan()
        levels[0], levels[-1] = top, low  # without rounding
        return levels

    def weights(
        self,
        variance: Tensor,
        after: float,
        nodes: list[float],
        *,
        unit: float,
        relaxation: float,
    ) -> list[Tensor]:
        """Return the weights of the values `sqrt(c) f` in a correction and the step to `after`, `(..., d)`.

        - `variance` `(..., d)`: the eigenvalues c > 0.
        - `nodes`: the levels of the last values, at most `order`, from the newest on. The step starts at the
          first of them.
        - `unit`: the unit of sigma in v.
        - `relaxation`: the factor of the correction, `1 - 2 / k` above.
        """
        here, *before = nodes
        weights = [torch.zeros_like(variance) for _ in nodes]
        parts = [(1.0, here, after, nodes[: self.order - 1], 0)]
        if before and relaxation:
            parts += [(relaxation, before[0], here, nodes, 0), (-relaxation, before[0], here, before, 1)]
        for factor, begin, end, through, first in parts:
            for j, weight in enumerate(self.integrals(variance, begin, end, through, unit), start=first):
                weights[j] += factor * weight
        return weights

    @staticmethod
    def integrals(
        variance: Tensor, sigma: float, after: float, nodes: list[float], unit: float
    ) -> list[Tensor]:
        """Return `int L_j(v) dtheta / sqrt(c)` from sigma to `after`, each `(..., d)`.

        L_j is the Lagrange basis of the nodes in v.

        The arguments are those of `weights`.
        """
        s, gauss = (a.to(variance) for a in _QUADRATURE)
        root = variance.sqrt()[..., None]
        # By tan(theta) = sinh(q) the quadrature also resolves an axis far thinner than sigma.
        begin, end = torch.asinh(sigma / root), torch.asinh(after / root)
        q = begin + (end - begin) * (s + 1) / 2
        v = torch.asinh(root * q.sinh() / unit)
        measure = (end - begin) / (root * q.cosh()) * gauss / 2
        at = [math.asinh(node / unit) for node in nodes]
        integrals = []
        for j, here in enumerate(at):
            basis = torch.ones_like(v)
            for i, other in enumerate(at):
                if i != j:
                    basis = basis * (v - other) / (here - other)
            integrals.append((measure * basis).sum(-1))
        return integrals


@dataclass(frozen=True)
class ReverseSDE:
    """Euler-Maruyama for the reverse SDE, with Langevin steps after each step.

    - `order`: the weak order.
    - `corrections`: the number of Langevin steps after each step, default 0.
    - `snr`: the signal-to-noise ratio of a Langevin step, default 0.16.

    A Langevin step is `z + delta score + sqrt(2 delta) eps` with `delta = 2 (snr sigma)^2`. With such steps
    the method is the predictor-corrector of Song et al. 2021 (algorithms 2 and 4). They compute delta from
    the norms of score and noise in the batch. Here it is computed from sigma, the expected ratio of these
    norms, so that a point does not depend on its batch.
    """

    order: int
    corrections: int = 0
    snr: float = 0.16


@dataclass(frozen=True)
class EmbeddedPair:
    """An explicit Runge-Kutta method with an embedded method of lower order, which estimates the error.

    The stages are those of `RungeKutta`. The point of the last stage is the result of the step, and its slope
    is the first slope of the next step. The estimate of the error is `h sum_i error_i k_i`, the difference
    from the result of lower order.

    - `order`: the order of the method.
    - `a`, `c`: the Butcher tableau.
    - `error`: the differences of the two sets of weights b.
    - `middle`: the weights of the slopes in the state at the middle of the step, of order 4 (Shampine 1986,
      Math. Comp. 46, 135).
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    c: tuple[float, ...]
    error: tuple[float, ...]
    middle: tuple[float, ...]


_QUADRATURE = [torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(48)]
"""Nodes and weights on (-1, 1)."""

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
    middle=(
        6025192743 / 60171106304,
        0.0,
        51252292925 / 130801643196,
        -2691868925 / 90256659456,
        187940372067 / 3189068634112,
        -1776094331 / 39487288512,
        11237099 / 470086768,
    ),
)
"""The pair of orders 5 and 4 of Dormand and Prince (1980, RK5(4)7M). It computes log-densities, with
step sizes chosen for each point."""

Solver: TypeAlias = RungeKutta | ExponentialMultistep | Adams | ReverseSDE
"""A method for sampling: one of the four kinds."""

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
    "adams": Adams(order=3),
    "euler-maruyama": ReverseSDE(order=1),
    "predictor-corrector": ReverseSDE(order=1, corrections=1),
}
"""Every method by name."""


def solver(name: str) -> Solver:
    """Return the method of this name. Raises `InputError` for an unknown name.

    >>> solver("heun").order
    2
    """
    return SOLVERS[choice("solver", name, SOLVERS)]
