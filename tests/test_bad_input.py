"""Bad input as two tables, the command line's and Python's: what is given, and the words of the line back.

And the reverse: odd input that must simply work.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import toydiffusion as td
from toydiffusion import tables
from toydiffusion.cli import main
from toydiffusion.files import Archive

GOOD = "x,y,class\n1,2,0\n2,1,1\n4,5,0\n-1,0.5,1\n"
TABLES = {
    "good.csv": GOOD,
    "good.txt": GOOD,
    "empty.csv": "",
    "header.csv": "x,y\n",
    "one.csv": "x,y\n1,2\n",
    "ragged.csv": "x,y\n1,2\n3\n",
    "word.csv": "x,y\n1,2\n3,many\n",
    "words.csv": "x,colour\n1,red\n3,blue\n",
    "gap.csv": "x,y\n1,2\n,4\n",
    "nan.csv": "x,y\n1,2\n3,nan\n",
    "inf.csv": "x,y\n1,inf\n3,4\n",
    "constant.csv": "x,y\n1,2\n3,2\n",
    "identical.csv": "x,y\n1,2\n1,2\n1,2\n",
    "unlabelled.csv": "x,class\n1,in\n2,\n",
    "one-class.csv": "x,class\n1,in\n2,in\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a table, good models and every bad file of the tables below."""
    folder = tmp_path_factory.mktemp("bad")
    for name, text in TABLES.items():
        (folder / name).write_text(text)
    (folder / "folder.csv").mkdir()
    (folder / "folder.safetensors").mkdir()
    (folder / "broken-link.csv").symlink_to("nowhere.csv")
    np.save(folder / "cube.npy", np.zeros((2, 2, 2)))

    rng = np.random.default_rng(0)
    points, config = rng.normal(size=(20, 2)), td.TrainConfig(steps=2, width=8, edges=4)
    td.Diffusion(config).fit(points).save(folder / "plain.safetensors")
    td.Diffusion(config).fit(points, rng.integers(0, 3, 20)).save(folder / "model.safetensors")
    td.Diffusion(config).fit(points, ["in", "out"] * 10).save(folder / "words.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(content[:-100])
    (folder / "cut-in-header.safetensors").write_bytes(content[:100])
    (folder / "nothing.safetensors").write_bytes(b"")
    (folder / "text.safetensors").write_text(GOOD)
    (folder / "tensor.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (folder / "header.safetensors").write_bytes(content.replace(b'"adams', b'"adamt', 1))
    version = content.replace(b'\\"format\\": 2', b'\\"format\\": 3', 1)
    assert version != content
    (folder / "version.safetensors").write_bytes(version)
    save_file({"weight": torch.zeros(3)}, folder / "foreign.safetensors")
    state = td.training.TrainState.start(2, 1, config, seed=0)
    for name in ("checkpoint.safetensors", "other.checkpoint"):
        td.training.Checkpoint(folder / name, "").save(state)
    shutil.copy(folder / "model.safetensors", folder / "not-one.checkpoint")
    return folder


FIT = "--steps 2 --out new.safetensors"
BAD_COMMANDS = [
    # The table of points.
    (f"fit nothing.csv {FIT}", ["'nothing.csv'", "no such file"]),
    (f"fit broken-link.csv {FIT}", ["'broken-link.csv'", "no such file"]),
    (f"fit folder.csv {FIT}", ["'folder.csv'", "is a folder"]),
    (f"fit good.txt {FIT}", ["'good.txt'", "'.txt'", "'.csv'", "'.parquet'", "'.npy'"]),
    (f"fit good {FIT}", ["'good'", "'.csv'"]),
    (f"fit empty.csv {FIT}", ["'empty.csv'", "is empty"]),
    (f"fit header.csv {FIT}", ["'header.csv'", "at least 2 points", "found 0"]),
    (f"fit one.csv {FIT}", ["'one.csv'", "at least 2 points", "found 1"]),
    (f"fit ragged.csv {FIT}", ["'ragged.csv'", "line 3", "found 1 field", "header has 2"]),
    (f"fit word.csv {FIT}", ["'word.csv'", "line 3", "column 'y'", "'many'", "finite number"]),
    (f"fit words.csv {FIT}", ["'words.csv'", "column 'colour'", "'red'", "--label-column"]),
    (f"fit gap.csv {FIT}", ["'gap.csv'", "line 3", "column 'x'", "empty", "finite number"]),
    (f"fit nan.csv {FIT}", ["'nan.csv'", "line 3", "column 'y'", "'nan'", "finite number"]),
    (f"fit inf.csv {FIT}", ["'inf.csv'", "line 2", "column 'y'", "'inf'", "finite number"]),
    (f"fit cube.npy {FIT}", ["'cube.npy'", "(2, 2, 2)", "(n, d)"]),
    (f"fit constant.csv {FIT}", ["'constant.csv'", "column 'y'", "2.0", "every row"]),
    (f"fit identical.csv {FIT}", ["'identical.csv'", "3 points", "identical"]),
    (f"fit good.csv --columns x,z {FIT}", ["'good.csv'", "no column 'z'", "'y'"]),
    (f"fit good.csv --columns x,x {FIT}", ["two columns", "'x'"]),
    (f"fit good.csv --columns= {FIT}", ["'good.csv'", "no numeric column"]),
    # Its labels.
    (f"fit good.csv --label-column clas {FIT}", ["'good.csv'", "no column 'clas'", "did you mean 'class'"]),
    (f"fit unlabelled.csv --label-column class {FIT}", ["line 3", "column 'class'", "missing"]),
    (f"fit one-class.csv --label-column class {FIT}", ["only one class", "'class'", "'in'", "at least 2"]),
    (f"fit good.csv --label-column x --columns x,y {FIT}", ["'x'", "both"]),
    # Settings.
    (f"fit good.csv --preset orignal {FIT}", ["preset 'orignal'", "did you mean 'original'"]),
    (f"fit good.csv --schedule cosin {FIT}", ["schedule 'cosin'", "did you mean 'cosine'"]),
    (f"fit good.csv --preconditioning emd {FIT}", ["preconditioning 'emd'", "did you mean 'edm'"]),
    (f"fit good.csv --device gpu {FIT}", ["device 'gpu'", "'cpu'"]),
    (f"fit good.csv --device meta {FIT}", ["device 'meta'", "'cpu'"]),
    ("sample model.safetensors -n 5 --device gpu --out new.csv", ["device 'gpu'", "'cpu'"]),
    (f"fit good.csv {FIT} --steps 0", ["--steps", "0", ">= 1"]),
    (f"fit good.csv {FIT} --steps 1.5", ["--steps", "'1.5'", "whole number"]),
    (f"fit good.csv {FIT} --batch-size 0", ["--batch-size", "0", ">= 1"]),
    (f"fit good.csv {FIT} --width 0", ["--width", "0", ">= 1"]),
    (f"fit good.csv {FIT} --learning-rate 0", ["--learning-rate", "0", "> 0"]),
    (f"fit good.csv {FIT} --learning-rate fast", ["--learning-rate", "'fast'", "number"]),
    (f"fit good.csv {FIT} --learning-rate nan", ["--learning-rate", "nan"]),
    (f"fit good.csv {FIT} --sigma-min 30", ["--sigma-min", "30", "--sigma-max", "20"]),
    (f"fit good.csv {FIT} --sigma-max inf", ["--sigma-max", "inf", "finite"]),
    (f"fit good.csv {FIT} --held-out 1", ["--held-out", "1"]),
    (f"fit good.csv {FIT} --held-out 0.9", ["--held-out", "0.9", "4 points"]),
    (f"fit good.csv {FIT} --seed -1", ["--seed", "-1", ">= 0"]),
    # The model to write, and its checkpoint.
    ("fit good.csv --out new.csv", ["'new.csv'", "'.safetensors'", "'.csv'"]),
    ("fit good.csv --out new", ["'new'", "'.safetensors'"]),
    ("fit good.csv --out no/new.safetensors", ["no/new.safetensors'", "no folder 'no'"]),
    ("fit good.csv --out good.csv/new.safetensors", ["'good.csv' is not a folder"]),
    ("fit good.csv --out folder.safetensors", ["'folder.safetensors'", "is a folder"]),
    ("fit good.csv --out /sys/new.safetensors", ["'/sys/new.safetensors'", "not writable"]),
    (f"fit good.csv {FIT} --resume", ["'new.checkpoint'", "no checkpoint"]),
    ("fit good.csv --out other.safetensors --resume", ["'other.checkpoint'", "other points, settings"]),
    ("fit good.csv --out not-one.safetensors --resume", ["'not-one.checkpoint'", "is a model"]),
    # The model to read.
    ("show missing.safetensors", ["no model file 'missing.safetensors'"]),
    ("show nothing.safetensors", ["'nothing.safetensors'", "not a model file"]),
    ("show nothing/at/all", ["no model file 'nothing/at/all'"]),
    ("show folder.safetensors", ["'folder.safetensors'", "is a folder"]),
    ("show cut.safetensors", ["'cut.safetensors'", "cut off"]),
    ("show cut-in-header.safetensors", ["'cut-in-header.safetensors'", "cut off"]),
    ("show good.csv", ["'good.csv'", "not a model file"]),
    ("show text.safetensors", ["'text.safetensors'", "not a model file"]),
    ("show foreign.safetensors", ["'foreign.safetensors'", "not saved by toydiffusion"]),
    ("show checkpoint.safetensors", ["'checkpoint.safetensors'", "checkpoint", "expected a model"]),
    ("show tensor.safetensors", ["'tensor.safetensors'", "altered"]),
    ("show header.safetensors", ["'header.safetensors'", "altered"]),
    ("show version.safetensors", ["'version.safetensors'", "version 3", "version 2"]),
    ("sample good.csv -n 5 --out new.csv", ["'good.csv'", "not a model file"]),
    # What to draw.
    ("sample model.safetensors -n 0 --out new.csv", ["0", "whole number >= 1"]),
    ("sample model.safetensors -n -3 --out new.csv", ["-3", "whole number >= 1"]),
    ("sample model.safetensors -n 2.5 --out new.csv", ["-n", "'2.5'", "whole number"]),
    (
        "sample model.safetensors -n 5 --label 7 --out new.csv",
        ["'model.safetensors'", "'7'", "'0', '1', '2'"],
    ),
    ("sample words.safetensors -n 5 --label inn --out new.csv", ["no class 'inn'", "did you mean 'in'"]),
    ("sample plain.safetensors -n 5 --label 0 --out new.csv", ["'plain.safetensors'", "without labels"]),
    ("sample plain.safetensors -n 5 --guidance 2 --out new.csv", ["--guidance", "label"]),
    ("sample plain.safetensors -n 5 --solver hein --out new.csv", ["solver 'hein'", "did you mean 'heun'"]),
    ("sample plain.safetensors -n 5 --schedule karas --out new.csv", ["did you mean 'karras'"]),
    ("sample plain.safetensors -n 5 --steps 0 --out new.csv", ["--steps", "0", ">= 1"]),
    ("sample plain.safetensors -n 5 --sigma-start 99 --out new.csv", ["--sigma-start", "99", "20"]),
    ("sample plain.safetensors -n 5 --churn -1 --out new.csv", ["--churn", "-1", ">= 0"]),
    ("sample plain.safetensors -n 5 --churn 1 --out new.csv", ["--churn", "'heun'"]),
    ("sample plain.safetensors -n 5 --batch-size 0 --out new.csv", ["--batch-size", "0", ">= 1"]),
    ("sample plain.safetensors -n 5 --seed -1 --out new.csv", ["--seed", "-1", ">= 0"]),
    # The table to write.
    ("sample plain.safetensors -n 5 --out new.txt", ["'new.txt'", "'.txt'", "'.csv'"]),
    ("sample plain.safetensors -n 5 --out no/new.csv", ["no/new.csv'", "no folder 'no'"]),
    ("sample plain.safetensors -n 5 --out folder.csv", ["'folder.csv'", "is a folder"]),
    ("sample plain.safetensors -n 5 --out /sys/new.csv", ["'/sys/new.csv'", "not writable"]),
    ("sample words.safetensors -n 5 --out new.npy", ["'new.npy'", "text", ".parquet"]),
    # The command itself.
    ("fitt good.csv", ["'fitt'", "'fit'"]),
    ("fit", ["'POINTS'", "toydiffusion fit --help"]),
    ("fit good.csv", ["'--out'", "toydiffusion fit --help"]),
    (f"fit good.csv {FIT} --stepz 3", ["--stepz", "--steps"]),
    (f"fit good.csv good.csv {FIT}", ["good.csv", "unexpected"]),
    (f"fit good.csv {FIT} --steps", ["--steps", "argument"]),
    ("--versio", ["--versio", "--version"]),
]


@pytest.mark.parametrize(("command", "words"), BAD_COMMANDS, ids=[command for command, _ in BAD_COMMANDS])
def test_bad_command(refused, command, words):
    refused(command, words)


def test_a_file_one_may_not_read(folder, run, monkeypatch):
    def no_permission(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", no_permission)  # chmod does not stop root
    code, _, err = run("fit good.csv --out model.safetensors")
    assert code in (1, 2)
    assert "ermission" in err


def test_the_output_is_checked_before_the_work(run, monkeypatch):
    def work(*_: object, **__: object) -> None:
        pytest.fail("the work came first")

    monkeypatch.setattr(tables, "read", work)
    monkeypatch.setattr("toydiffusion.model.sampling.trajectory", work)
    assert run("fit good.csv --out no/new.safetensors")[0] == 2
    assert run("sample plain.safetensors -n 5 --out no/new.csv")[0] == 2


@pytest.mark.parametrize("bit", [0, 7])
def test_any_altered_byte_of_a_model_is_found(folder, tmp_path, bit):
    path, content = tmp_path / "m.safetensors", (folder / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(0, header, 3), *range(header, len(content), 97)]
    for place in places:
        altered = bytearray(content)
        altered[place] ^= 1 << bit
        path.write_bytes(altered)
        if place < header and same_json(content[8:header], bytes(altered[8:header])):
            continue
        with pytest.raises(td.InputError, match=r"m\.safetensors"):
            td.load(path)


def same_json(a: bytes, b: bytes) -> bool:
    """Return whether two headers say the same: of white space only the amount may differ."""
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


# Python ------------------------------------------------------------------------------------------

X = np.random.default_rng(1).normal(size=(20, 2))
CONFIG = td.TrainConfig(steps=2, width=8, edges=4)


@pytest.fixture(scope="module")
def plain():
    return td.Diffusion(CONFIG).fit(X)


@pytest.fixture(scope="module")
def labelled():
    return td.Diffusion(CONFIG).fit(X, ["in", "out"] * 10)


BAD_CALLS = {
    "no rows": (lambda p, c: td.Diffusion(CONFIG).fit(np.empty((0, 2))), ["at least 2 points", "found 0"]),
    "one row": (lambda p, c: td.Diffusion(CONFIG).fit(X[:1]), ["at least 2 points", "found 1"]),
    "a vector": (lambda p, c: td.Diffusion(CONFIG).fit(X[:, 0]), ["(20,)", "(n, d)"]),
    "NaN": (lambda p, c: td.Diffusion(CONFIG).fit([[1, 2], [3, np.nan]]), ["row 2", "'x1'", "nan"]),
    "infinity": (lambda p, c: td.Diffusion(CONFIG).fit([[1, -np.inf], [3, 4]]), ["row 1", "'x1'", "-inf"]),
    "text": (lambda p, c: td.Diffusion(CONFIG).fit([["a", 1], ["b", 2]]), ["row 1", "'x0'", "'a'"]),
    "constant column": (lambda p, c: td.Diffusion(CONFIG).fit(X * (0, 1)), ["'x0'", "0.0", "every row"]),
    "identical points": (lambda p, c: td.Diffusion(CONFIG).fit([[1, 2]] * 3), ["3 points", "identical"]),
    "one class": (lambda p, c: td.Diffusion(CONFIG).fit(X, [5] * 20), ["only one class", "5"]),
    "too few labels": (lambda p, c: td.Diffusion(CONFIG).fit(X, [0, 1]), ["20 rows", "2 labels"]),
    "a label missing": (
        lambda p, c: td.Diffusion(CONFIG).fit(X, ["in", None] * 10),
        ["row 2", "label is missing"],
    ),
    "seed": (lambda p, c: td.Diffusion(CONFIG).fit(X, seed=-1), ["seed", "-1", ">= 0"]),
    "seed of sampling": (lambda p, c: p.sample(5, seed=0.5), ["seed", "0.5"]),
    "resume without checkpoint": (lambda p, c: td.Diffusion(CONFIG).fit(X, resume=True), ["checkpoint"]),
    "preset": (lambda p, c: td.Diffusion(preset="orignal"), ["'orignal'", "did you mean 'original'"]),
    "setting": (lambda p, c: td.TrainConfig.from_dict({"stepz": 3}), ["'stepz'", "did you mean 'steps'"]),
    "steps": (lambda p, c: td.TrainConfig(steps=0), ["steps", "0", ">= 1"]),
    "steps as text": (lambda p, c: td.TrainConfig(steps="3"), ["steps", "'3'", "whole number"]),
    "steps as bool": (lambda p, c: td.TrainConfig(steps=True), ["steps", "True", "whole number"]),
    "standardize": (lambda p, c: td.TrainConfig(standardize="no"), ["standardize", "'no'", "True or False"]),
    "learning rate": (lambda p, c: td.TrainConfig(learning_rate=0.0), ["learning_rate", "> 0"]),
    "sigma range": (lambda p, c: td.TrainConfig(sigma_min=30.0), ["sigma_min", "30", "sigma_max", "20"]),
    "sigma_min": (lambda p, c: td.TrainConfig(sigma_min=0.0), ["sigma_min", "0"]),
    "schedule": (lambda p, c: td.TrainConfig(schedule="cosin"), ["'cosin'", "did you mean 'cosine'"]),
    "preconditioning": (lambda p, c: td.TrainConfig(preconditioning="emd"), ["'emd'", "did you mean 'edm'"]),
    "device": (lambda p, c: td.TrainConfig(device="gpu"), ["'gpu'", "'cpu'"]),
    "not fitted": (lambda p, c: td.Diffusion().sample(5), ["not fitted", "fit"]),
    "not fitted, save": (lambda p, c: td.Diffusion().save("a.safetensors"), ["not fitted", "fit"]),
    "fewer than none": (lambda p, c: p.sample(-5), ["-5", "whole number >= 0"]),
    "half a point": (lambda p, c: p.sample(2.5), ["2.5", "whole number >= 0"]),
    "no number of points": (lambda p, c: p.sample(), ["None", "whole number >= 0"]),
    "unknown label": (lambda p, c: c.sample(5, "inn"), ["'inn'", "did you mean 'in'"]),
    "label of another kind": (lambda p, c: c.sample(5, 0), ["0", "'in'", "'out'"]),
    "labels of another number": (lambda p, c: c.sample(5, ["in", "out"]), ["5", "(2,)"]),
    "label without labels": (lambda p, c: p.sample(5, 0), ["without labels"]),
    "labels back without labels": (lambda p, c: p.sample(5, return_labels=True), ["without"]),
    "guidance without labels": (lambda p, c: p.sample(5, guidance=2.0), ["guidance", "labels"]),
    "solver": (lambda p, c: p.sample(5, solver="hein"), ["'hein'", "did you mean 'heun'"]),
    "schedule of sampling": (lambda p, c: p.sample(5, schedule="karas"), ["did you mean 'karras'"]),
    "steps of sampling": (lambda p, c: p.sample(5, steps=0), ["steps", "0", ">= 1"]),
    "sigma_start too high": (lambda p, c: p.sample(5, sigma_start=99.0), ["sigma_start", "99", "20"]),
    "sigma_start too low": (lambda p, c: p.sample(5, sigma_start=0.001), ["sigma_start", "0.001", "0.01"]),
    "churn with no churner": (lambda p, c: p.sample(5, churn=1.0), ["churn", "'heun'"]),
    "batch size": (lambda p, c: p.sample(5, batch_size=0), ["batch_size", "0", ">= 1"]),
    "start of another width": (lambda p, c: p.sample(start=[[1, 2, 3]], sigma_start=1.0), ["2", "3"]),
    "start of another number": (lambda p, c: p.sample(7, start=X, sigma_start=1.0), ["7", "20"]),
    "trajectory of fewer": (lambda p, c: p.trajectory(-1), ["-1", "whole number >= 0"]),
    "file to save": (lambda p, c: p.save("no/model.safetensors"), ["no folder 'no'"]),
    "file to load": (lambda p, c: td.load("no.safetensors"), ["no model file 'no.safetensors'"]),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_call(plain, labelled, case):
    call, words = BAD_CALLS[case]
    with pytest.raises(td.InputError) as error:
        call(plain, labelled)
    message = str(error.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


def test_no_keyword_is_swallowed():
    with pytest.raises(TypeError, match="stepz"):
        td.TrainConfig(stepz=3)


# What must simply work ---------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 50])
def test_any_number_of_columns(run, tmp_path, dim):
    points = np.random.default_rng(0).normal(size=(200, dim))
    np.save(tmp_path / "points.npy", points)
    model = tmp_path / "m.safetensors"
    assert run(f"fit {tmp_path}/points.npy --steps 10 --out {model}")[0] == 0
    assert run(f"sample {model} -n 300 --steps 5 --out {tmp_path}/new.npy")[0] == 0
    new = np.load(tmp_path / "new.npy")
    assert new.shape == (300, dim)
    assert np.isfinite(new).all()


def fitted_samples(points: np.ndarray) -> np.ndarray:
    return td.Diffusion(td.TrainConfig(steps=30, batch_size=200)).fit(points).sample(500, steps=5)


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e150, 1e-150])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_unit_of_length_does_not_matter(scale, shift):
    points = np.random.default_rng(0).normal(size=(200, 2)) + shift
    np.testing.assert_allclose(fitted_samples(points * scale) / scale, fitted_samples(points), atol=1e-3)


def test_duplicate_points():
    points = np.repeat([[0.0, 0.0], [1.0, 3.0]], 50, axis=0)
    new = fitted_samples(points)
    assert np.isfinite(new).all()
    assert np.abs(new.mean(0) - points.mean(0)).max() < 0.5


def test_columns_that_depend_on_each_other():
    x = np.random.default_rng(0).normal(size=200)
    assert np.isfinite(fitted_samples(np.stack([x, 2 * x, -x], 1))).all()


def test_more_columns_than_points():
    assert np.isfinite(fitted_samples(np.random.default_rng(0).normal(size=(3, 20)))).all()


def test_a_model_trained_on_a_gpu_is_read_without_one(plain, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    plain.save(path)
    archive = Archive.read(path, "model")
    config = {**archive.metadata["config"], "device": "cuda"}
    Archive(archive.tensors, {**archive.metadata, "config": config}).write(path, "model")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (td.load(path).sample(5) == plain.sample(5)).all()


def test_a_class_of_one_point(run, tmp_path):
    (tmp_path / "points.csv").write_text(GOOD + "9,9,2\n")
    model = tmp_path / "m.safetensors"
    assert run(f"fit {tmp_path}/points.csv --label-column class --steps 5 --out {model}")[0] == 0
    assert run(f"sample {model} -n 20 --label 2 --out {tmp_path}/new.csv")[0] == 0
    assert np.isfinite(tables.read(tmp_path / "new.csv", label_column="class").points).all()


def test_a_million_rows(run, tmp_path):
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(1_000_000, 2)))
    model = tmp_path / "m.safetensors"
    assert run(f"fit {tmp_path}/points.npy --steps 3 --out {model}")[0] == 0
    assert "1,000,000" in run(f"show {model}")[1]


CSVS = {
    "byte-order mark": b"\xef\xbb\xbfx,y\n1,2\n3,5\n",
    "quotes": b'"x","y"\n"1","2"\n"3","5"\n',
    "semicolons": b"x;y\n1;2\n3;5\n",
    "tabs": b"x\ty\n1\t2\n3\t5\n",
    "Windows": b"x,y\r\n1,2\r\n3,5\r\n",
    "no last line end": b"x,y\n1,2\n3,5",
    "blanks": b"x,y\n\n 1 , 2 \n 3 , 5 \n\n",
}


@pytest.mark.parametrize("kind", CSVS)
def test_every_kind_of_csv(run, tmp_path, kind):
    trained = []
    for name, content in {"odd": CSVS[kind], "plain": b"x,y\n1,2\n3,5\n"}.items():
        (tmp_path / "points.csv").write_bytes(content)
        assert run(f"fit {tmp_path}/points.csv --steps 2 --out {tmp_path}/{name}.safetensors")[0] == 0
        trained.append(load_file(tmp_path / f"{name}.safetensors"))
    assert td.load(tmp_path / "odd.safetensors").columns == ("x", "y")
    assert all(torch.equal(trained[0][key], value) for key, value in trained[1].items())


LABELS = {
    "int": (["-5", "20"], "20"),
    "str": (["in", "outer ring"], "outer ring"),
    "bool": (["true", "false"], "true"),
    "bool in Python": (["True", "False"], "True"),
    "digits among words": (["7", "seven"], "7"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_every_kind_of_label(capsys, tmp_path, kind):
    classes, wanted = LABELS[kind]
    rows = [
        f"{sign * (10 + i % 7)},{label}"
        for i in range(40)
        for sign, label in zip((-1, 1), classes, strict=True)
    ]
    (tmp_path / "points.csv").write_text("\n".join(["x,of which", *rows]))
    model, new = str(tmp_path / "m.safetensors"), str(tmp_path / "new.csv")
    fit = [
        "fit",
        str(tmp_path / "points.csv"),
        "--label-column",
        "of which",
        "--steps",
        "200",
        "--batch-size",
        "80",
    ]
    assert main([*fit, "--out", model]) == 0
    assert main(["sample", model, "-n", "20", "--label", wanted, "--out", new]) == 0
    header, *lines = (tmp_path / "new.csv").read_text().splitlines()
    assert header == "x,of which"
    assert {line.partition(",")[2].strip('"').lower() for line in lines} == {wanted.lower()}
    right = classes.index(wanted) == 1
    assert np.mean([(float(line.partition(",")[0]) > 0) == right for line in lines]) > 0.9


def test_data_frames_of_pandas(plain):
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = td.Diffusion(CONFIG).fit(frame, pd.Series(["in", "out"] * 10))
    assert model.columns == ("a", "b")
    assert model.classes.tolist() == ["in", "out"]
