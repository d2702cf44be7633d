"""The learned denoiser."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from toydiffusion.denoisers.preconditioning import Preconditioning
from toydiffusion.types import Labels, Levels, Points


class Network(nn.Module):
    """A small fully connected network that is a `Denoiser`: `c_skip z + c_out F(z, sigma, label)`.

    F sees, side by side:

    - the position `c_in z` and sines and cosines of log sigma;
    - `edges` units `4 tanh(r / 4)` with `r = (w . z + b + b_label) / sigma`, the distance to a learned
      hyperplane counted in noise levels. At low noise the denoiser of anything with an edge is a function of
      that ratio alone, so one unit serves an edge at every noise level;
    - `waves` random directions' sines and cosines of position (fixed; Tancik et al. 2020), for structure
      finer than a few hidden units resolve;
    - an embedding of the label, one row more than there are classes: the last stands for "no label".

    Parameters are float32. Points in float64 are denoised in float64 but for F itself.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        width: int,
        hidden_layers: int,
        edges: int,
        waves: int,
        preconditioning: Preconditioning,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_classes = num_classes
        self.preconditioning = preconditioning
        rows = num_classes + 1 if num_classes > 1 else 1
        embedding = 16 if num_classes > 1 else 0

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.edge_direction = nn.Parameter(functional.normalize(normal(edges, dim), dim=1))
        self.edge_offset = nn.Parameter(4 * torch.rand(edges, generator=generator) - 2)
        self.edge_label_offset = nn.Parameter(torch.zeros(rows, edges))
        self.embedding = nn.Parameter(normal(rows, embedding))
        self.register_buffer("wave_direction", normal(waves, dim) * (math.pi * math.sqrt(2 / dim)))
        self.wave_direction: Tensor

        inputs = dim + 2 * len(_OCTAVES) + edges + 2 * waves + embedding
        sizes = [inputs] + [width] * hidden_layers
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(sizes):
            bound = fan_in**-0.5
            self.weights.append((2 * torch.rand(fan_out, fan_in, generator=generator) - 1) * bound)
            self.biases.append((2 * torch.rand(fan_out, generator=generator) - 1) * bound)
        # F = 0 at the start: the denoiser begins as the best linear one.
        self.weights.append(torch.zeros(dim, sizes[-1]))
        self.biases.append(torch.zeros(dim))

    def forward(self, z: Points, sigma: Levels, label: Labels | None = None) -> Points:
        """Return the denoised points, `(n, d)`, in the dtype and on the device of `z`."""
        device = self.edge_offset.device
        dtype = self.edge_offset.dtype
        raw = self.raw(z.to(device, dtype), sigma.to(device, dtype), label)
        c_skip = self.preconditioning.c_skip(sigma)[:, None]
        c_out = self.preconditioning.c_out(sigma)[:, None]
        return c_skip * z + c_out * raw.to(z)

    @property
    def size(self) -> int:
        """The number of trained weights."""
        return sum(weight.numel() for weight in self.parameters())

    def raw(self, z: Points, sigma: Levels, label: Labels | None) -> Tensor:
        """Return F, `(n, d)` float32."""
        if label is None:
            row = torch.full((len(z),), self.embedding.shape[0] - 1, device=z.device)
        else:
            row = label.to(z.device)
        position = z * self.preconditioning.c_in(sigma)[:, None]
        octave = sigma.log()[:, None] * sigma.new_tensor(_OCTAVES)
        inputs = [position, octave.cos(), octave.sin()]
        if self.edge_offset.numel():
            ahead = functional.linear(z, self.edge_direction, self.edge_offset)
            ratio = (ahead + self.edge_label_offset[row]) / sigma[:, None]
            inputs.append(4 * torch.tanh(ratio / 4))
        if self.wave_direction.numel():
            phase = functional.linear(position, self.wave_direction)
            inputs += [phase.cos(), phase.sin()]
        if self.embedding.shape[1]:
            inputs.append(self.embedding[row])
        hidden = torch.cat(inputs, 1)
        *layers, last = zip(self.weights, self.biases, strict=True)
        for weight, bias in layers:
            hidden = functional.silu(functional.linear(hidden, weight, bias))
        return functional.linear(hidden, *last)


_OCTAVES = (0.125, 0.25, 0.5, 1.0)
"""Frequencies at which the network sees log sigma, in radians per unit."""
