"""Held-out rows: baselines beside the model, and copies of training rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.neighbors import KernelDensity

import toydiffusion as td
from toydiffusion import baselines
from toydiffusion.baselines import Baseline, Comparison, _gaussian_mixture, _kernel_density, compared
from toydiffusion.distributions import Empirical, GaussianMixture, Square
from toydiffusion.metrics import Estimate
from toydiffusion.model import rows_of, rows_to_hold_out
from toydiffusion.model.copying import _nearer, _nearest
from toydiffusion.tables import Table

QUICK = td.TableConfig(networks=False, components=(1, 2))
PAIR = GaussianMixture(
    [[-2.0, 0.0], [2.0, 1.0]], [np.eye(2) * 0.3, [[1.0, 0.6], [0.6, 0.5]]], weights=[0.3, 0.7], labels=[0, 0]
)


@pytest.fixture(scope="module")
def rows():
    return PAIR.sample(200, seed=0)[0], PAIR.sample(150, seed=1)[0]


@pytest.fixture(scope="module")
def model(rows):
    # A model that memorises needs many steps to arrive at its rows.
    return td.Diffusion(QUICK, td.SampleConfig(steps=200)).fit(rows[0])


@pytest.fixture(autouse=True)
def few_mixtures(monkeypatch, request):
    """Try few mixtures, but in the test of what is tried."""
    if "names_say" not in request.node.name:
        monkeypatch.setattr(baselines, "_COMPONENTS", (1, 2))
        monkeypatch.setattr(baselines, "_RIDGES", (1e-3,))


@pytest.fixture
def folder(tmp_path):
    return tmp_path


# Rows held out ---------------------------------------------------------------------------------------


def test_a_fifth_is_held_out_evenly_in_every_class():
    y = np.repeat(["a", "b", "c"], [50, 30, 20])
    table = Table(np.arange(200.0).reshape(100, 2), None, y.astype(object))
    apart = rows_to_hold_out(table, seed=3)
    assert [int(apart[y == c].sum()) for c in "abc"] == [10, 6, 4]
    assert not (apart == rows_to_hold_out(table, seed=4)).all()
    assert (rows_of(table, apart).points == table.points[apart]).all()
    assert rows_of(table, apart).labels.tolist() == y[apart].tolist()


def test_a_class_of_one_row_is_never_held_out():
    for odd in range(20):
        y = np.zeros(20, dtype=np.int64)
        y[odd] = 1
        assert not rows_to_hold_out(Table(np.arange(20.0)[:, None], None, y), seed=0)[odd]


def test_a_column_varies_in_the_rows_that_are_left():
    points = np.random.default_rng(0).normal(size=(40, 2))
    for odd in range(40):
        points[:, 1] = 5.0
        points[odd, 1] = 6.0
        apart = rows_to_hold_out(Table(points, None), seed=0)
        assert not apart[odd]


def test_too_few_rows_cannot_be_held_out():
    with pytest.raises(td.InputError, match="9 rows, and holding some out needs at least 10"):
        rows_to_hold_out(Table(np.arange(18.0).reshape(9, 2), None), seed=0)


# Baselines -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_baselines_are_what_their_names_say():
    z, test = (torch.from_numpy(PAIR.sample(n, seed=n)[0]) for n in (300, 50))
    name, values = _kernel_density(z, test, 0)
    width = float(name.rpartition(" ")[2])
    known = KernelDensity(bandwidth=width).fit(z.numpy()).score_samples(test.numpy())
    np.testing.assert_allclose(values, known, atol=0.05)  # the name has two digits of the bandwidth
    name, values = _gaussian_mixture(z, test, 0)
    assert name == "Gaussian mixture of 2"
    best = max(
        SklearnMixture(2, random_state=0, reg_covar=ridge).fit(z.numpy()).score(test.numpy())
        for ridge in (1e-6, 1e-3, 1e-2)
    )
    assert values.mean() == pytest.approx(best, abs=0.02)
    # Near the truth, which is a mixture of two.
    assert values.mean() == pytest.approx(float(np.mean(PAIR.log_prob(test.numpy()))), abs=0.1)


def test_differences_are_paired_and_count_the_volume():
    z, test = (torch.from_numpy(PAIR.sample(n, seed=n)[0]) for n in (100, 40))
    truth = np.asarray(PAIR.log_prob(test.numpy()))
    for volume in (0.0, 3.0):
        found = compared(truth + volume, z, test, np.full(40, volume), seed=0)
        assert found.log_prob.value == pytest.approx(truth.mean() + volume)
        assert found.baselines[0].ahead.value == pytest.approx(compared_plain(truth, z, test), abs=1e-9)
    assert [one.log_prob for one in found.baselines] == sorted(
        (one.log_prob for one in found.baselines), reverse=True
    )


def compared_plain(truth, z, test):
    return min(float((truth - f(z, test, 0)[1]).mean()) for f in (_kernel_density, _gaussian_mixture))


@pytest.mark.parametrize(
    ("ahead", "words"),
    [(-0.5, "is better by 0.500 nats a row: use it"), (0.1, "as good as"), (0.9, "better than every")],
)
def test_the_recommendation_follows_the_numbers(ahead, words):
    found = Comparison(
        50, Estimate(-1.0, 0.1), (Baseline("Gaussian mixture of 2", -1.0 - ahead, Estimate(ahead, 0.1)),)
    )
    assert words in found.recommendation
    assert found.baselines[0].better == (ahead < -0.2)
    assert Comparison.from_dict(found.to_dict()) == found
    assert str(found).count("\n") == 1
    assert found.to_pandas().loc["model", "log_prob"] == -1.0


def test_a_model_that_learned_nothing_is_told_to_step_aside(rows):
    poor = td.Diffusion(td.TrainConfig(steps=1)).fit(rows[0])
    found = poor.compare(*rows)
    assert found.baselines[0].better
    assert found.recommendation.startswith("the Gaussian mixture of 2 is better by")


def test_the_mixture_is_as_good_as_its_peer(model, rows):
    found = model.compare(*rows)
    assert abs(found.baselines[0].ahead.value) < 0.1
    known = model.log_prob(rows[1]).value.mean()
    assert found.log_prob.value == pytest.approx(known, abs=1e-6)
    assert found.num_rows == 150


def test_a_comparison_is_on_the_card_and_in_the_file(rows, tmp_path):
    one = td.Diffusion(QUICK).fit(rows[0], compare=True)
    assert one.comparison.num_rows == 40
    assert any("held-out comparison, 40 rows" in name for name, _ in one.card())
    one.save(tmp_path / "one.safetensors")
    assert td.load(tmp_path / "one.safetensors").comparison == one.comparison
    # The model itself is the same with and without.
    plain = td.Diffusion(QUICK).fit(rows[0])
    assert plain.comparison is None
    np.testing.assert_array_equal(plain.sample(5), one.sample(5))


def test_the_command_and_the_estimator_compare_too(run, folder, rows):
    np.savetxt(folder / "points.csv", rows[0][:60], delimiter=",", header="a,b", comments="")
    code, out, _ = run("fit points.csv --steps 5 --compare --out model.safetensors")
    assert code == 0
    assert "held-out comparison, 12 rows" in out
    density = td.estimators.DiffusionDensity(config=QUICK, compare=True, random_state=0).fit(rows[0][:60])
    assert density.model_.comparison.num_rows == 12


def test_a_file_with_a_bad_comparison_is_refused(rows, tmp_path):
    from toydiffusion.files import Archive

    one = td.Diffusion(QUICK).fit(rows[0], compare=True)
    one.save(tmp_path / "one.safetensors")
    archive = Archive.read(tmp_path / "one.safetensors", "model")
    for bad in (
        {},
        {"num_rows": 3},
        [],
        {**archive.metadata["comparison"], "baselines": []},
        {**archive.metadata["comparison"], "baselines": [{"name": "x"}]},
    ):
        Archive(archive.tensors, {**archive.metadata, "comparison": bad}).write(
            tmp_path / "bad.safetensors", "model"
        )
        with pytest.raises(td.InputError, match="its comparison with baselines"):
            td.load(tmp_path / "bad.safetensors")


# Copies ----------------------------------------------------------------------------------------------


def test_an_exact_model_copies_nothing():
    """Over draws of both kinds of rows the share is 1/2 on average, within the standard error it gives."""
    law = Square()
    shares, errors, memories, listed = [], [], [], 0
    for seed in range(12):
        x, other = (law.sample(120, seed=100 * k + seed)[0] for k in (1, 2))
        model = td.Diffusion(replace(QUICK, power=False)).fit(x)
        exact = model.with_denoiser(model.standardized(law).denoise)
        found = exact.check_copying(x, other, samples=400, seed=seed)
        shares.append(found.nearer.value)
        errors.append(found.nearer.std_error)
        memories.append([one.value / one.std_error for one in found.memory])
        listed += len(found.sample)
    assert abs(np.mean(shares) - 0.5) < 3 * np.mean(errors) / 12**0.5
    assert np.std(shares) == pytest.approx(np.mean(errors), rel=0.5)
    assert np.abs(np.mean(memories, axis=0)).max() < 3 / 12**0.5
    assert np.std(memories) == pytest.approx(1, rel=0.5)
    assert listed <= 0.1 * 12 * 400


def test_a_model_that_memorises_is_found_out(model, rows):
    x, other = rows
    memory = model.with_denoiser(Empirical(model.fitted.codec.to_z(Table(x, None))).denoise)
    found = memory.check_copying(x, other, samples=300)
    assert found.nearer.value > 0.85
    assert found.distance_ratio < 0.05 < found.held_out_ratio
    assert all(one.value > 0.7 for one in found.memory)  # it also knows rows that are not compared
    assert len(found.sample) > 250
    assert f"{len(found.sample)} of 300 samples are copies; the denoiser remembers" in found.finding
    drawn = memory.sample(300, seed=0)
    frame = found.to_pandas()
    away = np.linalg.norm(drawn[frame["sample"]] - x[frame["row"] - 1], axis=1)
    assert np.quantile(away, 0.8) < 0.01
    assert (np.diff(found.p_value) >= 0).all()
    assert found.p_value[0] == pytest.approx(1 / 151)


def test_half_of_a_model_that_memorises_is_found_too(model, rows):
    x, other = rows
    z = model.fitted.codec.to_z(Table(x, None))
    memory, plain = Empirical(z).denoise, model.denoiser

    def mixed(points, sigma, label=None, /):
        half = torch.arange(len(points))[:, None] % 2 == 0
        return torch.where(half, memory(points, sigma).to(points), plain(points, sigma, label))

    found = model.with_denoiser(mixed).check_copying(x, other, samples=300)
    assert (found.sample % 2 == 0).mean() > 0.9
    assert 80 < len(found.sample) < 170
    assert found.nearer.value == pytest.approx(0.75, abs=0.08)


def test_nearest_rows_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    rows, points = rng.integers(0, 4, (60, 2)).astype(float), rng.normal(size=(50, 2))
    place, ratio = _nearest(rows, points)
    away = np.linalg.norm(points[:, None] - np.unique(rows, axis=0), axis=2)
    away.sort(axis=1)
    np.testing.assert_allclose(ratio, away[:, 0] / away[:, 1])
    np.testing.assert_allclose(np.linalg.norm(points - rows[place], axis=1), away[:, 0])


def test_rows_that_are_in_both_tables_count_for_both():
    rows = np.array([[0.0], [1.0], [2.0]])
    found = _nearer(rows, rows, np.array([[0.1], [0.9], [2.2]]))
    assert found.value == pytest.approx(0.5)


def test_the_standard_error_is_that_of_random_exchanges():
    rng = np.random.default_rng(0)
    both, points = rng.normal(size=(80, 2)), rng.normal(size=(200, 2))
    found = _nearer(both[:40], both[40:], points)
    shares = [
        _nearer(both[order[:40]], both[order[40:]], points).value
        for order in (rng.permutation(80) for _ in range(1500))
    ]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.01)
    assert np.std(shares) == pytest.approx(found.std_error, rel=0.08)


def test_a_model_with_classes_needs_the_labels(rows):
    x, _ = rows
    y = (x[:, 0] > 0).astype(int)
    model = td.Diffusion(QUICK).fit(x, y)
    with pytest.raises(td.InputError, match="train: the check for copying needs the labels"):
        model.check_copying(x, x)
    found = model.check_copying(x, x[:50], train_labels=y, held_out_labels=y[:50], samples=100)
    assert found.samples == 100
    with pytest.raises(td.InputError, match="held_out: unknown label 7"):
        model.check_copying(x, x[:2], train_labels=y, held_out_labels=[0, 7])
    with pytest.raises(td.InputError, match="at least two held-out rows"):
        model.check_copying(x, x[:1], train_labels=y, held_out_labels=y[:1])


# Whole numbers ---------------------------------------------------------------------------------------


def test_columns_of_whole_numbers_come_back_as_such(run, folder):
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(20, 80, 120),
            "none": 0,
            "dose": rng.integers(0, 9, 120) * 0.5,
            "shifted": rng.integers(0, 9, 120) + 0.5,
            "length": rng.normal(size=120),
        }
    )
    frame.to_csv(folder / "points.csv", index=False)
    assert run("fit points.csv --preset table --out model.safetensors")[0] == 0
    whole = ["int64", "int64", "float64", "float64", "float64"]
    for name in ("new.parquet", "new.csv"):
        assert run(f"sample model.safetensors -n 50 --out {name}")[0] == 0
    assert [str(kind) for kind in pd.read_parquet(folder / "new.parquet").dtypes] == whole
    assert (pd.read_csv(folder / "new.csv") == pd.read_parquet(folder / "new.parquet")).all(axis=None)
    assert "." not in (folder / "new.csv").read_text().splitlines()[1].split(",")[0]
    assert [
        str(kind) for kind in td.load(folder / "model.safetensors").sample(5, as_frame=True).dtypes
    ] == whole


def test_a_constant_too_large_for_a_whole_number_stays_a_float():
    rows = np.stack([np.full(60, 1e300), np.random.default_rng(0).normal(size=60)], axis=1)
    drawn = td.Diffusion(QUICK).fit(rows).sample(2, as_frame=True)
    assert drawn["x0"].tolist() == [1e300, 1e300]
