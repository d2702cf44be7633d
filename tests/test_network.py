"""The network: one level for all rows, and the derivatives that go forward beside the values."""

from __future__ import annotations

import math

import pytest
import torch

from toydiffusion.denoisers import Network, preconditioning

SHAPES = {
    "default": {"dim": 2, "num_classes": 1, "hidden_layers": 2, "edges": 32, "waves": 0},
    "labels": {"dim": 2, "num_classes": 3, "hidden_layers": 2, "edges": 8, "waves": 0},
    "waves": {"dim": 3, "num_classes": 2, "hidden_layers": 1, "edges": 4, "waves": 5},
    "no edges": {"dim": 1, "num_classes": 1, "hidden_layers": 3, "edges": 0, "waves": 0},
    "many columns": {"dim": 7, "num_classes": 4, "hidden_layers": 4, "edges": 5, "waves": 3},
}
every = pytest.mark.parametrize("shape", SHAPES)
N = 11


def given(shape: str, scheme: str = "edm"):
    """Return a network in float64 whose weights are all far from 0, and points, levels and labels."""
    generator = torch.Generator().manual_seed(1)
    settings = SHAPES[shape]
    network = Network(width=16, preconditioning=preconditioning(scheme), generator=generator, **settings)
    network = network.double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.7 * torch.randn(weight.shape, generator=generator))
    z = torch.randn(N, settings["dim"], generator=generator, dtype=torch.float64)
    sigma = torch.rand(N, generator=generator, dtype=torch.float64) * 2 + 0.05
    classes = settings["num_classes"]
    label = None if classes == 1 else torch.randint(classes + 1, (N,), generator=generator)
    return network, z, sigma, label


def jacobians(network, z, sigma, label):
    """Return the Jacobian of each row, by autograd."""
    full = torch.autograd.functional.jacobian(lambda at: network(at, sigma, label), z)
    return full[torch.arange(N), :, torch.arange(N)]


@torch.no_grad()
@pytest.mark.parametrize(("s", "sigma"), [(0.3, 0.05), (0.3, 2.0), (0.01, 0.02)])
def test_a_soft_edge_is_a_sharp_one_at_more_noise(s: float, sigma: float) -> None:
    """As is the law: blurred by s, its sigma times score is sigma / tau of what tau times score was."""
    network, z, _, label = given("labels")
    tau = math.hypot(s, sigma)

    def units(z, softness: float, sigma: float):
        network.edge_softness.fill_(softness)
        return network.edge_units(z, torch.tensor([sigma], dtype=torch.float64), label).values

    sharp = units(z, 0.0, tau)
    torch.testing.assert_close(units(z, s, sigma), sigma / tau * sharp, rtol=1e-12, atol=1e-12)
    # A sharp edge through the origin looks alike at every noise level.
    for shift in (network.edge_offset, network.edge_label_offset):
        shift.zero_()
    torch.testing.assert_close(units(3 * z, 0.0, 3 * tau), units(z, 0.0, tau), rtol=1e-12, atol=1e-12)
    assert float(sharp.abs().max()) > 1


@every
@pytest.mark.parametrize("scheme", ["edm", "noise", "data"])
def test_the_trace_is_that_of_autograds_jacobian(shape: str, scheme: str) -> None:
    network, z, sigma, label = given(shape, scheme)
    jacobian = jacobians(network, z, sigma, label)
    for grad in (True, False):  # two ways through silu
        with torch.set_grad_enabled(grad):
            clean, trace = network.with_trace(z, sigma, label)
        torch.testing.assert_close(clean, network(z, sigma, label), rtol=1e-12, atol=1e-12)
        exact = jacobian.diagonal(dim1=1, dim2=2).sum(1)
        torch.testing.assert_close(trace[:, 0], exact, rtol=1e-10, atol=1e-10)
    probes = torch.randn(N, 4, z.shape[1], dtype=torch.float64)
    _, along = network.with_trace(z, sigma, label, probes=probes)
    exact = torch.einsum("nki,nij,nkj->nk", probes, jacobian, probes)
    torch.testing.assert_close(along, exact, rtol=1e-10, atol=1e-10)


@every
def test_the_trace_can_be_differentiated(shape: str) -> None:
    network, z, sigma, label = given(shape)

    def traces(at: torch.Tensor) -> torch.Tensor:
        return network.with_trace(at, sigma, label)[1].sum()

    (slope,) = torch.autograd.grad(traces(z.requires_grad_()), z)
    z = z.detach()
    for j in range(z.shape[1]):
        step = torch.zeros_like(z)
        step[:, j] = 1e-5
        at = [jacobians(network, z + s * step, sigma, label).diagonal(dim1=1, dim2=2).sum(1) for s in (1, -1)]
        torch.testing.assert_close(slope[:, j], (at[0] - at[1]) / 2e-5, rtol=1e-5, atol=1e-6)


@every
def test_one_level_for_all_rows_gives_the_same(shape: str) -> None:
    network, z, _, label = given(shape)
    common = torch.full((1,), 0.3, dtype=torch.float64).expand(N)
    for one in (network, network.with_trace):
        shared, each = one(z, common, label), one(z, common.clone(), label)
        torch.testing.assert_close(shared, each, rtol=1e-12, atol=1e-12)
