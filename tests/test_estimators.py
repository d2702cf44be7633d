"""What the estimators do beyond scikit-learn's own checks (`test_estimators_contract`)."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import toydiffusion as td
from toydiffusion.distributions import GaussianMixture
from toydiffusion.estimators import (
    DiffusionClassifier,
    DiffusionDensity,
    DiffusionOutlierDetector,
    PyodDetector,
)
from toydiffusion.model.outliers import conditional_tails

QUICK = td.TableConfig(components=(1, 2), networks=False)
SHORT = td.TableConfig(components=(1, 2), steps=20, width=8)
X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"], dtype=object)


@pytest.fixture(scope="module")
def density() -> DiffusionDensity:
    return DiffusionDensity(config=SHORT, random_state=0).fit(X)


@pytest.fixture(scope="module")
def classifier() -> DiffusionClassifier:
    return DiffusionClassifier(config=SHORT, random_state=0).fit(X, NAMES[Y])


# Density ---------------------------------------------------------------------------------------------


def test_the_score_is_the_mean_log_density_of_the_model(density: DiffusionDensity) -> None:
    values = density.model_.log_prob(X).value
    np.testing.assert_array_equal(density.score_samples(X), values)
    assert density.score(X) == values.mean()


def test_the_same_random_state_gives_the_same_rows(density: DiffusionDensity) -> None:
    again = clone(density).fit(X)
    np.testing.assert_array_equal(again.score_samples(X), density.score_samples(X))
    rows = density.sample(20, random_state=4)
    np.testing.assert_array_equal(again.sample(20, random_state=4), rows)
    np.testing.assert_array_equal(density.sample(5, random_state=4, first_row=10), rows[10:15])
    assert not np.array_equal(density.sample(20, random_state=5), rows)


def test_a_pickle_and_a_file_give_the_same_densities(density: DiffusionDensity, tmp_path) -> None:
    values = density.score_samples(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(density)).score_samples(X), values)
    density.save(tmp_path / "iris.safetensors")
    np.testing.assert_array_equal(td.load(tmp_path / "iris.safetensors").log_prob(X).value, values)


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame])
def test_data_frames_keep_their_names(kind) -> None:
    frame = kind(dict(zip("abcd", X.T, strict=True)))
    found = DiffusionDensity(config=QUICK, random_state=0).fit(frame)
    assert found.model_.columns == ("a", "b", "c", "d")
    assert list(found.sample(2, random_state=0, as_frame=True).columns) == list("abcd")
    np.testing.assert_array_equal(
        found.score_samples(frame), DiffusionDensity(config=QUICK, random_state=0).fit(X).score_samples(X)
    )
    renamed = kind(dict(zip("abce", X.T, strict=True)))
    with pytest.raises(ValueError, match="feature names should match"):
        found.score_samples(renamed)


def test_pipelines_and_searches_work() -> None:
    pipeline = make_pipeline(StandardScaler(), DiffusionDensity(config=QUICK, random_state=0))
    grid = {"diffusiondensity__config": [QUICK, td.TableConfig(components=(1,), networks=False)]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(np.random.default_rng(0).permutation(X))
    # Three species: two components beat one.
    assert search.best_params_["diffusiondensity__config"] == QUICK
    scores = cross_val_score(DiffusionClassifier(config=QUICK, random_state=0), X, Y, cv=3)
    assert scores.mean() > 0.93


def test_a_density_has_a_certificate(density: DiffusionDensity) -> None:
    certificate = density.check_density(points=50)
    assert abs(certificate.mass.value - 1) < 5 * certificate.mass.std_error + 0.02


def test_a_single_network_is_a_config_too() -> None:
    found = DiffusionDensity(config=td.TrainConfig(steps=20), random_state=0).fit(X)
    assert found.model_.experts is None
    assert np.isfinite(found.score_samples(X)).all()


# Classes ---------------------------------------------------------------------------------------------


def test_text_labels_come_back(classifier: DiffusionClassifier) -> None:
    assert classifier.classes_.tolist() == NAMES.tolist()
    assert (classifier.predict(X) == NAMES[Y]).mean() > 0.95


def test_probabilities_follow_bayes_rule_at_the_temperature(classifier: DiffusionClassifier) -> None:
    model = classifier.model_
    names = classifier.classes_.tolist()
    joint = np.stack([model.log_prob(X, label=name).value + np.log(1 / 3) for name in names], axis=1)
    np.testing.assert_allclose(classifier.predict_joint_log_proba(X), joint, atol=2e-3)
    share = np.exp((joint - joint.max(1, keepdims=True)) / classifier.temperature_)
    want = share / share.sum(1, keepdims=True)
    np.testing.assert_allclose(classifier.predict_proba(X), want, atol=2e-3)
    np.testing.assert_allclose(
        np.exp(classifier.predict_log_proba(X)), classifier.predict_proba(X), rtol=1e-6
    )


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="a classifier needs at least 2 classes"):
        DiffusionClassifier().fit(X, np.zeros(150))


# Outliers --------------------------------------------------------------------------------------------

LAW = GaussianMixture([[-2.0, 0], [2.0, 1]], [[[1.0, 0.8], [0.8, 1.0]], np.eye(2)], labels=[0, 0])


@pytest.mark.slow
def test_p_values_of_inliers_are_uniform_or_larger() -> None:
    """Over fresh draws of training and test rows, `P(p <= a) <= a` up to its standard error."""
    below = []
    for seed in range(40):
        detector = DiffusionOutlierDetector(config=QUICK, random_state=0).fit(LAW.sample(80, seed=seed)[0])
        p = detector.p_values(LAW.sample(100, seed=1000 + seed)[0])
        assert p.min() >= 1 / 81
        below.append([(p <= a).mean() for a in (0.05, 0.1, 0.3)])
    mean, error = np.mean(below, 0), np.std(below, 0, ddof=1) / 40**0.5
    assert (mean <= np.array([0.05, 0.1, 0.3]) + 2 * error).all()
    assert (mean >= np.array([0.02, 0.05, 0.2])).all()


def test_a_p_value_counts_the_training_rows_that_are_as_odd() -> None:
    detector = DiffusionOutlierDetector(config=QUICK, random_state=0).fit(LAW.sample(50, seed=0)[0])
    test = LAW.sample(30, seed=1)[0]
    calibration = np.array(detector.model_.experts.calibration)
    score = detector.score_samples(test)
    want = [(1 + (calibration <= one).sum()) / 51 for one in score]
    np.testing.assert_allclose(detector.p_values(test), want)
    assert detector.p_values([[50.0, 50.0]])[0] == 1 / 51


def test_the_calibration_scores_are_those_of_rows_left_out() -> None:
    """Refitting without a row gives it a lower score than a model that has seen it, on average."""
    x = LAW.sample(40, seed=0)[0]
    detector = DiffusionOutlierDetector(config=QUICK, random_state=0).fit(x)
    seen = np.sort(detector.score_samples(x))
    assert np.mean(detector.model_.experts.calibration) < seen.mean() - 0.02


@pytest.mark.parametrize("n", [49, 120, 170])
def test_auto_calls_outliers_what_has_a_p_value_of_at_most_2_percent(n: int) -> None:
    rng = np.random.default_rng(n)
    found = DiffusionOutlierDetector(config=QUICK, random_state=0).fit(rng.normal(size=(n, 2)))
    # Around the edge of the data, so that both answers occur for many ranks.
    fresh = rng.normal(size=(2000, 2)) * 1.5
    odd = found.p_values(fresh) <= 0.02
    np.testing.assert_array_equal(found.predict(fresh) == -1, odd)
    assert 0.02 < odd.mean() < 0.9


def test_auto_of_few_rows_is_odder_than_all_of_them() -> None:
    rng = np.random.default_rng(0)
    found = DiffusionOutlierDetector(config=QUICK, random_state=0).fit(rng.normal(size=(20, 2)))
    fresh = rng.normal(size=(500, 2)) * 2
    np.testing.assert_array_equal(found.predict(fresh) == -1, found.p_values(fresh) < 1.5 / 21)


def test_the_share_of_contamination_is_what_predict_calls_outliers() -> None:
    x = LAW.sample(200, seed=0)[0]
    found = DiffusionOutlierDetector(contamination=0.1, config=QUICK, random_state=0).fit(x)
    assert (found.predict(x) == -1).mean() == pytest.approx(0.1, abs=0.006)
    pyod = PyodDetector(contamination=0.1, config=QUICK, random_state=0).fit(x)
    np.testing.assert_array_equal(pyod.labels_, (found.predict(x) == -1).astype(int))
    np.testing.assert_array_equal(pyod.decision_scores_, -found.score_samples(x))
    for wrong in (0.0, 0.6, "often"):
        with pytest.raises(ValueError, match="contamination must be"):
            DiffusionOutlierDetector(contamination=wrong).fit(x)


def test_selection_is_benjamini_and_hochbergs() -> None:
    p = np.random.default_rng(0).uniform(size=200) ** 3
    adjusted = stats.false_discovery_control(p)
    for q in (0.05, 0.2):
        np.testing.assert_array_equal(td.selected(p, q), adjusted <= q)
    assert not td.selected(np.array([0.5, 0.9]), 0.1).any()
    with pytest.raises(td.InputError, match="numbers in"):
        td.selected(np.array([0.0]), 0.1)


def test_tails_are_those_of_the_conditional_laws() -> None:
    """Against the ratio of the joint density to its integral along a line."""
    law = GaussianMixture(
        [[-1.0, 0, 1], [1.0, 1, 0]],
        [np.cov(np.random.default_rng(k).normal(size=(9, 3)).T) for k in range(2)],
        weights=[0.3, 0.7],
        labels=[0, 0],
    )
    z = law.rows(0, 6, seed=0)[0]
    tail, (low, middle, high) = conditional_tails(law, z)
    grid = np.linspace(-12, 12, 4001)
    for i in range(6):
        for j in range(3):
            line = np.repeat(z[i : i + 1].numpy(), len(grid), axis=0)
            line[:, j] = grid
            density = np.exp(law.log_prob(line))
            below = np.cumsum(density) / density.sum()
            share = np.interp(float(z[i, j]), grid, below)
            assert float(tail[i, j]) == pytest.approx(2 * min(share, 1 - share), abs=0.01)
            for level, quantile in ((0.05, low), (0.5, middle), (0.95, high)):
                assert np.interp(float(quantile[i, j]), grid, below) == pytest.approx(level, abs=0.005)


def test_the_reason_names_the_column_that_does_not_fit_the_others() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=300)
    frame = pd.DataFrame({"a": a, "b": 2 * a + 0.1 * rng.normal(size=300), "c": rng.normal(size=300)})
    detector = DiffusionOutlierDetector(config=QUICK, random_state=0).fit(frame)
    odd = pd.DataFrame({"a": [0.0, 0.0], "b": [0.0, 0.1], "c": [0.0, 7.0]})
    table = detector.explain(odd)
    assert list(table.columns) == ["row", "normality", "p_value", "outlier", "reason"]
    assert table["row"].tolist() == [2, 1]
    assert table["outlier"].tolist() == [True, False]
    assert table["reason"][0].startswith("c is 7, ")
    assert table["reason"][1] == "no single column: their combination"
    found = detector.reasons(pd.DataFrame({"a": [1.0], "b": [0.0], "c": [0.0]}))
    assert (found.tail[0, :2] < 1e-6).all()
    assert found.tail[0, 2] > 0.1
    assert found.expected[0, 1] == pytest.approx(2, abs=0.2)


def test_outliers_need_a_model_for_tables() -> None:
    plain = td.Diffusion(td.TrainConfig(steps=5)).fit(X, seed=0)
    with pytest.raises(td.InputError, match="preset 'table'"):
        plain.p_values(X)


# Bad input -------------------------------------------------------------------------------------------

BAD = {
    "a missing cell": (lambda: [[1.0, np.nan], [2.0, 3.0], [4.0, 5.0]], "NaN"),
    "text": (lambda: np.array([["a", "b"], ["c", "d"], ["e", "f"]]), "could not convert|float"),
    "one row": (lambda: [[1.0, 2.0]], "minimum of 2"),
    "no column": (lambda: np.zeros((5, 0)), "0 feature"),
    "one dimension": (lambda: np.arange(5.0), "Expected 2D array"),
    "all rows alike": (lambda: np.ones((5, 2)), "identical"),
    "a copy of a column": (lambda: np.repeat(np.random.default_rng(0).normal(size=(9, 1)), 2, 1), "the same"),
    "infinity": (lambda: [[1.0, np.inf], [2.0, 3.0], [4.0, 5.0]], "infinity"),
    "values too large": (lambda: np.array([[1e308], [-1e308], [0.0]]), "too large"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("kind", [DiffusionDensity, DiffusionClassifier, DiffusionOutlierDetector])
def test_bad_rows_are_refused(case: str, kind) -> None:
    rows, words = BAD[case]
    x = rows()
    with pytest.raises(ValueError, match=words):
        kind().fit(x, np.arange(len(x)) % 2)


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).normal(size=(20, 3)),
        np.repeat(np.random.default_rng(0).normal(size=(10, 2)), 3, axis=0),
        np.stack([np.random.default_rng(0).normal(size=60), np.arange(60.0) % 2], 1),
        np.random.default_rng(0).standard_cauchy(size=(60, 2)),
    ],
    ids=["20 rows", "duplicate rows", "a column of two values", "heavy tails"],
)
def test_odd_tables_still_give_a_density(x: np.ndarray) -> None:
    found = DiffusionDensity(config=QUICK, random_state=0).fit(x)
    assert np.isfinite(found.score_samples(x)).all()
    assert np.isfinite(found.sample(50, random_state=0)).all()


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["b", "a"], ["a", "b"]),
        ([7, 3], [3, 7]),
        ([True, False], [False, True]),
        ([2.0, 1.0], [0, 1]),
    ],
)
def test_the_model_of_a_classifier_knows_the_names_of_the_classes(names, known):
    rng = np.random.default_rng(0)
    y = np.array(names)[rng.integers(0, 2, 60)]
    x = rng.normal(size=(60, 2)) + 3 * (y == names[0])[:, None]
    config = td.TableConfig(networks=False, components=(1,))
    classifier = DiffusionClassifier(config=config, random_state=0).fit(x, y)
    assert classifier.model_.classes.tolist() == known
    assert classifier.score(x, y) > 0.9
    first = classifier.model_.sample(50, label=known[classifier.classes_.tolist().index(names[0])])
    assert first.mean() > 2


@pytest.mark.parametrize("Estimator", [DiffusionDensity, DiffusionClassifier, DiffusionOutlierDetector])
def test_a_column_of_dates_is_refused_by_name(Estimator):
    frame = pd.DataFrame({"x": np.arange(20.0), "day": pd.date_range("2020", periods=20)})
    with pytest.raises(ValueError, match=r"column 'day' holds datetime64.*, not numbers; leave it out"):
        Estimator().fit(frame, np.arange(20) % 2)
