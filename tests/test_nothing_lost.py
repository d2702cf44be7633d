"""Nobody's file is lost, and every command can be stopped."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import toydiffusion as td
from toydiffusion import tables
from toydiffusion.distributions import ConcentricSquares
from toydiffusion.training import Checkpoint, TrainState, check_checkpoint
from toydiffusion.training import loop as training_loop

CONFIG = td.TrainConfig(steps=20, width=8, edges=4, batch_size=50)
FIT = "--steps 5 --width 8"


@pytest.fixture
def folder(tmp_path):
    x, y = ConcentricSquares(3).sample(80, seed=0)
    frame = pd.DataFrame(x, columns=["a", "b"]).assign(kind=np.array(["in", "mid", "out"])[y])
    frame.to_csv(tmp_path / "points.csv", index=False)
    frame.to_parquet(tmp_path / "points.parquet", index=False)
    return tmp_path


@pytest.fixture
def fitted(folder, run):
    code, _, err = run(f"fit points.csv --label-column kind {FIT} --out m.safetensors")
    assert code == 0, err
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


# Files of others -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "tensors", "model"])
def test_a_foreign_file_in_the_checkpoints_place_is_refused_and_kept(fitted, refused, kind) -> None:
    place = fitted / "new.checkpoint"
    match kind:
        case "text":
            place.write_text("my notes\n")
        case "tensors":
            save_file({"weights": torch.zeros(3)}, place)
        case "model":
            shutil.copy(fitted / "m.safetensors", place)
    refused(
        f"fit points.csv --columns a,b {FIT} --out new.safetensors",
        ["new.checkpoint", "not one of ours", "move that file away"],
    )
    with pytest.raises(td.InputError, match="not one of ours"):
        td.Diffusion(CONFIG).fit([[0.0], [1.0], [3.0]], checkpoint=place)


def test_a_folder_in_the_checkpoints_place_is_refused_before_training(folder, refused) -> None:
    (folder / "new.checkpoint").mkdir()
    refused(f"fit points.csv --columns a,b {FIT} --out new.safetensors", ["new.checkpoint", "folder"])


def test_a_checkpoint_of_ours_may_be_replaced(folder, run) -> None:
    Checkpoint(folder / "new.checkpoint", "of another run").save(TrainState.start(2, 1, CONFIG, seed=0))
    check_checkpoint(folder / "new.checkpoint")
    assert run(f"fit points.csv --columns a,b {FIT} --out new.safetensors")[0] == 0
    assert not (folder / "new.checkpoint").exists()


def test_a_sample_never_takes_the_place_of_the_model_or_of_its_table(fitted, refused, run) -> None:
    os.symlink(fitted / "m.safetensors", fitted / "link.csv")
    refused("sample m.safetensors -n 5 --out link.csv", ["link.csv", "same file", "m.safetensors"])
    refused("sample m.safetensors -n 5 --out points.csv", ["points.csv", "the model was fitted to"])
    shutil.copy(fitted / "points.csv", fitted / "moved.csv")  # the same table under another name
    refused("sample m.safetensors -n 5 --out moved.csv", ["moved.csv", "the model was fitted to"])
    assert run("sample m.safetensors -n 5 --out new.csv")[0] == 0
    assert run("sample m.safetensors -n 6 --out new.csv")[0] == 0  # what is ours may be replaced
    assert len(pd.read_csv(fitted / "new.csv")) == 6


def test_log_densities_never_take_the_place_of_model_or_points(fitted, refused) -> None:
    os.link(fitted / "points.csv", fitted / "hard.csv")
    os.symlink(fitted / "m.safetensors", fitted / "link.csv")
    for out in ("points.csv", "hard.csv"):
        refused(f"log-prob m.safetensors points.csv --out {out}", [out, "the model was fitted to"])
    (fitted / "others.csv").write_text("a,b\n0.1,0.2\n0.3,0.1\n")
    os.link(fitted / "others.csv", fitted / "alias.csv")
    for out in ("others.csv", "alias.csv"):
        refused(f"log-prob m.safetensors others.csv --out {out}", [out, "same file", "others.csv"])
    refused("log-prob m.safetensors points.csv --out link.csv", ["link.csv", "same file", "m.safetensors"])
    refused("log-prob m.safetensors points.parquet --out points.csv", ["points.csv", "fitted to"])


def test_a_model_never_takes_the_place_of_its_table(folder, refused) -> None:
    os.symlink(folder / "points.csv", folder / "m.safetensors")
    refused(f"fit points.csv --columns a,b {FIT} --out m.safetensors", ["m.safetensors", "same file"])


# Labels survive the round trip ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels", [["01", "1"], [" a", "a"], ["true", "1"], ["1", "2"], ["true", "false"], ["x,y", 'q"']]
)
def test_labels_of_text_survive_fit_sample_and_log_prob(folder, run, labels) -> None:
    x, _ = ConcentricSquares(2).sample(60, seed=1)
    model = td.Diffusion(CONFIG).fit(pd.DataFrame(x, columns=["label", "b"]), np.array(labels * 30))
    model.save(folder / "m.safetensors")
    assert run("sample m.safetensors -n 40 --out new.csv")[0] == 0
    frame = pd.read_csv(folder / "new.csv", dtype=str, keep_default_na=False)
    assert list(frame.columns) == ["label", "b", "label_1"]
    assert set(frame.label_1) == set(labels)
    code, _, err = run("log-prob m.safetensors new.csv --label-column label_1 --out l.csv")
    assert code == 0, err
    found = pd.read_csv(folder / "l.csv")
    points = frame[["label", "b"]].astype(float)
    np.testing.assert_allclose(
        found.log_density, model.log_prob(points, frame.label_1.to_numpy()).value, rtol=1e-9
    )


# Stopping -------------------------------------------------------------------------------------------------


def test_a_batch_far_larger_than_the_points_starts_at_once() -> None:
    x = ConcentricSquares(3).sample(50, seed=0)[0]
    began = time.monotonic()
    config = td.TrainConfig(steps=1, width=8, edges=4, batch_size=200_000)
    td.Diffusion(config).fit(x, progress=False)
    assert time.monotonic() - began < 20  # a hang took minutes; not a measurement


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_waits_for_the_step_and_a_second_one_does_not(folder, run, monkeypatch, times) -> None:
    """The signals come in the middle of step 4; the checkpoint is whole either way, or not there."""
    loss, seen = training_loop.MirroredLoss.__call__, []

    def interrupted(*args):
        seen.append(None)
        if len(seen) == 4:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return loss(*args)

    monkeypatch.setattr(training_loop.MirroredLoss, "__call__", interrupted)
    command = "fit points.csv --columns a,b --steps 10 --width 8 --out m.safetensors"
    code, out, err = run(command)
    assert (code, out) == (130, "")
    assert err.count("\n") == 1
    assert not (folder / "m.safetensors").exists()
    checkpoint = folder / "m.checkpoint"
    assert checkpoint.exists() == (times == 1)
    if times == 1:
        assert "--resume" in err
        state = TrainState.start(2, 1, td.TrainConfig(steps=10, width=8), seed=0)
        monkeypatch.setattr(training_loop.MirroredLoss, "__call__", loss)
        assert run(f"{command} --resume")[0] == 0
        resumed = td.load(folder / "m.safetensors")
        assert run(command.replace("m.safe", "once.safe"))[0] == 0
        once = td.load(folder / "once.safetensors")
        np.testing.assert_array_equal(resumed.sample(5, seed=1), once.sample(5, seed=1))
        assert state.step == 0


def test_ctrl_c_while_torch_loads_is_one_line(tmp_path) -> None:
    (tmp_path / "slow").mkdir()
    # A package in torch's place that interrupts the import, as a user would, and then goes on for ever.
    (tmp_path / "slow" / "torch.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    for command in (["-m", "toydiffusion", "--version"], ["-c", "from toydiffusion.cli import main; main()"]):
        done = subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "PYTHONPATH": f"{tmp_path / 'slow'}:{Path(td.__file__).parent.parent}"},
        )
        assert (done.returncode, done.stderr) == (130, "toydiffusion: interrupted\n")


# One line and exit code 2 -----------------------------------------------------------------------------------

REFUSED = {
    "--width 1000000000": ["width", ">= 1 and <= 100,000"],
    "--waves 10000000000": ["waves", "<= 100,000"],
    "--width 90000 --hidden-layers 50": ["weights", "at most 100,000,000"],
    "--batch-size 10000000000": ["--batch-size", "<= 1,000,000"],
    "--steps 99999999999": ["steps", "<= 1,000,000,000"],
    "--hidden-layers 5000": ["--hidden-layers", "<= 100"],
    "--seed 99999999999999999999999": ["seed", "below 2**63"],
    "--device meta": ["device"],
}


@pytest.mark.parametrize("flags", REFUSED)
def test_sizes_out_of_all_proportion(folder, refused, flags) -> None:
    refused(f"fit points.csv --columns a,b --out new.safetensors {flags}", REFUSED[flags])


def test_a_line_end_in_a_flag_is_one_line_still(folder, capsys, monkeypatch) -> None:
    from toydiffusion.cli import main

    monkeypatch.chdir(folder)
    assert main(["fit", "points.csv", "--columns", "a\nb,\x1b[2Jc", "--out", "new.safetensors"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_ten_thousand_columns(folder, refused) -> None:
    np.save(folder / "wide.npy", np.random.default_rng(0).normal(size=(4, 10_000)))
    refused(f"fit wide.npy {FIT} --out new.safetensors", ["10,000 columns", "1,000", "--columns"])


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint16])
def test_numpy_integers_work_wherever_integers_do(kind) -> None:
    config = td.TrainConfig(
        steps=kind(3), width=kind(8), edges=kind(2), batch_size=kind(20), hidden_layers=kind(1), waves=kind(1)
    )
    x, y = ConcentricSquares(kind(3)).sample(kind(60), seed=kind(0))
    model = td.Diffusion(config, td.SampleConfig(steps=kind(3))).fit(x, y.astype(kind), seed=kind(1))
    assert model.sample(kind(4), kind(1), steps=kind(2), seed=kind(2), batch_size=kind(3)).shape == (4, 2)
    assert model.trajectory(kind(2), first_row=kind(1))[0].shape == (4, 2, 2)
    assert (
        len(model.log_prob(x[:3], kind(1), batch_size=kind(2), max_evaluations=kind(100), probes=kind(4)))
        == 3
    )
    assert len(model.elbo(x[:3], evaluations=kind(16), steps=kind(4), seed=kind(1))) == 3
    assert td.schedules.schedule("exp").levels(kind(3)).shape == (4,)


# Failures while running name the file ---------------------------------------------------------------------


def test_a_full_disk_names_the_file_and_leaves_nothing(folder, run) -> None:
    """A limit on the size of files stands in for a full disk: writing beyond it fails in the same way."""
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
        code, out, err = run(f"fit points.csv --columns a,b {FIT} --out m.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, old)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "m.checkpoint" in err or "m.safetensors" in err
    assert sorted(contents(folder)) == ["points.csv", "points.parquet"]


def test_a_demo_that_cannot_write_says_which_file(folder, run) -> None:
    (folder / "report").write_text("a file")
    code, _, err = run("demo --out report/inside")
    assert code == 2
    assert "report/inside" in err
    (folder / "taken" / "report.html").mkdir(parents=True)
    code, _, err = run("demo --out taken")
    assert code == 2
    assert "report.html" in err


# What hostile users found ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["fit points.csv --columns a,b --steps 9999 --out n.safetensors", "log"])
def test_a_signal_that_a_library_swallows_still_stops(fitted, run, monkeypatch, number, command) -> None:
    """Libraries drop exceptions while they are imported, as pyarrow does when it looks for pandas."""
    read = tables.read

    def swallowing(*args, **named):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        return read(*args, **named)

    monkeypatch.setattr(tables, "read", swallowing)
    before = contents(fitted)
    full = "log-prob m.safetensors points.parquet --out l.csv" if command == "log" else command
    code, out, err = run(full)
    assert (code, out) == (130, "")
    assert err.count("\n") == 1
    assert contents(fitted) == before


def test_columns_with_other_delimiters_and_of_numbers_come_back(folder, run) -> None:
    x = ConcentricSquares(2).sample(60, seed=1)[0]
    for names in (["a;b;c", "d"], ["0", "1"], ["1.5", "2,5"]):
        frame = pd.DataFrame(x, columns=names)
        frame.to_parquet(folder / "in.parquet", index=False)
        assert run(f"fit in.parquet {FIT} --out n.safetensors")[0] == 0
        assert run("sample n.safetensors -n 30 --out s.csv")[0] == 0
        assert list(pd.read_csv(folder / "s.csv").columns) == names
        code, _, err = run("log-prob n.safetensors s.csv --out l.csv")
        assert code == 0, err


def test_columns_without_names_go_by_the_names_they_get_in_files(folder, run) -> None:
    x = ConcentricSquares(2).sample(60, seed=1)[0] * [1.0, 100.0]
    model = td.Diffusion(CONFIG).fit(x)
    model.save(folder / "m.safetensors")
    assert run("sample m.safetensors -n 30 --out s.csv")[0] == 0
    frame = pd.read_csv(folder / "s.csv")
    frame[["x1", "x0"]].to_csv(folder / "turned.csv", index=False)
    frame.set_axis(["p", "q"], axis=1).to_csv(folder / "renamed.csv", index=False)
    found = []
    for name in ("s", "turned", "renamed"):
        assert run(f"log-prob m.safetensors {name}.csv --out l.csv")[0] == 0
        found.append(pd.read_csv(folder / "l.csv").log_density.to_numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-9)
    np.testing.assert_array_equal(model.log_prob(frame[["x1", "x0"]]).value, model.log_prob(frame).value)


BAD = {
    "a dict for the config": (lambda m: td.Diffusion({"steps": 3}), "config must be a TrainConfig"),
    "the wrong config": (lambda m: td.Diffusion(td.SampleConfig()), "config must be a TrainConfig"),
    "a dict for sampling": (lambda m: m.sample(3, sampling={"steps": 3}), "sampling must be a SampleConfig"),
    "sampling of a trajectory": (lambda m: m.trajectory(3, sampling={}), "sampling must be a SampleConfig"),
    "no denoiser": (lambda m: m.with_denoiser(None), "denoiser must be a function"),
    "an array for a table": (lambda m: m.fit_table(np.zeros((3, 2))), "table must be a Table"),
    "a negative level": (lambda m: m.prior(-1), "sigma must be a finite number > 0"),
    "a model file by None": (lambda m: td.load(None), "named by a path"),
    "a model in a table's place": (lambda m: m.save("points.csv"), "ends in '.safetensors'"),
    "a name that is no text": (lambda m: m.save("\udcff.safetensors"), "text in UTF-8"),
    "too many rows": (lambda m: m.log_prob([[0.0]], probes=4, first_row=2**64), "below 2\\*\\*63"),
    "a bad start": (lambda m: m.sample(start=[[np.nan]]), "start, row 1"),
    "a bad latent": (lambda m: m.decode([[np.nan]]), "latent, row 1"),
    "changed classes": (lambda m: m.classes.__setitem__(0, 5), "read-only"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_kinds_of_arguments(name) -> None:
    call, words = BAD[name]
    labels = np.array([0, 1] * 10) if name == "changed classes" else None
    model = td.Diffusion(CONFIG).fit(np.random.default_rng(0).normal(size=(20, 1)), labels)
    with pytest.raises(ValueError, match=words):
        call(model)
