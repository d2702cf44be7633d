"""The evidence lower bound, each term against a second derivation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from laws import gaussians, standard
from scipy.integrate import quad
from scipy.stats import norm

from toydiffusion.denoisers import Counting
from toydiffusion.density import Elbo, Term, elbo
from toydiffusion.distributions import ConcentricSquares, Gaussian, GaussianMixture, Prior, Square, TwoMoons

LOW, HIGH = 0.05, 10.0
PAIR = GaussianMixture([[-1.0], [0.5]], [[[0.04]], [[0.25]]], weights=[0.3, 0.7], labels=[0, 1])


def smoothed(law, z, label, sigma, n=1024):
    """Return `E_eps log p_sigma(z + sigma eps)` and its standard error, by scrambled nets of noise."""
    nets = []
    for seed in range(4):
        net = torch.quasirandom.SobolEngine(law.dim, scramble=True, seed=seed).draw(n, dtype=torch.float64)
        eps = torch.special.ndtri(net.clamp(1e-12, 1 - 1e-12))
        at = (z[:, None] + sigma * eps).reshape(-1, law.dim)
        index = None if label is None else label.repeat_interleave(n)
        nets.append(law.log_prob(at, sigma, index).reshape(len(z), n).mean(1))
    nets = torch.stack(nets)
    return nets.mean(0).numpy(), (nets.std(0) / 2).numpy()


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "case",
    ["in class", "out of class", pytest.param("as a whole", marks=SLOW), pytest.param("moons", marks=SLOW)],
)
def test_with_the_exact_denoiser_and_prior_it_is_the_smoothed_log_density(case) -> None:
    law = standard(TwoMoons() if case == "moons" else ConcentricSquares())
    z, label = law.rows(0, 200, seed=0)
    label = {"in class": label, "out of class": (label + 1) % 5}.get(case)
    found = elbo(law.denoise, Prior(law, HIGH), z, label, sigma_min=LOW, evaluations=1024, seed=3)
    truth, its_error = smoothed(law, z, label, LOW)
    off = found.value - truth
    error = np.sqrt(found.std_error**2 + its_error**2)
    assert abs(off.sum()) <= 3.5 * np.sqrt((error**2).sum())
    # Eight nets know their error to 27 %: Student's t with 7 degrees beyond 4 is one in 200.
    assert np.mean(np.abs(off) <= 4 * error) >= 0.98
    assert np.sqrt(np.mean(found.std_error**2)) < 0.05 * max(1.0, np.abs(truth).mean())


def test_each_term_by_quadrature_in_one_dimension() -> None:
    prior = Prior(Gaussian([0.1], [[0.6]]), HIGH)
    z = torch.tensor([[-1.0], [0.2], [1.4]], dtype=torch.float64)
    found = elbo(PAIR.denoise, prior, z, sigma_min=LOW, evaluations=4096, seed=0)
    for i, at in enumerate(z[:, 0].tolist()):

        def mean_square(sigma, at=at):
            nodes, weights = np.polynomial.hermite_e.hermegauss(80)
            noisy = torch.from_numpy(at + sigma * nodes)[:, None]
            return weights @ (at - PAIR.denoise(noisy, sigma)[:, 0].numpy()) ** 2 / math.sqrt(2 * math.pi)

        # 1/2 int E|z0 - D|^2 dSNR = int E|z0 - D|^2 / sigma^2 dlog sigma.
        by_quad = -quad(
            lambda s: mean_square(math.exp(s)) * math.exp(-2 * s), math.log(LOW), math.log(HIGH), epsabs=1e-5
        )[0]
        assert found.diffusion.value[i] == pytest.approx(by_quad, abs=4 * found.diffusion.std_error[i] + 1e-3)
        entropy = norm(0, LOW).entropy()
        assert found.reconstruction.value[i] == pytest.approx(-entropy, rel=1e-12)
        spread = math.sqrt(0.6 + HIGH**2)
        divergence = math.log(spread / HIGH) + (HIGH**2 + (at - 0.1) ** 2) / (2 * spread**2) - 0.5
        assert found.prior.value[i] == pytest.approx(-divergence, rel=1e-9)
    assert (found.reconstruction.std_error == 0).all()
    assert (found.prior.std_error < 1e-12).all()  # a Gaussian prior has a closed form
    assert (found.diffusion.std_error > 0).all()
    total = found.reconstruction.value + found.diffusion.value + found.prior.value
    np.testing.assert_allclose(found.value, total, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_the_discrete_bound_is_the_sum_over_its_steps(steps) -> None:
    z = torch.tensor([[-1.0], [0.2], [1.4]], dtype=torch.float64)
    found = elbo(PAIR.denoise, Prior(PAIR, HIGH), z, sigma_min=LOW, evaluations=4096, steps=steps, seed=0)
    levels = np.geomspace(LOW, HIGH, steps + 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    weights = weights / math.sqrt(2 * math.pi)
    for i, at in enumerate(z[:, 0].tolist()):
        by_hand = 0.0
        for low, high in itertools.pairwise(levels):
            noisy = torch.from_numpy(at + high * nodes)[:, None]
            error = weights @ (at - PAIR.denoise(noisy, high)[:, 0].numpy()) ** 2
            by_hand -= (1 / low**2 - 1 / high**2) / 2 * error
        assert found.diffusion.value[i] == pytest.approx(by_hand, abs=5 * found.diffusion.std_error[i] + 1e-3)


def test_more_steps_raise_the_bound_towards_the_continuous_one() -> None:
    law = standard(TwoMoons())
    z, _ = law.rows(0, 100, seed=0)
    means = [
        elbo(law.denoise, Prior(law, HIGH), z, sigma_min=LOW, steps=steps, evaluations=512).value.mean()
        for steps in (4, 16, 64, 10_000, None)
    ]
    assert (np.diff(means) > -0.002).all()
    assert means[1] > means[0] + 0.1
    assert means[3] == pytest.approx(means[4], abs=0.01)


def test_gaussian_data_has_no_noise_left() -> None:
    law = Gaussian([0.3, -1.0], [[1.0, 0.5], [0.5, 0.7]])
    z, _ = law.rows(0, 20, seed=0)
    found = elbo(law.denoise, Prior(law, HIGH), z, sigma_min=LOW, evaluations=16)
    spread = law.covariance + LOW**2 * torch.eye(2).double()
    # E log N(z + sigma eps; m, C + sigma^2) = log N(z) - sigma^2 tr (C + sigma^2)^-1 / 2.
    by_hand = torch.distributions.MultivariateNormal(law.mean, spread).log_prob(z)
    by_hand = by_hand - LOW**2 * torch.linalg.inv(spread).trace() / 2
    np.testing.assert_allclose(found.value, by_hand, rtol=1e-9)
    assert found.std_error.max() < 1e-9


@pytest.mark.parametrize("evaluations", [64, 256, 1024])
def test_standard_errors_are_the_spread_over_seeds(evaluations) -> None:
    law = standard(Square())
    z, _ = law.rows(0, 100, seed=0)
    prior = Prior(gaussians(law), HIGH)
    runs = [
        elbo(law.denoise, prior, z, sigma_min=0.01, evaluations=evaluations, seed=seed) for seed in range(20)
    ]
    reported = np.sqrt(np.mean([run.std_error**2 for run in runs]))
    spread = np.sqrt(np.stack([run.value for run in runs]).var(0, ddof=1).mean())
    assert 0.8 < reported / spread < 1.25
    assert spread < {64: 0.3, 256: 0.07, 1024: 0.03}[evaluations]


def test_no_more_evaluations_than_asked_for_and_few_calls() -> None:
    law = standard(TwoMoons())
    z, _ = law.rows(0, 300, seed=0)
    for evaluations in (16, 100, 256, 1100):
        counting = Counting(law.denoise)
        elbo(counting, Prior(law, HIGH), z, sigma_min=LOW, evaluations=evaluations)
        assert 0.9 * evaluations * 300 <= counting.points <= evaluations * 300
        assert counting.calls < 40  # shared over points, levels and noise


def test_rows_depend_on_the_seed_and_their_number_only() -> None:
    law = standard(TwoMoons())
    z, _ = law.rows(0, 900, seed=0)
    settings = {"sigma_min": LOW, "evaluations": 64}
    whole = elbo(law.denoise, Prior(law, HIGH), z, seed=5, **settings)
    part = elbo(law.denoise, Prior(law, HIGH), z[200:300], seed=5, first_row=200, **settings)
    np.testing.assert_allclose(part.value, whole.value[200:300], atol=1e-12)
    other = elbo(law.denoise, Prior(law, HIGH), z, seed=6, **settings)
    assert (np.abs(other.value - whole.value) > 1e-9).all()


def test_the_bound_of_a_mixture_of_classes_is_the_best_posteriors() -> None:
    law = standard(ConcentricSquares(3))
    z, _ = law.rows(0, 60, seed=0)
    frequencies = law.frequencies.numpy()
    parts = [
        elbo(law.denoise, Prior(law, HIGH), z, torch.full((60,), c), sigma_min=LOW, evaluations=512)
        for c in range(3)
    ]
    mixed = Elbo.mixed(parts, frequencies)
    total = mixed.reconstruction.value + mixed.diffusion.value + mixed.prior.value
    np.testing.assert_allclose(mixed.value, total, rtol=1e-9)
    joint = np.stack([part.value for part in parts], 1) + np.log(frequencies)
    np.testing.assert_allclose(mixed.value, np.log(np.exp(joint).sum(1)), rtol=1e-9)
    for r in (frequencies, np.full(3, 1 / 3)):  # any other posterior gives less
        assert (mixed.value >= (joint @ r - (r * np.log(r)).sum()) - 1e-9).all()
    whole, _ = smoothed(law, z, None, LOW, n=512)
    assert (mixed.value <= whole + 0.05 + 4 * mixed.std_error).all()  # a bound of the mixture's


def test_a_worse_denoiser_has_a_lower_bound_by_its_error() -> None:
    """The loss of the bound is `1/2 int E|D - D_theta|^2 dSNR`, known for an offset that grows with sigma."""
    law = standard(TwoMoons())
    z, _ = law.rows(0, 400, seed=0)

    def shifted(z, sigma, label=None):
        return law.denoise(z, sigma, label) + torch.stack([0.2 * sigma, 0.1 * sigma], 1)

    settings = {"sigma_min": LOW, "evaluations": 512, "seed": 0}
    loss = elbo(law.denoise, Prior(law, HIGH), z, **settings).value
    loss = loss - elbo(shifted, Prior(law, HIGH), z, **settings).value
    # |offset|^2 / sigma^2 = 0.05 at every level; the cross term averages to 0 over the data.
    assert loss.mean() == pytest.approx(
        0.05 * math.log(HIGH / LOW), abs=4 * loss.std() / math.sqrt(len(loss)) + 0.01
    )


@pytest.mark.parametrize("thin", [1e-12, 1e-4])
def test_a_thin_class_keeps_its_standard_error(thin) -> None:
    """A class of a single point, say: the control variate must not become the noise."""
    law = GaussianMixture([[0.0, 0.0], [1.0, 0.5]], [np.eye(2), np.diag([1.0, thin])], weights=[0.99, 0.01])
    # A denoiser less sharp than the class, as a learned one is.
    wide = GaussianMixture([[0.0, 0.0], [1.0, 0.5]], [np.eye(2), np.diag([1.0, 0.1])], weights=[0.99, 0.01])
    z, _ = law.rows(0, 60, seed=0)
    prior, label = Prior(law, HIGH), torch.full((60,), 1)
    runs = [
        elbo(wide.denoise, prior, z, label, sigma_min=LOW, evaluations=256, seed=seed) for seed in range(12)
    ]
    truth = elbo(wide.denoise, prior, z, label, sigma_min=LOW, evaluations=8192, seed=99)
    spread = np.stack([run.value for run in runs]).std(0, ddof=1)
    assert np.sqrt(np.mean(spread**2)) < 0.5
    assert np.abs(np.mean([run.value for run in runs], axis=0) - truth.value).max() < 1.0
    other = elbo(law.denoise, prior, z, 0 * label, sigma_min=LOW, evaluations=256)
    whole = Elbo.mixed([other, runs[0]], law.frequencies.numpy())
    assert (whole.value < law.log_prob(z, LOW).numpy() + 0.5).all()


def test_terms_are_arrays_of_their_values() -> None:
    term = Term(np.array([1.0, 2.0]), np.array([0.1, 0.2]))
    assert np.asarray(term).tolist() == [1.0, 2.0]
    assert (term - 1 >= 0.5).tolist() == [False, True]
    assert (np.array([5.0, 5.0]) / term).tolist() == [5.0, 2.5]
    assert [*term] == [1.0, 2.0]
    assert term[1] == 2.0
    moved = Elbo.joined([elbo(PAIR.denoise, Prior(PAIR, HIGH), torch.zeros(2, 1).double(), sigma_min=LOW)])
    shifted = moved.shifted(3.0)
    np.testing.assert_allclose(shifted.value - moved.value, 3.0)
    np.testing.assert_allclose(shifted.reconstruction.value - moved.reconstruction.value, 3.0)
    np.testing.assert_array_equal(shifted.diffusion.value, moved.diffusion.value)


def test_no_points_no_values() -> None:
    none = torch.empty(0, 1, dtype=torch.float64)
    assert elbo(PAIR.denoise, Prior(PAIR, HIGH), none, sigma_min=LOW).value.shape == (0,)
