"""What users receive: every type exported and documented, and typed for those who check types."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import toydiffusion as td
from toydiffusion.distributions import ConcentricSquares

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_the_readmes_examples_pass_a_strict_type_check(tmp_path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(snippets) == 3
    file = tmp_path / "readme.py"
    # The kinds of answer that the overloads promise, stated for the type checker to contradict.
    file.write_text(
        "\n".join(snippets)
        + "\nimport numpy as np\nfrom numpy.typing import NDArray\n"
        + "a: NDArray[np.float64] = model.sample(3)\n"
        + "b, c = model.sample(3, return_labels=True)\n"
        + "d: NDArray[np.float64] = b\n"
        + "e: td.LogDensity = model.log_prob(a)\n"
        + "f: td.Certificate = model.check_density()\n"
        + "from matplotlib.figure import Figure\nfrom pandas import DataFrame\n"
        + "g: DataFrame = model.sample(3, as_frame=True, steps=2)\n"
        + "h: Figure = model.plot(data=a)\n"
    )
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import toydiffusion as td\nx: int = td.Diffusion().sample(3)\ntd.Difusion\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--no-error-summary"]
    done = subprocess.run([*command, file.name, wrong.name], capture_output=True, text=True, cwd=tmp_path)
    errors = done.stdout.splitlines()
    assert [line for line in errors if not line.startswith("wrong.py:")] == []
    assert [line.partition(": error: ")[0] for line in errors] == ["wrong.py:2", "wrong.py:3"]
    assert "Incompatible types in assignment" in errors[0]
    assert 'has no attribute "Difusion"' in errors[1]


@pytest.mark.slow
def test_every_type_that_a_user_receives_is_exported() -> None:
    x, y = ConcentricSquares(3).sample(60, seed=0)
    model = td.Diffusion(td.TrainConfig(steps=3, width=8)).fit(x, y)
    block = next(iter(model.sample_blocks(3)))
    received = [
        model.fitted,
        model.fitted.codec,
        model.fitted.provenance,
        model.standardizer,
        model.history,
        model.config,
        model.sampling,
        model.schedule,
        model.moments,
        model.prior(),
        model.log_prob(x[:2]),
        (bound := model.elbo(x[:2], evaluations=16)),
        bound.prior,
        block,
        next(iter(model.log_prob_blocks(td.Table(x[:2], None)))),
        (found := model.check_density(label=1, points=10, progress=False)),
        found.masses[0],
        found.mass,
    ]
    public = [td, td.distributions, td.schedules, td.solvers]
    names = {id(getattr(package, name)) for package in public for name in package.__all__}
    for value in received:
        assert id(type(value)) in names, type(value).__name__


def test_every_public_name_is_documented() -> None:
    for name in td.__all__:
        value = getattr(td, name)
        if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
            assert len(inspect.getdoc(value) or "") > 40, name
        if inspect.isclass(value) and dataclasses.is_dataclass(value):
            text = inspect.getdoc(value) or ""
            fields = [field.name for field in dataclasses.fields(value) if not field.name.startswith("_")]
            unsaid = [field for field in fields if f"`{field}`" not in text]
            assert unsaid == [], name


def test_one_class_for_users_without_bases_of_ours() -> None:
    assert td.Diffusion.__mro__ == (td.Diffusion, object)
    assert not any(name.startswith("_learned") for name in dir(td.Diffusion))


def test_names_that_are_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Difusion'"):
        td.Difusion  # noqa: B018
    assert set(td.__all__) <= set(dir(td))
    assert np.asarray(td.__all__).tolist() == sorted(
        td.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n)
    )
