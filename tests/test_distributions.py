"""For every exact distribution: density, score, classes, moments and samples belong to one law."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from scipy.special import logsumexp
from scipy.stats import kstest

from toydiffusion.distributions import (
    BUILT_IN,
    Bounded,
    Boxes,
    Checkerboard,
    ConcentricSquares,
    Empirical,
    Gaussian,
    GaussianMixture,
    Parallelogram,
    Square,
)
from toydiffusion.errors import InputError
from toydiffusion.row_noise import BLOCK

SIGMA = 0.1
SHIFT, SCALE = np.array([0.3, -0.2]), np.array([0.4, 2.0])
FULL = GaussianMixture(
    [[0.0, 0.0], [1.0, 0.5], [-1.0, 1.0]],
    [[[0.3, 0.2], [0.2, 0.2]], [[0.1, -0.05], [-0.05, 0.2]], [[0.05, 0.0], [0.0, 0.3]]],
    weights=[1, 2, 3],
    labels=[1, 0, 1],
)
CASES = {
    **{name: make() for name, make in BUILT_IN.items()},
    **{f"{name} standardized": make().standardized(SHIFT, SCALE) for name, make in BUILT_IN.items()},
    "line": ConcentricSquares(3, dim=1),
    "cubes": ConcentricSquares(2, dim=3),
    "overlapping boxes": Boxes([[0, 0], [0.5, -1]], [[1, 1], [0.7, 1]], weight=[1, 2], label=[1, 0]),
    "parallelogram": Parallelogram([0.1, -0.2], [[1.0, 0.3], [0.8, 0.9]]),
    "full covariances": FULL,
    "full covariances standardized": FULL.standardized(SHIFT, SCALE),
    "finite": Empirical(np.random.default_rng(0).uniform(-1, 1, size=(30, 2)), [0, 1, 2] * 10),
}
WITH_DENSITY = [name for name in CASES if name != "finite"]
PLANE = [name for name, dist in CASES.items() if dist.dim <= 2]
every = pytest.mark.parametrize("name", CASES)
each_plane = pytest.mark.parametrize("name", PLANE)


def classes(dist):
    return [None, *(range(dist.num_classes) if dist.num_classes > 1 else [])]


def spread_rows(dist, n=60):
    """Points near and far, noise levels small and large, all mixed."""
    rng = np.random.default_rng(2)
    sigma = np.exp(rng.uniform(math.log(0.003), math.log(10), size=n))
    x, _ = dist.sample(n, seed=8)
    return x + 4 * sigma[:, None] * rng.normal(size=x.shape), sigma, rng.integers(dist.num_classes, size=n)


@functools.cache
def on_grid(name, label, sigma=SIGMA):
    """Axes, points and masses of a grid so fine and wide that sums over it are integrals to 1e-9."""
    dist = CASES[name]
    x, _ = dist.sample(3000, seed=11)
    low, high = x.min(0), x.max(0)
    pad = 8 * sigma + 0.5 * (high - low)
    axes = [np.arange(a, b, 0.8 * sigma) for a, b in zip(low - pad, high + pad, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dist.dim)
    return axes, points, np.exp(dist.log_prob(points, sigma, label)) * (0.8 * sigma) ** dist.dim


@every
def test_score_and_denoise_are_the_gradient_of_log_prob(name):
    dist = CASES[name]
    points, sigma, label = (torch.as_tensor(a) for a in spread_rows(dist))
    for c in (None, label):
        x = points.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(dist.log_prob(x, sigma, c).sum(), x)
        size = torch.maximum(1 / sigma, gradient.norm(dim=1))[:, None]
        assert ((dist.score(points, sigma, c) - gradient) / size).abs().max() < 1e-9
        mean = points + sigma[:, None] ** 2 * gradient
        assert (dist.denoise(points, sigma, c) - mean).abs().max() < 1e-9


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@every
def test_derivatives_of_the_denoiser_are_right_in_both_modes(name):
    dist = CASES[name]
    points, sigma, label = (torch.as_tensor(a) for a in spread_rows(dist, 40))
    direction = torch.randn(points.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = points.clone().requires_grad_()
    (backward,) = torch.autograd.grad((dist.denoise(x, sigma, label) * direction).sum(), x)
    _, forward = torch.func.jvp(lambda x: dist.denoise(x, sigma, label), (points,), (direction,))
    step = 1e-4 * sigma[:, None] * direction
    ends = [dist.denoise(points + k * step, sigma, label) for k in (-2, -1, 1, 2)]
    central = (8 * (ends[2] - ends[1]) - (ends[3] - ends[0])) / 12e-4 / sigma[:, None]
    # The Jacobian is the posterior covariance over sigma^2: symmetric, so both modes must agree.
    assert torch.allclose(backward, forward, rtol=1e-7, atol=1e-8)
    assert torch.allclose(forward, central, rtol=1e-5, atol=1e-7)


@each_plane
def test_mass_and_moments_by_quadrature(name):
    dist = CASES[name]
    for c in classes(dist):
        _, points, mass = on_grid(name, c)
        mean = (dist.mean if c is None else dist.class_means[c]).numpy()
        covariance = (dist.covariance if c is None else dist.class_covariances[c]).numpy()
        assert abs(mass.sum() - 1) < 1e-7
        around = points - mass @ points
        assert np.allclose(mass @ points, mean, atol=1e-6)
        assert np.allclose((around.T * mass) @ around, covariance + SIGMA**2 * np.eye(dist.dim), atol=1e-5)


@each_plane
def test_noising_twice_is_noising_once(name):
    dist, more = CASES[name], 0.3
    x = dist.sample(6, seed=4, sigma=0.5)[0]
    for c in {None, dist.num_classes - 1}:
        _, points, mass = on_grid(name, c)
        square = ((x[:, None] - points) ** 2).sum(2)
        kernel = np.exp(-square / (2 * more**2)) / (2 * math.pi * more**2) ** (dist.dim / 2)
        once = dist.log_prob(x, math.hypot(SIGMA, more), c)
        assert np.allclose(np.log(kernel @ mass), once, rtol=1e-6, atol=1e-6)


@each_plane
def test_samples_follow_the_marginals(name):
    dist = CASES[name]
    for c in classes(dist):
        axes, _, mass = on_grid(name, c)
        x, _ = dist.sample(4000, seed=1, sigma=SIGMA, label=c)
        for i, axis in enumerate(axes):
            marginal = mass.reshape([len(a) for a in axes]).sum(tuple(j for j in range(len(axes)) if j != i))
            law = CubicSpline(axis, marginal / (0.8 * SIGMA)).antiderivative()
            assert kstest(x[:, i], law).pvalue > 1e-4


@every
def test_samples_have_the_frequencies_and_moments(name):
    dist, n = CASES[name], 20000
    x, label = dist.sample(n, seed=3)
    share = np.bincount(label, minlength=dist.num_classes) / n
    f = dist.frequencies.numpy()
    assert (np.abs(share - f) <= 5 * np.sqrt(f * (1 - f) / n)).all()
    assert f.sum() == pytest.approx(1, abs=1e-14)
    for c in classes(dist):
        own = x if c is None else x[label == c]
        mean = (dist.mean if c is None else dist.class_means[c]).numpy()
        covariance = (dist.covariance if c is None else dist.class_covariances[c]).numpy()
        around = own - mean
        products = around[:, :, None] * around[:, None]
        assert (np.abs(around.mean(0)) < 5 * own.std(0) / math.sqrt(len(own))).all()
        assert (
            np.abs(products.mean(0) - covariance) <= 5 * products.std(0) / math.sqrt(len(own)) + 1e-12
        ).all()


@every
def test_classes_follow_bayes_rule(name):
    dist = CASES[name]
    x, sigma, _ = spread_rows(dist)
    parts = (
        np.stack([dist.log_prob(x, sigma, c) for c in range(dist.num_classes)], 1)
        + dist.frequencies.log().numpy()
    )
    mixture = logsumexp(parts, axis=1)
    assert np.allclose(dist.log_prob(x, sigma), mixture, rtol=1e-13, atol=1e-11)
    posterior = dist.class_posterior(x, sigma)
    assert np.allclose(posterior, np.exp(parts - mixture[:, None]), rtol=1e-9, atol=1e-300)
    means = np.stack([dist.denoise(x, sigma, c) for c in range(dist.num_classes)], 1)
    assert np.allclose((posterior[:, :, None] * means).sum(1), dist.denoise(x, sigma), atol=1e-11)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_the_clean_density_is_the_limit_of_the_noised(name):
    dist = CASES[name]
    x, label = dist.sample(300, seed=5)
    assert np.allclose(dist.log_prob(x, 0.0, label), dist.log_prob(x, 1e-7, label), atol=1e-7)
    assert np.allclose(dist.log_prob(x), dist.log_prob(x, 1e-7), atol=1e-7)
    assert (dist.class_posterior(x)[np.arange(300), label] > 0).all()


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_standardized_moves_density_and_samples(name):
    dist = CASES[name]
    shift, scale = np.linspace(-1, 2, dist.dim), np.geomspace(1e-3, 50, dist.dim)
    x, label = dist.sample(200, seed=6)
    z = dist.standardized(shift, scale)
    assert np.allclose(
        z.log_prob((x - shift) / scale, 0, label), dist.log_prob(x, 0, label) + np.log(scale).sum(), atol=1e-8
    )
    assert np.allclose(z.sample(200, seed=6)[0], (x - shift) / scale, rtol=1e-11, atol=1e-11 / scale.min())
    assert np.allclose(z.covariance.numpy() * np.outer(scale, scale), dist.covariance, atol=1e-10)
    if dist.entropy is not None:
        assert z.entropy == pytest.approx(dist.entropy - np.log(scale).sum(), abs=1e-12)


@every
@pytest.mark.parametrize("size", [1e-30, 1e-3, 40.0, 1e30])
def test_one_scale_for_all_axes_scales_the_noise(name, size):
    dist = CASES[name]
    x, sigma, label = spread_rows(dist)
    z = dist.standardized(0.0, size)
    logs = z.log_prob(x / size, sigma / size, label)
    assert np.allclose(
        logs, dist.log_prob(x, sigma, label) + dist.dim * math.log(size), rtol=1e-12, atol=1e-9
    )
    assert np.allclose(z.denoise(x / size, sigma / size) * size, dist.denoise(x, sigma), atol=1e-10)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_scales_far_apart_stay_finite(name):
    dist = CASES[name]
    z = dist.standardized(0.0, np.geomspace(1e-30, 1e30, dist.dim) if dist.dim > 1 else 1e-30)
    x, label = z.sample(100, seed=2)
    assert np.isfinite(z.log_prob(x, 0.0, label)).all()
    for sigma in (1e-20, 1.0, 1e20):
        noisy = z.sample(100, seed=2, sigma=sigma)[0]
        assert np.isfinite(z.log_prob(noisy, sigma)).all()
        assert np.isfinite(z.denoise(noisy, sigma, label)).all()


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_entropy_is_the_mean_of_minus_log_prob(name):
    dist = CASES[name]
    if dist.entropy is None:
        assert not isinstance(dist, Gaussian | Square | ConcentricSquares | Checkerboard | Parallelogram)
        return
    surprise = -dist.log_prob(dist.sample(20000, seed=9)[0])
    assert abs(surprise.mean() - dist.entropy) <= 4 * surprise.std() / math.sqrt(20000) + 1e-12


@every
def test_rows_depend_on_seed_and_row_only(name):
    dist, n = CASES[name], BLOCK + 60
    x, label = dist.sample(n, seed=7, sigma=0.2)
    again = dist.sample(n + 1, seed=7, sigma=0.2)
    assert (again[0][:n] == x).all()
    assert (again[1][:n] == label).all()
    middle, middle_label = dist.rows(BLOCK - 5, BLOCK + 5, seed=7, sigma=0.2)
    assert (middle.numpy() == x[BLOCK - 5 : BLOCK + 5]).all()
    assert (middle_label.numpy() == label[BLOCK - 5 : BLOCK + 5]).all()
    assert (dist.sample(n, seed=8, sigma=0.2)[0] != x).all(1).mean() > 0.9
    assert (dist.sample(n, seed=7, sigma=0.2, label=label)[0] == x).all()
    assert dist.sample(0)[0].shape == (0, dist.dim)
    mixed = np.where(np.arange(n) % 2, 0.0, 0.2)
    assert (dist.sample(n, seed=7, sigma=mixed)[0][::2] == x[::2]).all()
    assert (dist.sample(n, seed=7, sigma=mixed)[0][1::2] == dist.sample(n, seed=7)[0][1::2]).all()


@every
def test_each_row_is_answered_alone_and_in_its_own_kind(name):
    dist = CASES[name]
    x, sigma, label = spread_rows(dist, 3)
    tensors = [torch.as_tensor(a) for a in (x, sigma, label)]
    for ask in (dist.log_prob, dist.score, dist.denoise):
        together = ask(x, sigma, label)
        assert isinstance(together, np.ndarray)
        assert together.dtype == np.float64
        alone = np.concatenate([ask(x[i : i + 1], float(sigma[i]), int(label[i])) for i in range(3)])
        assert np.allclose(together, alone, rtol=1e-12, atol=1e-12 / sigma.min())
        got = ask(*tensors)
        assert isinstance(got, torch.Tensor)
        assert np.array_equal(got.numpy(), together)
        assert np.array_equal(ask(x.tolist(), sigma.tolist(), label.tolist()), together)
    assert np.allclose(dist.class_posterior(x, sigma)[:1], dist.class_posterior(x[:1], sigma[0]), rtol=1e-12)
    low = dist.denoise(torch.as_tensor(x, dtype=torch.float32), 1.0)
    assert low.dtype == torch.float64
    assert np.array_equal(low.numpy(), dist.denoise(x.astype(np.float32), 1.0))
    assert dist.log_prob(np.empty((0, dist.dim)), 1.0).shape == (0,)


@pytest.mark.parametrize("name", [name for name, dist in CASES.items() if isinstance(dist, Bounded)])
def test_samples_lie_in_their_class_and_elsewhere_there_is_nothing(name):
    dist = CASES[name]
    x, label = dist.sample(2000, seed=0)
    assert dist.contains(x, label).all()
    assert dist.contains(torch.as_tensor(x)).dtype == torch.bool
    # The clean mass of each class is its share of a box around everything, times its constant density.
    low, high = x.min(0) - 0.1, x.max(0) + 0.1
    trial = np.random.default_rng(3).uniform(low, high, size=(4000, dist.dim))
    for c in classes(dist):
        inside = dist.contains(trial, c)
        clean = np.where(inside, np.exp(dist.log_prob(trial, 0.0, c)), 0.0) * np.prod(high - low)
        assert abs(clean.mean() - 1) < 5 * clean.std() / math.sqrt(4000)
        assert (dist.log_prob(trial[~inside], 0.0, c) == -np.inf).all()


@every
def test_questions_that_need_noise(name):
    dist = CASES[name]
    x = dist.sample(2, seed=0)[0]
    ask = [dist.score, dist.denoise, *([dist.log_prob, dist.class_posterior] if name == "finite" else [])]
    for question in ask:
        with pytest.raises(InputError, match=r"sigma must be > 0, got 0.0 \(row 1\)"):
            question(x, [0.1, 0.0])
