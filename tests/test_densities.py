"""What a fitted model says of points, in users' own coordinates, columns and labels."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import toydiffusion as td
from toydiffusion.distributions import ConcentricSquares, GaussianMixture, Square
from toydiffusion.metrics import calibration

QUICK = td.TrainConfig(steps=500, width=48, edges=16, batch_size=250)
THREE = GaussianMixture(
    [[-0.8, 0.0], [0.8, 0.3], [0.0, -0.9]],
    [[[0.5, 0.2], [0.2, 0.4]], [[0.4, -0.1], [-0.1, 0.6]], [[0.6, 0.0], [0.0, 0.3]]],
    weights=[0.5, 0.3, 0.2],
)
SHIFT, UNIT = np.array([100.0, -5.0]), np.array([50.0, 0.02])


@pytest.fixture(scope="module")
def plain() -> td.Diffusion:
    return td.Diffusion(QUICK).fit(Square().sample(1000, seed=0)[0], seed=0)


@pytest.fixture(scope="module")
def labelled() -> td.Diffusion:
    """Return a model of named columns in odd units, with words for labels."""
    x, y = THREE.sample(2000, seed=0)
    frame = pd.DataFrame(SHIFT + UNIT * x, columns=["width", "height"])
    return td.Diffusion(QUICK).fit(frame, np.array(["low", "high", "mid"])[y], seed=0)


def points(n, seed=1):
    x, y = THREE.sample(n, seed=seed)
    return SHIFT + UNIT * x, np.array(["low", "high", "mid"])[y]


# Log-density ---------------------------------------------------------------------------------------------


def test_log_prob_moves_by_the_log_of_the_unit() -> None:
    x = Square().sample(300, seed=0)[0]
    a, b = np.array([1000.0, 0.02]), np.array([7.0, -3.0])
    config = td.TrainConfig(steps=60, width=16, edges=8)
    here, there = td.Diffusion(config).fit(x, seed=0), td.Diffusion(config).fit(a * x + b, seed=0)
    plain, moved = here.log_prob(x[:50]), there.log_prob(a * x[:50] + b)
    np.testing.assert_allclose(moved.value, plain.value - np.log(a).sum(), atol=1e-3)
    first, second = here.elbo(x[:50], seed=1), there.elbo(a * x[:50] + b, seed=1)
    np.testing.assert_allclose(second.value, first.value - np.log(a).sum(), atol=1e-3)
    offset = second.reconstruction.value - first.reconstruction.value
    np.testing.assert_allclose(offset, -np.log(a).sum(), atol=1e-6)


def test_log_prob_is_a_density_of_x(labelled) -> None:
    """The mass over the plane, in the users' own units, by a plain sum over a grid."""
    axes = [np.linspace(m - 5 * s, m + 5 * s, 90) for m, s in zip(SHIFT, UNIT, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    cell = np.prod([a[1] - a[0] for a in axes])
    assert np.exp(labelled.log_prob(grid).value).sum() * cell == pytest.approx(1.0, abs=0.01)
    one = labelled.log_prob(grid, label="high").value
    assert np.exp(one).sum() * cell == pytest.approx(1.0, abs=0.01)


def test_log_prob_is_close_to_the_truth(labelled) -> None:
    x, y = points(800)
    z = (x - SHIFT) / UNIT
    for label, index in ((None, None), (y, np.array([{"low": 0, "high": 1, "mid": 2}[v] for v in y]))):
        truth = THREE.log_prob(z, 0.0, index) - np.log(UNIT).sum()
        found = labelled.log_prob(x, label)
        assert np.mean(truth - found.value) < 0.15
        assert np.corrcoef(truth, found.value)[0, 1] > 0.9


def test_without_a_label_it_is_the_mixture(labelled) -> None:
    x, _ = points(40)
    whole = labelled.log_prob(x)
    parts = np.stack([labelled.log_prob(x, label=name).value for name in labelled.classes], 1)
    joint = parts + np.log(labelled.moments.frequencies.numpy())
    np.testing.assert_allclose(whole.value, np.log(np.exp(joint).sum(1)), rtol=1e-9)
    share = np.exp(joint - whole.value[:, None])
    np.testing.assert_allclose(labelled.predict_proba(x), share, rtol=1e-9)
    assert labelled.predict(x).tolist() == labelled.classes[share.argmax(1)].tolist()
    own = labelled.log_prob(x, label=["low", "mid"] * 20).value
    # The networks round in float32, by the shape of their batch.
    np.testing.assert_allclose(own[1::2], parts[1::2, 2], rtol=1e-6)


def test_a_log_density_is_an_array_of_its_values(plain) -> None:
    found = plain.log_prob(np.zeros((7, 2)))
    assert np.asarray(found).shape == (7,)
    assert np.exp(found).tolist() == np.exp(found.value).tolist()
    assert float(np.mean(found)) == pytest.approx(found.value.mean())
    assert "+-" in repr(found)
    assert "7 points" in repr(found)
    assert np.array(found, dtype=np.float32).dtype == np.float32
    assert (found - found.value == 0).all()
    assert (found > -100).tolist() == [True] * 7
    assert found[2:4].tolist() == found.value[2:4].tolist()
    assert pd.DataFrame({"v": found}).v.tolist() == found.value.tolist()
    assert found.error.shape == found.prior_error.shape == found.total_error.shape == (7,)


def test_every_kind_of_table_and_the_order_of_columns(labelled) -> None:
    x, _ = points(12)
    want = labelled.log_prob(x).value
    frame = pd.DataFrame(x, columns=["width", "height"])
    others = [
        torch.tensor(x),
        torch.tensor(x, requires_grad=True),
        torch.tensor(x).to_sparse(),
        x.tolist(),
        frame,
        frame[["height", "width"]],
        pl.DataFrame(frame.assign(more=1.0)),
        frame.assign(note="whatever"),
    ]
    for given in others:
        np.testing.assert_allclose(labelled.log_prob(given).value, want, rtol=1e-12)


@pytest.mark.slow
def test_batches_do_not_matter(labelled) -> None:
    x, _ = points(24)
    whole = labelled.log_prob(x)
    for batch_size in (1, 7, 23):
        found = labelled.log_prob(x, batch_size=batch_size)
        np.testing.assert_allclose(found.value, whole.value, atol=1e-9)
        assert found.evaluations.tolist() == whole.evaluations.tolist()
    levels = np.geomspace(0.01, 1.0, 24)
    noised = labelled.log_prob(x, sigma=levels).value
    np.testing.assert_allclose(labelled.log_prob(x, sigma=levels, batch_size=7).value, noised, atol=1e-9)
    one = labelled.log_prob(x[20:21], sigma=levels[20]).value
    np.testing.assert_allclose(one, noised[20:21], atol=1e-9)
    probed = labelled.log_prob(x, probes=4, seed=2)
    np.testing.assert_allclose(labelled.log_prob(x, probes=4, seed=2, batch_size=9).value, probed.value)
    assert (probed.std_error > 0).any()
    assert np.abs(probed.value - whole.value).mean() < 3 * probed.std_error.mean() + 0.01


def test_bad_rows_are_kept_in_place_where_asked(labelled) -> None:
    x, y = points(9)
    holes = x.copy()
    holes[2, 0], holes[5, 1], holes[8] = np.nan, np.inf, np.nan
    gone = np.isin(np.arange(9), [2, 5, 8])
    found = labelled.log_prob(holes, y, on_bad="skip")
    want = labelled.log_prob(x, y)
    for name in ("value", "error", "prior_error", "std_error"):
        assert np.isnan(getattr(found, name)).tolist() == gone.tolist()
        np.testing.assert_allclose(getattr(found, name)[~gone], getattr(want, name)[~gone], atol=1e-9)
    share = labelled.predict_proba(pd.DataFrame(holes, columns=["width", "height"]), on_bad="skip")
    assert np.isnan(share).all(1).tolist() == gone.tolist()
    np.testing.assert_allclose(share[~gone].sum(1), 1)
    with pytest.raises(td.InputError, match=r"row 3 \(counted from 1\), column 'x0': found nan"):
        labelled.log_prob(holes, y)
    nothing = labelled.log_prob(np.full((2, 2), np.nan), on_bad="skip")
    assert np.isnan(nothing.value).all()


def test_no_points(labelled, plain) -> None:
    none = np.empty((0, 2))
    assert len(plain.log_prob(none)) == 0
    assert len(labelled.log_prob(none, label="low")) == 0
    assert labelled.predict_proba(none).shape == (0, 3)
    assert labelled.predict(none).shape == (0,)
    assert plain.elbo(none).value.shape == (0,)
    assert plain.score(none).shape == plain.grad_log_prob(none).shape == (0, 2)
    assert plain.encode(none).shape == plain.decode(none).shape == (0, 2)


def test_a_tolerance_that_cannot_be_reached_is_told(plain) -> None:
    x = Square().sample(20, seed=3)[0]
    with pytest.warns(td.ToleranceWarning, match="20 of 20 log-densities missed the tolerance of 1e-12 nats"):
        hasty = plain.log_prob(x, tolerance=1e-12, max_evaluations=50)
    assert not hasty.met.any()
    careful = plain.log_prob(x, tolerance=1e-8, max_evaluations=20_000)
    assert careful.met.all()
    assert (np.abs(hasty.value - careful.value) <= hasty.error + 1e-8).all()
    assert (hasty.error > careful.error).all()


def test_far_points_are_finite_and_fall(plain, labelled) -> None:
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 20)
    for model, label in ((plain, None), (labelled, None), (labelled, "high")):
        mean, scale = model.standardizer.mean.numpy(), model.standardizer.scale.numpy()
        way = np.stack([np.cos(angle), np.sin(angle)], 1) * scale
        values = np.stack([model.log_prob(mean + k * way, label).value for k in (5, 10, 30, 100)])
        assert np.isfinite(values).all()
        assert (np.diff(values, axis=0) < 0).all()


# Slopes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_gradient_is_that_of_log_prob(labelled) -> None:
    x, y = points(4)
    for label in (None, y):
        slope = labelled.grad_log_prob(x, label, sigma=0.1, tolerance=1e-5)
        for j in range(2):
            step = np.zeros(2)
            step[j] = 1e-4 * UNIT[j]
            up, down = (
                labelled.log_prob(x + s * step, label, sigma=0.1, tolerance=1e-7, max_evaluations=5000)
                for s in (1, -1)
            )
            finite = (up.value - down.value) / (2 * step[j])
            np.testing.assert_allclose(slope[:, j] * UNIT[j], finite * UNIT[j], atol=0.02, rtol=0.01)


def test_the_score_is_tweedies_formula(labelled) -> None:
    x, y = points(10)
    s = labelled.standardizer
    z = s.z(torch.tensor(x))
    index = torch.tensor([labelled.classes.tolist().index(v) for v in y])
    for sigma in (None, 0.5):
        level = torch.full((10,), sigma or labelled.sigma_min, dtype=torch.float64)
        # Without a label: the mean of the classes' denoisers under the posterior, itself from `log_prob`.
        each = [labelled.log_prob(x, c, sigma=sigma).value for c in labelled.classes]
        joint = np.exp(np.stack(each, 1)) * labelled.moments.frequencies.numpy()
        share = torch.from_numpy(joint / joint.sum(1, keepdims=True))
        for label in (None, y):
            with torch.no_grad():
                means = [labelled.denoiser(z, level, torch.full((10,), c)) for c in range(3)]
                mixture = torch.einsum("nc,cnd->nd", share, torch.stack(means))
                clean = mixture if label is None else labelled.denoiser(z, level, index)
            by_hand = ((clean - z) / level[:, None] ** 2).numpy() / s.scale.numpy()
            # The network in float32 here, in float64 there: a float32 rounding over sigma^2.
            slack = 1e-6 / float(level[0]) ** 2 / s.scale.numpy().min()
            np.testing.assert_allclose(labelled.score(x, label, sigma=sigma), by_hand, rtol=1e-3, atol=slack)


# The flow ------------------------------------------------------------------------------------------------


def test_encode_and_decode_undo_each_other(labelled) -> None:
    x, y = points(60)
    for label in ("high", y):
        latent = labelled.encode(x, label)
        np.testing.assert_allclose(labelled.decode(latent, label), x, atol=1e-3 * UNIT.min(), rtol=1e-5)
    assert np.abs(latent).std() / math.hypot(1, labelled.sigma_max) == pytest.approx(0.6, abs=0.15)
    for of, given in ((labelled.encode, x), (labelled.decode, latent)):
        with pytest.raises(td.InputError, match="needs a label in a model with labels"):
            of(given)


def test_samples_come_with_their_log_densities(labelled, plain) -> None:
    x, density, y = labelled.sample_with_log_prob(80, seed=4)
    assert y is not None
    again = labelled.log_prob(x)
    np.testing.assert_allclose(density.value, again.value, atol=4e-3)
    assert np.abs(density.value - labelled.log_prob(x, y).value).mean() > 0.1
    assert np.mean(np.abs(density.value - again.value) <= density.error + again.error) > 0.97
    counts = [np.mean(y == name) for name in labelled.classes]
    np.testing.assert_allclose(counts, labelled.moments.frequencies, atol=0.2)
    x, density, y = labelled.sample_with_log_prob(30, label="mid", seed=4)
    assert set(y) == {"mid"}
    np.testing.assert_allclose(density.value, labelled.log_prob(x, "mid").value, atol=4e-3)
    x, density, none = plain.sample_with_log_prob(2000, seed=0)
    assert none is None
    np.testing.assert_allclose(density.value[:50], plain.log_prob(x[:50]).value, atol=4e-3)
    # The mean of -log p over its own samples is the entropy: near that of the square.
    assert -density.value.mean() == pytest.approx(math.log(4), abs=0.2)
    assert Square().contains(x).mean() > 0.85
    empty, none, _ = plain.sample_with_log_prob(0)
    assert empty.shape == (0, 2)


# The bound -----------------------------------------------------------------------------------------------


def test_the_elbo_is_the_sum_of_its_terms_and_near_log_prob(labelled) -> None:
    x, y = points(200)
    for label in (None, y):
        found = labelled.elbo(x, label, evaluations=256, seed=1)
        total = found.reconstruction.value + found.diffusion.value + found.prior.value
        np.testing.assert_allclose(found.value, total, rtol=1e-9)
        gap = found.value - labelled.log_prob(x, label).value
        assert abs(gap.mean()) < 0.1
        assert found.std_error.mean() < 0.1
    coarse = labelled.elbo(x, y, steps=10, seed=1)
    assert (found.value - coarse.value).mean() > 0.05


# Classes -------------------------------------------------------------------------------------------------


def test_class_probabilities_are_near_the_exact_posterior(labelled) -> None:
    x, y = points(1500)
    truth = THREE.class_posterior((x - SHIFT) / UNIT)[:, [1, 0, 2]]  # high, low, mid
    found = labelled.predict_proba(x)
    np.testing.assert_allclose(found.sum(1), 1)
    index = np.searchsorted(labelled.classes.astype(str), y.astype(str))
    ours, best = calibration(found, index), calibration(truth, index)
    assert ours.log_loss < best.log_loss + 0.05
    assert ours.brier < best.brier + 0.03
    assert ours.expected_calibration_error < 0.1
    assert np.abs(found - truth).mean() < 0.1
    assert (labelled.predict(x) == y).mean() > (best.accuracy @ best.count) / len(y) - 0.03


def test_calibration_by_hand_and_by_another_library() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 5000)
    true = np.array([rng.choice(4, p=row) for row in p])
    found = calibration(p, true)
    from sklearn.metrics import log_loss

    assert found.log_loss == pytest.approx(log_loss(true, p))
    assert found.brier == pytest.approx(np.mean((1 - p[np.arange(5000), true]) ** 2 + (p**2).sum(1)
                                                - p[np.arange(5000), true] ** 2))  # fmt: skip
    assert found.expected_calibration_error < 0.03  # probabilities that mean what they say
    boastful = calibration(np.where(p == p.max(1, keepdims=True), 0.97, 0.01), true)
    accuracy = np.mean(p.argmax(1) == true)
    assert boastful.expected_calibration_error == pytest.approx(0.97 - accuracy, abs=1e-9)
    assert boastful.count.tolist() == [5000]
    assert found.count.sum() == 5000
    assert (found.confidence @ found.count) / 5000 == pytest.approx(p.max(1).mean())
    assert calibration([[0.5, 0.5], [0.5, 0.5]], [0, 1], bins=4).count.tolist() == [2]
    assert calibration([[1 + 2e-16, 0.0]], [0]).log_loss == pytest.approx(
        0, abs=1e-12
    )  # rounding is no error


# The certificate -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_check_density_of_a_model(plain) -> None:
    found = plain.check_density(Square(), points=200, progress=False)
    assert found.mass.value == pytest.approx(1.0, abs=2e-3)
    assert found.budget is not None
    x = Square().sample(4000, seed=77)[0]
    lost = (Square().log_prob(x) - plain.log_prob(x).value).mean()
    assert found.budget.total.value == pytest.approx(lost, abs=4 * found.budget.total.std_error + 0.02)
    assert found.leak is not None
    assert found.leak.value == pytest.approx(
        1 - Square().contains(plain.sample_with_log_prob(3000)[0]).mean(), abs=0.02
    )
    assert "total mass" in str(found)


@pytest.mark.slow
def test_endless_points_take_the_networks_share_from_the_data(plain) -> None:
    found = plain.check_density(Square(), endless=True, points=500, progress=False)
    assert found.budget is not None
    assert 0 < found.budget.network.value < found.budget.total.value
    total = sum(term.value for term in found.budget.terms().values())
    assert total == pytest.approx(found.budget.total.value)


@pytest.mark.slow
def test_check_density_of_a_model_with_labels() -> None:
    squares = ConcentricSquares(2)
    x, y = squares.sample(800, seed=0)
    model = td.Diffusion(td.TrainConfig(steps=600, width=16, edges=8, sigma_min=0.03)).fit(x, y, seed=0)
    found = model.check_density(squares, points=50, progress=False)
    assert len(found.masses) == 2
    assert found.mass.value == pytest.approx(1.0, abs=2e-3)
    assert found.true_leak is not None
    assert 0 < found.true_leak.value < 0.1


@pytest.mark.slow
def test_the_certificate_shows_its_progress(plain, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    plain.check_density(points=20, progress=True)
    assert "checking" in capsys.readouterr().err
