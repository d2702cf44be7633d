"""Fitting the experts of a table: nothing that judges a point has seen it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.mixture import GaussianMixture as SklearnMixture

import toydiffusion as td
from toydiffusion.denoisers import GaussianExpert, ResidualSizes, Stacked
from toydiffusion.density import elbo
from toydiffusion.distributions import Gaussian, GaussianMixture, Prior
from toydiffusion.experts import Experts, fit_experts, fitting, mixture, networks
from toydiffusion.experts.mixture import (
    Shape,
    _Components,
    _Padded,
    _Points,
    fit_mixture,
    fitted,
    fold_of,
    stacked,
)
from toydiffusion.experts.networks import FoldNetworks, FoldState, train_folds
from toydiffusion.experts.stack import stack

GRID = {"components": (1, 2, 3), "shrinkages": (2.0, 10.0), "flattenings": (0.0, 0.2)}
PAIR = GaussianMixture(
    [[-2.0, 0.0], [2.0, 1.0]], [np.eye(2) * 0.3, [[1.0, 0.6], [0.6, 0.5]]], weights=[0.3, 0.7], labels=[0, 0]
)


def sample(law: GaussianMixture | Gaussian, n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(law.sample(n, seed=seed)[0])


def whole(padded: _Padded) -> _Points:
    """All points at once."""
    return _Points(padded.points, float(padded.points.square().sum(-1).max()))


# Folds and stacking of densities ---------------------------------------------------------------------


def test_folds_are_even_in_every_class() -> None:
    label = torch.tensor([0] * 50 + [1] * 13 + [2] * 7)
    fold = fold_of(label, 70, 5, 0)
    for c in range(3):
        counts = fold[label == c].bincount(minlength=5)
        assert int(counts.max() - counts.min()) <= 1
    assert not torch.equal(fold, fold_of(label, 70, 5, 1))


def test_the_weights_of_the_stack_are_the_best_ones() -> None:
    """Against a general optimiser of the same log-likelihood."""
    log_probs = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(free: np.ndarray) -> float:
        weights = np.exp(free - np.logaddexp.reduce(free))
        return -float(np.log(np.exp(log_probs.numpy()) @ weights).mean())

    best = minimize(loss, np.zeros(3), tol=1e-12)
    weights = np.exp(best.x - np.logaddexp.reduce(best.x))
    whole = torch.ones(1, 200, dtype=torch.float64)
    np.testing.assert_allclose(stacked(log_probs, whole, fewest=0.0)[0].numpy(), weights, atol=2e-3)


def test_small_weights_are_dropped_and_the_rest_sums_to_1() -> None:
    log_probs = torch.zeros(100, 3, dtype=torch.float64)
    log_probs[:, 1] -= 0.5
    log_probs[:2, 1] += 3
    (found,) = stacked(log_probs, torch.ones(1, 100, dtype=torch.float64), fewest=0.3)
    assert float(found.sum()) == pytest.approx(1)
    assert ((found == 0) | (found >= 0.3)).all()
    assert int((found > 0).sum()) < 3


def test_each_stack_is_that_of_its_own_points() -> None:
    log_probs = 400 * torch.randn(60, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    part = (torch.arange(60) % 3 != torch.arange(3)[:, None]).double()
    for own, found in zip(part, stacked(log_probs, part), strict=True):
        alone = stacked(log_probs[own > 0], own[own > 0][None])
        torch.testing.assert_close(found[None], alone)


# The mixture -----------------------------------------------------------------------------------------


def test_em_without_shrinkage_finds_what_scikit_learn_finds() -> None:
    z = sample(PAIR, 800)
    fold = fold_of(None, 800, 2, 0)
    padded = _Padded.of(z, torch.zeros(800, dtype=torch.int64), fold, 2)
    start = _Components.first(padded, 2, 0)
    found = fitted(padded, Shape(2, 1e-9, 0.0), start, 300)
    own = float(found.joint(whole(padded))[-1, 0].logsumexp(0).mean())
    theirs = SklearnMixture(2, reg_covar=0, tol=1e-9, max_iter=1000, random_state=0).fit(z.numpy())
    assert own == pytest.approx(theirs.score(z.numpy()), abs=2e-3)


def test_squares_about_0_and_about_the_means_give_the_same_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes, and points far enough from 0 to see lost digits."""
    z = sample(PAIR, 300) + torch.tensor([3.0, -2.0])
    label, fold = torch.arange(300) % 2, fold_of(None, 300, 3, 0)
    padded = _Padded.of(z, label, fold, 3)
    start = _Components.first(padded, 4, 0)
    assert start.wide(whole(padded))
    fast = fitted(padded, Shape(4, 2.0, 0.1), start, 20)
    monkeypatch.setattr(mixture, "_THIN", 0.0)
    assert not start.wide(whole(padded))
    careful = fitted(padded, Shape(4, 2.0, 0.1), start, 20)
    torch.testing.assert_close(fast.mean, careful.mean, atol=1e-8, rtol=0)
    torch.testing.assert_close(fast.covariance, careful.covariance, atol=1e-8, rtol=0)
    torch.testing.assert_close(padded.held_out(fast), padded.held_out(careful), atol=1e-8, rtol=0)


def test_thin_components_take_the_careful_way() -> None:
    """Nearly collinear columns: the log-density is that of exact arithmetic on the differences."""
    thin = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 1e-10]], dtype=torch.float64)
    law = Gaussian(torch.tensor([2.0, 2.0]), thin)
    x = sample(law, 50)
    one = _Components(
        torch.ones(1, 1, 1, dtype=torch.float64),
        torch.full((1, 1, 1, 2), 2.0).double(),
        thin[None, None, None],
    )
    some = _Points(x[None], float(x.square().sum(1).max()))
    assert not one.wide(some)
    torch.testing.assert_close(one.joint(some)[0, 0, 0], law.log_prob(x), atol=1e-5, rtol=0)


def test_shrinkage_is_the_posterior_mode_of_its_formula() -> None:
    """One component for each of two classes: the formula of `Shape`, computed by hand."""
    z = sample(PAIR, 60)
    label = torch.arange(60) % 2
    fold = fold_of(label, 60, 2, 0)
    padded = _Padded.of(z, label, fold, 2)
    shape = Shape(1, 7.0, 0.25)
    found = fitted(padded, shape, _Components.first(padded, 1, 0), 5)
    scatters, counts = [], []
    for c in range(2):
        own = z[label == c]
        away = own - own.mean(0)
        scatters.append(away.T @ away)
        counts.append(len(own))
    common = (scatters[0] + scatters[1]) / sum(counts)
    around = 0.75 * common + 0.25 * torch.diag(common.diag())
    for c in range(2):
        want = (scatters[c] + 7.0 * around) / (counts[c] + 7.0)
        torch.testing.assert_close(found.covariance[-1, c, 0], want)


def test_held_out_densities_are_those_of_mixtures_fitted_without_the_point() -> None:
    """Refitting by hand without a fold gives the held-out density of its points."""
    z = sample(PAIR, 120)
    fold = fold_of(None, 120, 4, 0)
    found = fit_mixture(z, None, fold, components=(1,), shrinkages=(5.0,), flattenings=(0.1,), seed=0)
    for k in range(4):
        rest = z[fold != k]
        away = rest - rest.mean(0)
        common = away.T @ away / len(rest)
        around = 0.9 * common + 0.1 * torch.diag(common.diag())
        exact = Gaussian(rest.mean(0), around).log_prob(z[fold == k])
        torch.testing.assert_close(found.held_out[fold == k], exact, atol=1e-8, rtol=0)


def test_the_mixture_of_a_fold_weighs_the_candidates_by_the_other_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.Tensor] = []

    def spy(log_probs: torch.Tensor, part: torch.Tensor, fewest: float) -> torch.Tensor:
        seen.append(log_probs)
        return stacked(log_probs, part, fewest)

    monkeypatch.setattr(mixture, "stacked", spy)
    z = sample(PAIR, 200)
    fold = fold_of(None, 200, 4, 0)
    found = fit_mixture(z, None, fold, **GRID, seed=0)
    shares = [one.share for one in found.candidates if one.share > 0]
    assert len(shares) > 1
    assert max(shares) - min(shares) > 0.05
    assert sum(shares) == pytest.approx(1)
    for k, law in enumerate(found.folds):
        torch.testing.assert_close(law.log_prob(z[fold == k]), found.held_out[fold == k])
        others = seen[0][fold != k]
        weights = stacked(others, others.new_ones(1, len(others)))[0]
        own = (seen[0][fold == k] + weights.log()).logsumexp(1)
        torch.testing.assert_close(found.held_out[fold == k], own)


def test_a_mixture_finds_a_mixture_and_a_gaussian_finds_a_gaussian() -> None:
    z, test = sample(PAIR, 1000), sample(PAIR, 4000, seed=1)
    found = fit_mixture(z, None, fold_of(None, 1000, 5, 0), **GRID, seed=0)
    assert float((PAIR.log_prob(test) - found.law.log_prob(test)).mean()) < 0.02
    one = Gaussian([0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]])
    z, test = sample(one, 1000), sample(one, 4000, seed=1)
    found = fit_mixture(z, None, fold_of(None, 1000, 5, 0), **GRID, seed=0)
    # Maximum likelihood loses (d + d (d + 1) / 2) / (2 n) = 0.0025 nats.
    assert float((one.log_prob(test) - found.law.log_prob(test)).mean()) < 0.01


def test_nearly_collinear_columns_lose_little() -> None:
    turned = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))[0]
    law = Gaussian(np.zeros(4), turned @ np.diag(np.geomspace(1, 1e-10, 4)) @ turned.T)
    x, test = law.sample(500, seed=0)[0], law.sample(1000, seed=1)[0]
    model = td.Diffusion(td.TableConfig(networks=False)).fit(x, seed=0)
    assert float((np.asarray(law.log_prob(test)) - model.log_prob(test).value).mean()) < 0.05


def test_every_class_has_components_of_its_own() -> None:
    law = GaussianMixture([[-3.0, 0], [3.0, 0], [0, 4.0]], [np.eye(2) * 0.2] * 3, labels=[0, 0, 1])
    z, label = (torch.from_numpy(one) for one in law.sample(600, seed=0))
    found = fit_mixture(z, label, fold_of(label, 600, 5, 0), **GRID, seed=0)
    assert found.law.num_classes == 2
    for c in (0, 1):
        test = torch.from_numpy(law.sample(2000, seed=1, label=c)[0])
        assert float((law.log_prob(test, 0.0, c) - found.law.log_prob(test, 0.0, c)).mean()) < 0.05
    torch.testing.assert_close(found.law.frequencies, label.bincount() / 600.0, check_dtype=False)


@pytest.mark.parametrize(("n", "d"), [(5, 8), (20, 30), (12, 2)])
def test_fewer_rows_than_numbers_in_a_covariance_still_give_a_density(n: int, d: int) -> None:
    x = np.random.default_rng(0).normal(size=(n, d))
    model = td.Diffusion(preset="table").fit(x, seed=0)
    assert np.isfinite(model.log_prob(x).value).all()


# Networks and their stack ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moons() -> torch.Tensor:
    x = torch.from_numpy(td.distributions.TwoMoons().sample(500, seed=3)[0])
    return (x - x.mean(0)) / x.std(0)


def gaussians(z: torch.Tensor, fold: torch.Tensor) -> list[GaussianExpert]:
    single = fit_mixture(
        z, None, fold, components=(1,), shrinkages=(2.0,), flattenings=(0.0,), fewest=1.0, seed=0
    )
    return [GaussianExpert(law) for law in single.folds]


def trained(
    z: torch.Tensor, fold: torch.Tensor, plain: list[GaussianExpert], *, width: int, edges: int, steps: int
) -> FoldNetworks:
    state = FoldState.start(ResidualSizes(len(plain), 2, 1, width, edges), seed=0)
    settings = {"steps": steps, "batch_size": 32, "learning_rate": 0.01, "low": 0.01}
    for _ in train_folds(state, z, None, fold, plain, **settings, seed=0):
        pass
    return state.found()


def test_a_member_does_not_depend_on_its_own_fold(
    moons: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the choice of the step: here the last one, whatever the losses on the folds are."""
    losses = (torch.full((5,), float(-step)) for step in itertools.count())
    monkeypatch.setattr(networks._HeldOut, "loss", lambda *_: next(losses))
    fold = fold_of(None, 500, 5, 0)
    changed = moons.clone()
    changed[fold == 2] += 5.0
    runs = []
    for z in (moons, changed):
        plain = gaussians(moons, fold)
        runs.append(trained(z, fold, plain, width=8, edges=4, steps=12).networks.hidden)
    assert torch.equal(runs[0][2], runs[1][2])
    assert not torch.equal(runs[0][1], runs[1][1])


def test_networks_help_on_moons_and_not_on_a_gaussian(moons: torch.Tensor) -> None:
    fold = fold_of(None, 500, 5, 0)
    found = trained(moons, fold, gaussians(moons, fold), width=32, edges=16, steps=200)
    assert found.gain < -0.02
    z = sample(Gaussian([0.0, 0.0], np.eye(2)), 200)
    fold = fold_of(None, 200, 5, 0)
    found = trained(z, fold, gaussians(z, fold), width=32, edges=16, steps=200)
    # Zero steps are allowed, so no member is worse than the Gaussian.
    assert (found.held_out.min(0).values <= 0).all()
    assert found.gain > -0.03


def test_the_stack_of_the_exact_mixture_is_the_mixture_alone() -> None:
    """Networks that know nothing about a law whose mixture is exact get no weight to speak of."""
    z = sample(PAIR, 400)
    fold = fold_of(None, 400, 5, 0)
    plain, exact = gaussians(z, fold), [GaussianExpert(PAIR)] * 5
    ignorant = trained(z, fold, plain, width=8, edges=0, steps=10).networks
    found = stack(z, None, fold, plain, exact, [ignorant], low=0.01, high=10.0, seed=0)
    assert found.gain < 0.02
    middle = found.weights[0, 1:-1]
    assert float((middle - 1).abs().max()) < 0.25


@pytest.mark.slow
def test_the_gain_of_the_stack_is_that_of_the_evidence_bound_on_fresh_points() -> None:
    """The held-out estimate of the gain agrees with the bound at points that nothing has seen."""
    law = td.distributions.TwoMoons()
    x, fresh = (torch.from_numpy(law.sample(n, seed=s)[0]) for n, s in ((400, 0), (1500, 1)))
    mean, scale = x.mean(0), x.std(0)
    config = td.TableConfig(components=(1, 2), steps=300)
    *_, found = fit_experts((x - mean) / scale, None, config, seed=0)
    assert isinstance(found, Experts)
    one, z = found.denoiser, (fresh - mean) / scale
    alone = Stacked(one.law, one.gaussian_law, [], one.knots, torch.ones(1, len(one.knots)))
    prior = Prior(one.law, 20.0)
    bounds = [elbo(d, prior, z, sigma_min=found.sigma_min, evaluations=64).value for d in (one, alone)]
    gain = bounds[0] - bounds[1]
    error = math.hypot(gain.std() / math.sqrt(len(z)), found.report.gain_error)
    assert found.report.gain > 0.05
    # The members of the final stack are averaged, and its mixture has all points: it may be a little better.
    assert -3 * error < gain.mean() - found.report.gain < 3 * error + 0.15


def test_whatever_judges_a_fold_has_not_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaussians and mixtures that reach the stack have the moments of the other folds' points."""
    seen = {}

    def recorded(z, label, fold, gaussians, mixtures, networks, **settings):
        seen.update(z=z, fold=fold, gaussians=gaussians, mixtures=mixtures)
        return stack(z, label, fold, gaussians, mixtures, networks, **settings)

    monkeypatch.setattr(fitting, "stack", recorded)
    z = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in fit_experts(z, None, td.TableConfig(components=(1,), steps=2, width=4), seed=0):
        pass
    coarse, fine = seen["fold"] % 5, seen["fold"]
    assert len(seen["gaussians"]) == 5
    assert len(seen["mixtures"]) == 20
    for part, folds in ((seen["gaussians"], coarse), (seen["mixtures"], fine)):
        for k, expert in enumerate(part):
            # At a level far above the data the answer is the mean.
            far, _ = expert(torch.zeros(1, 3).double(), torch.tensor([1e6]).double(), None)
            torch.testing.assert_close(far[0], z[folds != k].mean(0), atol=1e-6, rtol=0)


def test_many_rows_are_fitted_in_parts_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z = sample(PAIR, 300)
    fold = fold_of(None, 300, 3, 0)
    whole = fit_mixture(z, None, fold, **GRID, seed=0)
    monkeypatch.setattr(mixture, "_NUMBERS", 100)
    parts = fit_mixture(z, None, fold, **GRID, seed=0)
    torch.testing.assert_close(parts.law.means, whole.law.means)
    torch.testing.assert_close(parts.held_out, whole.held_out)


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    x = np.random.default_rng(0).normal(size=(100, 2)) ** 3
    config = td.TableConfig(components=(1, 2), steps=30, width=8)
    models = [td.Diffusion(config).fit(x, seed=seed) for seed in (0, 0, 1)]
    values = [model.log_prob(x).value for model in models]
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_the_temperature_lowers_the_log_loss_of_fresh_points() -> None:
    """Classes that overlap, few rows in many columns: held-out densities are far too sure."""
    rng = np.random.default_rng(0)

    def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(n) % 2
        return rng.normal(size=(n, 12)) + 0.5 * y[:, None] * (np.arange(12) < 3), y

    x, y = rows(60)
    test, label = rows(2000)
    found = td.estimators.DiffusionClassifier(random_state=0).fit(x, y)
    assert found.temperature_ > 1.2
    joint = found.predict_joint_log_proba(test)
    plain = joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)
    losses = [-one[np.arange(2000), label].mean() for one in (found.predict_log_proba(test), plain)]
    assert losses[0] < losses[1] - 0.01
