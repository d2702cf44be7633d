"""The facade: fit, sample, save, load, in users' own coordinates, names and labels."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import stats

import toydiffusion as td
from toydiffusion.solvers import reverse, solver

QUICK = td.TrainConfig(steps=450, width=48, edges=16, batch_size=250)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    kind = rng.choice(["low", "high", "mid"], 900, p=[0.5, 0.2, 0.3])
    center = np.select([kind == "low", kind == "mid"], [-2.0, 0.0], 2.0)
    width = 1000 + 50 * (center + 0.3 * rng.normal(size=900))
    return pd.DataFrame({"width": width, "height": 0.01 * (rng.normal(size=900) - center), "kind": kind})


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> td.Diffusion:
    return td.Diffusion(QUICK).fit(table[["width", "height"]], table["kind"], seed=0)


def test_samples_have_the_moments_of_the_data_in_its_own_units(table, model) -> None:
    x, label = model.sample(6000, return_labels=True, seed=0)
    for name in ("low", "mid", "high"):
        own, true = x[label == name], table.loc[table.kind == name, ["width", "height"]].to_numpy()
        spread = true.std(0)
        assert (np.abs(own.mean(0) - true.mean(0)) < 0.2 * spread).all()
        np.testing.assert_allclose(own.std(0), spread, rtol=0.2)
    shares = [np.mean(label == name) for name in model.classes]
    np.testing.assert_allclose(shares, [np.mean(table.kind == n) for n in model.classes], atol=0.025)
    assert model.columns == ("width", "height")
    assert list(model.classes) == ["high", "low", "mid"]


@pytest.mark.parametrize("kind", ["int", "str", "bool", "negative"])
def test_labels_are_whatever_the_users_were(kind: str) -> None:
    x = np.concatenate([np.random.default_rng(0).normal(size=(60, 1)) + c for c in (-5, 5)])
    a, b = {"int": (7, 70), "str": ("no", "yes"), "bool": (False, True), "negative": (-2, 3)}[kind]
    y = np.array([a] * 60 + [b] * 60)
    model = td.Diffusion(QUICK).fit(x, y)
    assert model.classes.tolist() == [a, b]
    assert (model.sample(50, label=a, seed=1) < 0).mean() > 0.95
    assert (model.sample(50, label=b, seed=1) > 0).mean() > 0.95
    points, labels = model.sample(50, label=[a, b] * 25, return_labels=True, seed=1)
    assert labels.tolist() == [a, b] * 25
    assert ((points[:, 0] > 0) == (labels == b)).mean() > 0.95
    with pytest.raises(td.InputError, match="unknown label"):
        model.sample(5, label="noo")


@pytest.mark.parametrize(
    "make", [pd.DataFrame, pl.DataFrame, np.asarray, torch.tensor], ids=["pandas", "polars", "numpy", "torch"]
)
def test_every_kind_of_table_gives_the_same_model(make) -> None:
    x = td.distributions.Square().sample(80, seed=0)[0]
    names = make in (pd.DataFrame, pl.DataFrame)
    given = make({"a": x[:, 0], "b": x[:, 1]}) if names else make(x)
    model = td.Diffusion(td.TrainConfig(steps=10)).fit(given)
    expected = td.Diffusion(td.TrainConfig(steps=10)).fit(x.tolist())
    np.testing.assert_array_equal(model.sample(5), expected.sample(5))
    assert model.columns == (("a", "b") if names else None)


def test_the_start_has_the_moments_of_noised_data(model, table) -> None:
    z = model.standardizer.z(torch.tensor(table[["width", "height"]].to_numpy()))
    for sigma in (1.0, model.sigma_max):
        start, label = model.prior(sigma).rows(range(100_000), seed=0)
        for c, name in enumerate(model.classes):
            own = z[torch.tensor((table.kind == name).to_numpy())]
            expected = torch.cov(own.T, correction=0) + sigma**2 * torch.eye(2)
            got = torch.cov(start[label == c].T)
            np.testing.assert_allclose(got, expected, atol=0.04 * sigma**2 + 0.02)
        total = stats.multivariate_normal
        at = start[:5]
        by_hand = sum(
            f * total(m, c + sigma**2 * np.eye(2)).pdf(at)
            for f, m, c in zip(
                model.moments.frequencies.numpy(),
                model.moments.class_means.numpy(),
                model.moments.class_covariances.numpy(),
                strict=True,
            )
        )
        np.testing.assert_allclose(model.prior(sigma).log_prob(at), np.log(by_hand), rtol=1e-9)


@pytest.mark.parametrize("solver_name", ["multistep2", "euler-maruyama"])
def test_rows_depend_on_the_seed_and_their_number_only(model, solver_name: str) -> None:
    scale = model.standardizer.scale.numpy()
    settings = {"steps": 6, "solver": solver_name, "seed": 5}
    whole = model.sample(2100, **settings)
    for other in (model.sample(2101, **settings)[:-1], model.sample(2100, batch_size=37, **settings)):
        assert (np.abs(other - whole) < 1e-4 * scale).all()
    np.testing.assert_array_equal(whole, model.sample(2100, **settings))
    assert (np.abs(model.sample(2100, **{**settings, "seed": 6}) - whole) > 0).all()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (np.abs(model.sample(2100, **settings) - whole) < 1e-4 * scale).all()
    finally:
        torch.set_num_threads(threads)


def test_sampling_is_the_core_sampler_between_two_changes_of_coordinates(model) -> None:
    levels = td.SampleConfig(steps=7, solver="heun").levels(model.sigma_min, model.sigma_max)
    z, label = model.prior(float(levels[0])).rows(range(20), seed=2)
    with torch.no_grad():
        *_, z = reverse(model.denoiser, z, levels, solver("heun"), label=label, seed=2)
        z = model.denoiser(z, levels[-1].expand(20), label)
    got = model.sample(20, steps=7, solver="heun", seed=2)
    mean, scale = model.standardizer.mean.numpy(), model.standardizer.scale.numpy()
    np.testing.assert_allclose(got, mean + scale * z.numpy(), rtol=1e-12)
    path, sigma = model.trajectory(20, sampling=td.SampleConfig(steps=7, solver="heun"), seed=2)
    np.testing.assert_allclose(path[-1], got, rtol=1e-12)
    np.testing.assert_array_equal(sigma, [*levels.tolist(), 0.0])
    assert path.shape == (8, 20, 2)


def test_guidance_and_given_points(model, table) -> None:
    plain = model.sample(400, label="mid", seed=0)
    pushed = model.sample(400, label="mid", guidance=3.0, seed=0)
    assert pushed[:, 0].std() < 0.9 * plain[:, 0].std()  # away from the neighbours on both sides
    x = table[["width", "height"]].iloc[:300]
    scale = model.standardizer.scale.numpy()
    near = model.sample(start=x, sigma_start=0.02, seed=0)
    far = model.sample(start=x, sigma_start=5.0, seed=0)
    assert np.sqrt((((near - x.to_numpy()) / scale) ** 2).mean()) < 0.1
    assert np.sqrt((((far - x.to_numpy()) / scale) ** 2).mean()) > 0.5
    reordered = model.sample(start=x[["height", "width"]], sigma_start=0.02, seed=0)
    np.testing.assert_array_equal(reordered, near)
    moved = model.sample(start=x, sigma_start=2.0, label="high", seed=0)
    assert moved[:, 0].mean() == pytest.approx(table.width[table.kind == "high"].mean(), abs=20)


def test_save_and_load_give_back_everything(model, tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    again = td.load(path)
    np.testing.assert_array_equal(again.sample(300, seed=3), model.sample(300, seed=3))
    assert again.config == model.config
    assert again.sampling == model.sampling
    assert again.columns == model.columns
    assert again.classes.tolist() == model.classes.tolist()
    assert again.history.loss == pytest.approx(model.history.loss)
    assert again.card() == model.card()
    again.save(tmp_path / "twice.safetensors")
    assert (tmp_path / "twice.safetensors").read_bytes() == path.read_bytes()
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        meta = json.loads(json.loads(file.metadata()["toydiffusion"])["metadata"])
    assert meta["classes"] == ["high", "low", "mid"]
    assert meta["config"]["sigma_max"] == 20.0
    assert {package for package, _ in meta["versions"]} == {"toydiffusion", "torch"}
    assert meta["seed"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(td.PRESETS))
def test_every_preset_learns_samples_and_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    recipe = td.PRESETS[name]
    config = replace(recipe.train, steps=200)
    model = td.Diffusion(config, recipe.sample).fit(td.distributions.Square().sample(500, seed=0)[0], seed=0)
    sample = model.sample(500, seed=1)
    np.testing.assert_allclose(sample.std(0), 1 / np.sqrt(3), rtol=0.15)
    model.save(tmp_path / "model.safetensors")
    again = td.load(tmp_path / "model.safetensors")
    # A model for tables finds its own sigma_min.
    assert replace(again.config, sigma_min=config.sigma_min) == config
    assert again.sampling == recipe.sample
    np.testing.assert_array_equal(again.sample(500, seed=1), sample)


def test_the_preset_original_is_the_originals_recipe() -> None:
    config, sampling = td.PRESETS["original"].train, td.PRESETS["original"].sample
    assert not config.standardize
    assert (config.width, config.hidden_layers, config.preconditioning) == (256, 3, "noise")
    assert (config.schedule, config.sigma_max) == ("exp", 1.0)
    assert config.sigma_min == pytest.approx(np.exp(-5))
    assert (sampling.steps, sampling.solver, sampling.schedule) == (1000, "euler", "exp")
    model = td.Diffusion(replace(config, steps=30), sampling)
    x = 5 + td.distributions.Square().sample(100, seed=0)[0]
    model.fit(x)
    np.testing.assert_array_equal(model.standardizer.mean, [0, 0])
    np.testing.assert_array_equal(model.standardizer.scale, [1, 1])
    # Started from the data's own mean and variance, not from N(0, 1).
    start, _ = model.prior().rows(range(5000), seed=0)
    np.testing.assert_allclose(start.mean(0), x.mean(0), atol=0.06)
    np.testing.assert_allclose(start.var(0), x.var(0) + 1, rtol=0.07)


def test_a_model_shows_what_it_is(model, table) -> None:
    card = dict(model.card())
    assert card["columns"] == "width, height"
    assert f"low ({np.mean(table.kind == 'low'):.1%})" in card["classes"]
    assert card["training"].startswith("450 steps of 250 points")
    page = model._repr_html_()
    assert "<table>" in page
    assert "width, height" in page
    assert repr(model) == "Diffusion(2 columns, 3 classes, fitted to 900 points)"
    assert repr(td.Diffusion()) == "Diffusion(not fitted)"
    hostile = td.Diffusion(td.TrainConfig(steps=2)).fit(pd.DataFrame({"<b>": [1.0, 2.0, 4.0]}))
    assert "<b>&lt;b" not in hostile._repr_html_().replace("&lt;b&gt;", "")
    assert "&lt;b&gt;" in hostile._repr_html_()


def test_a_progress_bar_counts_the_steps(capsys, monkeypatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    x = td.distributions.Square().sample(50, seed=0)[0]
    td.Diffusion(td.TrainConfig(steps=20)).fit(x, progress=True).sample(5, progress=True)
    shown = capsys.readouterr().err
    assert "training" in shown
    assert "20/20" in shown
    assert "loss" in shown
    td.Diffusion(td.TrainConfig(steps=20)).fit(x, progress=False)
    assert capsys.readouterr().err == ""


def test_a_notebook_without_ipywidgets_shows_no_bar_and_no_warning(capsys, monkeypatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as if it were not installed
    td.Diffusion(td.TrainConfig(steps=20)).fit(td.distributions.Square().sample(50, seed=0)[0])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("size", "shift"), [(1e30, 0.0), (1e-30, 0.0), (1.0, 1e6), (1e-30, 1e-27)])
def test_extreme_units_simply_work(size: float, shift: float) -> None:
    x = shift + size * td.distributions.Square().sample(300, seed=0)[0]
    sample = td.Diffusion(QUICK).fit(x).sample(500, seed=0)
    assert (np.abs(sample - shift) < 1.4 * size).mean() > 0.97
    np.testing.assert_allclose(sample.std(0), 0.577 * size, rtol=0.15)


@pytest.mark.parametrize("dim", [1, 50])
def test_one_and_fifty_columns(dim: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, dim)) @ np.diag(np.linspace(1, 9, dim)) + 3
    sample = td.Diffusion(QUICK).fit(x).sample(2000, seed=0)
    assert sample.shape == (2000, dim)
    np.testing.assert_allclose(sample.mean(0), x.mean(0), atol=0.25 * 9)
    np.testing.assert_allclose(sample.std(0), x.std(0), rtol=0.3)
