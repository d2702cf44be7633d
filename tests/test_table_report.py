"""The report on a model of a table: its numbers, its page, its files, and what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from pages import Page, leaves
from scipy.stats import ks_2samp

import toydiffusion as td
from toydiffusion import baselines
from toydiffusion.model import rows_of, rows_to_hold_out
from toydiffusion.report import table_report
from toydiffusion.report.table import SECTIONS
from toydiffusion.tables import read

# The mixture alone has its log-densities in closed form, which saves minutes.
CONFIG = td.TableConfig(components=(1,), networks=False)


def rows(n: int, seed: int) -> pd.DataFrame:
    """Two classes; a column of whole numbers, one that is constant, one that follows from another."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n)
    width = rng.normal(2 * kind, 1)
    return pd.DataFrame(
        {
            "width": width,
            "<b>count</b>": rng.poisson(20, n),
            "same": 7,
            "height": 3 * width + rng.normal(size=n),
            "kind": np.where(kind, "big", "small"),
        }
    )


@pytest.fixture(autouse=True)
def few_mixtures(monkeypatch):
    monkeypatch.setattr(baselines, "_COMPONENTS", (1, 2))
    monkeypatch.setattr(baselines, "_RIDGES", (1e-3,))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A table with an odd row, a model of it, and fresh rows."""
    folder = tmp_path_factory.mktemp("report")
    table = rows(150, 0)
    table.loc[41, "height"] += 12
    table.to_csv(folder / "rows.csv", index=False)
    rows(60, 1).to_csv(folder / "fresh.csv", index=False)
    own = read(folder / "rows.csv", label_column="kind")
    model = td.Diffusion(CONFIG).fit_table(own, progress=False)
    model.save(folder / "model.safetensors")
    return folder, model, own


@pytest.fixture(scope="module")
def story(case):
    folder, model, own = case
    found = table_report(model, own, folder / "report.html", show=False)
    return found, (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def folder(case):
    return case[0]


# The page --------------------------------------------------------------------------------------------


def test_the_page_is_one_file_with_every_section(story):
    html = Page(story[1])
    ids = {value for _, name, value in html.attributes if name == "id"}
    links = [value for tag, name, value in html.attributes if (tag, name) == ("a", "href")]
    assert links == [f"#{anchor}" for anchor in SECTIONS]
    assert set(SECTIONS) <= ids
    assert len(html.images) == 5
    assert all(image["src"].startswith("data:image/png") and len(image["alt"]) > 20 for image in html.images)
    assert not {tag for tag, _, _ in html.attributes} & {"script", "link", "iframe"}
    assert not re.search(r"https?://|@import|url\(", story[1])


def test_names_of_columns_are_escaped(story):
    assert "<b>count" not in story[1]
    assert "&lt;b&gt;count&lt;/b&gt;" in story[1]


def test_every_number_is_one_of_the_results(story):
    known = {float(one) for one in leaves(story[0]) if isinstance(one, int | float)}
    for value, text in Page(story[1]).data:
        assert value in known
        shown = float(text.rstrip("%").replace(",", "")) / (100 if text.endswith("%") else 1)
        last = 10.0 ** -len(text.partition(".")[2].rstrip("%")) / (100 if text.endswith("%") else 1)
        assert shown == pytest.approx(value, rel=0.06 if "." in text else 1e-9, abs=0.501 * last)


# The numbers -----------------------------------------------------------------------------------------


def test_held_out_rows_are_judged_by_a_model_that_has_not_seen_them(case, story):
    _, model, own = case
    apart = rows_to_hold_out(own, seed=0)
    train, test = rows_of(own, ~apart), rows_of(own, apart)
    fresh = td.Diffusion(model.config).fit_table(train, progress=False)
    known = fresh.compare(train, test)
    found = story[0]["comparison"]
    assert (found["num_rows"], found["train"]) == (30, 120)
    assert found["log_prob"]["value"] == pytest.approx(known.log_prob.value, abs=1e-9)
    assert found["finding"] == known.recommendation


def test_the_odd_row_is_listed_with_its_reason(story):
    found = story[0]["outliers"]
    assert found["rows"] == 150
    assert found["listed"][0][0] == 42
    assert "height" in found["listed"][0][4] or "width" in found["listed"][0][4]


def test_columns_are_compared_as_they_are_spread(case, story):
    _, model, own = case
    by_name = {row[0]: row[1:] for row in story[0]["samples"]["columns"]}
    drawn = model.sample(1000)
    assert by_name["width"][-1] == pytest.approx(ks_2samp(own.points[:, 0], drawn[:, 0]).statistic)
    assert by_name["width"][1] == pytest.approx(np.median(own.points[:, 0]))
    assert by_name["same"][:6] == [7.0] * 6
    assert by_name["<b>count</b>"][-1] < 0.2


def test_a_good_model_is_calibrated_and_knows_the_classes(story):
    found = story[0]["calibration"]
    assert found["rows"] == 30
    assert found["p_value"] > 0.001
    assert found["classes"]["accuracy"] > found["classes"]["frequent"] + 0.1


def test_fresh_rows_are_judged_by_the_model_itself(case, tmp_path):
    folder, model, own = case
    fresh = read(folder / "fresh.csv", label_column="kind")
    found = table_report(model, own, tmp_path / "page.html", held_out=fresh, seed=2, show=False)
    assert found["made"]["refitted"] is False
    assert found["comparison"]["num_rows"] == 60
    assert found["comparison"]["log_prob"]["value"] == pytest.approx(
        model.compare(own, fresh, seed=2).log_prob.value
    )
    text = (tmp_path / "page.html").read_text()
    assert re.search(
        r"<em>held-out rows</em> are <data[^>]*>60</data> rows that the model has\s+not seen", text
    )
    assert "second model" not in text


@pytest.mark.slow
def test_a_model_of_one_network_has_a_report_too(tmp_path):
    x, _ = td.distributions.Square().sample(150, seed=0)
    own = td.Table(x, ("a", "b"))
    model = td.Diffusion(td.TrainConfig(steps=200)).fit_table(own, progress=False)
    found = table_report(model, own, tmp_path / "page.html", show=False)
    assert found["experts"] == {"known": False}
    assert found["outliers"] == {"known": False}
    text = (tmp_path / "page.html").read_text()
    assert text.count("preset <code>table</code>") == 2
    assert len(Page(text).images) == 3


# The command -----------------------------------------------------------------------------------------


def test_the_command_writes_the_same_page(run, story, folder):
    code, out, err = run("report model.safetensors rows.csv --out again.html")
    assert (code, out, err) == (0, "wrote again.html\n", "")
    took = re.compile(r"in\s+<data[^>]*>\d+</data> seconds")
    same = [took.sub("", text) for text in ((folder / "again.html").read_text(), story[1])]
    assert same[0] == same[1]


def test_missing_cells_are_left_out_and_rows_keep_their_numbers(run, folder):
    table = pd.read_csv(folder / "rows.csv")
    table.loc[[3, 10], "width"] = np.nan
    table.to_csv(folder / "holes.csv", index=False)
    code, _, err = run("report model.safetensors holes.csv --on-bad skip --out holes.html")
    assert code == 0
    assert "'holes.csv' is not the file that the model was fitted to" in err
    text = (folder / "holes.html").read_text()
    assert re.search(r">2</data> rows with missing\s+numbers are left out", text)
    first = text.index("The oddest rows.")
    assert re.search(r'<data value="(\d+)"', text[first:])[1] == "42"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("report model.safetensors rows.csv --out page.pdf", ["'page.pdf': a report ends in '.html'"]),
        ("report model.safetensors rows.csv --out none/page.html", ["none"]),
        ("report model.safetensors none.csv", ["none.csv"]),
        ("report none.safetensors rows.csv", ["none.safetensors"]),
        ("report model.safetensors rows.csv --fdr 2", ["--fdr", "2"]),
        ("report model.safetensors unlabelled.csv", ["kind"]),
        ("report model.safetensors few.csv", ["'few.csv'", "6 rows", "at least 10"]),
        ("report model.safetensors holes.csv", ["'holes.csv'", "line 4", "width"]),
        ("report model.safetensors rows.csv --held-out other.csv", ["'other.csv'", "width"]),
    ],
)
def test_what_cannot_be_reported_is_said_in_one_line(refused, folder, command, words):
    table = pd.read_csv(folder / "rows.csv")
    table.drop(columns="kind").to_csv(folder / "unlabelled.csv", index=False)
    table.drop(columns="width").to_csv(folder / "other.csv", index=False)
    table[:6].to_csv(folder / "few.csv", index=False)
    table.loc[2, "width"] = np.nan
    table.to_csv(folder / "holes.csv", index=False)
    refused(command, words)
