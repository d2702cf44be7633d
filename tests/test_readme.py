"""Every command and example in the README runs, in one folder, from top to bottom."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import mktestdocs
import numpy as np
import pytest

from toydiffusion import tables
from toydiffusion.cli import main

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_the_examples_run_as_they_stand(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    mktestdocs.check_md_file(README, memory=True)
    printed = capsys.readouterr().out
    # What the first example prints: most points of class 3 lie inside their own class.
    assert 0.8 < float(printed.split()[0]) <= 1
    commands = re.findall(
        r"^(toydiffusion (?:fit|show|sample|log-prob|export) .*)$", README.read_text(), re.MULTILINE
    )
    assert len(commands) == 6
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command
    assert "squares.safetensors" in Path("squares.html").read_text()
    iris = tables.read("iris.csv", label_column="target")
    new = tables.read("new.csv", label_column="target")
    assert new.columns == iris.columns
    assert len(new.points) == 1000
    np.testing.assert_allclose(new.points.mean(0), iris.points.mean(0), atol=0.25 * iris.points.std(0).max())
    flowers = tables.read("virginica.parquet", label_column="target")
    assert flowers.labels is not None
    assert set(flowers.labels.tolist()) == {2}
    found = tables.read("log_probs.csv")
    assert found.columns == ("log_density", "log_density_total_error", "p_0", "p_1", "p_2")
    assert iris.labels is not None
    assert np.mean(found.points[:, 2:].argmax(1) == iris.labels) > 0.95
    own = iris.points[iris.labels == 2]
    np.testing.assert_allclose(flowers.points.mean(0), own.mean(0), atol=0.4)


@pytest.mark.parametrize("target", re.findall(r"\]\(((?!http)[^)]+)\)", README.read_text()))
def test_links_lead_somewhere(target: str) -> None:
    assert (README.parent / target).exists()
