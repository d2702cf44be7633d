"""A model for tables as a value, in a file, and on the command line."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import toydiffusion as td
from toydiffusion.cli import main
from toydiffusion.experts.networks import FoldState
from toydiffusion.files import Archive

CONFIG = td.TableConfig(components=(1, 2), steps=40, width=8)


def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    bent = np.exp(rng.normal(size=160))
    ring = rng.uniform(0, 2 * np.pi, size=160)
    x = np.stack([np.cos(ring) * (1 + y), np.sin(ring) * (1 + y), bent, np.full(160, 3.0)], 1)
    x[:, 2] = np.round(x[:, 2], 1)
    return x, y


@pytest.fixture(scope="module")
def model() -> td.Diffusion:
    x, y = rows()
    return td.Diffusion(CONFIG).fit(x, y, seed=0)


@pytest.fixture
def path(model: td.Diffusion, tmp_path):
    model.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_file_gives_the_same_model_back(model: td.Diffusion, path) -> None:
    x, _ = rows()
    again = td.load(path)
    assert again.fitted.denoiser.networks  # the networks help on rings, so that they are in the file
    np.testing.assert_array_equal(again.log_prob(x).value, model.log_prob(x).value)
    np.testing.assert_array_equal(again.sample(30, seed=1), model.sample(30, seed=1))
    np.testing.assert_array_equal(again.p_values(x), model.p_values(x))
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    assert again.card() == model.card()
    assert again.experts == model.experts
    assert again.config == model.fitted.config
    first = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("mixture.weights", lambda t: t[:-1], "parts of different lengths"),
        ("mixture.covariances", lambda t: -t, "positive definite"),
        ("mixture.component_labels", lambda t: t * 0, "1 classes, not 2"),
        ("stack.weights", lambda t: -t - 1, "weights must be"),
        ("stack.knots", lambda t: t.flip(0), "ascending"),
        ("experts.0.hidden", lambda t: t[:, :-1], "must have shape"),
        ("experts.0.hidden", lambda t: t * torch.nan, "not finite"),
        ("power.power", lambda t: t + 5, r"a power must lie in \[0, 2\]"),
        ("cells.step", lambda t: t - 9, "step >= 0"),
        ("constants", lambda t: t + 9, "constant columns are not columns"),
        ("calibration", lambda t: t.float(), "must have shape"),
        ("calibration", None, "lack 'calibration'"),
        ("stack.knots", None, "lack 'stack.knots'"),
        ("other", lambda _: torch.zeros(1), "unknown 'other'"),
    ],
)
def test_an_altered_file_is_refused(path, name: str, change, words: str) -> None:
    archive = Archive.read(path, "model")
    tensors = dict(archive.tensors)
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors.get(name, torch.zeros(1)))
    Archive(tensors, archive.metadata).write(path, "model")
    with pytest.raises(td.InputError, match=words):
        td.load(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stack", [{}], "not described as networks"),
        ("experts", {}, "report is not one"),
        ("config", {}, "TableConfig fields lack"),
    ],
)
def test_altered_metadata_is_refused(path, key: str, value: object, words: str) -> None:
    archive = Archive.read(path, "model")
    Archive(archive.tensors, {**archive.metadata, key: value}).write(path, "model")
    with pytest.raises(td.InputError, match=words):
        td.load(path)


def test_the_card_says_what_became_of_the_columns(model: td.Diffusion) -> None:
    card = dict(model.card())
    assert card["constant columns"].startswith("x3 = 3; left out")
    assert "x2 0.1 (" in card["grid steps"]
    assert "x2" in card["powers (Yeo-Johnson)"]
    assert "Gaussians, from" in card["mixture"]
    assert "5, best after" in card["networks"]


def test_the_figure_of_the_experts_shows_their_weights(model: td.Diffusion) -> None:
    axes = model.plot("experts").axes[0]
    for line, weight in zip(axes.lines, model.denoiser.weights, strict=True):
        at = np.interp(np.log(model.denoiser.knots.numpy()), np.log(line.get_xdata()), line.get_ydata())
        np.testing.assert_allclose(at, weight.numpy(), atol=0.02)
    with pytest.raises(td.InputError, match="not to plot\\('experts'\\)"):
        model.plot("experts", data=rows()[0])
    with pytest.raises(td.InputError, match="no experts"):
        td.Diffusion(td.TrainConfig(steps=2)).fit(rows()[0][:, :2]).plot("experts")


def test_a_table_is_taken_where_points_are(model: td.Diffusion) -> None:
    x, _ = rows()
    table = td.Table(x, None)
    np.testing.assert_array_equal(model.log_prob(table).value, model.log_prob(x).value)
    np.testing.assert_array_equal(model.outliers(table).row, model.outliers(x).row)


def test_ctrl_c_then_resume_is_as_if_never_interrupted(tmp_path, press_ctrl_c) -> None:
    x, y = rows()
    place = tmp_path / "half.checkpoint"
    with press_ctrl_c(FoldState, "look", after=20):
        td.Diffusion(CONFIG).fit(x, y, seed=1, checkpoint=place)
    td.Diffusion(CONFIG).fit(x, y, seed=1, checkpoint=place, resume=True).save(
        tmp_path / "resumed.safetensors"
    )
    td.Diffusion(CONFIG).fit(x, y, seed=1).save(tmp_path / "whole.safetensors")
    resumed, whole = (tmp_path / f"{name}.safetensors" for name in ("resumed", "whole"))
    assert resumed.read_bytes() == whole.read_bytes()
    with pytest.raises(td.InputError, match="belongs to other points, settings or seed"):
        td.Diffusion(CONFIG).fit(x, y, seed=2, checkpoint=place, resume=True)
    with pytest.raises(td.InputError, match="no checkpoint file"):
        td.Diffusion(CONFIG).fit(x, y, seed=1, checkpoint=tmp_path / "none", resume=True)


def test_it_has_no_schedule_no_guidance_and_no_endless_twin(model: td.Diffusion) -> None:
    with pytest.raises(td.InputError, match="no schedule"):
        _ = model.schedule
    with pytest.raises(td.InputError, match="guidance needs a network trained with dropped labels"):
        model.sample(5, guidance=2.0)
    with pytest.raises(td.InputError, match="own network"):
        td.distill(model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"folds": 1}, "folds must be a whole number >= 2"),
        ({"components": ()}, "components must be one or more"),
        ({"components": (3, 2)}, "ascending order"),
        ({"power": 1}, "power must be True or False"),
        ({"sigma_min": 0.0}, "sigma_min must be"),
        ({"steps_of_grid": 3}, "steps_of_grid must hold"),
        ({"learning_rate": 2.0}, "learning_rate must be"),
    ],
)
def test_bad_settings_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(td.InputError, match=words):
        td.TableConfig(**settings)


def test_declared_steps_must_be_as_many_as_columns() -> None:
    with pytest.raises(td.InputError, match="2 steps for 4 columns"):
        td.Diffusion(dataclasses.replace(CONFIG, steps_of_grid=(None, 0.1))).fit(rows()[0])


@pytest.mark.slow
def test_the_command_line_fits_samples_and_scores(tmp_path, capsys) -> None:
    x, y = rows()
    table = tmp_path / "rings.csv"
    np.savetxt(table, np.c_[x, y], "%.17g", ",", header="a,b,c,d,kind", comments="")
    model, new, scores = (str(tmp_path / name) for name in ("m.safetensors", "new.csv", "scores.csv"))
    words = [
        "fit",
        str(table),
        "--label-column",
        "kind",
        "--preset",
        "table",
        "--steps",
        "20",
        "--width",
        "8",
    ]
    assert main([*words, "--out", model]) == 0
    assert "constant columns" in capsys.readouterr().out
    assert main(["sample", model, "-n", "50", "--out", new]) == 0
    assert main(["log-prob", model, new, "--out", scores]) == 0
    sampled = np.genfromtxt(new, delimiter=",", names=True)
    assert (sampled["d"] == 3).all()
    np.testing.assert_allclose(sampled["c"], np.round(sampled["c"], 1), atol=1e-12)
    odd = str(tmp_path / "odd.csv")
    assert main(["outliers", model, str(table), "--out", odd]) == 0
    assert "of 160 rows selected" in capsys.readouterr().out
    found = np.genfromtxt(odd, delimiter=",", names=True, usecols=range(4))
    assert sorted(found["row"]) == list(range(1, 161))
    assert (np.diff(found["p_value"]) >= 0).all()
    want = td.load(model).p_values(x)
    np.testing.assert_allclose(found["p_value"], want[found["row"].astype(int) - 1])
    assert main(["outliers", model, str(table), "--out", str(tmp_path / "odd.npy")]) == 2
    assert main(["export", model, "--page", str(tmp_path / "page.html")]) == 2
    assert "the page runs a single network" in capsys.readouterr().err
    assert main([*words, "--out", model, "--schedule", "cosine"]) == 2
    assert "--schedule is no setting of preset 'table'" in capsys.readouterr().err
    assert main([*words, "--out", model, "--resume"]) == 2
