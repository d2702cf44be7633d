"""The demo at small sizes: its numbers, its page, its conclusions, its files."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from pages import Page, leaves
from PIL import Image

import toydiffusion as td
from toydiffusion import figures
from toydiffusion.distributions import ConcentricSquares, Square
from toydiffusion.metrics import border_mass, calibration, denoiser_divergence, share_inside, total_variation
from toydiffusion.report import DemoSettings, demo, findings
from toydiffusion.report.classes import border_sides
from toydiffusion.report.demo import SECTIONS
from toydiffusion.report.densities import KINDS, quadruples
from toydiffusion.report.page import page

TINY = DemoSettings(
    points=200, shown=100, effort=0.02, grid=4, steps=(1, 3, 6), measured=300, schedule_seeds=2,
    schedule_effort=0.03, schedule_steps=5, schedule_points=300, class_points=2000, fresh=2000, frames=3,
    quadruples=20, tested=60, map=15,
)  # fmt: skip
SEED = 3


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Run the demo once."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    demo(folder, seed=SEED, settings=TINY, show=False)
    return folder, json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def html(story):
    return Page((story[0] / "report.html").read_text(encoding="utf-8"))


# The page -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_embeds_every_figure_and_needs_no_other_file(story, html):
    folder, _ = story
    files = {path.read_bytes() for path in folder.iterdir() if path.suffix in (".png", ".gif")}
    embedded = [base64.b64decode(image["src"].partition(";base64,")[2]) for image in html.images]
    assert len(embedded) == len(files) == 20
    assert set(embedded) == files
    assert all(len(image["alt"]) > 20 for image in html.images)
    for tag, name, value in html.attributes:
        assert tag not in ("script", "link", "iframe")
        if name in ("src", "href"):
            assert value.startswith(("data:image/", "#"))
    assert not re.search(r"https?://|@import|url\(", (folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_text_on_the_page_is_escaped(story):
    folder, results = story
    hostile = "<script>alert('x')</script>\""
    made = {**results["made"], "versions": {hostile: hostile}}
    classes = {**results["classes"], "finding": hostile}
    images = {path.stem: path for path in folder.iterdir() if path.suffix in (".png", ".gif")}
    text = page("squares.html.j2", {**results, "made": made, "classes": classes}, images, SECTIONS)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 3


@pytest.mark.slow
def test_the_page_has_every_section_and_links_to_it(html):
    ids = {value for _, name, value in html.attributes if name == "id"}
    links = [value for tag, name, value in html.attributes if (tag, name) == ("a", "href")]
    assert links == [f"#{anchor}" for anchor in SECTIONS]
    assert ids >= set(SECTIONS)


@pytest.mark.slow
def test_every_number_on_the_page_is_in_the_results(story, html):
    results = story[1]
    numbers = {float(x) for x in leaves(results) if isinstance(x, int | float)}
    assert len(html.data) > 100
    for value, text in html.data:
        assert value in numbers
        shown = float(text.replace(",", "").rstrip("%")) / (100 if text.endswith("%") else 1)
        digits = len(text.rstrip("%").partition(".")[2]) + 2 * text.endswith("%")
        assert abs(shown - value) <= 0.5001 * 10**-digits or math.isclose(shown, value, rel_tol=1e-5)
    known = " ".join(str(x) for x in leaves(results) if isinstance(x, str))
    loose = set(re.findall(r"\d+\.\d+", "".join(html.words)))
    assert loose <= set(re.findall(r"\d+\.\d+", known))


@pytest.mark.slow
def test_the_page_has_the_findings_as_computed(story, html):
    results, text = story[1], " ".join("".join(html.words).split())
    schedules = results["schedules"]
    again = {
        "total variation": findings.verdict(schedules["measured"]["tv"]),
        "share inside": findings.verdict(schedules["measured"]["inside"], lower_is_better=False),
        "KL divergence": findings.verdict(schedules["measured"]["kl"]),
    }
    assert schedules["claim"] == findings.claim(again, "exp")
    assert schedules["claim"] in text
    for what, found in again.items():
        assert findings.ranking(found, what) in text
    assert results["classes"]["finding"] in text


# The numbers ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_numbers_agree_with_the_saved_models(story):
    folder, results = story
    law, model = Square(), td.load(folder / "models" / "square-default.safetensors")
    seeds = results["seeds"]
    for i, seed in enumerate(seeds["seeds"]):
        x = model.sample(TINY.shown, seed=seed)
        assert seeds["total_variation"][i] == pytest.approx(total_variation(x, law), abs=0.011)
        assert seeds["inside"][i] == pytest.approx(share_inside(x, law), abs=0.011)
    assert seeds["mean"]["inside"] == pytest.approx(np.mean(seeds["inside"]))
    for name, one in results["training"]["recipes"].items():
        model = td.load(folder / "models" / f"square-{name}.safetensors")
        truth = law.standardized(model.standardizer.mean, model.standardizer.scale)
        kl = denoiser_divergence(
            model.denoiser, truth, sigma_min=model.sigma_min, sigma_max=model.sigma_max, seed=99
        )
        error = math.hypot(kl.std_error, one["kl"]["std_error"])
        assert abs(one["kl"]["value"] - kl.value) < 4 * error
        # The excess of the loss is a weighted squared distance of the denoisers.
        assert one["fresh"]["value"] > one["least"]["value"]
        steps = results["steps"]["recipes"][name]["learned"]
        for k, distance in zip(TINY.steps, steps["total_variation"], strict=True):
            x = model.sample(TINY.measured, steps=k, seed=SEED)
            assert distance == pytest.approx(total_variation(x, law), abs=0.011)


@pytest.mark.slow
def test_schedules_were_trained_and_sampled_as_named(story):
    folder, results = story
    measured = results["schedules"]["measured"]
    for name in ("sqrt", "linear", "exp"):
        model = td.load(folder / "models" / f"schedule-{name}-{SEED + 1}.safetensors")
        assert (model.config.schedule, model.config.preconditioning) == (name, "noise")
        x = model.sample(TINY.schedule_points, steps=TINY.schedule_steps, schedule=name, seed=SEED + 1)
        assert measured["tv"][name][1] == pytest.approx(total_variation(x, Square()), abs=0.011)
        assert measured["inside"][name][1] == pytest.approx(share_inside(x, Square()), abs=0.011)
        assert results["schedules"]["mean"]["kl"][name] == pytest.approx(np.mean(measured["kl"][name]))
    assert measured["tv"]["exp"] == measured["tv_training"]["exp"]
    assert measured["tv"]["sqrt"] != measured["tv_training"]["sqrt"]


@pytest.mark.slow
def test_densities_agree_with_the_saved_models(story):
    folder, results = story
    found = results["densities"]
    square = td.load(folder / "models" / "square-default.safetensors")
    x = Square().sample(TINY.tested, seed=SEED + 7)[0]
    assert found["mean"]["ode"] == pytest.approx(square.log_prob(x).value.mean(), abs=1e-6)
    assert found["mean"]["elbo"] == pytest.approx(square.elbo(x, seed=SEED).value.mean(), abs=1e-6)
    # The truth, smoothed by 0.01 standard deviations, differs from log 4 near the boundary only.
    assert found["mean"]["exact"] == pytest.approx(-math.log(4), abs=0.05)
    assert found["certificate"]["masses"][0]["value"] == pytest.approx(1, abs=0.01)
    terms = found["certificate"]["budget"]
    parts = [terms[k]["value"] for k in ("lowest_sigma", "prior", "solver", "network", "finite_data")]
    assert sum(parts) == pytest.approx(terms["total"]["value"], abs=1e-9)

    concentric = td.load(folder / "models" / "concentric-squares.safetensors")
    pairs = quadruples(TINY.quadruples, seed=SEED)
    values = np.stack([concentric.log_prob(*pair).value for pair in pairs])
    for kind, row in zip(KINDS, values, strict=True):
        assert found["points"]["kinds"][kind]["ode"] == pytest.approx(np.median(row), abs=1e-6)
    ordered = sum(bool((np.diff(column) < 0).all()) for column in values.T)
    assert found["points"]["ordered"] == ordered
    s = concentric.standardizer
    z, y = (
        ConcentricSquares()
        .standardized(s.mean, s.scale)
        .sample(TINY.tested, seed=SEED + 8, sigma=concentric.sigma_min)
    )
    x = s.mean.numpy() + s.scale.numpy() * z
    learned = found["classes"]["learned"]
    assert learned["accuracy"] == pytest.approx(np.mean(concentric.predict(x) == y))
    assert learned["log_loss"] == pytest.approx(calibration(concentric.predict_proba(x), y).log_loss)
    assert found["classes"]["exact"]["accuracy"] > 0.9


def test_quadruples_have_the_labels_and_distances_they_should():
    (x, right), (same, wrong), (out, outermost), (far, _) = quadruples(500, seed=1)
    law = ConcentricSquares()
    assert len(x) == 500
    assert law.contains(x, right).all()
    radius = np.abs(x).max(1)
    assert (np.abs(radius[:, None] - np.arange(1, 6) / 5) >= 0.03).all()
    assert np.array_equal(x, same)
    assert (np.abs(right - wrong) > 1).all()
    assert set(wrong.tolist()) == {0, 1, 2, 3, 4}
    assert (outermost == 4).all()
    assert not law.contains(out).any()
    np.testing.assert_allclose(np.abs(out), np.abs(x) + 2)
    np.testing.assert_allclose(np.abs(far), np.abs(x) + 4)
    (_, right), (_, wrong), *_ = quadruples(500, seed=1, margin=0.0)
    assert (right != wrong).all()
    assert (np.abs(right - wrong) == 1).any()


@pytest.mark.slow
def test_classes_agree_with_the_saved_model(story):
    folder, results = story
    model, law = td.load(folder / "models" / "concentric-squares.safetensors"), ConcentricSquares()
    x, label = model.sample(TINY.class_points, seed=SEED, return_labels=True)
    numbers = results["classes"]
    assert numbers["border_mass"]["value"] == pytest.approx(border_mass(x, label), rel=0.05)
    assert numbers["overall_accuracy"] == pytest.approx(share_inside(x, law, label), abs=0.005)
    share = np.bincount(label) / len(label)
    assert share @ numbers["accuracy"] == pytest.approx(numbers["overall_accuracy"], abs=0.005)


def test_border_sides_add_up_to_the_border_mass():
    x, label = ConcentricSquares().sample(20_000, seed=1)
    pulled = x * np.where(label == 2, 0.99, 1.0)[:, None]
    sides = np.array(border_sides(pulled, label, squares=5))
    borders = np.arange(1, 5) / 5
    mass = np.array([borders**2 - (borders - 0.02) ** 2, (borders + 0.02) ** 2 - borders**2])
    assert (sides * mass).sum() / mass.sum() == pytest.approx(border_mass(pulled, label))
    # Class 2 shrinks by 1 %: it leaves its outer border at 0.6, and loses points across its inner one at 0.4.
    assert sides[0, 2] == pytest.approx(0.7, abs=0.15)
    assert sides[[0, 1, 1], [0, 0, 2]] == pytest.approx([1, 1, 1], abs=0.2)


@pytest.mark.slow
def test_the_forward_process_has_the_right_standard_deviations(story):
    for name, one in story[1]["forward"]["schedules"].items():
        assert one["sigma"][-1] == 1
        assert one["true_spread"][-1] == pytest.approx(math.sqrt(4 / 3))
        assert np.allclose(one["spread"], one["true_spread"], rtol=0.12), name


# What is concluded ---------------------------------------------------------------------------------------


def verdicts(*tables):
    return {f"measure {i}": findings.verdict(table) for i, table in enumerate(tables)}


CLEAR = {"exp": [1.0, 1.1, 0.9], "linear": [2.0, 2.1, 1.9], "sqrt": [3.0, 3.1, 2.9]}
BEATEN = {"exp": [2.0, 2.1, 1.9], "linear": [1.0, 1.1, 0.9], "sqrt": [3.0, 3.1, 2.9]}
UNCLEAR = {"exp": [1.0, 2.0, 3.0], "linear": [2.0, 1.5, 3.0], "sqrt": [1.0, 3.5, 2.0]}


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ((CLEAR, CLEAR), ["is confirmed: it is clearly best by every measure"]),
        ((BEATEN, BEATEN), ["not confirmed", "clearly beaten by linear (by measure 0)"]),
        ((CLEAR, BEATEN), ["depends on the measure", "best by measure 0", "linear (by measure 1)"]),
        ((CLEAR, UNCLEAR), ["clearly holds by measure 0", "By measure 1 it is not clearly best"]),
        ((UNCLEAR,), ["not shown by these seeds"]),
    ],
)
def test_the_claim_agrees_with_the_numbers(tables, says):
    sentence = findings.claim(verdicts(*tables), "exp")
    assert all(words in sentence for words in says), sentence


def test_verdict_pairs_the_seeds():
    # The seeds differ by far more than the schedules do, but always the same way.
    paired = findings.verdict({"a": [1.0, 5.0, 9.0], "b": [1.2, 5.3, 9.25]})
    assert (paired.best, paired.clear) == ("a", {"b": True})
    assert paired.difference["b"] == pytest.approx(0.25)
    # Half width: Student's t at 2 degrees of freedom times std / sqrt(3), differences .2 .3 .25.
    assert paired.margin["b"] == pytest.approx(4.303 * 0.05 / math.sqrt(3))
    assert not findings.verdict({"a": [1.0, 5.0, 9.0], "b": [9.2, 1.3, 5.25]}).clear["b"]
    assert findings.verdict({"a": [0.9, 0.8], "b": [0.5, 0.4]}, lower_is_better=False).best == "a"
    assert "not clearly" in findings.ranking(findings.verdict(UNCLEAR), "TV")
    assert "clearly so" in findings.ranking(findings.verdict(CLEAR), "TV")


def test_other_conclusions_agree_with_the_numbers():
    assert findings.settled([1, 3, 10, 100], [0.9, 0.5, 0.21, 0.2]) == 10
    assert findings.settled([1, 3, 10], [0.2, 0.5, 0.2]) == 10
    assert "due to the solver" in findings.solver_or_network("it", 3, learned=0.52, exact=0.5, floor=0.2)
    assert "due to the network" in findings.solver_or_network("it", 3, learned=0.5, exact=0.21, floor=0.2)
    assert "both cause" in findings.solver_or_network("it", 3, learned=0.5, exact=0.35, floor=0.2)
    assert "chance" in findings.solver_or_network("it", 3, learned=0.21, exact=0.205, floor=0.2)
    assert "are real: 30% of" in findings.spaces(0.7, 0.02)
    assert "distinguished from chance" in findings.spaces(0.97, 0.02)
    assert "no security spaces: the borders have too many points" in findings.spaces(1.2, 0.02)


# Files and bad input ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_files_are_whole_and_nothing_else_is_left(story):
    folder, _ = story
    assert not [path for path in folder.rglob("*") if path.name.startswith(".") or ".part" in path.name]
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            image.load()
    with Image.open(folder / "reverse.gif") as film:
        assert film.n_frames == TINY.frames
    assert len(list((folder / "models").iterdir())) == 3 + 3 * TINY.schedule_seeds


def test_interrupted_demo_leaves_whole_files_and_no_report(tmp_path, monkeypatch):
    def interrupt(*_args, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path, settings=replace(TINY, effort=0.001, schedule_effort=0.001), show=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]
    assert td.load(tmp_path / "models" / "square-original.safetensors").sample(3).shape == (3, 2)


def test_save_png_keeps_the_old_file_on_failure(tmp_path, monkeypatch):
    target = tmp_path / "a.png"
    target.write_text("old")
    figure = figures.scatters([[figures.Scatter(np.zeros((1, 2)))]])

    def fail(part, **_named):
        part.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="No space"):
        figures.save_png(figure, target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert target.read_text() == "old"


def test_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(td.InputError, match="a part of this path is a file"):
            demo(out, settings=TINY, show=False)
    with pytest.raises(td.InputError, match="seed must be an integer >= 0, got -1"):
        demo(tmp_path, seed=-1, settings=TINY, show=False)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"points": 3}, "points must be a whole number >= 50, got 3"),
        ({"effort": 0}, "effort must be above 0 and at most 1, got 0"),
        ({"steps": (3, 1)}, "steps must be different whole numbers >= 1, ascending"),
        ({"steps": (3,)}, "steps needs two numbers or more"),
        ({"frames": 2.5}, "frames must be a whole number"),
        ({"schedule_seeds": 1}, "schedule_seeds must be a whole number >= 2"),
    ],
)
def test_settings_check_themselves(wrong, words):
    with pytest.raises(td.InputError, match=re.escape(words)):
        DemoSettings(**wrong)
