"""Networks side by side, each of which predicts what a Gaussian leaves unexplained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toydiffusion.denoisers.network import OCTAVES
from toydiffusion.denoisers.preconditioning import PRECONDITIONINGS
from toydiffusion.types import Labels, Levels, Points

EDM = PRECONDITIONINGS["edm"]
"""The coefficients of a residual on a Gaussian: `c_out` of the networks, `c_in` of their position."""


@dataclass(frozen=True)
class ResidualSizes:
    """The sizes of `Residuals`.

    - `members`: how many networks lie side by side.
    - `dim`, `num_classes`: of the points.
    - `width`: the units in each of the two hidden layers.
    - `edges`: the edge units (`Network`).
    """

    members: int
    dim: int
    num_classes: int
    width: int
    edges: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights by name."""
        m, d, width, edges = self.members, self.dim, self.width, self.edges
        return {
            "edge_direction": (m, edges, d),
            "edge_offset": (m, self.num_classes, edges),
            "place": (m, d + edges, width),
            "level": (m, 2 * len(OCTAVES), width),
            "class_bias": (m, self.num_classes, width),
            "hidden": (m, width, width),
            "hidden_bias": (m, 1, width),
            "last": (m, width, d),
            "last_bias": (m, 1, d),
        }


class Residuals(nn.Module):
    """Small networks F side by side: the denoiser of member k is `D_G + c_out F_k`.

    Each has two hidden layers, `F = W3 silu(W2 silu(W1 u + b) + b2) + b3`. The inputs u are the position
    `c_in z`, sharp edge units (those of `Network` with softness 0), sines and cosines of log sigma, and a
    bias for each class, which also moves the edges. F is 0 at first.

    - `sizes`: see `ResidualSizes`.
    - `generator`: the source of the initial weights.
    """

    def __init__(self, sizes: ResidualSizes, generator: torch.Generator) -> None:
        super().__init__()
        self.sizes = sizes
        shapes = sizes.shapes()
        inputs = sizes.dim + sizes.edges + 2 * len(OCTAVES)

        def uniform(name: str, bound: float) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(shapes[name], generator=generator) - 1) * bound)

        directions = torch.randn(shapes["edge_direction"], generator=generator)
        self.edge_direction = nn.Parameter(nn.functional.normalize(directions, dim=2))
        # At first the edges of all classes are in the same places.
        offset = 4 * torch.rand(sizes.members, 1, sizes.edges, generator=generator) - 2
        self.edge_offset = nn.Parameter(offset.repeat(1, sizes.num_classes, 1))
        self.place = uniform("place", inputs**-0.5)
        self.level = uniform("level", inputs**-0.5)
        self.class_bias = uniform("class_bias", inputs**-0.5)
        self.hidden = uniform("hidden", sizes.width**-0.5)
        self.hidden_bias = uniform("hidden_bias", sizes.width**-0.5)
        self.last = nn.Parameter(torch.zeros(shapes["last"]))
        self.last_bias = nn.Parameter(torch.zeros(shapes["last_bias"]))
        self.register_buffer("octaves", torch.tensor(OCTAVES), persistent=False)
        self.octaves: Tensor

    def forward(self, z: Points, sigma: Levels, label: Labels | None) -> Tensor:
        """Return F of every member, `(members, n, d)`.

        - `z` `(n, d)` for all members, or `(members, n, d)` for each its own; `sigma` and `label` likewise.
        """
        first, _ = self._first(z, sigma, label)
        second = torch.baddbmm(self.hidden_bias, nn.functional.silu(first), self.hidden)
        return torch.baddbmm(self.last_bias, nn.functional.silu(second), self.last)

    def with_trace(
        self, z: Points, sigma: Levels, label: Labels | None, probes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return F, `(members, n, d)`, and the trace of its Jacobian in z, `(members, n, k)`.

        Without edges the trace has a closed form. With the slopes g1 and g2 of silu before the hidden layers,

            tr J = c_in g1^T [W2 o (W3 W1)^T] g2,

        one product of matrices as large as the second layer, whatever d. With edges, and for `probes`
        `(n, k, d)`, the derivatives along axes or probes go forward through the layers.
        """
        first, bend = self._first(z, sigma, label)
        inner, slope = _silu(first)
        second = torch.baddbmm(self.hidden_bias, inner, self.hidden)
        outer, steep = _silu(second)
        values = torch.baddbmm(self.last_bias, outer, self.last)
        members, n, _ = values.shape
        d, width = self.sizes.dim, self.sizes.width
        scale = EDM.c_in(sigma)[:, None]
        if probes is None and not self.sizes.edges:
            loop = self.hidden * (self.last @ self.place).mT
            traces = scale * ((slope @ loop) * steep).sum(2, keepdim=True)
            return values, traces
        along = torch.eye(d).to(z)[None].expand(n, d, d) if probes is None else probes.to(z)
        k = along.shape[1]
        # Derivatives of the first layer along each direction, `(members, n k, width)`.
        moved = (scale[:, None] * along).reshape(1, n * k, d).expand(members, -1, -1)
        if self.sizes.edges:
            ahead = (along.reshape(n * k, d) @ self.edge_direction.mT).view(members, n, k, -1)
            ahead = ahead * ((1 - bend.square()) / sigma[:, None])[:, :, None]
            moved = torch.cat([moved, ahead.flatten(1, 2)], 2)
        tangent = (moved @ self.place).view(members, n, k, width) * slope[:, :, None]
        tangent = (tangent.flatten(1, 2) @ self.hidden).view(members, n, k, width) * steep[:, :, None]
        # v^T W3 t for each direction v and its tangent t.
        back = along.reshape(1, n * k, d) @ self.last.mT
        traces = (back.view(members, n, k, width) * tangent).sum(3)
        return values, traces.sum(2, keepdim=True) if probes is None else traces

    def _first(self, z: Points, sigma: Levels, label: Labels | None) -> tuple[Tensor, Tensor]:
        """Return the first layer before its activation, `(members, n, width)`, and tanh(r / 4) of edges."""
        own = z.expand(self.sizes.members, *z.shape[-2:])
        level = sigma.expand(self.sizes.members, sigma.shape[-1])
        octave = level.log()[..., None] * self.octaves
        steady = torch.cat([octave.cos(), octave.sin()], 2) @ self.level
        steady = steady + self._of_class(self.class_bias, label)
        inputs = own * EDM.c_in(level)[..., None]
        bend = own.new_zeros(())
        if self.sizes.edges:
            ahead = own @ self.edge_direction.mT + self._of_class(self.edge_offset, label)
            bend = torch.tanh(ahead / (4 * level[..., None]))
            inputs = torch.cat([inputs, 4 * bend], 2)
        return inputs @ self.place + steady, bend

    @staticmethod
    def _of_class(table: Tensor, label: Labels | None) -> Tensor:
        """Return the rows of a table `(members, K, width)` of these labels, `(members, n or 1, width)`."""
        if label is None:
            return table[:, :1]
        kind = label.expand(len(table), label.shape[-1])
        return table.gather(1, kind[..., None].expand(-1, -1, table.shape[2]))


def _silu(inner: Tensor) -> tuple[Tensor, Tensor]:
    """Return silu and its slope."""
    gate = inner.sigmoid()
    value = inner * gate
    return value, torch.addcmul(gate, value, 1 - gate)
