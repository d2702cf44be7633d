"""`toydiffusion log-prob`, and bad input to everything that takes points: what is given, the words back."""

from __future__ import annotations

import csv
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import toydiffusion as td
from toydiffusion import tables
from toydiffusion.distributions import ConcentricSquares, Gaussian, Square
from toydiffusion.metrics import calibration

CONFIG = td.TrainConfig(steps=40, width=16, edges=8, batch_size=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with models and tables, good and bad."""
    folder = tmp_path_factory.mktemp("score")
    x, y = ConcentricSquares(3).sample(400, seed=0)
    frame = pd.DataFrame(x, columns=["speed", "height"])
    words = np.array(["inner", "middle", "outer"])[y]
    td.Diffusion(CONFIG).fit(frame, words, seed=0).save(folder / "words.safetensors")
    td.Diffusion(CONFIG).fit(frame, y > 1, seed=0).save(folder / "boolean.safetensors")
    td.Diffusion(CONFIG).fit(frame, seed=0).save(folder / "plain.safetensors")
    td.Diffusion(CONFIG).fit(x, y, seed=0).save(folder / "unnamed.safetensors")
    some = frame[:30].assign(ring=words[:30], note="whatever")
    some.to_csv(folder / "points.csv", index=False)
    some[:9].to_csv(folder / "few.csv", index=False)
    some.to_parquet(folder / "points.parquet", index=False)
    np.save(folder / "points.npy", x[:30])
    np.save(folder / "three.npy", np.zeros((4, 3)))
    pd.DataFrame({"a": x[:30, 0], "b": x[:30, 1], "ring": y[:30]}).to_csv(folder / "other.csv", index=False)
    (folder / "empty.csv").write_text("speed,height\n")
    (folder / "holes.csv").write_text("speed,height\n0.1,0.2\n,0.3\nnan,0.1\n0.2,inf\n-0.3,0.4\n")
    (folder / "text.csv").write_text("speed,height\n0.1,0.2\n0.3,many\n")
    (folder / "strange.csv").write_text("speed,height,ring\n0.1,0.2,inner\n0.3,0.1,inmost\n")
    (folder / "one.csv").write_text("speed\n0.1\n")
    (folder / "far.csv").write_text("speed,height\n0.1,0.2\n1e200,0.2\n")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# What comes out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_log_densities_are_those_of_the_model(folder, run, suffix):
    code, out, err = run(f"log-prob words.safetensors points.csv --out log_probs{suffix}")
    assert (code, out, err) == (0, f"wrote the log-densities of 30 points to log_probs{suffix}\n", "")
    model = td.load(folder / "words.safetensors")
    x = pd.read_csv(folder / "points.csv")
    found = tables.read(folder / f"log_probs{suffix}")
    if suffix != ".npy":
        assert found.columns == ("log_density", "log_density_total_error", "p_inner", "p_middle", "p_outer")
    want = model.log_prob(x[["speed", "height"]])
    np.testing.assert_allclose(found.points[:, 0], want.value, rtol=1e-12)
    # Errors are differences of numbers of order 1, whose rounding depends on the version of torch.
    np.testing.assert_allclose(found.points[:, 1], want.total_error, rtol=1e-10)
    np.testing.assert_allclose(found.points[:, 2:], model.predict_proba(x[["speed", "height"]]), rtol=1e-12)


def test_the_old_name_works_and_says_so(folder, run):
    code, out, err = run("score words.safetensors points.csv --label outer --out old.csv")
    assert (code, out) == (0, "wrote the log-densities of 30 points to old.csv\n")
    assert err == "toydiffusion: warning: the command score is now called log-prob; score will go\n"
    assert run("log-prob words.safetensors points.csv --label outer --out now.csv")[0] == 0
    assert (folder / "old.csv").read_bytes() == (folder / "now.csv").read_bytes()


def test_every_kind_of_table_gives_the_same(folder, run):
    for name in ("points.csv", "points.parquet", "points.npy"):
        assert run(f"log-prob plain.safetensors {name} --out {name}.csv")[0] == 0
    first, *others = (tables.read(folder / f"points.{k}.csv") for k in ("csv", "parquet", "npy"))
    assert first.columns == ("log_density", "log_density_total_error")
    for other in others:
        np.testing.assert_allclose(other.points, first.points, rtol=1e-12)


def test_labels_of_each_point_or_one_for_all(folder, run):
    model = td.load(folder / "words.safetensors")
    x = pd.read_csv(folder / "points.csv")
    assert run("log-prob words.safetensors points.csv --label-column ring --out own.csv")[0] == 0
    assert run("log-prob words.safetensors points.csv --label outer --out outer.csv")[0] == 0
    own, outer = tables.read(folder / "own.csv"), tables.read(folder / "outer.csv")
    points = x[["speed", "height"]]
    np.testing.assert_allclose(own.points[:, 0], model.log_prob(points, x.ring).value, atol=1e-6)
    np.testing.assert_allclose(outer.points[:, 0], model.log_prob(points, "outer").value, atol=1e-6)
    np.testing.assert_array_equal(own.points[:, 2:], outer.points[:, 2:])
    assert np.abs(own.points[:, 0] - outer.points[:, 0]).max() > 0.1


def test_columns_of_booleans_and_of_arrays(folder, run):
    assert run("log-prob boolean.safetensors points.csv --label TRUE --out b.csv")[0] == 0
    assert tables.read(folder / "b.csv").columns[2:] == ("p_false", "p_true")
    assert run("log-prob unnamed.safetensors other.csv --label-column ring --out u.csv")[0] == 0
    assert tables.read(folder / "u.csv").columns[2:] == ("p_0", "p_1", "p_2")
    p = tables.read(folder / "u.csv").points[:, 2:]
    assert calibration(p, pd.read_csv(folder / "other.csv").ring).log_loss < np.log(3)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_bad_rows_come_out_empty_and_in_place(folder, run, suffix):
    code, out, _ = run(f"log-prob words.safetensors holes.csv --on-bad skip --out holes-out{suffix}")
    assert (code, out) == (0, f"wrote the log-densities of 5 points to holes-out{suffix}, 3 of them empty\n")
    if suffix == ".csv":
        lines = (folder / "holes-out.csv").read_text().splitlines()
        assert [line == ",,,," for line in lines[1:]] == [False, True, True, True, False]
    elif suffix == ".parquet":
        frame = pd.read_parquet(folder / "holes-out.parquet")
        assert frame.isna().all(axis=1).tolist() == [False, True, True, True, False]
    found = tables.read(folder / f"holes-out{suffix}", on_bad="skip")
    assert found.missing.tolist() == [False, True, True, True, False]
    model = td.load(folder / "words.safetensors")
    want = model.log_prob([[0.1, 0.2], [-0.3, 0.4]]).value
    # The network rounds in float32, by the shape of its batch.
    np.testing.assert_allclose(found.points[[0, 4], 0], want, rtol=1e-6)


def test_no_rows_in_no_rows_out(folder, run):
    assert run("log-prob words.safetensors empty.csv --out none.csv")[0] == 0
    assert (
        folder / "none.csv"
    ).read_text() == "log_density,log_density_total_error,p_inner,p_middle,p_outer\n"


def test_a_tolerance_that_cannot_be_reached_is_one_line_of_warning(folder, run):
    code, out, err = run("log-prob plain.safetensors few.csv --tolerance 1e-13 --batch-size 7 --out t.csv")
    assert (code, out) == (0, "wrote the log-densities of 9 points to t.csv\n")
    assert err.startswith("toydiffusion: warning: points that missed the tolerance of 1e-13: 9;")
    assert err.count("\n") == 1
    loose = run("log-prob plain.safetensors few.csv --out loose.csv")
    assert loose[0] == 0
    tight, plain = tables.read(folder / "t.csv").points, tables.read(folder / "loose.csv").points
    assert (np.abs(tight[:, 0] - plain[:, 0]) <= tight[:, 1] + plain[:, 1]).all()


def test_batches_do_not_matter(folder, run):
    for size in (7, 4096):
        assert run(f"log-prob words.safetensors points.csv --batch-size {size} --out s{size}.csv")[0] == 0
    small, large = (tables.read(folder / f"s{size}.csv").points for size in (7, 4096))
    # The network rounds in float32, by the shape of its batch.
    np.testing.assert_allclose(small, large, rtol=1e-4, atol=1e-5)


def test_sigterm_leaves_the_old_file(folder, run, monkeypatch):
    (folder / "kept.csv").write_text("old")
    write = tables.Writer.write

    def stopped(self, *args):
        write(self, *args)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(tables.Writer, "write", stopped)
    code, out, err = run("log-prob plain.safetensors points.csv --out kept.csv")
    assert (code, out) == (130, "")
    assert err == "toydiffusion: interrupted\n"
    assert (folder / "kept.csv").read_text() == "old"
    assert not list(folder.glob(".*")) + list(folder.glob("*.part"))


def test_the_output_is_checked_before_the_work(run, monkeypatch):
    def work(*_args, **_named):
        pytest.fail("the work came first")

    monkeypatch.setattr("toydiffusion.cli.commands.points.load", work)
    for out in ("no/scores.csv", "scores.txt"):
        assert run(f"log-prob plain.safetensors points.csv --out {out}")[0] == 2


# Bad input -----------------------------------------------------------------------------------------------

BAD_COMMANDS = [
    ("log-prob no.safetensors points.csv --out s.csv", ["no model file 'no.safetensors'"]),
    ("log-prob points.csv points.csv --out s.csv", ["'points.csv'", "not a model file"]),
    ("log-prob plain.safetensors no.csv --out s.csv", ["'no.csv'", "no such file"]),
    ("log-prob plain.safetensors other.csv --out s.csv", ["'other.csv'", "no column 'speed'", "'a'"]),
    ("log-prob plain.safetensors one.csv --out s.csv", ["'one.csv'", "no column 'height'"]),
    ("log-prob plain.safetensors three.npy --out s.csv", ["'three.npy'", "no column 'speed'"]),
    ("log-prob unnamed.safetensors other.csv --out s.csv", ["'other.csv'", "2 columns", "got 3"]),
    ("log-prob plain.safetensors holes.csv --out s.csv", ["'holes.csv'", "line 3", "'speed'", "empty"]),
    ("log-prob plain.safetensors text.csv --out s.csv", ["'text.csv'", "line 3", "'height'", "'many'"]),
    ("log-prob plain.safetensors text.csv --on-bad skip --out s.csv", ["line 3", "'height'", "'many'"]),
    ("log-prob plain.safetensors points.csv --on-bad drop --out s.csv", ["'drop'", "'raise'", "'skip'"]),
    (
        "log-prob words.safetensors points.csv --label-column rang --out s.csv",
        ["'rang'", "did you mean 'ring'"],
    ),
    (
        "log-prob words.safetensors strange.csv --label-column ring --out s.csv",
        ["'strange.csv'", "'inmost'", "row 2"],
    ),
    ("log-prob words.safetensors points.csv --label inmost --out s.csv", ["no class 'inmost'", "'inner'"]),
    (
        "log-prob plain.safetensors points.csv --label inner --out s.csv",
        ["'plain.safetensors'", "without labels"],
    ),
    ("log-prob plain.safetensors points.csv --label-column ring --out s.csv", ["without labels"]),
    (
        "log-prob words.safetensors points.csv --label inner --label-column ring --out s.csv",
        ["--label", "--label-column", "give one"],
    ),
    ("log-prob plain.safetensors points.csv --tolerance 0 --out s.csv", ["--tolerance", "> 0", "0"]),
    ("log-prob plain.safetensors points.csv --tolerance nan --out s.csv", ["--tolerance", "nan"]),
    ("log-prob plain.safetensors points.csv --tolerance low --out s.csv", ["--tolerance", "'low'", "number"]),
    ("log-prob plain.safetensors points.csv --batch-size 0 --out s.csv", ["--batch-size", "0", ">= 1"]),
    ("log-prob plain.safetensors points.csv --out points.csv", ["'points.csv'", "same file"]),
    ("log-prob plain.safetensors far.csv --out s.csv", ["'far.csv'", "row 2", "1e+100 standard deviations"]),
    ("log-prob unnamed.safetensors other.csv --label-column b --out s.csv", ["'other.csv'", "row 1", "'b'"]),
    ("log-prob plain.safetensors points.csv --out s.txt", ["'s.txt'", "'.txt'", "'.csv'"]),
    ("log-prob plain.safetensors points.csv --out no/s.csv", ["no/s.csv'", "no folder 'no'"]),
    ("log-prob plain.safetensors points.csv", ["'--out'", "toydiffusion log-prob --help"]),
]


@pytest.mark.parametrize(("command", "words"), BAD_COMMANDS, ids=[command for command, _ in BAD_COMMANDS])
def test_bad_command(refused, command, words):
    refused(command, words)


X = np.zeros((3, 2))
NAMED = pd.DataFrame(X, columns=["speed", "hight"])
BAD_CALLS = {
    "not fitted": (lambda p, c: td.Diffusion().log_prob(X), ["not fitted"]),
    "a vector": (lambda p, c: p.log_prob([1.0, 2.0]), ["(2,)", "(n, d)"]),
    "three columns": (lambda p, c: p.log_prob(np.zeros((2, 3))), ["x must have 2 columns", "got 3"]),
    "other columns": (lambda p, c: p.log_prob(NAMED), ["no column 'height'", "did you mean 'hight'"]),
    "NaN": (lambda p, c: p.log_prob([[0, 0], [np.nan, 0]]), ["row 2", "'x0'", "nan"]),
    "NaN of the elbo": (lambda p, c: p.elbo([[0, np.inf]]), ["row 1", "'x1'", "inf"]),
    "on_bad": (lambda p, c: p.log_prob(X, on_bad="skipp"), ["'skipp'", "did you mean 'skip'"]),
    "label of none": (lambda p, c: p.log_prob(X, label="inner"), ["without labels"]),
    "unknown label": (lambda p, c: c.log_prob(X, label="iner"), ["'iner'", "did you mean 'inner'"]),
    "unknown label in a row": (lambda p, c: c.elbo(X, ["inner", "x", "outer"]), ["'x'", "row 2"]),
    "too few labels": (lambda p, c: c.log_prob(X, ["inner", "outer"]), ["3", "(2,)"]),
    "tolerance": (lambda p, c: p.log_prob(X, tolerance=0.0), ["tolerance", "> 0", "0.0"]),
    "tolerance as text": (lambda p, c: p.log_prob(X, tolerance="low"), ["tolerance", "'low'"]),
    "max_evaluations": (lambda p, c: p.log_prob(X, max_evaluations=0), ["max_evaluations", ">= 1", "0"]),
    "probes": (lambda p, c: p.log_prob(X, probes=3), ["probes", ">= 4", "3"]),
    "sigma as text": (lambda p, c: p.log_prob(X, sigma="a"), ["sigma", "'a'", "3 of them"]),
    "too far": (lambda p, c: p.elbo([[0, 0], [1e200, 0]]), ["row 2", "1e+100 standard deviations"]),
    "label of another kind": (lambda p, c: c.log_prob(X, label={"a": 1}), ["'inner'", "'outer'"]),
    "truth": (lambda p, c: p.check_density("square"), ["truth", "distribution", "str"]),
    "batch size": (lambda p, c: p.log_prob(X, batch_size=0), ["batch_size", ">= 1", "0"]),
    "sigma too low": (lambda p, c: p.log_prob(X, sigma=0.001), ["sigma", "0.01 to 20"]),
    "sigma too high": (lambda p, c: p.score(X, sigma=50.0), ["sigma", "0.01 to 20"]),
    "sigma NaN": (lambda p, c: p.log_prob(X, sigma=np.nan), ["sigma", "0.01 to 20"]),
    "sigma of another length": (lambda p, c: p.log_prob(X, sigma=[1.0, 2.0]), ["3", "(2,)"]),
    "evaluations": (lambda p, c: p.elbo(X, evaluations=3), ["evaluations", ">= 16", "3"]),
    "steps": (lambda p, c: p.elbo(X, steps=0), ["steps", ">= 1", "None"]),
    "classes of none": (lambda p, c: p.predict_proba(X), ["without labels", "no classes"]),
    "latent": (lambda p, c: p.decode(np.zeros((2, 5))), ["latent", "2 columns", "5"]),
    "samples": (lambda p, c: p.sample_with_log_prob(-1), ["-1", ">= 0"]),
    "truth of another dimension": (
        lambda p, c: p.check_density(Gaussian([0.0], [[1.0]])),
        ["2 columns", "1"],
    ),
    "truth of other classes": (lambda p, c: c.check_density(ConcentricSquares(5)), ["3 classes", "5"]),
    "endless without truth": (lambda p, c: p.check_density(endless=True), ["endless", "truth"]),
    "points": (lambda p, c: p.check_density(Square(), points=1), ["points", ">= 2", "1"]),
    "no probabilities": (lambda p, c: calibration([[0.5, 0.2]], [0]), ["rows that sum to 1", "(1, 2)"]),
    "labels of none": (lambda p, c: calibration([[0.5, 0.5]], [2]), ["0..1"]),
    "fit with holes": (
        lambda p, c: p.fit_table(tables.from_frame([[1, None], [2, 3]], on_bad="skip")),
        ["1 rows have missing numbers"],
    ),
}


@pytest.fixture(scope="module")
def models(folder):
    return td.load(folder / "plain.safetensors"), td.load(folder / "words.safetensors")


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_call(models, case):
    call, words = BAD_CALLS[case]
    with pytest.raises(td.InputError) as error:
        call(*models)
    message = str(error.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
