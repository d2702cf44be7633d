"""The certificate finds missing mass and leaks, and attributes errors to their causes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from laws import SKEWED, gaussians, standard

from toydiffusion.certificate import budget, check, importance, quadrature
from toydiffusion.certificate.check import Certificate
from toydiffusion.density import DensityConfig, DensityModel, ProbabilityFlow, log_density
from toydiffusion.distributions import (
    BUILT_IN,
    Boxes,
    Checkerboard,
    ConcentricSquares,
    Gaussian,
    GaussianMixture,
    Prior,
    Square,
)


def checked(law, *, prior=None, denoiser=None, labelled=False, truth=True, sigma_min=0.1, points=300, **more):
    """Return the certificate of the exact density of a law, with another prior or denoiser if given."""
    known = gaussians(law, labelled)
    model = DensityModel(denoiser or law.denoise, prior or Prior(known, 20.0), sigma_min)
    return check(model, truth=law if truth else None, points=points, **more)


# Mass ---------------------------------------------------------------------------------------------------

EIGHT = Gaussian([0.0] * 3, (np.eye(3) * 0.5 + 0.2).tolist())


@pytest.mark.parametrize(
    "name", ["square", "checkerboard", "two_moons", "spiral", "eight_gaussians", "circles"]
)
@pytest.mark.parametrize("scale", [1.0, 0.9])
def test_quadrature_finds_the_mass_whatever_it_is(name, scale) -> None:
    law = standard(BUILT_IN[name]())
    guide, _ = law.rows(0, 2000, seed=0, sigma=0.01)
    found = quadrature(lambda z: law.log_prob(z, 0.01) + math.log(scale), guide, step=0.01)
    assert found is not None
    assert found.value == pytest.approx(scale, abs=2e-4)
    assert abs(found.value - scale) <= found.error
    assert found.error < 2e-3
    assert found.method == "quadrature"
    assert found.points < 400_000


@pytest.mark.parametrize("dim", [1, 3])
def test_quadrature_in_one_and_three_dimensions(dim) -> None:
    line = GaussianMixture([[-1.0], [1.0]], [[[1e-4]], [[0.3]]])
    law, step = (line, 0.005) if dim == 1 else (EIGHT, 0.2)
    guide, _ = law.rows(0, 2000, seed=0)
    found = quadrature(lambda z: law.log_prob(z, step), guide, step=step)
    assert found is not None
    assert found.value == pytest.approx(1.0, abs=3e-3 if dim == 3 else 1e-4)
    assert abs(found.value - 1) <= found.error + 1e-5


def test_a_narrow_component_is_found_by_its_guides() -> None:
    law = GaussianMixture([[0.0, 0.0], [1.3, -0.7]], [np.eye(2), np.eye(2) * 1e-8], weights=[0.97, 0.03])
    guide, _ = law.rows(0, 2000, seed=0, sigma=0.01)
    found = quadrature(lambda z: law.log_prob(z, 0.01), guide, step=0.01)
    assert found is not None
    assert found.value == pytest.approx(1.0, abs=1e-3)


def test_mass_beyond_the_box_is_in_the_error() -> None:
    wide = Gaussian([0.0, 0.0], np.eye(2).tolist())
    guide = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)).double() - 0.5
    found = quadrature(lambda z: wide.log_prob(z), guide, step=0.05)
    assert found is not None
    assert 0.05 < found.value < 0.5
    assert found.error > 0.05


def test_quadrature_returns_none_beyond_its_limit() -> None:
    cube = standard(Boxes([[0.0] * 3], [[1.0] * 3]))
    guide, _ = cube.rows(0, 1000, seed=0)
    assert quadrature(lambda z: cube.log_prob(z, 0.005), guide, step=0.005, most=20_000) is None


@pytest.mark.parametrize("dim", [2, 5, 12])
@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_importance_sampling_finds_the_mass(dim, scale) -> None:
    rng = np.random.default_rng(dim)
    law = GaussianMixture(
        rng.normal(size=(3, dim)), [np.diag(rng.uniform(0.1, 0.5, dim)) for _ in range(3)], weights=[1, 2, 3]
    )
    data, _ = law.rows(0, 3000, seed=0)
    found = importance(lambda z: law.log_prob(z) + math.log(scale), data)
    assert abs(found.value - scale) <= 4 * found.error
    assert found.error < 0.03 * scale
    assert found.effective_sample_size is not None
    assert 1000 < found.effective_sample_size < found.points
    runs = [importance(lambda z: law.log_prob(z), data[:500], n=2000, seed=seed) for seed in range(12)]
    spread = np.std([run.value for run in runs], ddof=1)
    assert 0.4 < np.mean([run.error for run in runs]) / spread < 2.5


# The certificate of exact denoisers -----------------------------------------------------------------------


@pytest.mark.slow
def test_an_exact_denoiser_passes_every_check() -> None:
    found = checked(standard(SKEWED), sigma_min=0.05)
    assert found.mass.value == pytest.approx(1.0, abs=1e-3)
    assert found.solver_error.value < 2e-4
    assert found.covered > 0.98
    assert found.mean_error < 2e-3
    assert found.prior_error.value < 1e-3
    assert found.leak is None
    # E log p(z + sigma eps) and log p(z) nearly agree if the data is smooth.
    assert abs(found.elbo_gap.value) < 0.02
    assert found.budget is not None
    assert abs(found.budget.total.value) < 5 * found.budget.total.std_error + 0.01


@pytest.mark.slow
def test_solver_and_prior_errors_are_those_against_the_truth() -> None:
    law, sigma_min, n = standard(Square()), 0.1, 400
    known = gaussians(law)
    flow, level = ProbabilityFlow(law.denoise, known), torch.full((n,), sigma_min, dtype=torch.float64)
    found = check(DensityModel(law.denoise, Prior(known, 3.0), sigma_min), truth=law, points=n)
    z, _ = law.rows(0, n, seed=1)  # the points that `check` samples for seed 0
    exact = log_density(flow, Prior(law, 3.0), z, level)
    miss = np.abs(exact.value - law.log_prob(z, sigma_min).numpy())
    assert miss.mean() > 1e-6
    assert found.solver_error.value == pytest.approx(miss.mean(), rel=0.05)
    assert found.mean_error == pytest.approx(exact.error.mean(), rel=1e-6)
    cost = np.abs(log_density(flow, Prior(known, 3.0), z, level).value - exact.value)
    assert found.prior_error.value == pytest.approx(cost.mean(), rel=0.3)
    assert found.prior_error.value > 1e-3


@pytest.mark.slow
def test_bars_that_are_too_narrow_do_not_count_as_covering() -> None:
    law = standard(Square())
    model = DensityModel(law.denoise, Prior(gaussians(law), 20.0), 0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toydiffusion.density.own_steps.CAUTION", 0.02)
        found = check(model, points=200)
    assert found.covered < 0.7


@pytest.mark.slow
def test_classes_have_masses_and_leaks_of_their_own() -> None:
    law = standard(ConcentricSquares(3))
    found = checked(law, labelled=True, points=60, sigma_min=0.2)
    assert len(found.masses) == 3
    for one in found.masses:
        assert one.value == pytest.approx(1.0, abs=1e-3)
    assert found.frequencies == pytest.approx(law.frequencies.tolist())
    assert "class 2: quadrature" in str(found)
    leaks_as_the_truth(found)


@pytest.mark.slow
def test_the_leak_of_an_exact_model_is_that_of_the_smoothed_truth() -> None:
    leaks_as_the_truth(checked(standard(ConcentricSquares(3)), points=60, sigma_min=0.2))


def leaks_as_the_truth(found: Certificate) -> None:
    assert found.leak is not None
    assert found.true_leak is not None
    assert found.true_leak.value > 0.05
    error = math.hypot(found.leak.std_error, found.true_leak.std_error)
    assert abs(found.leak.value - found.true_leak.value) < 4 * error


@pytest.mark.slow
def test_a_leak_is_found() -> None:
    law = standard(Square())

    def sloppy(z, sigma, label=None):
        return 1.15 * law.denoise(z, sigma, label)

    found = checked(law, denoiser=sloppy, points=60)
    assert found.leak is not None
    assert found.true_leak is not None
    assert found.leak.value > found.true_leak.value + 0.1
    assert found.mass.value == pytest.approx(1.0, abs=3e-3)  # another law, but a law


@pytest.mark.slow
def test_a_denoiser_whose_noise_levels_do_not_agree_has_another_elbo() -> None:
    law = standard(SKEWED)

    def off(z, sigma, label=None):
        return law.denoise(z, sigma, label) + 0.4 * sigma[:, None] * torch.tensor([1.0, -0.5]).double()

    found = checked(law, denoiser=off, truth=False)
    assert found.budget is None
    assert abs(found.elbo_gap.value) > 5 * found.elbo_gap.std_error
    assert abs(found.elbo_gap.value) > 0.1
    assert found.mass.value == pytest.approx(1.0, abs=1e-3)


# The budget -----------------------------------------------------------------------------------------------


def budget_of(law, *, denoiser=None, prior=None, tolerance=2e-3, sigma_min=0.05, endless=None, n=1500):
    known = gaussians(law)
    model = DensityModel(
        denoiser or law.denoise, prior or Prior(known, 20.0), sigma_min, DensityConfig(tolerance)
    )
    return budget(model, law, label=None, endless=endless, n=n, seed=0)


@pytest.mark.slow
def test_the_terms_sum_to_the_total() -> None:
    law = standard(Checkerboard())
    found = budget_of(law, denoiser=lambda z, s, c=None: 1.01 * law.denoise(z, s, c), endless=law.denoise)
    assert list(found.terms()) == ["lowest_sigma", "prior", "solver", "network", "finite_data"]
    total = sum(term.value for term in found.terms().values())
    assert total == pytest.approx(found.total.value, rel=1e-9)
    without = budget_of(law, denoiser=lambda z, s, c=None: 1.01 * law.denoise(z, s, c))
    assert list(without.terms()) == ["lowest_sigma", "prior", "solver", "finite_data"]
    assert math.isnan(without.network.value)
    assert sum(term.value for term in without.terms().values()) == pytest.approx(without.total.value)
    assert without.total.value == pytest.approx(found.total.value)


@pytest.mark.slow
def test_each_error_is_found_in_its_own_term() -> None:
    law = standard(SKEWED)
    clean = budget_of(law)
    assert abs(clean.prior.value) < 1e-4
    assert abs(clean.solver.value) < 1e-4
    assert abs(clean.finite_data.value) < 1e-9

    low = budget_of(law, prior=Prior(gaussians(law), 1.0))
    z, _ = law.rows(0, 4000, seed=9, sigma=1.0)
    divergence = (law.log_prob(z, 1.0) - gaussians(law).log_prob(z, 1.0)).mean()
    assert low.prior.value == pytest.approx(float(divergence), abs=0.01)
    assert low.prior.value > 0.01

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toydiffusion.density.own_steps.MAX_STEP", 3.0)
        rough = budget_of(law, tolerance=3.0)
    assert abs(rough.solver.value) > 20 * abs(clean.solver.value)
    assert abs(rough.finite_data.value) < 1e-9

    def off(z, sigma, label=None):
        return law.denoise(z, sigma, label) + 0.1 * sigma[:, None]

    by_network = budget_of(law, denoiser=off, endless=off)
    assert by_network.network.value > 0.01
    assert abs(by_network.finite_data.value) < 1e-9
    by_data = budget_of(law, denoiser=off, endless=law.denoise)
    assert by_data.finite_data.value == pytest.approx(by_network.network.value)
    assert abs(by_data.network.value) < 1e-9


def test_the_lowest_sigma_costs_what_smoothing_costs() -> None:
    law = Gaussian([0.0, 1.0], [[1.0, 0.3], [0.3, 0.5]])
    found = budget_of(law, sigma_min=0.5, n=20_000)
    eigenvalues = np.linalg.eigvalsh([[1.0, 0.3], [0.3, 0.5]])
    # KL(N(m, C) | N(m, C + s^2)) along each axis.
    ratio = eigenvalues / (eigenvalues + 0.25)
    by_hand = 0.5 * (ratio - 1 - np.log(ratio)).sum()
    assert found.lowest_sigma.value == pytest.approx(by_hand, abs=4 * found.lowest_sigma.std_error)
    assert found.total.value == pytest.approx(by_hand, abs=4 * found.total.std_error)
    finite = BUILT_IN["square"]().rows(0, 30, seed=0)[0]
    from toydiffusion.distributions import Empirical

    cloud = budget_of(standard(Empirical(finite.numpy())), n=50)
    assert "lowest_sigma" not in cloud.terms()  # it has no density of its own


@pytest.mark.slow
def test_the_table_has_every_check() -> None:
    found = checked(standard(Square()), points=60)
    text = str(found)
    assert isinstance(found, Certificate)
    for words in (
        "total mass",
        "quadrature",
        "solver error, nats (mean)",
        "points that it covers",
        "prior mismatch",
        "ELBO - log-density",
        "outside the known support",
        "log-likelihood below the truth",
        "smoothing at sigma_min",
        "network and finite data",
    ):
        assert words in text
    assert len({line.rstrip().find("±") for line in text.splitlines() if "mass" in line}) == 1


@pytest.mark.slow
def test_beyond_three_dimensions_the_mass_is_sampled() -> None:
    law = standard(GaussianMixture([[0.0] * 4, [1.5] * 4], [np.eye(4) * 0.3, np.eye(4) * 0.5]))
    found = checked(law, points=60, sigma_min=0.05)
    assert found.masses[0].method == "importance sampling"
    assert abs(found.mass.value - 1) < 4 * found.mass.std_error
    assert "effective sample size" in str(found)
