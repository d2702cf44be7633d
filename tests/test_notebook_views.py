"""What people expect of results in a notebook: HTML tables, data frames, samples with names."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import polars as pl
import pytest

import toydiffusion as td
from toydiffusion import tables
from toydiffusion.certificate import Budget, Certificate, Mass
from toydiffusion.density import Elbo, LogDensity, Term
from toydiffusion.metrics import Estimate
from toydiffusion.views import html_table

QUICK = td.TrainConfig(steps=20, width=8, edges=4)
NAMES = ("<b>", "a & b", "Ünï")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    x, y = td.distributions.ConcentricSquares(3).sample(120, seed=0)
    return pd.DataFrame({"width": x[:, 0], "he<ight": 1e6 * x[:, 1], "kind": np.array(NAMES)[y]})


@pytest.fixture(scope="module")
def model(frame) -> td.Diffusion:
    return td.Diffusion(QUICK).fit(frame[["width", "he<ight"]], frame["kind"], seed=0)


def estimate(value: float) -> Estimate:
    return Estimate(value, value / 8)


BUDGET = Budget(
    estimate(1.0), estimate(2.0), estimate(3.0), Estimate(np.nan, np.nan), estimate(4.0), estimate(10.0)
)
CERTIFICATE = Certificate(
    masses=(Mass(0.5, 0.25, "quadrature", 9), Mass(1.5, 0.125, "quadrature", 9)),
    frequencies=(0.75, 0.25),
    solver_error=estimate(8.0),
    mean_error=16.0,
    covered=0.5,
    prior_error=estimate(32.0),
    elbo_gap=estimate(64.0),
    elbo_spread=128.0,
    leak=None,
    true_leak=None,
    budget=BUDGET,
)
DENSITY = LogDensity(
    value=np.array([0.0, -1.0, np.nan, -2.0, -3.0, -4.0, -5.0, -7.0]),
    error=np.array([0.5, 0.25, np.nan, 0.5, 0.5, 0.5, 0.5, 0.5]),
    prior_error=np.array([0.25, 0.5, np.nan, 0.5, 0.5, 0.5, 0.5, 0.5]),
    std_error=np.array([0.125, 1.0, np.nan, 0.5, 0.5, 0.5, 0.5, 0.5]),
    evaluations=np.array([10, 20, 0, 30, 40, 50, 60, 2000]),
    met=np.array([True, False, True, True, True, True, True, True]),
)


def cells(page: str) -> list[list[str]]:
    """Return the texts of the rows of a table. A page that is not well-formed is an error."""
    return [["".join(cell.itertext()) for cell in row] for row in ElementTree.fromstring(page).iter("tr")]


# HTML tables ----------------------------------------------------------------------------------------------


def test_a_table_escapes_every_text_and_names_no_colour() -> None:
    hostile = "<script>'\"&amp;"
    page = html_table(hostile, [[hostile, hostile]], [hostile, hostile])
    root = ElementTree.fromstring(page)
    assert root.findtext("caption/b") == hostile
    assert cells(page) == [[hostile, hostile]] * 2
    assert "script>" not in page.replace("&lt;script&gt;", "")
    for view in (page, CERTIFICATE._repr_html_(), DENSITY._repr_html_()):
        assert "color" not in view
        assert "background" not in view


def test_the_model_and_the_certificate_show_their_rows(model) -> None:
    assert cells(model._repr_html_()) == [list(row) for row in model.card()]
    assert "<b>" in dict(cells(model._repr_html_()))["classes"]
    assert cells(td.Diffusion()._repr_html_()) == []
    assert cells(CERTIFICATE._repr_html_()) == [list(row) for row in CERTIFICATE.rows()]


def test_a_log_density_shows_its_first_points_and_a_summary() -> None:
    heads, *rows = cells(DENSITY._repr_html_())
    assert heads == ["", "value", "error", "prior_error", "total_error", "evaluations", "met"]
    assert [row[0] for row in rows] == [*"012345", "mean", "minimum", "median", "maximum"]
    found = {row[0]: row[1:] for row in rows}
    assert found["0"] == ["0.0000", "0.5", "0.25", "0.88", "10", "True"]
    assert found["1"] == ["-1.0000", "0.25", "0.5", "1.8", "20", "False"]
    assert found["2"][0] == "nan"
    known = pd.Series(DENSITY.value).dropna()
    for name, value in (("mean", known.mean()), ("minimum", -7), ("median", known.median()), ("maximum", 0)):
        assert float(found[name][0]) == pytest.approx(value, abs=1e-4)
    assert found["maximum"][4] == "2,000"
    assert "8 points" in DENSITY._repr_html_()
    assert "7 met the tolerance" in DENSITY._repr_html_()
    nothing = LogDensity(*(np.zeros(0) for _ in range(5)), np.zeros(0, bool))
    assert cells(nothing._repr_html_()) == [heads]


def test_an_elbo_shows_its_terms(model, frame) -> None:
    bound = model.elbo(frame[["width", "he<ight"]][:9], evaluations=16)
    heads, *rows = cells(bound._repr_html_())
    assert heads[1:5] == ["value", "reconstruction", "diffusion", "prior"]
    for row in rows[:7]:
        value, *terms = map(float, row[1:5])
        assert value == pytest.approx(sum(terms), abs=2e-4)
    assert float(rows[6][1]) == pytest.approx(float(np.mean(bound)), abs=1e-4)


# Data frames ----------------------------------------------------------------------------------------------


def test_a_log_density_as_a_frame_has_the_columns_of_the_command(model, frame, tmp_path) -> None:
    from toydiffusion.cli import main

    model.save(tmp_path / "m.safetensors")
    frame[["width", "he<ight"]][:9].to_csv(tmp_path / "x.csv", index=False)
    paths = [str(tmp_path / name) for name in ("m.safetensors", "x.csv", "out.csv")]
    assert main(["log-prob", *paths[:2], "--out", paths[2]]) == 0
    written = pd.read_csv(paths[2])
    found = model.log_prob(frame[["width", "he<ight"]][:9]).to_pandas()
    both = ["log_density", "log_density_total_error"]
    pd.testing.assert_frame_equal(found[both], written[both], rtol=0, atol=1e-9)
    again = DENSITY.to_pandas()
    total = again["error"] + again["prior_error"] + again["std_error"]
    np.testing.assert_array_equal(again["log_density_total_error"], total)
    for name in ("error", "prior_error", "std_error", "evaluations", "met"):
        np.testing.assert_array_equal(again[name], getattr(DENSITY, name))
    assert [again["evaluations"].dtype.kind, again["met"].dtype.kind] == ["i", "b"]


def test_the_terms_of_an_elbo_as_a_frame() -> None:
    n = np.arange(4.0)
    terms = [Term(n + i, 0.1 * (n + i)) for i in (1, 2, 3)]
    frame = Elbo(sum(term.value for term in terms), 0.7 * n, *terms).to_pandas()
    np.testing.assert_allclose(frame["reconstruction"] + frame["diffusion"] + frame["prior"], frame["elbo"])
    np.testing.assert_array_equal(frame["diffusion_std_error"], 0.1 * (n + 2))
    np.testing.assert_array_equal(frame["elbo_std_error"], 0.7 * n)


def test_the_history_as_a_frame_counts_steps_from_one(frame) -> None:
    config = td.TrainConfig(steps=100, width=8, edges=4, held_out=0.2)
    history = td.Diffusion(config).fit(frame[["width"]]).history
    found = history.to_pandas()
    assert found.index.name == "step"
    assert found.index.tolist() == list(range(1, 101))
    assert found["loss"].tolist() == list(history.loss)
    assert list(found["held_out"].dropna().items()) == list(history.held_out)
    assert td.History((0.5, 0.25)).to_pandas()["held_out"].isna().all()


def test_a_budget_and_a_certificate_as_frames_of_named_rows() -> None:
    budget = BUDGET.to_pandas()
    assert budget["value"].to_dict() == {
        "lowest_sigma": 1.0, "prior": 2.0, "solver": 3.0, "finite_data": 4.0, "total": 10.0
    }  # fmt: skip
    assert budget["value"].drop("total").sum() == budget["value"]["total"]
    np.testing.assert_array_equal(budget["std_error"], budget["value"] / 8)
    found = CERTIFICATE.to_pandas()
    pd.testing.assert_frame_equal(
        found[found.index.str.startswith("budget.")].rename(lambda name: name.removeprefix("budget.")), budget
    )
    assert found["value"]["mass"] == 0.75 * 0.5 + 0.25 * 1.5
    assert found.loc["masses[1]"].tolist() == [1.5, 0.125]
    assert found["value"][["covered", "elbo_spread", "solver_error"]].tolist() == [0.5, 128.0, 8.0]
    assert np.isnan(found["std_error"]["covered"])
    assert "leak" not in found.index


def test_a_table_goes_to_pandas_and_back(frame) -> None:
    table = tables.from_frame(frame[["width", "he<ight"]], frame["kind"])
    pd.testing.assert_frame_equal(table.to_pandas(), frame, check_dtype=False)
    bare = td.Table(np.eye(2), ("label", "label_1"), np.array([True, False])).to_pandas()
    assert list(bare.columns) == ["label", "label_1", "label_2"]
    assert bare["label_2"].dtype == bool
    assert list(td.Table(np.eye(2), None).to_pandas().columns) == ["x0", "x1"]


@pytest.mark.parametrize(
    "series", [lambda name: pd.Series(["p", "q"], name=name), lambda name: pl.Series(name, ["p", "q"])]
)
def test_the_name_of_a_series_of_labels_is_kept_if_it_is_free(series) -> None:
    for name, columns, kept in (
        ("kind", ["a", "b"], "kind"),
        ("a", ["a", "b"], None),
        ("x1", None, None),
        ("", ["a", "b"], None),
    ):
        x = np.eye(2) if columns is None else pd.DataFrame(np.eye(2), columns=columns)
        assert tables.from_frame(x, series(name)).label_column == kept
    assert tables.from_frame(np.eye(2), pd.Series([1, 2], name=7)).label_column is None
    assert tables.from_frame(np.eye(2), ["p", "q"]).label_column is None


# Samples --------------------------------------------------------------------------------------------------


def test_a_sample_as_a_frame_is_the_table_that_the_command_writes(model, frame, tmp_path) -> None:
    from toydiffusion.cli import main

    model.save(tmp_path / "m.safetensors")
    out = str(tmp_path / "new.csv")
    assert main(["sample", str(tmp_path / "m.safetensors"), "-n", "30", "--seed", "4", "--out", out]) == 0
    found = model.sample(30, seed=4, as_frame=True)
    pd.testing.assert_frame_equal(found, pd.read_csv(out), check_dtype=False, rtol=1e-14, atol=0)
    assert list(found.columns) == list(frame.columns)
    x, y = model.sample(30, seed=4, return_labels=True)
    np.testing.assert_array_equal(found[["width", "he<ight"]], x)
    assert found["kind"].tolist() == y.tolist()
    again = td.Diffusion(QUICK).fit(found[["width", "he<ight"]], found["kind"])
    assert (again.columns, again.label_column) == (model.columns, "kind")
    assert set(again.classes) <= set(NAMES)


def test_a_sample_as_a_frame_of_a_model_without_names_or_labels() -> None:
    x, y = td.distributions.ConcentricSquares(3).sample(60, seed=0)
    plain = td.Diffusion(QUICK).fit(x).sample(4, as_frame=True, steps=3)
    assert (list(plain.columns), plain.shape) == (["x0", "x1"], (4, 2))
    labelled = td.Diffusion(QUICK).fit(x, y)
    assert labelled.sample(0, as_frame=True).columns.tolist() == ["x0", "x1", "label"]
    one = labelled.sample(5, label=2, as_frame=True)
    assert one["label"].tolist() == [2] * 5
    assert one["label"].dtype == np.int64


def test_as_frame_with_return_labels_is_refused(model) -> None:
    with pytest.raises(td.InputError, match="leave out return_labels"):
        model.sample(3, as_frame=True, return_labels=True)


def test_without_pandas_one_sentence_says_what_to_install(tmp_path) -> None:
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "import numpy as np, toydiffusion as td\n"
        "model = td.Diffusion(td.TrainConfig(steps=2)).fit(np.eye(2))\n"
        "for ask in (model.history.to_pandas, model.log_prob(np.eye(2)).to_pandas,\n"
        "            lambda: model.sample(10**9, as_frame=True)):\n"
        "    try:\n"
        "        ask()\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "to_pandas needs pandas: pip install pandas",
        "to_pandas needs pandas: pip install pandas",
        "as_frame needs pandas: pip install pandas",
    ]
