"""Experts stacked at every noise level: a mixture of Gaussians and networks as one denoiser."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toydiffusion.denoisers.gaussian_expert import GaussianExpert
from toydiffusion.denoisers.residuals import EDM, Residuals
from toydiffusion.distributions import GaussianMixture
from toydiffusion.errors import InputError
from toydiffusion.types import Labels, Levels, Points


class Stacked(nn.Module):
    """Experts stacked at every noise level, a `Denoiser`:

        D = D_G + a_0(sigma) (D_mix - D_G) + c_out(sigma) sum_j a_j(sigma) mean_k F_jk,

    with `c_out = sigma / sqrt(1 + sigma^2)`. `D_mix` is the exact denoiser of the mixture, and `D_G` that of
    one Gaussian for each class. Networks, members k of expert j, predict what `D_G` leaves unexplained. Each
    weight a_j is >= 0, piecewise linear in log sigma between the knots, and constant beyond them.

    With `a_0 = 1` and no networks it is the exact denoiser of the mixture.

    - `law`: the mixture.
    - `gaussian`: the Gaussian of each class.
    - `networks`: the experts that are networks.
    - `knots` `(q,)`: noise levels in ascending order.
    - `weights` `(1 + J, q)`: a_0, a_1, ..., at the knots.

    Raises `InputError` for other shapes and negative weights.
    """

    def __init__(
        self,
        law: GaussianMixture,
        gaussian: GaussianMixture,
        networks: Sequence[Residuals],
        knots: Tensor,
        weights: Tensor,
    ) -> None:
        super().__init__()
        if weights.shape != (1 + len(networks), len(knots)) or not bool((weights >= 0).all()):
            raise InputError(
                f"weights must be {(1 + len(networks), len(knots))} and >= 0, got {tuple(weights.shape)}"
            )
        self.law, self.gaussian_law = law, gaussian
        self.mixture = GaussianExpert(law)
        self.gaussian = GaussianExpert(gaussian)
        self._networks = nn.ModuleList(networks)
        self.knots, self.weights = knots.double(), weights.double()
        self.requires_grad_(False)

    @property
    def networks(self) -> list[Residuals]:
        """The experts that are networks."""
        return [one for one in self._networks if isinstance(one, Residuals)]

    @property
    def num_classes(self) -> int:
        """The number of classes K; 1 without labels."""
        return self.law.num_classes

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.mixture.variances.device

    @property
    def exact_law(self) -> GaussianMixture | None:
        """The mixture, if this is its exact denoiser at every level; else None."""
        alone = not self.networks and bool((self.weights == 1).all())
        return self.law if alone else None

    def at(self, sigma: Levels) -> Tensor:
        """Return the weights at noise levels `(n,)`, `(1 + J, n)`."""
        return self.weights.to(sigma.device) @ hats(sigma, self.knots).T

    def forward(self, z: Points, sigma: Levels, label: Labels | None = None) -> Points:
        """Return the denoised points, `(n, d)`, in the dtype of `z`."""
        return self.with_trace(z, sigma, label, traced=False)[0]

    def with_trace(
        self,
        z: Points,
        sigma: Levels,
        label: Labels | None = None,
        *,
        probes: Tensor | None = None,
        traced: bool = True,
    ) -> tuple[Points, Tensor]:
        """Return the denoised points `(n, d)`, and the trace of their Jacobian in z, `(n, k)`.

        - `probes` `(n, k, d)`: None for the trace itself; k is then 1. Or directions v, for `v^T J v` each.
        - `traced`: whether the trace is wanted; without it the second result is not to be used.

        Raises `InputError` if there are classes and `label` is None.
        """
        if label is None and self.num_classes > 1:
            raise InputError("this denoiser has classes: give a label for each point")
        if self.num_classes == 1:
            label = None
        sigma = sigma[:1] if len(sigma) > 1 and sigma.stride(0) == 0 else sigma
        kind = label[:1] if label is not None and len(label) > 1 and label.stride(0) == 0 else label
        weights = self.at(sigma)
        fine, level = z.double(), sigma.double()
        clean, trace = self.mixture(fine, level, kind, probes=probes)
        if bool((weights[0] != 1).any()):
            plain, plain_trace = self.gaussian(fine, level, kind, probes=probes)
            a = weights[0][:, None]
            clean, trace = torch.lerp(plain, clean, a), torch.lerp(plain_trace, trace, a)
        c_out = EDM.c_out(sigma)
        for network, weight in zip(self.networks, weights[1:], strict=True):
            if not bool((weight > 0).any()):
                continue
            own, noise = z.to(network.last), sigma.to(network.last)
            if traced:
                values, traces = network.with_trace(own, noise, kind, probes)
                trace = trace + (c_out * weight)[:, None] * traces.mean(0).double()
            else:
                values = network(own, noise, kind)
            clean = clean + (c_out * weight)[:, None] * values.mean(0).double()
        return clean.to(z), trace.to(z)


def hats(sigma: Levels, knots: Tensor) -> Tensor:
    """Return the share of each knot at noise levels `(n,)`, `(n, q)`.

    A function that is piecewise linear in log sigma is the sum of its values at the knots times these shares.
    Beyond the knots it is constant.

    >>> hats(torch.tensor([0.01, 1.0]), torch.tensor([0.25, 4.0])).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    place, at = sigma.double().log(), knots.to(sigma.device).double().log()
    place = place.clamp(at[0], at[-1])
    upper = torch.searchsorted(at, place).clamp(1, len(at) - 1)
    part = (place - at[upper - 1]) / (at[upper] - at[upper - 1])
    found = place.new_zeros(len(place), len(at))
    found.scatter_(1, upper[:, None] - 1, 1 - part[:, None])
    return found.scatter_(1, upper[:, None], part[:, None])
