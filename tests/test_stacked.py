"""The stacked denoiser and its parts, against exact laws and autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import toydiffusion as td
from toydiffusion.denoisers import GaussianExpert, Residuals, ResidualSizes, Stacked
from toydiffusion.density import DensityConfig, DensityModel, log_prob
from toydiffusion.distributions import GaussianMixture, Prior


def law(classes: bool = False) -> GaussianMixture:
    rng = np.random.default_rng(0)
    covariances = [np.cov(rng.normal(size=(9, 3)).T) + 0.01 * np.eye(3) for _ in range(4)]
    labels = [1, 0, 1, 0] if classes else [0, 0, 0, 0]
    return GaussianMixture(rng.normal(size=(4, 3)), covariances, weights=[1, 2, 3, 4], labels=labels)


def residuals(edges: int, classes: int = 1, members: int = 3) -> Residuals:
    generator = torch.Generator().manual_seed(edges)
    network = Residuals(ResidualSizes(members, 3, classes, 8, edges), generator).double()
    with torch.no_grad():
        for weight in (network.last, network.last_bias, network.edge_offset):
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return network.requires_grad_(False)


def points(n: int = 20) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    z = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    sigma = torch.logspace(-2, 1, n, dtype=torch.float64)
    return z, sigma, torch.arange(n) % 2


def stack(edges: int = 4, classes: bool = False) -> Stacked:
    networks = [residuals(edges, 2 if classes else 1), residuals(0, 2 if classes else 1)]
    one = law(classes)
    gaussian = GaussianMixture(one.class_means, one.class_covariances, weights=one.frequencies)
    weights = torch.tensor([[1.0, 0.2, 0.5], [0.0, 0.7, 0.1], [0.3, 0.4, 0.0]])
    return Stacked(one, gaussian, networks, torch.tensor([0.05, 0.5, 5.0]), weights)


def trace_by_autograd(denoiser, z, sigma, label):
    with torch.enable_grad():
        at = z.clone().requires_grad_()
        clean = denoiser(at, sigma, label)
        rows = [torch.autograd.grad(clean[:, i].sum(), at, retain_graph=True)[0][:, i] for i in range(3)]
    return torch.stack(rows, 1).sum(1)


@pytest.mark.parametrize("classes", [False, True])
def test_the_gaussian_expert_is_the_exact_denoiser_of_its_law(classes: bool) -> None:
    one, (z, sigma, label) = law(classes), points()
    expert = GaussianExpert(one)
    kind = label if classes else None
    clean, trace = expert(z, sigma, kind)
    torch.testing.assert_close(clean, one.denoise(z, sigma, kind))
    torch.testing.assert_close(trace[:, 0], trace_by_autograd(one.denoise, z, sigma, kind))


def test_one_level_and_one_class_for_all_rows_give_the_same() -> None:
    one, (z, _, _) = law(classes=True), points()
    expert = GaussianExpert(one)
    for c in (0, 1):
        each = expert(z, torch.full((20,), 0.3).double(), torch.full((20,), c))
        once = expert(z, torch.tensor([0.3]).double(), torch.tensor([c]))
        for a, b in zip(each, once, strict=True):
            torch.testing.assert_close(a, b)


def test_the_gaussian_expert_stays_in_float64() -> None:
    expert = GaussianExpert(law()).float()
    assert expert.variances.dtype == torch.float64
    assert torch.equal(expert.variances, GaussianExpert(law()).variances)


@pytest.mark.parametrize("edges", [0, 4])
@pytest.mark.parametrize("classes", [1, 2])
def test_the_trace_of_each_network_is_that_of_autograd(edges: int, classes: int) -> None:
    network, (z, sigma, label) = residuals(edges, classes), points()
    kind = label if classes > 1 else None
    values, traces = network.with_trace(z, sigma, kind, None)
    torch.testing.assert_close(values, network(z, sigma, kind))
    for k in range(3):
        want = trace_by_autograd(lambda z, s, c, k=k: network(z, s, c)[k], z, sigma, kind)
        torch.testing.assert_close(traces[k, :, 0], want)


def test_members_with_points_of_their_own_give_what_each_gives_alone() -> None:
    network, (z, sigma, label) = residuals(4, 2), points()
    orders = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(k)) for k in range(3)])
    found = network(z[orders], sigma[orders], label[orders])
    for k in range(3):
        torch.testing.assert_close(found[k], network(z, sigma, label)[k][orders[k]])


@pytest.mark.parametrize("classes", [False, True])
def test_the_stack_is_its_formula(classes: bool) -> None:
    one, (z, sigma, label) = stack(classes=classes), points()
    kind = label if classes else None
    a = one.at(sigma)
    mixed, plain = one.law.denoise(z, sigma, kind), one.gaussian_law.denoise(z, sigma, kind)
    want = plain + a[0][:, None] * (mixed - plain)
    c_out = sigma / (1 + sigma**2).sqrt()
    for j, network in enumerate(one.networks):
        want = want + (c_out * a[1 + j])[:, None] * network(z, sigma, kind).mean(0)
    torch.testing.assert_close(one(z, sigma, kind), want)
    clean, trace = one.with_trace(z, sigma, kind)
    torch.testing.assert_close(clean, want)
    torch.testing.assert_close(trace[:, 0], trace_by_autograd(one, z, sigma, kind))


@pytest.mark.parametrize("edges", [0, 4])
def test_probes_of_the_axes_add_up_to_the_trace(edges: int) -> None:
    one, (z, sigma, _) = stack(edges), points()
    axes = torch.eye(3, dtype=torch.float64).expand(20, 3, 3)
    _, each = one.with_trace(z, sigma, probes=axes)
    _, trace = one.with_trace(z, sigma)
    torch.testing.assert_close(each.sum(1, keepdim=True), trace)


def test_weights_are_linear_in_log_sigma_between_knots_and_constant_beyond() -> None:
    one = stack()
    found = one.at(torch.tensor([1e-4, 0.05, math.sqrt(0.05 * 0.5), 0.5, 5.0, 50.0]).double())
    want = torch.tensor([[1.0, 1.0, 0.6, 0.2, 0.5, 0.5], [0.0, 0.0, 0.35, 0.7, 0.1, 0.1]]).double()
    torch.testing.assert_close(found[:2], want, atol=1e-6, rtol=0)


def test_a_stack_needs_labels_where_there_are_classes_and_weights_that_fit() -> None:
    z, sigma, _ = points()
    with pytest.raises(td.InputError, match="this denoiser has classes"):
        stack(classes=True)(z, sigma)
    one = law()
    with pytest.raises(td.InputError, match=r"weights must be \(1, 2\) and >= 0"):
        Stacked(one, one, [], torch.tensor([0.1, 1.0]), torch.tensor([[1.0, -1.0]]))


def test_a_mixture_alone_has_its_density_in_closed_form_and_by_the_flow() -> None:
    """The flow of the exact denoiser and the closed form are two derivations of one number."""
    one = law()
    gaussian = GaussianMixture(one.class_means, one.class_covariances)
    alone = Stacked(one, gaussian, [], torch.tensor([0.1, 1.0]), torch.ones(1, 2))
    model = DensityModel(alone, Prior(one, 20.0), 0.01, DensityConfig(1e-4))
    z, _, _ = points()
    closed = log_prob(model, z, model.lowest(20))
    assert (closed.error == 0).all()
    assert (closed.evaluations == 0).all()
    np.testing.assert_allclose(closed.value, one.log_prob(z, 0.01).numpy())
    carried = model.quick_flow.carry(z, model.lowest(20), 20.0)
    by_flow = one.log_prob(carried.z, 20.0) - carried.change[:, 0]
    assert (np.abs(by_flow.numpy() - closed.value) <= carried.error.numpy() + 1e-9).all()


def test_the_flow_of_a_stack_has_mass_1() -> None:
    """Whatever the weights, the density of a flow integrates to 1: here by importance sampling."""
    one = stack()
    model = DensityModel(one.double(), Prior(one.law, 20.0), 0.05, DensityConfig(1e-3))
    wide = GaussianMixture([[0.0] * 3], [np.eye(3) * 6])
    z = torch.from_numpy(wide.sample(4000, seed=0)[0])
    ratio = np.exp(log_prob(model, z, model.lowest(4000)).value - wide.log_prob(z).numpy())
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(4000)
