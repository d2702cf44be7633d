"""Every schedule is monotone, has its inverse and derivatives, and samples the noise levels it should."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from toydiffusion.errors import InputError
from toydiffusion.schedules import SCHEDULES, FlowMatching, LogNormal, Schedule, VariancePreserving, schedule

ALL = [schedule(name) for name in SCHEDULES] + [
    schedule("karras", {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 3.0}),
    schedule("lognormal", {"mean": 0.5, "std": 0.8, "sigma_min": 0.05, "sigma_max": 3.0}),
    schedule("vp", {"beta_min": 0.5, "beta_max": 7.0, "sigma_max": 4.0}),
]
each = pytest.mark.parametrize("s", ALL, ids=lambda s: f"{s.name}-{s.sigma_max:g}")


def times(s: Schedule) -> torch.Tensor:
    low, high = s.t(torch.tensor([s.sigma_min, s.sigma_max], dtype=torch.float64))
    return torch.lerp(low, high, torch.linspace(0, 1, 201, dtype=torch.float64))


@each
def test_sigma_rises_between_its_ends_and_has_an_inverse(s: Schedule) -> None:
    t = times(s)
    sigma = s.sigma(t)
    assert bool((sigma.diff() > 0).all())
    torch.testing.assert_close(s.t(sigma), t, rtol=1e-9, atol=1e-12)
    u = torch.linspace(0, 1, 57, dtype=torch.float64)
    torch.testing.assert_close(s.u(s.sigma_at(u)), u, rtol=0, atol=1e-9)
    assert s.sigma_at(u)[[0, -1]].tolist() == pytest.approx([s.sigma_min, s.sigma_max], rel=1e-9)


@each
def test_derivatives_agree_with_autograd(s: Schedule) -> None:
    t = times(s)[1:-1].clone().requires_grad_(True)
    (dsigma,) = torch.autograd.grad(s.sigma(t).sum(), t)
    torch.testing.assert_close(s.dsigma(t), dsigma, rtol=1e-9, atol=0)
    (dsigma2,) = torch.autograd.grad(s.sigma(t).square().sum(), t)
    torch.testing.assert_close(s.dsigma2(t), dsigma2, rtol=1e-9, atol=0)


@each
@pytest.mark.parametrize("n", [1, 2, 7, 5000])
def test_levels_descend_strictly_from_end_to_end(s: Schedule, n: int) -> None:
    levels = s.levels(n)
    assert len(levels) == n + 1
    assert levels[0] == s.sigma_max
    assert levels[-1] == s.sigma_min
    assert bool((levels.diff() < 0).all())
    torch.testing.assert_close(s.u(levels), torch.linspace(1, 0, n + 1).double(), rtol=0, atol=1e-7)


@each
def test_sampled_levels_have_one_in_each_stratum_in_random_order(s: Schedule) -> None:
    u = s.u(s.sample_sigma(1000, torch.Generator().manual_seed(3)))
    assert sorted((u * 1000).floor().clamp(0, 999).int().tolist()) == list(range(1000))
    # Strata left in order would correlate perfectly with the row.
    assert abs(np.corrcoef(np.arange(1000), u)[0, 1]) < 0.12


def test_the_formulas_against_values_computed_by_hand() -> None:
    at = torch.tensor([0.5], dtype=torch.float64)
    expected = {
        "exp": math.exp(-2.5),
        "linear": 0.5,
        "sqrt": math.sqrt(0.5),
        "cosine": 1.0,
        "flow-matching": 1.0,
        "lognormal": math.exp(LogNormal().mean),
        # int_0^0.5 beta = 0.05 + 19.9 / 8
        "vp": math.sqrt(math.exp(0.05 + 19.9 / 8) - 1),
        "karras": ((0.005 ** (1 / 7) + 10 ** (1 / 7)) / 2) ** 7,
    }
    assert expected.keys() == SCHEDULES.keys()
    for name, value in expected.items():
        assert float(schedule(name).sigma(at)) == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("name", ["vp", "cosine"])
def test_variance_preserving_schedules_preserve_variance(name: str) -> None:
    s = schedule(name)
    t = times(s)
    torch.testing.assert_close(s.alpha(t).square() * (1 + s.sigma(t).square()), torch.ones(201).double())


def test_log_normal_samples_follow_the_log_normal_law() -> None:
    from scipy import stats

    s = LogNormal(sigma_min=0.02, sigma_max=20.0, mean=-0.3, std=0.7)
    log_sigma = s.sample_sigma(20_000, torch.Generator().manual_seed(0)).log().numpy()
    assert stats.kstest(log_sigma, stats.norm(-0.3, 0.7).cdf).pvalue > 0.01


def test_vp_and_flow_equal_the_textbook_equations_after_division_by_alpha() -> None:
    """For x_t = alpha (z + sigma eps) and a Gaussian z, both forms of the reverse ODE have one solution."""
    from scipy.integrate import solve_ivp

    variance = 0.7  # of z, so Var[x_t] = alpha^2 (variance + sigma^2) and score = -x / Var[x_t]

    def vp(t: float, x: np.ndarray) -> np.ndarray:
        s = VariancePreserving(sigma_max=4.0)
        at = torch.tensor(t, dtype=torch.float64)
        spread = float(s.alpha(at) ** 2 * (variance + s.sigma(at) ** 2))
        beta = s.beta_min + t * (s.beta_max - s.beta_min)
        return -0.5 * beta * x - 0.5 * beta * (-x / spread)  # Song et al. 2021, equations 11 and 13

    def flow(t: float, x: np.ndarray) -> np.ndarray:
        # v = E[eps - z | x_t], with z and eps jointly Gaussian with x_t (Lipman et al. 2023)
        return (t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2) * x

    for s, equation in ((VariancePreserving(sigma_max=4.0), vp), (FlowMatching(sigma_max=4.0), flow)):
        start, end = (float(s.t(torch.tensor(v, dtype=torch.float64))) for v in (4.0, 0.01))
        alpha = s.alpha(torch.tensor([start, end], dtype=torch.float64)).numpy()
        z = 1.3  # in z the ODE's solution is z sqrt(variance + sigma^2), up to a constant
        expected = z * math.sqrt((variance + 0.01**2) / (variance + 4.0**2))
        solved = solve_ivp(equation, (start, end), [alpha[0] * z], rtol=1e-10, atol=1e-12).y[0, -1]
        assert solved / alpha[1] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: schedule("exq"), "did you mean 'exp'"),
        (lambda: schedule("karras", {"roh": 3}), "did you mean 'rho'"),
        (lambda: schedule("linear", {"rho": 3}), "no 'rho'"),
        (lambda: schedule("linear", {"sigma_min": 0}), "0 < sigma_min < sigma_max, got sigma_min 0"),
        (lambda: schedule("linear", {"sigma_min": 2, "sigma_max": 1}), "sigma_min 2 and sigma_max 1"),
        (lambda: schedule("linear", {"sigma_max": math.inf}), "sigma_max must be a finite number, got inf"),
        (lambda: schedule("karras", {"rho": 0}), "rho must be > 0"),
        (lambda: schedule("lognormal", {"std": -1}), "std must be > 0"),
        (lambda: schedule("lognormal", {"std": 0.001}), "no times"),
        (lambda: schedule("vp", {"beta_min": 3, "beta_max": 2}), "beta_min < beta_max"),
        (lambda: schedule("exp").levels(0), ">= 1, got 0"),
    ],
)
def test_unusable_schedules_say_why(call, words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
