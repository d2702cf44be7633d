"""The optimiser of the students."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Soap:
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv:2409.11321).

    With G the gradient of a matrix of weights, it keeps running means L of `G G^T` and R of `G^T G`, and
    Adam's moments of the gradient in their eigenbases, `Q_L^T G Q_R`. The bases are updated by one step of
    the power method with a QR factorisation, every few steps. Vectors are updated by Adam's rule.

    Students learn exact labels, so their gradients have little noise, and the curvature pays: the error is
    two to four times smaller than Adam's after the same time (`benchmarks/distill.py optimiser`). In the
    training of a diffusion model, whose gradients are mostly noise, SOAP loses to Adam.

    - `weights`: the tensors to change, whose `grad` the steps read.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._states = [_State(weight) for weight in weights]
        self._steps = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every weight down its gradient. The first call only starts the bases."""
        if self._steps:
            for state in self._states:
                state.step(rate, self._steps)
        else:
            for state in self._states:
                state.start()
        self._steps += 1


_BETA = 0.95
"""The decay of all running means."""
_EVERY = 10
"""The steps between two updates of the bases."""
_LARGEST = 1024
"""Matrices with a longer side are updated by Adam's rule: factorising them would take too long."""


class _State:
    """What the optimiser remembers of one tensor."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)
        self.is_matrix = weight.ndim == 2 and min(weight.shape) > 1 and max(weight.shape) <= _LARGEST

    def start(self) -> None:
        gradient = self._gradient()
        if self.is_matrix:
            self.outer = [gradient @ gradient.T, gradient.T @ gradient]
            self.bases = [torch.linalg.eigh(outer)[1] for outer in self.outer]

    def step(self, rate: float, number: int) -> None:
        gradient = self._gradient()
        self.mean.lerp_(gradient, 1 - _BETA)
        turned, mean = gradient, self.mean
        if self.is_matrix:
            left, right = self.bases
            turned, mean = left.T @ gradient @ right, left.T @ self.mean @ right
        self.square.mul_(_BETA).addcmul_(turned, turned, value=1 - _BETA)
        corrected = 1 - _BETA**number
        change = (mean / corrected) / ((self.square / corrected).sqrt() + 1e-8)
        if self.is_matrix:
            change = left @ change @ right.T
            for outer, product in zip(
                self.outer, (gradient @ gradient.T, gradient.T @ gradient), strict=True
            ):
                outer.lerp_(product, 1 - _BETA)
            if number % _EVERY == 0:
                self.bases = [
                    torch.linalg.qr(outer @ basis)[0]
                    for outer, basis in zip(self.outer, self.bases, strict=True)
                ]
        self.weight.add_(change, alpha=-rate)

    def _gradient(self) -> Tensor:
        gradient = self.weight.grad
        assert gradient is not None
        return gradient
