"""Solver tables meet their order conditions, and with exact denoisers the errors fall at that order."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from toydiffusion.denoisers import Counting, Guided
from toydiffusion.distributions import ConcentricSquares, Empirical, Gaussian, GaussianMixture, Square
from toydiffusion.errors import InputError
from toydiffusion.row_noise import RowNoise
from toydiffusion.schedules import SCHEDULES, schedule
from toydiffusion.solvers import (
    SOLVERS,
    Adams,
    ExponentialMultistep,
    ReverseSDE,
    RungeKutta,
    SampleConfig,
    last,
    reverse,
    sample,
    solver,
    trajectory,
)

MIXTURE = GaussianMixture([[-1.0, 0.3], [1.0, -0.2]], [[[0.1, 0.02], [0.02, 0.2]], [[0.15, 0.0], [0.0, 0.1]]])
GAUSSIAN = Gaussian([0.5, -0.3], [[1.0, 0.4], [0.4, 0.5]])


# Tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, s in SOLVERS.items() if isinstance(s, RungeKutta)])
def test_runge_kutta_tables_meet_their_order_conditions(name: str) -> None:
    """Butcher's rooted-tree conditions up to the declared order, and not beyond it."""
    method = SOLVERS[name]
    s = len(method.b)
    a = np.zeros((s, s))
    for i, row in enumerate(method.a):
        a[i, : len(row)] = row
    b, c = np.array(method.b), np.array(method.c)
    np.testing.assert_allclose(a.sum(1), c)
    assert np.all(np.triu(a) == 0)
    conditions = {
        1: [b.sum() - 1],
        2: [b @ c - 1 / 2],
        3: [b @ c**2 - 1 / 3, b @ a @ c - 1 / 6],
        4: [b @ c**3 - 1 / 4, (b * c) @ a @ c - 1 / 8, b @ a @ c**2 - 1 / 12, b @ a @ a @ c - 1 / 24],
        5: [b @ c**4 - 1 / 5],
    }
    for order, residuals in conditions.items():
        met = np.allclose(residuals, 0, atol=1e-12)
        assert met == (order <= method.order) or order > method.order + 1


@pytest.mark.parametrize("step", [1e-3, 0.1, 1.0, 5.0])
def test_multistep_weights_integrate_polynomials_exactly(step: float) -> None:
    nodes = [0.0, -0.7 * step, -1.9 * step]
    weights = ExponentialMultistep.weights(step, nodes)
    for power in range(3):
        exact, _ = quad(lambda s, p=power: math.exp(s - step) * s**p, 0, step, epsabs=0, epsrel=1e-12)
        assert sum(w * n**power for w, n in zip(weights, nodes, strict=True)) == pytest.approx(
            exact, rel=1e-8
        )


def test_multistep_of_order_one_is_ddim() -> None:
    """DDIM in sigma: z' = D + (sigma' / sigma)(z - D); Song, Meng & Ermon 2021, equation 12."""
    z = torch.tensor([[0.3, -2.0]], dtype=torch.float64)
    levels = torch.tensor([2.0, 0.7, 0.2], dtype=torch.float64)
    by_hand = z
    for s, after in itertools.pairwise(levels.tolist()):
        clean = MIXTURE.denoise(by_hand, s)
        by_hand = clean + after / s * (by_hand - clean)
    for method in (solver("euler"), ExponentialMultistep(order=1)):
        torch.testing.assert_close(last(reverse(MIXTURE.denoise, z, levels, method)), by_hand)


# Convergence -------------------------------------------------------------------------------------------


@functools.cache
def fine_solution() -> torch.Tensor:
    z = MIXTURE.rows(0, 50, seed=0, sigma=3.0)[0]
    levels = schedule("exp", {"sigma_min": 0.2, "sigma_max": 3.0}).levels(600)
    return last(reverse(MIXTURE.denoise, z, levels, solver("rk4")))


def slope(errors: list[float], counts: list[int]) -> float:
    return -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


DETERMINISTIC = [n for n, s in SOLVERS.items() if not isinstance(s, ReverseSDE)]


@pytest.mark.parametrize("clock", [None, "exp", "linear", "karras", "vp", "flow-matching"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_error_on_an_exact_denoiser_falls_at_the_declared_order(name: str, clock: str | None) -> None:
    method = solver(name)
    if clock is not None and isinstance(method, ExponentialMultistep | Adams):
        clock, spacing = None, clock
    else:
        spacing = clock or "exp"
    limits = {"sigma_min": 0.2, "sigma_max": 3.0}
    z = MIXTURE.rows(0, 50, seed=0, sigma=3.0)[0]
    fine = fine_solution()
    counts = [20, 40, 80] if method.order > 2 else [60, 120, 240]
    errors = [
        float(
            (
                last(
                    reverse(
                        MIXTURE.denoise,
                        z,
                        schedule(spacing, limits).levels(n),
                        method,
                        clock=None if clock is None else schedule(clock, limits),
                    )
                )
                - fine
            )
            .abs()
            .mean()
        )
        for n in counts
    ]
    assert slope(errors, counts) == pytest.approx(method.order, abs=0.35)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_gaussian_is_carried_to_its_closed_form(name: str) -> None:
    """z(sigma) - m = (C + sigma^2)^(1/2) (C + sigma_0^2)^(-1/2) (z_0 - m); C has fixed eigenvectors."""
    levels = schedule("exp", {"sigma_min": 0.01, "sigma_max": 5.0}).levels(600)
    z = torch.tensor([[3.0, -4.0], [0.1, 6.0]], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(GAUSSIAN.covariance)
    shrink = ((values + 0.01**2) / (values + 5.0**2)).sqrt()
    exact = GAUSSIAN.mean + (z - GAUSSIAN.mean) @ vectors @ torch.diag(shrink) @ vectors.T
    got = last(reverse(GAUSSIAN.denoise, z, levels, solver(name)))
    assert float((got - exact).abs().max()) < {1: 0.05, 2: 3e-4, 3: 1e-5, 4: 1e-6}[solver(name).order]


def test_the_two_clocks_differ_by_the_order_of_the_method() -> None:
    limits = {"sigma_min": 0.2, "sigma_max": 3.0}
    z = MIXTURE.rows(0, 50, seed=1, sigma=3.0)[0]
    for name in ("euler", "heun"):
        gaps = []
        for n in (50, 100, 200):
            s = schedule("exp", limits)
            both = [last(reverse(MIXTURE.denoise, z, s.levels(n), solver(name), clock=c)) for c in (None, s)]
            gaps.append(float((both[0] - both[1]).abs().mean()))
        assert slope(gaps, [50, 100, 200]) == pytest.approx(solver(name).order, abs=0.2)


def test_euler_of_textbook_flow_matching_is_euler_in_sigma() -> None:
    """x' = x + (t' - t) E[eps - z | x] with x = (1 - t) z_t: the same step, divided by alpha."""
    s = schedule("flow-matching", {"sigma_min": 0.1, "sigma_max": 4.0})
    levels = s.levels(9)
    z = MIXTURE.rows(0, 20, seed=2, sigma=4.0)[0]
    t = s.t(levels).tolist()
    x = (1 - t[0]) * z
    for now, after in itertools.pairwise(t):
        clean = MIXTURE.denoise(x / (1 - now), now / (1 - now))
        x = x + (after - now) * ((x - (1 - now) * clean) / now - clean)
    torch.testing.assert_close(x / (1 - t[-1]), last(reverse(MIXTURE.denoise, z, levels, solver("euler"))))


@pytest.mark.parametrize("clock", [None, "exp", "vp", "flow-matching"])
@pytest.mark.parametrize("name", ["euler-maruyama", "predictor-corrector"])
def test_stochastic_methods_end_in_the_right_law(name: str, clock: str | None) -> None:
    limits = {"sigma_min": 0.02, "sigma_max": 5.0}
    levels = schedule("karras" if clock is None else clock, limits).levels(200)
    at = None if clock is None else schedule(clock, limits)
    z = GAUSSIAN.rows(0, 8_000, seed=0, sigma=5.0)[0]
    end = last(reverse(GAUSSIAN.denoise, z, levels, solver(name), seed=3, clock=at))
    for i in range(2):
        spread = math.sqrt(float(GAUSSIAN.covariance[i, i]) + 0.02**2)
        assert float(end[:, i].std()) == pytest.approx(spread, rel=0.035)
        assert float(end[:, i].mean()) == pytest.approx(float(GAUSSIAN.mean[i]), abs=0.05)
    assert float(np.corrcoef(end.T)[0, 1]) == pytest.approx(0.4 / math.sqrt(0.5), abs=0.025)
    # Each point has its own noise, so equal starts end at different points.
    same = last(reverse(GAUSSIAN.denoise, z[:1].repeat(3, 1), levels[-50:], solver(name), seed=3))
    assert len(torch.unique(same[:, 0])) == 3


@pytest.mark.parametrize("name", ["euler", "heun", "rk4"])
def test_churn_keeps_the_law_and_changes_the_trajectory(name: str) -> None:
    levels = schedule("karras", {"sigma_min": 0.02, "sigma_max": 5.0}).levels(200 if name == "euler" else 60)
    z = GAUSSIAN.rows(0, 8_000, seed=0, sigma=5.0)[0]
    plain = last(reverse(GAUSSIAN.denoise, z, levels, solver(name)))
    churned = last(reverse(GAUSSIAN.denoise, z, levels, solver(name), churn=10.0, seed=5))
    assert float((plain - churned).abs().mean()) > 0.1
    for i in range(2):
        law = stats.norm(float(GAUSSIAN.mean[i]), math.sqrt(float(GAUSSIAN.covariance[i, i]) + 0.02**2))
        assert stats.kstest(churned[:2000, i].numpy(), law.cdf).pvalue > 1e-3
        assert float(churned[:, i].std()) == pytest.approx(law.std(), rel=0.035)


# Samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", sorted(SCHEDULES))
@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_every_solver_on_every_schedule_samples_the_exact_square(name: str, spacing: str) -> None:
    truth = Square().standardized(0.0, 3**-0.5)
    steps = 100 if isinstance(solver(name), ReverseSDE) or solver(name).order == 1 else 40
    # Even steps in sigma or sigma^2 skip the low levels, where the boundary forms, unless they start low.
    top = {"linear": 0.25, "sqrt": 0.08}.get(spacing, 5.0)
    levels = SampleConfig(steps=steps, solver=name, schedule=spacing).levels(0.01, top)
    z, _ = sample(truth.denoise, truth, levels, solver(name), rows=range(2048), seed=1)
    assert float(truth.contains(z).double().mean()) > 0.93
    for i in range(2):
        assert stats.kstest(z[:, i].numpy(), stats.uniform(-(3**0.5), 2 * 3**0.5).cdf).statistic < 0.045


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize(
    ("name", "per_step"), [("euler", 1), ("heun", 2), ("rk4", 4), ("multistep2", 1), ("adams", 1)]
)
def test_steps_count_intervals_and_the_last_is_the_denoising(name: str, per_step: int, steps: int) -> None:
    counting = Counting(GAUSSIAN.denoise)
    levels = SampleConfig(steps=steps, solver=name).levels(0.01, 5.0)
    z, _ = sample(counting, GAUSSIAN, levels, solver(name), rows=range(3), seed=0)
    assert counting.calls == (steps - 1) * per_step + 1
    assert counting.points == 3 * counting.calls
    if steps == 1 and name != "adams":
        start, _ = GAUSSIAN.rows(0, 3, seed=0, sigma=1.5)
        torch.testing.assert_close(z, GAUSSIAN.denoise(start, 1.5))


def test_few_steps_start_lower_and_many_at_the_top() -> None:
    for steps, top in (
        (1, 1.5),
        (10, 1.5),
        (12, 0.01 / 0.6**11),
        (14, 0.01 / 0.6**13),
        (15, 10.0),
        (500, 10.0),
    ):
        levels = SampleConfig(steps=steps, solver="multistep2").levels(0.01, 10.0)
        assert len(levels) == steps
        assert float(levels[0]) == pytest.approx(top)
    assert float(SampleConfig(steps=3, solver="heun").levels(0.01, 1.0)[0]) == 1.0
    for name in ("heun", "adams"):
        assert float(SampleConfig(steps=3, solver=name, sigma_start=7.0).levels(0.01, 10.0)[0]) == 7.0


@pytest.mark.parametrize("sigma_min", [0.01, 0.3])
def test_levels_of_adams_widen_with_the_number_of_steps(sigma_min: float) -> None:
    assert float(SampleConfig(steps=4).levels(sigma_min, 10.0)[0]) == pytest.approx(2.4)
    before = (0.0, math.inf)
    for steps in (1, 2, 3, 10, 100, 5000):
        levels = SampleConfig(steps=steps).levels(sigma_min, 10.0)
        assert len(levels) == steps
        top, low = float(levels[0]), float(levels[-1])
        assert before[0] <= top <= 10.0 * (1 + 1e-12)
        assert steps == 1 or sigma_min * (1 - 1e-12) <= low <= before[1]
        before = (top, low if steps > 1 else math.inf)
    assert top == pytest.approx(10.0)
    assert low == pytest.approx(sigma_min)


# The departure from the Gaussian ------------------------------------------------------------------------


FLAT = GaussianMixture(
    [[3.0, 0.0, 1.0], [-2.0, 1.0, 0.0]],
    [
        torch.diag(torch.tensor([1.0, 1e-10, 0.3])),
        torch.tensor([[0.5, 0.3, 0], [0.3, 0.4, 0], [0, 0, 1e-10]]),
    ],
)
"""Two classes, each without spread along an axis, as a class of equal values in a column has it."""


@pytest.mark.parametrize("law", [GAUSSIAN, FLAT], ids=["correlated", "flat classes"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_gaussian_classes_are_exact_at_any_number_of_steps(law: GaussianMixture, steps: int) -> None:
    """z = m + C^(1/2) (C + s^2)^(-1/2) (z_s - m) at the clean end, in closed form."""
    levels = SampleConfig(steps=steps).levels(0.01, 20.0)
    s = float(levels[0])
    z, label = law.rows(0, 200, seed=1, sigma=s)
    end = last(trajectory(law.denoise, z, levels, solver("adams"), label=label, moments=law))
    for c in range(law.num_classes):
        own = label == c
        variance, axes = np.linalg.eigh(law.class_covariances[c].numpy())
        shrink = axes @ np.diag(np.sqrt(variance / (variance + s * s))) @ axes.T
        exact = law.class_means[c] + (z[own] - law.class_means[c]) @ torch.from_numpy(shrink)
        torch.testing.assert_close(end[own], exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("after", [0.2, 0.0])
def test_integrals_of_adams_are_those_of_their_polynomials(after: float) -> None:
    """int v^p dsigma / (c + sigma^2): with theta = atan(sigma / sqrt c), dtheta / sqrt c is that measure."""
    nodes, unit = [0.5, 0.9, 1.4], 0.2
    for c in (1.0, 0.01, 1e-8):
        found = Adams.integrals(torch.tensor([c], dtype=torch.float64), 0.5, after, nodes, unit)
        for power in (0, 1, 2):
            exact, _ = quad(
                lambda s, p=power, c=c: math.asinh(s / unit) ** p / (c + s * s),
                0.5,
                after,
                epsabs=0,
                epsrel=1e-10,
                points=sorted({min(max(k * math.sqrt(c), after), 0.5) for k in (0.3, 1, 3, 30)}),
                limit=500,
            )
            whole = sum(float(w) * math.asinh(s / unit) ** power for w, s in zip(found, nodes, strict=True))
            assert whole == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("levels", [[1.2, 0.3], [2.0, 0.8, 0.1], [3.0, 1.0, 0.7, 0.5, 0.2]])
def test_a_step_of_adams_is_predicted_and_corrected(levels: list[float]) -> None:
    """The same in one dimension, with polynomials fitted by numpy and integrals by scipy."""
    law = GaussianMixture([[-0.5], [1.0]], [[[0.1]], [[0.3]]], weights=[0.4, 0.6])
    m, c = float(law.mean), float(law.covariance)
    steps, unit, start = len(levels), 4 * levels[-1], 0.7

    def v(sigma: float) -> float:
        return math.asinh(sigma / unit)

    def moved(known: list[tuple[float, float]], begin: float, end: float) -> float:
        p = np.polynomial.Polynomial.fit([v(s) for s, _ in known], [f for _, f in known], len(known) - 1)
        return quad(lambda s: p(v(s)) * math.sqrt(c) / (c + s * s), begin, end, epsabs=1e-12)[0]

    y, known = (start - m) / math.sqrt(c + levels[0] ** 2), []
    for i, (sigma, after) in enumerate(itertools.pairwise([*levels, 0.0])):
        z = m + math.sqrt(c + sigma**2) * y
        clean = float(law.denoise(torch.tensor([[z]], dtype=torch.float64), sigma))
        gaussian = m + c / (c + sigma**2) * (z - m)
        known.append((sigma, math.sqrt((c + sigma**2) / c) / sigma * (gaussian - clean)))
        if i:
            last_step = levels[i - 1], sigma
            more = moved(known[-3:], *last_step) - moved(known[-3:-1], *last_step)
            y += (1 - 2 / steps) * more
        y += moved(known[-2:], sigma, after)
    found = last(
        trajectory(
            law.denoise,
            torch.tensor([[start]], dtype=torch.float64),
            torch.tensor(levels),
            solver("adams"),
            moments=law,
        )
    )
    assert float(found) == pytest.approx(m + math.sqrt(c) * y, abs=1e-8)


def test_moments_change_the_steps_but_not_the_limit() -> None:
    z, _ = MIXTURE.rows(0, 50, seed=3, sigma=4.0)

    def ends(steps: int, moments: Gaussian | GaussianMixture | None) -> torch.Tensor:
        levels = schedule("karras", {"sigma_min": 0.01, "sigma_max": 4.0, "rho": 4.0}).levels(steps)
        return last(trajectory(MIXTURE.denoise, z, levels, solver("adams"), moments=moments))

    far = Gaussian([4.0, 0.0], [[3.0, 1.0], [1.0, 0.5]])
    own, other = (torch.stack([ends(k, law) for k in (10, 400)]) for law in (MIXTURE, far))
    assert float((own[1] - other[1]).abs().mean()) < 1e-4
    assert float((own[0] - own[1]).abs().mean()) < 0.75 * float((other[0] - other[1]).abs().mean())


@pytest.mark.parametrize(
    "law",
    [
        Square(),
        ConcentricSquares(3, dim=1),
        MIXTURE,
        GaussianMixture(torch.eye(6) * 2, [0.1 * torch.eye(6)] * 6),
    ],
    ids=["square", "line", "mixture", "six dimensions"],
)
def test_a_few_steps_of_adams_come_nearest_to_the_end_points(law) -> None:
    """Both methods are compared with 400 steps of a third, from the same latents."""
    law = law.standardized(law.mean, law.covariance.diagonal().sqrt())
    latent = RowNoise(0, "test").normal(0, 256, dim=law.dim)
    values, axes = torch.linalg.eigh(law.covariance)

    def ends(config: SampleConfig) -> torch.Tensor:
        levels = config.levels(0.005, 20.0)
        start = law.mean + (latent * (values + levels[0] ** 2).sqrt()) @ axes.T
        return last(trajectory(law.denoise, start, levels, solver(config.solver), moments=law))

    fine = ends(SampleConfig(400, "rk4", "karras"))

    def gap(name: str, steps: int) -> float:
        return float((ends(SampleConfig(steps, name)) - fine).square().sum(1).mean().sqrt())

    few = [gap("adams", k) for k in (1, 2, 3, 5, 15, 60)]
    assert all(after < 1.1 * before for before, after in itertools.pairwise(few))
    assert few[3] < 0.6 * few[1]
    assert few[5] < 0.5 * few[4]
    assert few[3] < 0.5 * gap("multistep2", 5)
    assert few[4] < 0.3 * gap("multistep2", 15)


def test_the_last_step_denoises_to_a_clean_point() -> None:
    """The samples of a finite set can only be its points."""
    points = torch.tensor([[-2.0, 0.0], [0.0, 2.0], [2.0, -1.0]], dtype=torch.float64)
    cloud = Empirical(points)
    levels = SampleConfig(steps=40).levels(0.1, 8.0)
    z, _ = sample(cloud.denoise, cloud, levels, solver("multistep2"), rows=range(300), seed=0)
    nearest = torch.cdist(z, points).min(1)
    assert float(nearest.values.max()) < 1e-6
    assert torch.bincount(nearest.indices).min() > 60


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_rows_do_not_depend_on_their_batch(name: str) -> None:
    levels = SampleConfig(steps=8, solver=name).levels(0.01, 5.0)
    squares = ConcentricSquares()

    def rows(first: int, stop: int) -> torch.Tensor:
        return sample(squares.denoise, squares, levels, solver(name), rows=range(first, stop), seed=4)[0]

    together = rows(0, 2500)
    pieces = torch.cat([rows(0, 1), rows(1, 1100), rows(1100, 2500)])
    torch.testing.assert_close(together, pieces, rtol=0, atol=1e-10)
    assert not torch.equal(
        together[:10], sample(squares.denoise, squares, levels, solver(name), rows=range(10), seed=5)[0]
    )


def test_labels_are_followed_and_sampled_by_frequency() -> None:
    squares = ConcentricSquares()
    levels = SampleConfig(steps=60).levels(0.005, 5.0)
    asked = torch.arange(5).repeat(100)
    z, label = sample(
        squares.denoise, squares, levels, solver("multistep2"), rows=range(500), seed=0, label=asked
    )
    assert torch.equal(label, asked)
    assert float(squares.contains(z, asked).double().mean()) > 0.97
    # A label that is used only in the last steps would concentrate the points at the borders of their class.
    depth = 5 * z.abs().amax(1) - asked
    assert float(((depth < 0.1) | (depth > 0.9)).double().mean()) < 0.35
    _, label = sample(squares.denoise, squares, levels[:2], solver("euler"), rows=range(5000), seed=0)
    assert stats.chisquare(np.bincount(label), squares.frequencies.numpy() * 5000).pvalue > 1e-3


def test_given_points_are_noised_to_the_level_and_denoised() -> None:
    squares = ConcentricSquares()
    given = squares.rows(0, 500, seed=9)[0]
    moved = {}
    for top in (0.02, 0.5):
        levels = SampleConfig(steps=20, sigma_start=top).levels(0.005, 5.0)
        start = given + top * RowNoise(0, "test").normal(0, 500, dim=2)
        z = last(trajectory(squares.denoise, start, levels, solver("heun")))
        moved[top] = float((z - given).square().sum(1).mean().sqrt())
        assert float(squares.contains(z).double().mean()) > 0.97
    # Noising moves a point by about top sqrt(2), and denoising by at most about as much.
    assert 0 < moved[0.02] < 0.05
    assert 0.2 < moved[0.5] < 1.0


def test_guidance_is_linear_between_mixture_and_class() -> None:
    z, label = MIXTURE.rows(0, 50, seed=0, sigma=1.0)
    sigma = torch.ones(50, dtype=torch.float64)
    mixture, own = MIXTURE.denoise(z, sigma), MIXTURE.denoise(z, sigma, label)
    torch.testing.assert_close(Guided(MIXTURE.denoise, MIXTURE.denoise, 1.0)(z, sigma, label), own)
    torch.testing.assert_close(Guided(MIXTURE.denoise, MIXTURE.denoise, 0.0)(z, sigma, label), mixture)
    torch.testing.assert_close(
        Guided(MIXTURE.denoise, MIXTURE.denoise, 3.0)(z, sigma, label), 3 * own - 2 * mixture
    )
    assert float((mixture - own).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: solver("hein"), "did you mean 'heun'"),
        (lambda: SampleConfig(steps=0), "steps must be a whole number >= 1 and <= 10,000,000, got 0"),
        (lambda: SampleConfig(steps=2.5), "got 2.5"),
        (lambda: SampleConfig(solver="rk5"), "unknown solver 'rk5'"),
        (lambda: SampleConfig(schedule="karas"), "did you mean 'karras'"),
        (lambda: SampleConfig(churn=-1.0), "churn must be a finite number >= 0"),
        (lambda: SampleConfig(guidance=math.nan), "guidance must be a finite number"),
        (lambda: SampleConfig(sigma_start=20.0).levels(0.01, 10.0), "up to sigma_max 10"),
        (lambda: SampleConfig(sigma_start=0.001).levels(0.01, 10.0), "above sigma_min 0.01"),
        (
            lambda: reverse(MIXTURE.denoise, torch.zeros(1, 2), torch.tensor([1.0, 2.0]), solver("euler")),
            "must descend",
        ),
        (
            lambda: reverse(
                MIXTURE.denoise, torch.zeros(1, 2), torch.tensor([2.0, 1.0]), solver("multistep2"), churn=1.0
            ),
            "churn goes with",
        ),
    ],
)
def test_unusable_settings_say_why(call, words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
