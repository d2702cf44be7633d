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

    - the position `c_in z`, and sines and cosines of log sigma.
    - edge units: `4 tanh(r / 4)` with `r = (w . z + b + b_label) / sigma`, the distance to a learned
      hyperplane in units of sigma. At low noise, near a sharp boundary of the law, the denoiser depends only
      on this ratio. So one unit represents a boundary at every noise level.
    - waves: sines and cosines of the position along fixed random directions (Tancik et al. 2020), for
      structure too fine for a few hidden units.
    - an embedding of the label. It has a row for each class, and a last row for "no label".

    Parameters:

    - `dim`: the dimension d.
    - `num_classes`: the number of classes K; 1 without labels.
    - `width`: the units in each hidden layer.
    - `hidden_layers`: the number of hidden layers.
    - `edges`: the number of edge units.
    - `waves`: the number of directions of the waves.
    - `preconditioning`: the coefficients `c_skip`, `c_out` and `c_in`.
    - `generator`: the source of the initial weights.

    With two classes or more, `forward` needs a label. `unconditional` is the denoiser without labels, as
    trained with dropped labels.

    The weights are float32. For float64 points only F is computed in float32.

    Raises `InputError` for more than `MOST_WEIGHTS` weights, before any memory is allocated.
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
        # F is 0 at first, so with preconditioning "edm" training starts from the best linear denoiser.
        self.weights.append(torch.zeros(dim, width))
        self.biases.append(torch.zeros(dim))

    @staticmethod
    def shapes(
        dim: int, num_classes: int, *, width: int, hidden_layers: int, edges: int, waves: int
    ) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors in the `state_dict` of a network, without building it."""
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

        Raises `InputError` if the network has classes and `label` is None.
        """
        if label is None and self.num_classes > 1:
            raise InputError(
                "this denoiser has classes: give a label for each point, or use `unconditional`, the network "
                "without labels"
            )
        return self._denoise(z, sigma, label)

    def unconditional(self, z: Points, sigma: Levels, label: Labels | None = None, /) -> Points:
        """Return the denoised points of the mixture of all classes, as trained with dropped labels.

        This is a `Denoiser` too: `label` is accepted and ignored.
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
        """Return the raw output F, `(n, d)` float32."""
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
"""The most weights of a network: 400 MB, and four times that in training."""
_EMBEDDING = 16
"""The numbers in the embedding of a label."""
_OCTAVES = (0.125, 0.25, 0.5, 1.0)
"""The frequencies of the sines and cosines of log sigma, in radians per unit."""
