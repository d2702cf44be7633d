"""The gradient of the denoising loss in the weights of a network, written out.

Autograd would spend more time on its records than on the products of matrices, since the layers are small.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toydiffusion.denoisers import EdgeUnits, Network
from toydiffusion.types import Labels, Levels, Points


class FlatWeights:
    """The weights of a network as one vector, and their gradient as another.

    The network's parameters become views of `values`. So an optimiser changes all of them in one operation.

    - `network`: the network.
    - `values` `(size,)`: all weights, in the order of `network.parameters()`.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.values = torch.cat([weight.detach().flatten() for weight in network.parameters()])
        for name, place in self.named(self.values).items():
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, nn.Parameter(place, requires_grad=False))

    def _split(self, vector: Tensor) -> list[Tensor]:
        shapes = [weight.shape for weight in self.network.parameters()]
        parts = torch.split(vector, [shape.numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the parts of a vector like `values` by the names of the parameters, as views."""
        names = [name for name, _ in self.network.named_parameters()]
        return dict(zip(names, self._split(vector), strict=True))


class MirroredLoss:
    """The denoising loss at points with a noise and its opposite, and its gradient in the weights.

    With the raw output F of the network, its target T and the two noisy points `z +- sigma eps` of each of b
    points,

        loss = mean (F - T)^2,    T = (z - c_skip (z +- sigma eps)) / c_out,

    over 2 b rows and d columns: `denoising_loss`, because its weight is `1 / c_out^2`. The gradient follows
    by the chain rule, from the last layer to the edges. What depends on sigma or the label alone is computed
    once for both noises.

    - `weights`: the weights of the network.

    >>> from toydiffusion.training import TrainConfig, build
    >>> weights = FlatWeights(build(2, 1, TrainConfig(width=8, edges=4), seed=0))
    >>> loss, gradient = MirroredLoss(weights)(torch.zeros(5, 2), torch.ones(5), torch.ones(5, 2), None)
    >>> round(loss.item(), 3), gradient.shape == weights.values.shape
    (0.5, True)
    """

    def __init__(self, weights: FlatWeights) -> None:
        self.network = weights.network
        self.gradient = torch.zeros_like(weights.values)
        self._slots = weights.named(self.gradient)

    def __call__(self, z: Points, sigma: Levels, eps: Tensor, label: Labels | None) -> tuple[Tensor, Tensor]:
        """Return the loss, a number, and its gradient, `(size,)`, which the next call overwrites.

        - `z`, `eps` `(b, d)`, `sigma` `(b,)`: in the precision and on the device of the weights.
        - `label` `(b,)`: class indices; K is "no label". None without classes.
        """
        network, slots = self.network, self._slots
        scheme = network.preconditioning
        b, d = z.shape
        noise = sigma[:, None] * eps
        noisy = torch.stack([z + noise, z - noise])
        c_skip, c_out = scheme.c_skip(sigma)[:, None], scheme.c_out(sigma)[:, None]
        target = (z - c_skip * noisy) / c_out

        # Forward: the inputs, kind after kind, then the layers. Everything is (2, b, ...) or (2 b, ...).
        inputs, units = self._inputs(noisy, sigma, label)
        layers = list(zip(network.weights, network.biases, strict=True))
        values, before = [inputs.flatten(0, 1)], []
        for matrix, bias in layers[:-1]:
            before.append(torch.addmm(bias, values[-1], matrix.T))
            values.append(torch.nn.functional.silu(before[-1]))
        error = torch.addmm(layers[-1][1], values[-1], layers[-1][0].T) - target.view(2 * b, d)
        loss = error.square().mean()

        # Backward: `slope` is the derivative of the loss in the output of a layer before its activation.
        slope = error.mul_(2 / error.numel())
        for i in reversed(range(len(layers))):
            torch.mm(slope.T, values[i], out=slots[f"weights.{i}"])
            torch.sum(slope, 0, out=slots[f"biases.{i}"])
            if i:
                slope = torch.ops.aten.silu_backward(slope @ layers[i][0], before[i - 1])
        first = layers[0][0]
        edges, classes = len(network.edge_offset), network.embedding.shape[1]
        if edges:
            begin = d + 2 * len(network.octaves)
            outer = (slope @ first[:, begin : begin + edges]).view(2, b, edges)
            inner = outer * units.slope
            # With a = `ahead`, a unit u has in its softness s the slope du/ds = -s / tau^2 (u + a du/da).
            soft = outer.mul_(inputs[..., begin : begin + edges]).addcmul_(inner, units.ahead).sum(0)
            soft = soft.mul_(units.sharpness.square()).sum(0)
            torch.mul(soft, -network.edge_softness, out=slots["edge_softness"])
            torch.mm(inner.flatten(0, 1).T, noisy.flatten(0, 1), out=slots["edge_direction"])
            both = inner.sum(0)
            torch.sum(both, 0, out=slots["edge_offset"])
            if label is None:
                slots["edge_label_offset"].copy_(slots["edge_offset"])
            else:
                slots["edge_label_offset"].zero_().index_add_(0, label, both)
        if label is not None:
            both = slope.view(2, b, -1).sum(0) @ first[:, first.shape[1] - classes :]
            slots["embedding"].zero_().index_add_(0, label, both)
        return loss, self.gradient

    def _inputs(self, noisy: Tensor, sigma: Levels, label: Labels | None) -> tuple[Tensor, EdgeUnits]:
        """Return the first layer's inputs, `(2, b, inputs)`, and the edge units, at `noisy` `(2, b, d)`."""
        network = self.network
        position = noisy * network.preconditioning.c_in(sigma)[:, None]
        octave = sigma.log()[:, None] * network.octaves
        units = network.edge_units(noisy, sigma, label)
        levels = [octave.cos().expand(2, -1, -1), octave.sin().expand(2, -1, -1)]
        kinds = [position, *levels, units.values]
        if network.wave_direction.numel():
            phase = position @ network.wave_direction.T
            kinds += [phase.cos(), phase.sin()]
        if label is not None:
            kinds.append(network.embedding[label].expand(2, -1, -1))
        return torch.cat(kinds, 2), units
