"""The exact denoiser of a Gaussian mixture, with the trace of its Jacobian in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from toydiffusion.distributions import GaussianMixture
from toydiffusion.types import Labels, Levels, Points

_NUMBERS = 2**17
"""The numbers in one intermediate table of a chunk of rows: few enough for the processor's cache."""


class GaussianExpert(nn.Module):
    """The denoiser of a mixture of m Gaussians `N(mean_j, C_j)`, for many rows and all levels.

    With `C_j = axes_j diag(variance_j) axes_j^T`, `S_j = C_j + sigma^2 I`, responsibilities r_j at z and

        s_j = -S_j^-1 (z - mean_j),        s = sum_j r_j s_j,

    Tweedie's formula and its derivative give

        D    = z + sigma^2 s,
        tr J = d + sigma^2 (sum_j r_j (|s_j|^2 - tr S_j^-1) - |s|^2).

    It equals `GaussianMixture.denoise`, up to rounding. The axes are found once, so a level costs no
    factorisation. It computes in float64 whatever the precision of the networks beside it.

    - `law`: the mixture.
    """

    def __init__(self, law: GaussianMixture) -> None:
        super().__init__()
        order = law.component_labels.argsort(stable=True)
        means, covariances, labels = law.means[order], law.covariances[order], law.component_labels[order]
        log_weights = (law.weights[order] / law.frequencies[labels]).log()
        variances, axes = torch.linalg.eigh(covariances)
        self.register_buffer("variances", variances.clamp(min=0))
        # All axes side by side, `(d, m d)`, so that one product turns a point to all of them.
        self.register_buffer("axes", axes.transpose(0, 1).reshape(means.shape[1], -1))
        self.register_buffer("centers", torch.einsum("md,mde->me", means, axes))
        self.register_buffer("log_weights", log_weights)
        self.register_buffer("labels", labels)
        self.variances: Tensor
        self.axes: Tensor
        self.centers: Tensor
        self.log_weights: Tensor
        self.labels: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GaussianExpert:
        # Devices change, the precision does not.
        super()._apply(lambda buffer: buffer.to(fn(buffer).device), recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(
        self, z: Points, sigma: Levels, label: Labels | None, *, probes: Tensor | None = None
    ) -> tuple[Points, Tensor]:
        """Return the denoised points `(n, d)`, and the trace of their Jacobian `(n, k)`.

        - `z` `(n, d)` float64, `sigma` `(n,)`, or `(1,)` for one level.
        - `label` `(n,)`, or `(1,)` for one class of all rows; None counts all components.
        - `probes` `(n, k, d)`: directions v for `v^T J v` instead; k is 1 without.
        """
        n = len(z)
        rows = slice(None)
        if label is not None and len(label) == 1:
            own = (self.labels == label).nonzero()[:, 0]
            rows, label = slice(int(own[0]), int(own[-1]) + 1), None
        size = max(1, _NUMBERS // max(1, self.variances[rows].numel()))
        clean, traces = [], []
        for first in range(0, max(n, 1), size):
            some = slice(first, first + size)
            one, trace = self._chunk(
                z[some],
                sigma if len(sigma) == 1 else sigma[some],
                None if label is None else label[some],
                rows,
                None if probes is None else probes[some],
            )
            clean.append(one)
            traces.append(trace)
        return torch.cat(clean), torch.cat(traces)

    def _chunk(
        self, z: Points, sigma: Levels, label: Labels | None, rows: slice, probes: Tensor | None
    ) -> tuple[Points, Tensor]:
        n, d = z.shape
        variances, centers = self.variances[rows], self.centers[rows]
        begin, end, _ = rows.indices(len(self.variances))
        axes = self.axes[:, begin * d : end * d]
        noise = sigma.double().square()[:, None]
        inverse = 1 / (variances + noise[:, :, None])
        away = (z @ axes).view(n, len(centers), d) - centers
        pull = away * inverse
        joint = self.log_weights[rows] + (inverse.log().sum(2) - (away * pull).sum(2)) / 2
        if label is not None:
            joint = joint.masked_fill(self.labels[rows] != label[:, None], -math.inf)
        share = joint.softmax(1)
        score = -(pull * share[:, :, None]).flatten(1) @ axes.T
        if probes is None:
            bend = (share * (pull.square() - inverse).sum(2)).sum(1) - score.square().sum(1)
            return z + noise * score, d + noise * bend[:, None]
        turned = (probes.double() @ axes).view(n, probes.shape[1], len(centers), d)
        each = (turned * pull[:, None]).sum(3).square() - (turned.square() * inverse[:, None]).sum(3)
        along = (probes @ score[:, :, None])[:, :, 0]
        bend = (share[:, None] * each).sum(2) - along.square()
        return z + noise * score, probes.square().sum(2) + noise * bend
