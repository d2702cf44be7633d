"""The learned denoiser."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from toydiffusion.denoisers.preconditioning import Preconditioning
from toydiffusion.errors import InputError
from toydiffusion.types import Labels, Levels, Points


class EdgeUnits(NamedTuple):
    """What the edge units of a `Network` are made of, for n points.

    - `ahead`: `w . z + b + b_label`, `(..., n, edges)`.
    - `bend`: `tanh(r / 4)`, of the same shape.
    - `sharpness`, `gate`: 1 / tau and sigma / tau, `(n, edges)`, or `(1, edges)` for one level.
    """

    ahead: Tensor
    bend: Tensor
    sharpness: Tensor
    gate: Tensor

    @property
    def values(self) -> Tensor:
        """The units, `4 (sigma / tau) tanh(r / 4)`."""
        return self.bend * (4 * self.gate)

    @property
    def slope(self) -> Tensor:
        """Their derivative in `ahead`, `sigma / tau^2 (1 - tanh(r / 4)^2)`."""
        steep = self.gate * self.sharpness
        return torch.addcmul(steep, self.bend, self.bend * steep, value=-1)


class Network(nn.Module):
    """A small fully connected network that is a `Denoiser`: `c_skip z + c_out F(z, sigma, label)`.

    The inputs of F are:

    - the position `c_in z`, and sines and cosines of log sigma.
    - edge units, each `4 (sigma / tau) tanh(r / 4)` with `r = (w . z + b + b_label) / tau` and
      `tau^2 = sigma^2 + s^2`: the distance to a learned hyperplane, in units of tau. A boundary of the law
      whose density falls over a width s is as if blurred by noise of level s. At level sigma it is blurred by
      tau, and its score is a function of r over tau. F is sigma times that. So one unit represents a
      boundary, sharp (s = 0) or soft, at every noise level. The softness s is learned, from `SOFTNESS` on.
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
        self.edge_softness = nn.Parameter(torch.full(shapes["edge_softness"], SOFTNESS))
        self.embedding = nn.Parameter(normal("embedding"))
        self.register_buffer("octaves", torch.tensor(OCTAVES), persistent=False)
        self.octaves: Tensor
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
        inputs = dim + 2 * len(OCTAVES) + edges + 2 * waves + embedding
        sizes = [inputs, *[width] * hidden_layers, dim]
        shapes: dict[str, tuple[int, ...]] = {
            "edge_direction": (edges, dim),
            "edge_offset": (edges,),
            "edge_label_offset": (rows, edges),
            "edge_softness": (edges,),
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
        sigma = _once(sigma)
        raw = self.raw(*self._own(z, sigma), label)
        c_skip = self.preconditioning.c_skip(sigma)[:, None]
        c_out = self.preconditioning.c_out(sigma)[:, None]
        return c_skip * z + c_out * raw.to(z)

    def with_trace(
        self, z: Points, sigma: Levels, label: Labels | None = None, *, probes: Tensor | None = None
    ) -> tuple[Points, Tensor]:
        """Return the denoised points `(n, d)`, and the trace of their Jacobian J in z, `(n, k)`.

        The derivatives along the axes go forward through the layers beside the values (forward mode): with
        `a = W h + b`, `h' = silu(a)` and T the derivative of h along one axis, that of h' is `silu'(a) W T`.
        No graph is built for autograd, unless the weights or z require one.

        - `probes` `(n, k, d)`: None for the trace itself; k is then 1. Or directions v: the result is
          `v^T J v` for each.
        """
        sigma = _once(sigma)
        own, level = self._own(z, sigma)
        raw, traces = self._raw_with_trace(own, level, label, None if probes is None else probes.to(own))
        c_skip = self.preconditioning.c_skip(sigma)[:, None]
        c_out = self.preconditioning.c_out(sigma)[:, None]
        square = z.shape[1] if probes is None else probes.square().sum(2)
        return c_skip * z + c_out * raw.to(z), c_skip * square + c_out * traces.to(z)

    def _own(self, z: Points, sigma: Levels) -> tuple[Points, Levels]:
        """Return the arguments on the device and in the precision of the weights."""
        return z.to(self.edge_offset), sigma.to(self.edge_offset)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.edge_offset.device

    @property
    def size(self) -> int:
        """The number of trained weights."""
        return sum(weight.numel() for weight in self.parameters())

    def raw(self, z: Points, sigma: Levels, label: Labels | None) -> Tensor:
        """Return the raw output F, `(n, d)` float32. `sigma` is `(n,)`, or `(1,)` for one level."""
        inner, _, _ = self._first_layer(z, sigma, label)
        *hidden, last = self._later_layers()
        for weight, bias in hidden:
            inner = functional.linear(functional.silu(inner), weight, bias)
        return functional.linear(functional.silu(inner), *last)

    def edge_units(self, z: Points, sigma: Levels, label: Labels | None) -> EdgeUnits:
        """Return the edge units at `z`, `(..., n, d)`; `sigma` is `(n,)`, or `(1,)` for one level."""
        # Without classes all rows have the only one.
        row: Labels | slice = slice(0, 1) if label is None else label
        level = sigma[:, None]
        sharpness = (level.square() + self.edge_softness.square()).rsqrt()
        ahead = z @ self.edge_direction.T + (self.edge_offset + self.edge_label_offset[row])
        # tanh(r / 4) from the logistic function of r / 2: torch's own tanh takes several times as long.
        bend = torch.sigmoid(ahead * (sharpness / 2)).mul(2).sub_(1)
        return EdgeUnits(ahead, bend, sharpness, level * sharpness)

    def _raw_with_trace(
        self, z: Points, sigma: Levels, label: Labels | None, probes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return F, `(n, d)`, and the trace of its Jacobian in z or `v^T J v` for each probe v, `(n, k)`."""
        inner, edges, phase = self._first_layer(z, sigma, label)
        n, d = z.shape
        # Input i of the first layer depends on z through a direction e_i. Its derivative is slope_i e_i . v.
        place, _, edge, wave_cos, wave_sin, _ = self._first_weights()
        weight = torch.cat([place, edge, wave_cos, wave_sin], 1)
        directions = [torch.eye(d).to(z), self.edge_direction, self.wave_direction, self.wave_direction]
        direction = torch.cat(directions)
        c_in = self.preconditioning.c_in(sigma)[:, None]
        slopes = [
            c_in.expand(n, d),
            edges.slope,
            -c_in * phase.sin(),
            c_in * phase.cos(),
        ]
        slope = torch.cat(slopes, 1)
        # The derivatives along the k axes or probes, `(k, n, width)`.
        if probes is None:
            each_axis = direction.T[:, :, None] * weight.T
            along = torch.bmm(slope.expand(d, *slope.shape), each_axis)
        else:
            along = _product(slope * (probes.transpose(0, 1) @ direction.T), weight)
        *hidden, last = self._later_layers()
        for matrix, bias in hidden:
            inner, along = _silu(inner, along)
            inner, along = functional.linear(inner, matrix, bias), _product(along, matrix)
        inner, along = _silu(inner, along)
        if probes is None:
            traces = torch.bmm(along, last[0][:, :, None]).sum(0)
        else:
            traces = (_product(along, last[0]) * probes.transpose(0, 1)).sum(2).T
        return functional.linear(inner, *last), traces

    def _first_layer(
        self, z: Points, sigma: Levels, label: Labels | None
    ) -> tuple[Tensor, EdgeUnits, Tensor]:
        """Return the first layer before its activation, the edge units, and the phases of the waves.

        The inputs are multiplied by their columns of the weights one kind after another. So what all rows
        share, such as the part of one level, is computed once.
        """
        place, octaves, edge, wave_cos, wave_sin, classes = self._first_weights()
        octave = sigma.log()[:, None] * self.octaves
        inner = functional.linear(torch.cat([octave.cos(), octave.sin()], 1), octaves, self.biases[0])
        if label is not None:
            label = label.to(z.device)
            inner = inner + functional.linear(self.embedding, classes)[label]
        position = z * self.preconditioning.c_in(sigma)[:, None]
        edges = self.edge_units(z, sigma, label)
        phase = functional.linear(position, self.wave_direction)
        waves = [phase.cos(), phase.sin()] if phase.shape[1] else []
        each = torch.cat([position, edges.values, *waves], 1)
        inner = torch.addmm(inner, each, torch.cat([place, edge, wave_cos, wave_sin], 1).T)
        return inner, edges, phase

    def _first_weights(self) -> tuple[Tensor, ...]:
        """Return the weights of the first layer of each kind of input."""
        waves = len(self.wave_direction)
        sizes = [self.dim, 2 * len(OCTAVES), len(self.edge_offset), waves, waves, self.embedding.shape[1]]
        parts: tuple[Tensor, ...] = self.weights[0].split(sizes, dim=1)
        return parts

    def _later_layers(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.weights, self.biases, strict=True))[1:]


def _once(sigma: Levels) -> Levels:
    """Return levels `(n,)`, or `(1,)` where they are one number `expand`ed to all rows."""
    return sigma[:1] if len(sigma) > 1 and sigma.stride(0) == 0 else sigma


def _product(along: Tensor, weight: Tensor) -> Tensor:
    """Return `along @ weight^T`, `(k, n, width)`, as one product of two matrices."""
    return (along.flatten(0, 1) @ weight.T).view(*along.shape[:2], len(weight))


def _silu(inner: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """Return silu of `inner` `(n, width)`, and the derivatives `along` `(k, n, width)` carried through it.

    Without a graph both are computed in place.
    """
    if not torch.is_grad_enabled():
        # In one pass over the memory, and in place: torch has this product for the backward pass of silu.
        torch.ops.aten.silu_backward.grad_input(along, inner.expand_as(along), grad_input=along)
        return functional.silu(inner, inplace=True), along
    gate = inner.sigmoid()
    value = inner * gate
    return value, along * torch.addcmul(gate, value, 1 - gate)


MOST_WEIGHTS = 10**8
"""The most weights of a network: 400 MB, and four times that in training."""
SOFTNESS = 0.05
"""The softness of each edge unit before training, in the units of z."""
_EMBEDDING = 16
"""The numbers in the embedding of a label."""
OCTAVES = (0.125, 0.25, 0.5, 1.0)
"""The frequencies of the sines and cosines of log sigma, in radians per unit."""
