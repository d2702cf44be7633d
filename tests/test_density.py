"""Log-density by the probability flow, on exact denoisers: the answer and the error are known."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from laws import SKEWED, gaussians, standard
from scipy.integrate import solve_ivp

import toydiffusion as td
from toydiffusion.density import (
    LogDensity,
    ProbabilityFlow,
    log_density,
    prior_mismatch,
    sample_with_log_prob,
    value_and_gradient,
)
from toydiffusion.density.even_steps import _weights, even_steps
from toydiffusion.density.flow_field import FlowField
from toydiffusion.density.own_steps import _quadrature
from toydiffusion.density.trace import denoise_with_trace
from toydiffusion.distributions import (
    BUILT_IN,
    Boxes,
    ConcentricSquares,
    Gaussian,
    GaussianMixture,
    Prior,
    Reference,
    Square,
    TwoMoons,
)

LOW, HIGH = 0.01, 20.0
RINGS, MOONS = ConcentricSquares(), TwoMoons()
TILTED = Gaussian([0.5, -1.0, 2.0], [[1.0, 0.6, 0.1], [0.6, 0.5, 0.0], [0.1, 0.0, 2.0]])


def level(n, sigma=LOW):
    return torch.full((n,), sigma, dtype=torch.float64)


CASES = {
    **{name: (standard(make()), False) for name, make in BUILT_IN.items()},
    "concentric squares by class": (standard(ConcentricSquares()), True),
    "mixture": (standard(SKEWED), False),
    "mixture by class": (standard(SKEWED), True),
    "line": (standard(ConcentricSquares(3, dim=1)), True),
    "cube": (standard(Boxes([[0.0] * 3], [[1.0, 2.0, 3.0]])), False),
}
every = pytest.mark.parametrize("name", CASES)


def solved(name, n, *, exact_prior=False, seed=0, **settings):
    """Return log-densities of n points of the law by its own exact denoiser, and the true ones."""
    law, labelled = CASES[name]
    z, label = law.rows(0, n, seed=seed, sigma=LOW)
    label = label if labelled else None
    known = gaussians(law, labelled)
    prior = Prior(law if exact_prior else known, HIGH)
    found = log_density(ProbabilityFlow(law.denoise, known, **settings), prior, z, level(n), label)
    return found, law.log_prob(z, LOW, label).numpy()


# The value and its error bar ---------------------------------------------------------------------------


@every
def test_the_exact_log_density_within_its_error_bar(name) -> None:
    found, truth = solved(name, 800)
    miss = np.abs(found.value - truth)
    assert np.quantile(miss, 0.99) <= 1e-3
    assert np.mean(miss <= found.error + found.prior_error) >= 0.985  # 99 % of many: the benchmark has 4,000
    assert found.met.all()
    assert (found.std_error == 0).all()
    assert found.evaluations.mean() < 100


@pytest.mark.parametrize("name", ["square", "concentric squares by class", "mixture"])
def test_the_error_bar_is_not_ten_times_too_wide(name) -> None:
    found, truth = solved(name, 1500, exact_prior=True)
    assert np.median(found.error) <= 10 * np.median(np.abs(found.value - truth))


@pytest.mark.parametrize("name", ["mixture", "checkerboard"])
def test_a_smaller_tolerance_gives_a_smaller_error(name) -> None:
    errors, bars = [], []
    for tolerance in (1e-1, 1e-3, 1e-5, 1e-7):
        found, truth = solved(name, 60, exact_prior=True, tolerance=tolerance, max_evaluations=5000)
        assert found.met.all()
        assert (found.error <= tolerance * 1.001).all()
        errors.append(np.abs(found.value - truth).max())
        bars.append(found.error.max())
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < 1e-8
    assert (np.array(errors) < 2 * np.array(bars)).all()


def test_a_tolerance_that_cannot_be_reached_gives_the_value_its_true_bar_and_says_so() -> None:
    found, truth = solved("checkerboard", 300, exact_prior=True, tolerance=1e-12, max_evaluations=60)
    assert not found.met.any()
    miss = np.abs(found.value - truth)
    assert np.mean(miss <= found.error) >= 0.98
    assert (found.error > 1e-12).all()
    assert (found.evaluations < 400).all()
    with pytest.warns(td.ToleranceWarning, match="300 of 300 log-densities missed the tolerance of 1e-12"):
        found.warn(1e-12)


@pytest.mark.parametrize("sigma_max", [1.0, 3.0])
def test_the_prior_error_is_what_a_low_sigma_max_costs(sigma_max) -> None:
    law = standard(Square())
    z, _ = law.rows(0, 800, seed=0, sigma=LOW)
    known = gaussians(law)
    flow = ProbabilityFlow(law.denoise, known, tolerance=1e-6)
    exact = log_density(flow, Prior(law, sigma_max), z, level(800))
    ours = log_density(flow, Prior(known, sigma_max), z, level(800))
    cost = np.abs(ours.value - exact.value)
    assert np.median(cost) > 1e-4  # here the prior is the error
    np.testing.assert_allclose(ours.prior_error, cost, rtol=0.1, atol=0.25 * cost.mean())
    assert exact.prior_error.max() < 1e-12
    assert np.mean(np.abs(ours.value - law.log_prob(z, LOW).numpy()) <= ours.error + ours.prior_error) > 0.99


def test_prior_mismatch_is_the_difference_of_two_exact_log_densities() -> None:
    law = standard(SKEWED)
    for label in (None, torch.arange(3).repeat(40)):
        prior = Prior(gaussians(standard(ConcentricSquares(3)), label is not None), 2.0)
        z, _ = prior.rows(range(120), seed=1, label=label)
        found, std_error = prior_mismatch(law.denoise, prior, z, label)
        truth = law.log_prob(z, 2.0, label) - prior.log_prob(z, label)
        assert ((found - truth).abs() <= 3 * std_error + 0.01 * truth.abs()).all()
        assert truth.abs().mean() > 5 * std_error.mean()


# Second derivations -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "label"), [("mixture", None), ("mixture", 2), ("cube", None), ("two_moons", None), ("line", 1)]
)
def test_scipy_solves_the_same_equation(name, label) -> None:
    """The plain equation in log sigma, the divergence by finite differences, another library's solver."""
    law = CASES[name][0]
    d, step, n = law.dim, 1e-5, 2
    chosen = None if label is None else torch.full((n,), label)
    z, _ = law.rows(0, n, seed=3, sigma=LOW, label=chosen)

    for i in range(n):

        def slope(s, state, i=i):
            sigma, at = math.exp(s), torch.from_numpy(state[:d])
            h = step * sigma
            around = torch.cat([at[None], at + h * torch.eye(d), at - h * torch.eye(d)])
            index = None if chosen is None else chosen[i].expand(len(around))
            clean = law.denoise(around, sigma, index)
            trace = sum((clean[1 + j, j] - clean[1 + d + j, j]) / (2 * h) for j in range(d))
            return [*(at - clean[0]).tolist(), d - float(trace)]

        end = solve_ivp(
            slope, (math.log(LOW), math.log(HIGH)), [*z[i].tolist(), 0.0], rtol=1e-8, atol=1e-10
        ).y[:, -1]
        at_top = torch.from_numpy(end[:d])[None]
        top = law.log_prob(at_top, HIGH, None if chosen is None else chosen[:1])
        by_scipy = float(top) + end[d]
        flow = ProbabilityFlow(law.denoise, gaussians(law, chosen is not None), tolerance=1e-8)
        own = None if chosen is None else chosen[i : i + 1]
        ours = log_density(flow, Prior(law, HIGH), z[i : i + 1], level(1), own)
        assert ours.value[0] == pytest.approx(by_scipy, abs=1e-5)
        carried = flow.carry(z[i : i + 1], level(1), HIGH, own)
        np.testing.assert_allclose(carried.z[0], end[:d], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [LOW, 0.3, 5.0])
def test_a_gaussian_is_exact_at_any_tolerance(sigma) -> None:
    z, _ = TILTED.rows(0, 50, seed=0, sigma=sigma)
    flow = ProbabilityFlow(TILTED.denoise, TILTED, tolerance=1e6)
    found = log_density(flow, Prior(TILTED, HIGH), z, level(50, sigma))
    full = torch.distributions.MultivariateNormal(
        TILTED.mean, TILTED.covariance + sigma**2 * torch.eye(3).double()
    )
    np.testing.assert_allclose(found.value, full.log_prob(z), rtol=1e-10)
    # The flow scales each principal axis by the ratio of the standard deviations.
    variance, axes = torch.linalg.eigh(TILTED.covariance)
    ratio = ((variance + HIGH**2) / (variance + sigma**2)).sqrt()
    by_hand = TILTED.mean + (z - TILTED.mean) @ axes @ torch.diag(ratio) @ axes.T
    np.testing.assert_allclose(flow.carry(z, level(50, sigma), HIGH).z, by_hand, rtol=1e-10, atol=1e-10)


def test_a_gaussian_measured_from_another_gaussian_is_solved_to_the_tolerance() -> None:
    z, _ = TILTED.rows(0, 100, seed=0, sigma=LOW)
    wrong = Gaussian([0.0, 0.0, 0.0], [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.3]])
    found = log_density(
        ProbabilityFlow(TILTED.denoise, wrong, tolerance=1e-5), Prior(TILTED, HIGH), z, level(100)
    )
    np.testing.assert_allclose(found.value, TILTED.log_prob(z, LOW), atol=1e-5)


def test_log_density_at_any_noise_level_a_level_for_each_point() -> None:
    law = standard(SKEWED)
    sigma = torch.logspace(-2, math.log10(HIGH), 60, dtype=torch.float64)
    sigma[-1] = HIGH
    z, _ = law.rows(0, 60, seed=0, sigma=sigma)
    found = log_density(ProbabilityFlow(law.denoise, gaussians(law)), Prior(law, HIGH), z, sigma)
    np.testing.assert_allclose(found.value, law.log_prob(z, sigma), atol=1e-3)
    assert found.value[-1] == pytest.approx(float(law.log_prob(z, sigma)[-1]), abs=1e-12)  # nothing to solve


@pytest.mark.slow
def test_up_and_down_again_is_where_it_was() -> None:
    law = standard(ConcentricSquares())
    z, label = law.rows(0, 40, seed=0, sigma=LOW)
    flow = ProbabilityFlow(law.denoise, gaussians(law, True), tolerance=1e-7)
    up = flow.carry(z, level(40), HIGH, label)
    down = flow.carry(up.z, level(40, HIGH), LOW, label)
    np.testing.assert_allclose(down.z, z, atol=1e-6)
    np.testing.assert_allclose(down.change, -up.change, atol=1e-6)
    assert float(up.change.mean()) < -5  # density thins out on the way up


@pytest.mark.parametrize("dim", [1, 5, 20])
def test_any_number_of_dimensions(dim) -> None:
    rng = np.random.default_rng(dim)
    law = GaussianMixture(rng.normal(size=(3, dim)), [np.diag(rng.uniform(0.1, 0.5, dim)) for _ in range(3)])
    z, _ = law.rows(0, 60, seed=0, sigma=LOW)
    found = log_density(ProbabilityFlow(law.denoise, gaussians(law)), Prior(law, 50.0), z, level(60))
    truth = law.log_prob(z, LOW).numpy()
    assert np.abs(found.value - truth).max() < 1e-3 * dim
    assert np.mean(np.abs(found.value - truth) <= found.error) > 0.95


# Learned networks ---------------------------------------------------------------------------------------


def in_fine_steps(model, z, label, steps):
    """Return log-densities at z by RK4 in log sigma, everything plain: another solver than the package's."""
    net, (n, d) = model.fitted.precise, z.shape
    state = torch.cat([z, z.new_zeros(n, 1)], 1)
    grid = np.linspace(math.log(model.sigma_min), math.log(model.sigma_max), steps + 1)
    h = grid[1] - grid[0]

    def slope(state, s):
        at = state[:, :d].detach().requires_grad_()
        clean = net(at, torch.full((n,), math.exp(s), dtype=torch.float64), label)
        trace = sum(torch.autograd.grad(clean[:, i].sum(), at, retain_graph=True)[0][:, i] for i in range(d))
        return torch.cat([(at - clean).detach(), (d - trace)[:, None]], 1)

    for s in grid[:-1]:
        k1 = slope(state, s)
        k2 = slope(state + h / 2 * k1, s + h / 2)
        k3 = slope(state + h / 2 * k2, s + h / 2)
        k4 = slope(state + h * k3, s + h)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return (model.prior().log_prob(state[:, :d], label) + state[:, d]).numpy()


@functools.cache
def learned(law, n, labelled, *, waves=0, seed=0, steps=None):
    """Return a model of the law, and fresh points of it in z with their labels."""
    x, y = law.sample(1000, seed=100 + seed)
    model = td.Diffusion(td.TrainConfig(waves=waves, steps=steps))
    model.fit(x, y if labelled else None, seed=seed, progress=False)
    fresh, classes = law.sample(n, seed=900 + seed)
    return (
        model,
        model.standardizer.z(torch.from_numpy(fresh)),
        torch.as_tensor(classes) if labelled else None,
    )


def test_the_error_bar_holds_on_a_learned_model_with_labels() -> None:
    """On a network each step's own estimate is often near 0 by chance: bars made of it fail here."""
    model, z, label = learned(RINGS, 300, True, steps=1500)
    found = log_density(model.fitted.density().flow, model.prior(), z, level(300, model.sigma_min), label)
    miss = np.abs(found.value - in_fine_steps(model, z, label, 400))
    assert np.mean(miss <= found.error) >= 0.985
    assert np.median(found.error) <= 10 * np.median(miss)
    assert np.quantile(miss, 0.99) <= 1e-3
    assert found.met.all()
    assert found.evaluations.mean() < 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "labelled", "waves"),
    [(ConcentricSquares(3), True, 32), (Square(), False, 32), (SKEWED, False, 0)],
    ids=["concentric squares with fine features", "square with fine features", "mixture"],
)
@pytest.mark.parametrize("far", [None, 5.0])
def test_the_error_bar_holds_on_learned_models_near_and_far(law, labelled, waves, far) -> None:
    model, z, label = learned(law, 400, labelled, waves=waves, seed=3)
    if far is not None:
        angle = torch.arange(400) * math.tau / 400
        z = far * torch.stack([angle.cos(), angle.sin()], 1).double()
    found = log_density(model.fitted.density().flow, model.prior(), z, level(400, model.sigma_min), label)
    miss = np.abs(found.value - in_fine_steps(model, z, label, 600))
    assert np.mean(miss <= found.error) >= 0.98
    assert np.median(found.error) <= 10 * np.median(miss) or far is not None


def test_scipy_solves_the_equation_of_a_learned_model() -> None:
    model, z, label = learned(ConcentricSquares(3), 4, True, steps=300)
    net = model.fitted.precise
    flow = model.fitted.density(td.DensityConfig(1e-7)).flow
    found = log_density(flow, model.prior(), z, level(4, model.sigma_min), label)
    for i in range(2):

        def slope(s, state, i=i):
            sigma = torch.tensor([math.exp(s)], dtype=torch.float64)
            clean, trace = denoise_with_trace(net, torch.from_numpy(state[None, :2]), sigma, label[i : i + 1])
            return [*(state[:2] - clean[0].numpy()), 2 - float(trace)]

        ends = math.log(model.sigma_min), math.log(model.sigma_max)
        start = [*z[i].tolist(), 0.0]
        end = solve_ivp(slope, ends, start, method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
        top = model.prior().log_prob(torch.from_numpy(end[None, :2]), label[i : i + 1])
        assert found.value[i] == pytest.approx(float(top) + end[2], abs=2e-7)


def test_a_step_is_judged_by_the_polynomial_through_the_slopes_known() -> None:
    rng = np.random.default_rng(0)
    steps = torch.from_numpy(rng.uniform(0.05, 3.0, (5, 3)))
    edges = torch.cat([torch.zeros(5, 1), steps.cumsum(1)], 1)
    places = torch.stack([edges[:, :-1], (edges[:, :-1] + edges[:, 1:]) / 2], 2).reshape(5, 6)
    x = (torch.cat([places, edges[:, -1:]], 1) - edges[:, 1:2]) / steps[:, 1:2]  # the middle step is (0, 1)
    for first, last in ((0, 7), (2, 7), (0, 5), (2, 5)):
        known = (torch.arange(7) >= first) & (torch.arange(7) < last)
        weights = _quadrature(x, known.expand(5, 7))
        assert (weights[:, ~known] == 0).all()
        for power in range(last - first):
            np.testing.assert_allclose((weights * x**power).sum(1), 1 / (power + 1), rtol=1e-8)


def test_a_bar_too_wide_is_brought_within_the_tolerance_by_solving_again() -> None:
    law, _ = CASES["concentric squares by class"]
    z, label = law.rows(0, 800, seed=0, sigma=LOW)
    known = gaussians(law, True)
    once = ProbabilityFlow(law.denoise, known, max_evaluations=150).carry(z, level(800), HIGH, label)
    again = ProbabilityFlow(law.denoise, known).carry(z, level(800), HIGH, label)
    wide = ~once.met
    assert 0 < wide.sum() < 80
    assert again.met.all()
    assert (again.evaluations[wide] > once.evaluations[wide]).all()
    assert torch.equal(again.error[again.evaluations < 75], once.error[again.evaluations < 75])


# Even steps ---------------------------------------------------------------------------------------------


def evenly(law, n, steps, *, down=False, labelled=False):
    """Carry n points of the law by its exact denoiser in even steps, up or down."""
    low, high = (HIGH, LOW) if down else (LOW, HIGH)
    z, label = law.rows(0, n, seed=4, sigma=low)
    label = label if labelled else None
    reference = Reference.of(gaussians(law, labelled), z, label)
    field = FlowField(law.denoise, reference, label, 4.0, None, False)
    state = torch.cat([reference.whitened(z, level(n, low)), z.new_zeros(n, 1)], 1)
    found = even_steps(field, state, level(n, low), level(n, high), steps)
    end = reference.points(found.state[:, :2], level(n, high))
    height = reference.log_height(level(n, high)) - reference.log_height(level(n, low))
    change = height + found.state[:, 2]
    return found, change - law.log_prob(end, high, label) + law.log_prob(z, low, label), end


def test_even_steps_have_the_weights_of_adams() -> None:
    bashforth = np.array([55, -59, 37, -9]) / 24
    moulton = np.array([251, 646, -264, 106, -19]) / 720
    np.testing.assert_allclose(_weights(range(0, -4, -1)), bashforth, rtol=1e-12)
    np.testing.assert_allclose(_weights(range(1, -4, -1)), moulton, rtol=1e-12)


@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
def test_even_steps_converge_at_their_order_and_know_their_errors(down) -> None:
    law = standard(SKEWED)
    errors = []
    for steps in (30, 60, 120):
        found, off, _ = evenly(law, 400, steps, down=down)
        errors.append(float(off.abs().mean()))
        assert (off.abs() <= found.error + 1e-9).double().mean() >= 0.99
        assert (found.evaluations == steps + 1).all()
    assert errors[0] < 1e-3
    # The order is 5 downward, where the first steps do not matter. Upward they limit it.
    for coarse, fine in itertools.pairwise(errors):
        assert fine < coarse / 2 ** (4 if down else 2)


@pytest.mark.slow
def test_even_steps_down_and_up_again_return() -> None:
    law = standard(ConcentricSquares(3))
    _, _, end = evenly(law, 200, 300, down=True, labelled=True)
    z, label = law.rows(0, 200, seed=4, sigma=HIGH)
    flow = ProbabilityFlow(law.denoise, gaussians(law, True), 1e-6)
    np.testing.assert_allclose(flow.carry(end, level(200), HIGH, label).z, z, atol=2e-3)


def test_levels_of_their_own_take_even_steps_too() -> None:
    law = standard(SKEWED)
    z, _ = law.rows(0, 60, seed=0, sigma=0.1)
    levels = torch.linspace(0.1, 5.0, 60, dtype=torch.float64)
    flow = ProbabilityFlow(law.denoise, gaussians(law), 0.01, even_first=True)
    together = flow.carry(z, levels, HIGH)
    for i in (0, 30, 59):
        alone = flow.carry(z[i : i + 1], levels[i : i + 1], HIGH)
        # As if it were alone: neither the number of steps nor their length follows from the other levels.
        assert together.evaluations[i] == alone.evaluations[0]
        assert float(together.change[i]) == pytest.approx(float(alone.change[0]), abs=1e-9)
    truth = law.log_prob(together.z, HIGH) - law.log_prob(z, levels)
    assert ((together.change[:, 0] - truth).abs() <= together.error).double().mean() > 0.98


@pytest.mark.parametrize(
    ("law", "labelled", "tolerance"), [(RINGS, True, 0.002), (RINGS, True, 0.02), (MOONS, False, 2e-4)]
)
def test_most_points_of_a_network_need_even_steps_only(law, labelled, tolerance) -> None:
    model, z, label = learned(law, 300, labelled, steps=1500)
    density = model.fitted.density(td.DensityConfig(tolerance))
    found = log_density(density.quick_flow, model.prior(), z, level(300, model.sigma_min), label)
    miss = np.abs(found.value - in_fine_steps(model, z, label, 400))
    assert np.mean(miss <= found.error) >= 0.985
    assert np.median(found.error) <= 10 * np.median(miss)
    assert np.quantile(miss, 0.99) <= tolerance
    assert found.met.all()
    assert (
        found.evaluations.mean()
        < 0.75 * density.flow.carry(z, level(300), HIGH, label).evaluations.double().mean()
    )


def test_samples_of_a_network_come_with_log_densities_of_their_own() -> None:
    model, _, label = learned(RINGS, 300, True, steps=1500)
    z, found, _ = sample_with_log_prob(model.fitted.density(), range(300), label, seed=5)
    miss = np.abs(found.value - in_fine_steps(model, z, label, 400))
    assert np.mean(miss <= found.error) >= 0.985
    assert np.quantile(miss, 0.99) <= 2e-3


def test_rows_that_are_solved_in_parts_are_the_same(monkeypatch) -> None:
    model, z, label = learned(RINGS, 300, True, steps=1500)
    flow = model.fitted.density().quick_flow
    whole = flow.carry(z, level(300), HIGH, label)
    # 40 steps of 3 numbers: parts of 10 rows.
    monkeypatch.setattr("toydiffusion.density.probability_flow.MOST_NUMBERS", 1200)
    parts = flow.carry(z, level(300), HIGH, label)
    assert torch.equal(parts.evaluations, whole.evaluations)
    np.testing.assert_allclose(parts.z, whole.z, atol=1e-5)
    np.testing.assert_allclose(parts.change, whole.change, atol=1e-5)


def test_points_far_out_take_steps_of_their_own() -> None:
    law = standard(SKEWED)
    known = gaussians(law)
    z = torch.tensor([[1.0, 0.5], [6.0, 4.0], [0.0, 12.0]], dtype=torch.float64)
    own = ProbabilityFlow(law.denoise, known).carry(z, level(3), HIGH)
    even = ProbabilityFlow(law.denoise, known, even_first=True).carry(z, level(3), HIGH)
    assert torch.equal(own.evaluations[1:], even.evaluations[1:])
    assert torch.equal(own.z[1:], even.z[1:])
    assert own.evaluations[0] != even.evaluations[0]


@pytest.mark.parametrize("most", [1, 20, 60])
def test_even_steps_keep_to_the_evaluations_allowed(most) -> None:
    law = standard(ConcentricSquares())
    z, label = law.rows(0, 50, seed=0, sigma=LOW)
    known = gaussians(law, True)
    plain = ProbabilityFlow(law.denoise, known, 1e-4, max_evaluations=most)
    even = replace(plain, even_first=True)
    found = even.carry(z, level(50), HIGH, label)
    assert (found.evaluations <= plain.carry(z, level(50), HIGH, label).evaluations.max()).all()
    assert found.error.isfinite().all()


# What a value depends on --------------------------------------------------------------------------------


def test_a_points_value_does_not_depend_on_its_batch() -> None:
    law = standard(ConcentricSquares())
    z, label = law.rows(0, 64, seed=0, sigma=LOW)
    flow, prior = ProbabilityFlow(law.denoise, gaussians(law, True)), Prior(law, HIGH)
    whole = log_density(flow, prior, z, level(64), label)
    alone = [log_density(flow, prior, z[i : i + 1], level(1), label[i : i + 1]) for i in range(3)]
    np.testing.assert_allclose(whole.value[:3], [one.value[0] for one in alone], atol=1e-11)
    assert whole.evaluations[:3].tolist() == [int(one.evaluations[0]) for one in alone]
    hard = torch.cat([z[:5], torch.tensor([[30.0, -40.0]], dtype=torch.float64)])
    crowded = log_density(flow, prior, hard, level(6), torch.cat([label[:5], label[:1]]))
    np.testing.assert_allclose(crowded.value[:5], whole.value[:5], atol=1e-11)


def test_the_label_is_heeded_everywhere() -> None:
    law = standard(SKEWED)
    z, label = law.rows(0, 90, seed=0, sigma=LOW)
    flow, prior = ProbabilityFlow(law.denoise, gaussians(law, True)), Prior(law, HIGH)
    for asked in (label, (label + 1) % 3):
        found = log_density(flow, prior, z, level(90), asked)
        truth = law.log_prob(z, LOW, asked).numpy()
        np.testing.assert_allclose(found.value, truth, atol=1e-3 + 1e-6 * np.abs(truth).max())
    whole = log_density(ProbabilityFlow(law.denoise, gaussians(law)), prior, z, level(90))
    parts = [log_density(flow, prior, z, level(90), torch.full((90,), c)) for c in range(3)]
    mixed, share = LogDensity.mixed(parts, law.frequencies.numpy())
    np.testing.assert_allclose(mixed.value, whole.value, atol=2e-3)
    np.testing.assert_allclose(share, law.class_posterior(z, LOW), atol=1e-3)
    chosen = LogDensity.chosen(parts, label.numpy())
    np.testing.assert_array_equal(chosen.value[:3], [parts[int(label[i])].value[i] for i in range(3)])


def test_the_errors_of_a_mixture_are_its_classes_by_their_shares() -> None:
    def one(value, error, met=True):
        a = np.array([value])
        return LogDensity(a, np.array([error]), a * 0 + 0.1, a * 0 + 0.3, np.array([5]), np.array([met]))

    mixed, share = LogDensity.mixed([one(0.0, 0.01), one(math.log(3), 0.03)], np.array([0.5, 0.5]))
    assert mixed.value[0] == pytest.approx(math.log(2))
    np.testing.assert_allclose(share, [[0.25, 0.75]])
    assert mixed.error[0] == pytest.approx(0.25 * 0.01 + 0.75 * 0.03)
    assert mixed.std_error[0] == pytest.approx(0.3 * math.hypot(0.25, 0.75))
    assert mixed.prior_error[0] == pytest.approx(0.1)
    assert mixed.total_error[0] == pytest.approx(mixed.error[0] + 0.1 + mixed.std_error[0])
    assert mixed.evaluations[0] == 10
    hopeless, _ = LogDensity.mixed([one(0.0, 0.01), one(-1000.0, 9.0, met=False)], np.array([0.5, 0.5]))
    assert hopeless.met[0]  # a class that takes no part in the value has no say
    spoilt, _ = LogDensity.mixed([one(0.0, 0.01), one(-1.0, 9.0, met=False)], np.array([0.5, 0.5]))
    assert not spoilt.met[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixture", "square", "concentric squares by class"])
def test_far_points_are_finite_and_fall(name) -> None:
    law, labelled = CASES[name]
    angle = torch.arange(20) * math.tau / 20
    way = torch.stack([angle.cos(), angle.sin()], 1).double()
    label = torch.arange(20) % 3 if labelled else None
    known = gaussians(law, labelled)
    values = np.stack(
        [
            log_density(
                ProbabilityFlow(law.denoise, known), Prior(known, HIGH), k * way, level(20), label
            ).value
            for k in (5.0, 10.0, 30.0, 100.0)
        ]
    )
    assert np.isfinite(values).all()
    assert (np.diff(values, axis=0) < 0).all()
    # At sigma 0.01 these are millions of nats down; what is known is the distance to the support.
    truth = np.stack([law.log_prob(k * way, LOW, label).numpy() for k in (5.0, 10.0, 30.0, 100.0)])
    np.testing.assert_allclose(values[:3], truth[:3], rtol=0.02)
    np.testing.assert_allclose(values[3], truth[3], rtol=0.2)


def test_no_points_no_values() -> None:
    law = standard(SKEWED)
    none = torch.empty(0, 2, dtype=torch.float64)
    found = log_density(ProbabilityFlow(law.denoise, law), Prior(law, HIGH), none, level(0))
    assert len(found) == 0
    assert np.asarray(found).shape == (0,)


# The divergence ------------------------------------------------------------------------------------------


def test_the_trace_is_that_of_the_jacobian() -> None:
    law = standard(SKEWED)
    z, _ = law.rows(0, 30, seed=0, sigma=0.3)
    sigma = level(30, 0.3)
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda p: law.denoise(p[None], 0.3)[0], one) for one in z]
    )
    clean, trace = denoise_with_trace(law.denoise, z, sigma, None)
    np.testing.assert_allclose(trace[:, 0], jacobian.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-10)
    np.testing.assert_allclose(clean, law.denoise(z, sigma))
    signs = torch.where(torch.rand(30, 5, 2, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)
    _, probed = denoise_with_trace(law.denoise, z, sigma, None, probes=signs.double())
    by_hand = torch.einsum("nki,nij,nkj->nk", signs.double(), jacobian, signs.double())
    np.testing.assert_allclose(probed, by_hand, rtol=1e-9, atol=1e-12)


def test_hutchinsons_estimate_is_right_on_average_and_knows_its_standard_error() -> None:
    # A tilted cloud, whose Jacobians are not diagonal: elsewhere the probes would be exact.
    law = GaussianMixture([[0.0] * 4, [1.5, -1.0, 0.5, 1.0]], [np.eye(4) * 0.3 + 0.2, np.eye(4) * 0.4])
    z, _ = law.rows(0, 40, seed=0, sigma=LOW)
    flow, prior = ProbabilityFlow(law.denoise, gaussians(law)), Prior(law, HIGH)
    truth = law.log_prob(z, LOW).numpy()
    runs = [log_density(flow, prior, z, level(40), probes=8, seed=seed) for seed in range(20)]
    values = np.stack([run.value for run in runs])
    reported = np.sqrt(np.mean([run.std_error**2 for run in runs]))
    spread = np.sqrt(values.var(0, ddof=1).mean())
    assert 0.85 < reported / spread < 1.15
    assert np.abs(values.mean(0) - truth).mean() < 1.5 * spread / math.sqrt(20)
    assert spread > 0.01
    again = log_density(flow, prior, z[7:], level(33), probes=8, seed=3, first_row=7)
    np.testing.assert_allclose(again.value, runs[3].value[7:], atol=1e-10)


@pytest.mark.parametrize("name", ["mixture", "square"])
def test_the_gradient_is_the_exact_score(name) -> None:
    law = CASES[name][0]
    z, _ = law.rows(0, 20, seed=0, sigma=0.1)
    flow = ProbabilityFlow(law.denoise, gaussians(law), tolerance=1e-5)
    found = value_and_gradient(flow, Prior(law, HIGH), z, level(20, 0.1))[1]
    np.testing.assert_allclose(found, law.score(z, 0.1), atol=2e-3)


def test_a_denoiser_that_heeds_nothing_is_a_single_point() -> None:
    """All mass at the origin: p(z; sigma) is N(0, sigma^2 I), whatever the reference."""
    at = torch.tensor([[0.02, -0.01], [0.0, 0.0]], dtype=torch.float64)
    law = Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    point = Gaussian([0.0, 0.0], [[1e-12, 0.0], [0.0, 1e-12]])
    found = log_density(
        ProbabilityFlow(lambda z, sigma, label=None: torch.zeros_like(z), law, tolerance=1e-6),
        Prior(point, HIGH),
        at,
        level(2),
    )
    by_hand = -at.square().sum(1) / (2 * LOW**2) - math.log(2 * math.pi * LOW**2)
    np.testing.assert_allclose(found.value, by_hand, atol=1e-5)


def test_reference_turns_into_whitened_coordinates_and_back() -> None:
    z, _ = TILTED.rows(0, 5, seed=0)
    reference = Reference.of(TILTED, z, None)
    sigma = level(5, 0.7)
    y = reference.whitened(z, sigma)
    np.testing.assert_allclose(reference.points(y, sigma), z, rtol=1e-12)
    np.testing.assert_allclose(reference.log_prob(z, sigma), TILTED.log_prob(z, 0.7), rtol=1e-12)
    np.testing.assert_allclose(reference.denoise(z, sigma), TILTED.denoise(z, 0.7), rtol=1e-12)
