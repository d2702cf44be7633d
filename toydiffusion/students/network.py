"""The network of a student: small, with the teacher's edges at a few scales."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from toydiffusion.denoisers import MOST_WEIGHTS, Network
from toydiffusion.errors import InputError
from toydiffusion.types import Labels, Points

SCALES = (1.0, 4.0)
"""The scales of a student's edge units, in units of the width tau that the teacher sees at sigma_min."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a `StudentNetwork`.

    - `inputs`, `outputs`: the numbers of inputs and outputs.
    - `dim`: the dimension d of the places.
    - `num_classes`: the number of classes K; 1 without labels. Each class has edges of its own offset.
    - `width`, `hidden_layers`: the units in each hidden layer, and the number of these layers.
    - `edges`: the number of edge units; 0 for a network that sees no place.
    """

    inputs: int
    outputs: int
    dim: int
    num_classes: int
    width: int
    hidden_layers: int
    edges: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors in the `state_dict`, without building the network."""
        shapes: dict[str, tuple[int, ...]] = {
            "direction": (self.edges, self.dim),
            "offset": (self.num_classes, self.edges),
            "edge_weight": (self.width, self.edges),
            "label_bias": (self.num_classes, self.width),
        }
        layers = [self.inputs, *[self.width] * self.hidden_layers, self.outputs]
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(layers)):
            shapes[f"weights.{i}"] = (fan_out, fan_in)
            if i:
                shapes[f"biases.{i - 1}"] = (fan_out,)
        return shapes


class StudentNetwork(nn.Module):
    """A small fully connected network of one call, without a noise level.

    With r the distance of a place to an edge, in units of a scale,

        h_1 = W_0 inputs + A tanh(r / 4) + b_label,    h_(i+1) = W_i silu(h_i) + b_i.

    - `sizes`: how many of everything.
    - `generator`: the source of the initial weights. The last layer is 0 at first.

    Raises `InputError` for more than `MOST_WEIGHTS` weights.
    """

    def __init__(self, sizes: Sizes, generator: torch.Generator) -> None:
        super().__init__()
        shapes = sizes.shapes()
        count = sum(math.prod(shape) for shape in shapes.values())
        if count > MOST_WEIGHTS:
            raise InputError(f"a student would have {count:,} weights, at most {MOST_WEIGHTS:,} are allowed")

        def uniform(name: str, fan_in: int) -> Tensor:
            bound = 1 / math.sqrt(max(fan_in, 1))
            return bound * (2 * torch.rand(*shapes[name], generator=generator) - 1)

        self.direction = nn.Parameter(torch.zeros(shapes["direction"]))
        self.offset = nn.Parameter(torch.zeros(shapes["offset"]))
        self.edge_weight = nn.Parameter(uniform("edge_weight", sizes.edges))
        self.label_bias = nn.Parameter(uniform("label_bias", sizes.inputs) / 2)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for i in range(sizes.hidden_layers):
            fan_in = sizes.width if i else sizes.inputs
            self.weights.append(uniform(f"weights.{i}", fan_in))
            if i:
                self.biases.append(uniform(f"biases.{i - 1}", fan_in))
        self.weights.append(torch.zeros(sizes.outputs, sizes.width))
        self.biases.append(torch.zeros(sizes.outputs))

    def take_edges(self, teacher: Network, sigma_min: float) -> None:
        """Start from the teacher's edges, each at all `SCALES`. There must be as many units."""
        tau = (sigma_min**2 + teacher.edge_softness.cpu().square()).sqrt()
        slope = (1 / (4 * torch.tensor(SCALES)[:, None] * tau)).flatten()
        offset = (teacher.edge_offset + teacher.edge_label_offset).cpu()[: len(self.offset)]
        with torch.no_grad():
            self.direction.copy_(slope[:, None] * teacher.edge_direction.cpu().repeat(len(SCALES), 1))
            self.offset.copy_(slope * offset.repeat(1, len(SCALES)))

    def forward(self, inputs: Tensor, label: Labels | None) -> Tensor:
        """Return the outputs, `(n, outputs)`.

        - `inputs` `(n, inputs)`: in the precision and on the device of the weights. The last d are the place.
        - `label` `(n,)`: class indices; None without classes.
        """
        return self.prepared()(inputs, label)

    def prepared(self) -> Callable[[Tensor, Labels | None], Tensor]:
        """Return `forward` for the weights of now, prepared for many calls."""
        # tanh(r / 4) is 2 sigmoid(r / 2) - 1: torch's tanh takes five times as long.
        direction, edge_weight = 2 * self.direction.T, 2 * self.edge_weight.T
        offset, bias = 2 * self.offset, self.label_bias - self.edge_weight.sum(1)
        (first, *weights), biases, quick = list(self.weights), list(self.biases), not torch.is_grad_enabled()

        def answer(inputs: Tensor, label: Labels | None) -> Tensor:
            if label is None or len(offset) == 1:
                shift, own = offset[0], bias[0]
            else:
                shift, own = functional.embedding(label, offset), functional.embedding(label, bias)
            units = torch.addmm(shift, inputs[:, -len(direction) :], direction).sigmoid_()
            inner = torch.addmm(own, inputs, first.T).addmm_(units, edge_weight)
            for weight, constant in zip(weights, biases, strict=True):
                inner = functional.linear(functional.silu(inner, inplace=quick), weight, constant)
            return inner

        return answer


def in_pieces(answer: Callable[[Points, Labels | None], Tensor], z: Points, label: Labels | None) -> Tensor:
    """Return the answers of small networks at points z `(n, d)`, `(n, outputs)`, piece by piece.

    A piece is so small that its layers stay in the processor's cache.
    """
    # Without any rows there is one empty piece.
    pieces = [slice(first, first + _ROWS) for first in range(0, max(len(z), 1), _ROWS)]
    return torch.cat([answer(z[rows], None if label is None else label[rows]) for rows in pieces])


_ROWS = 4096
"""The rows of a piece."""
