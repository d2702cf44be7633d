"""The learned denoiser."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from toydiffusion.denoisers.preconditioning import Preconditioning
from toydiffusion.errors import InputError
from toydiffusion.types import Labels, Levels, Points


class Network(nn.Module):
    """A small fully connected network that is a `Denoiser`: `c_skip z + c_out F(z, sigma, label)`.

    The inputs of F are:

    - the position `c_in z`, and sines and cosines of log sigma;
    - `edges` units `4 tanh(r / 4)` with `r = (w . z + b + b_label) / sigma`, the distance to a learned
      hyperplane in noise levels. At low noise the denoiser of a law with an edge depends on that
      ratio alone, so one unit serves an edge at every noise level;
    - sines and cosines of the position along `waves` fixed random directions (Tancik et al. 2020), for
      structure too fine for a few hidden units;
    - an embedding of the label. It has one row more than there are classes: the last stands for no label.

    With two classes or more, `forward` needs a label. `unconditional` is the network without one, as trained
    with dropped labels.

    Parameters are float32. For points in float64 only F is computed in float32.

    Raises `InputError` for a network of more than `MOST_WEIGHTS` weights, before any memory is taken.
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
        shapes = self.shapes(
            dim, num_classes, width=width, hidden_layers=hidden_layers, edges=edges, waves=waves
        )
        size = sum(math.prod(shape) for shape in shapes.values())
        if size > MOST_WEIGHTS:
            raise InputError(
                f"the network would have {size:,} weights, at most {MOST_WEIGHTS:,} are allowed; "
                "lower width, hidden_layers, edges or waves"
            )
        self.dim = dim
        self.num_classes = num_classes
        self.preconditioning = preconditioning

        def normal(name: str) -> Tensor:
            return torch.randn(*shapes[name], generator=generator)

        self.edge_direction = nn.Parameter(functional.normalize(normal("edge_direction"), dim=1))
        self.edge_offset = nn.Parameter(4 * torch.rand(edges, generator=generator) - 2)
        self.edge_label_offset = nn.Parameter(torch.zeros(shapes["edge_label_offset"]))
        self.embedding = nn.Parameter(normal("embedding"))
        self.register_buffer("wave_direction", normal("wave_direction") * (math.pi * math.sqrt(2 / dim)))
        self.wave_direction: Tensor

        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for i in range(hidden_layers):
            fan_out, fan_in = shapes[f"weights.{i}"]
            bound = fan_in**-0.5
            self.weights.append((2 * torch.rand(fan_out, fan_in, generator=generator) - 1) * bound)
            self.biases.append((2 * torch.rand(fan_out, generator=generator) - 1) * bound)
        # F = 0 at the start: the denoiser begins as the best linear one.
        self.weights.append(torch.zeros(dim, width))
        self.biases.append(torch.zeros(dim))

    @staticmethod
    def shapes(
        dim: int, num_classes: int, *, width: int, hidden_layers: int, edges: int, waves: int
    ) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor in the `state_dict` of such a network, without building it."""
        rows = num_classes + 1 if num_classes > 1 else 1
        embedding = _EMBEDDING if num_classes > 1 else 0
        inputs = dim + 2 * len(_OCTAVES) + edges + 2 * waves + embedding
        sizes = [inputs, *[width] * hidden_layers, dim]
        shapes: dict[str, tuple[int, ...]] = {
            "edge_direction": (edges, dim),
            "edge_offset": (edges,),
            "edge_label_offset": (rows, edges),
            "embedding": (rows, embedding),
            "wave_direction": (waves, dim),
        }
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            shapes |= {f"weights.{i}": (fan_out, fan_in), f"biases.{i}": (fan_out,)}
        return shapes

    def forward(self, z: Points, sigma: Levels, label: Labels | None = None) -> Points:
        """Return the denoised points, `(n, d)`, in the dtype and on the device of `z`.

        Raises `InputError` where a network with classes gets no label.
        """
        if label is None and self.num_classes > 1:
            raise InputError(
                "this denoiser has classes: give a label for each point, or use `unconditional`, the network "
                "without labels"
            )
        return self._denoise(z, sigma, label)

    def unconditional(self, z: Points, sigma: Levels, label: Labels | None = None, /) -> Points:
        """Return the denoised points without regard to labels, as trained with dropped labels.

        `label` is ignored, so that this is a `Denoiser` too.
        """
        return self._denoise(
            z, sigma, torch.full((len(z),), self.num_classes) if self.num_classes > 1 else None
        )

    def _denoise(self, z: Points, sigma: Levels, label: Labels | None) -> Points:
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
        row = torch.zeros(len(z), dtype=torch.int64) if label is None else label
        row = row.to(z.device)
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


MOST_WEIGHTS = 10**8
"""A network has at most so many weights: 400 MB, and four times that in training."""
_EMBEDDING = 16
"""Numbers that stand for a label."""
_OCTAVES = (0.125, 0.25, 0.5, 1.0)
"""Frequencies at which the network sees log sigma, in radians per unit."""
