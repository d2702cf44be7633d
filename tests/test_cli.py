"""The command line: every flag, the way from a table to a model to a table, and every way to be stopped."""

import os
import pty
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file
from scipy.stats import chisquare

import toydiffusion as td
from toydiffusion import tables
from toydiffusion.cli import main
from toydiffusion.cli.commands import app
from toydiffusion.row_noise import RowNoise
from toydiffusion.training import loop as training_loop

PROGRAM = [sys.executable, "-m", "toydiffusion"]
CENTRES = {"left": (-3.0, 10.0), "right": (3.0, 50.0)}
SHARES = {"left": 0.3, "right": 0.7}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """Return a function that runs the command line in this process."""

    def run(*words: object) -> Result:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Result(code, *capsys.readouterr())

    return run


def two_clouds(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.array(rng.choice(list(SHARES), n, p=list(SHARES.values())), dtype=object)
    points = np.array([CENTRES[label] for label in labels]) + rng.normal(size=(n, 2)) * (0.5, 5.0)
    return points, labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a table, `points.csv`, and models of it."""
    folder = tmp_path_factory.mktemp("cli")
    points, labels = two_clouds(2000)
    with tables.Writer(folder / "points.csv", ["speed", "height"], "side") as writer:
        writer.write(points, labels)
    fit = ["fit", str(folder / "points.csv"), "--steps", "300", "--batch-size", "500"]
    assert main([*fit, "--label-column", "side", "--out", str(folder / "model.safetensors")]) == 0
    fit = ["fit", str(folder / "points.csv"), "--steps", "2", "--columns", "speed,height"]
    assert main([*fit, "--out", str(folder / "unlabelled.safetensors")]) == 0
    return folder


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def one_line(text: str) -> str:
    assert text.startswith("toydiffusion: "), text
    assert text.count("\n") == 1, text
    return text.strip()


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# From a table to a model to a table --------------------------------------------------------------


def test_samples_are_like_the_points_they_were_learned_from(folder, run, tmp_path):
    n = 4000
    result = run("sample", folder / "model.safetensors", "-n", n, "--seed", 3, "--out", tmp_path / "new.csv")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"wrote 4,000 points to {tmp_path / 'new.csv'}\n"
    new = tables.read(tmp_path / "new.csv", label_column="side")
    assert new.columns == ("speed", "height")
    assert len(new.points) == n
    counts = [(new.labels == label).sum() for label in SHARES]
    points, labels = two_clouds(2000)
    expected = [n * (labels == label).mean() for label in SHARES]
    assert chisquare(counts, expected).pvalue > 1e-3
    for label in SHARES:
        learned, drawn = points[labels == label], new.points[new.labels == label]
        assert np.abs((drawn.mean(0) - learned.mean(0)) / learned.std(0)).max() < 0.2
        assert np.abs(np.log(drawn.std(0) / learned.std(0))).max() < 0.2


@pytest.mark.parametrize("label", CENTRES)
def test_one_class_is_drawn_by_its_name(folder, run, tmp_path, label):
    model, out = folder / "model.safetensors", tmp_path / "new.parquet"
    assert run("sample", model, "-n", 500, "--label", label, "--steps", 10, "--out", out).code == 0
    new = tables.read(out, label_column="side")
    assert set(new.labels) == {label}
    assert np.abs((new.points.mean(0) - CENTRES[label]) / (0.5, 5.0)).max() < 0.3


def test_the_three_kinds_of_file_hold_the_same(run, tmp_path):
    points, labels = two_clouds(300)
    with tables.Writer(tmp_path / "points.parquet", ["a", "b"], "k") as writer:
        writer.write(points, (labels == "left").astype(np.int64) * 7)
    fit = ["fit", tmp_path / "points.parquet", "--label-column", "k", "--steps", 5]
    assert run(*fit, "--out", tmp_path / "m.safetensors").code == 0
    read = {}
    for suffix in (".csv", ".parquet", ".npy"):
        out = tmp_path / f"new{suffix}"
        sample = run("sample", tmp_path / "m.safetensors", "-n", 50, "--steps", 3, "--out", out)
        assert sample.code == 0
        read[suffix] = tables.read(out, label_column="x2" if suffix == ".npy" else "k")
        assert set(read[suffix].labels.tolist()) == {0, 7}
    assert read[".csv"].columns == read[".parquet"].columns == ("a", "b")
    for suffix in (".parquet", ".npy"):
        assert (read[suffix].points == read[".csv"].points).all()
        assert (read[suffix].labels == read[".csv"].labels).all()


def test_a_subset_of_columns_and_a_model_without_labels(folder, run, tmp_path):
    fit = ["fit", folder / "points.csv", "--columns", "height, speed", "--steps", 2]
    assert run(*fit, "--out", tmp_path / "m.safetensors").code == 0
    assert run("sample", tmp_path / "m.safetensors", "-n", 3, "--out", tmp_path / "new.csv").code == 0
    header, *rows = (tmp_path / "new.csv").read_text().splitlines()
    assert (header, len(rows)) == ("height,speed", 3)


def test_a_model_of_arrays_is_sampled_into_named_columns(run, tmp_path):
    x, y = two_clouds(100)
    td.Diffusion(td.TrainConfig(steps=2)).fit(x, y).save(tmp_path / "m.safetensors")
    assert run("sample", tmp_path / "m.safetensors", "-n", 3, "--out", tmp_path / "new.csv").code == 0
    assert (tmp_path / "new.csv").read_text().startswith("x0,x1,label\n")


def test_same_seed_same_file(folder, run, tmp_path):
    def sample(seed: int, name: str) -> bytes:
        words = ["sample", folder / "model.safetensors", "-n", 300, "--steps", 5, "--seed", seed]
        assert run(*words, "--out", tmp_path / name).code == 0
        return (tmp_path / name).read_bytes()

    assert sample(1, "a.csv") == sample(1, "b.csv")
    assert sample(1, "a.csv") != sample(2, "b.csv")


@pytest.mark.parametrize("solver", ["multistep2", "euler-maruyama"])
@pytest.mark.parametrize(("n", "batch_size"), [(1301, 8192), (1300, 37)])
def test_rows_depend_on_the_seed_and_their_number_only(folder, run, tmp_path, n, batch_size, solver):
    words = ["sample", folder / "model.safetensors", "--steps", 5, "--solver", solver]
    assert run(*words, "-n", 1300, "--out", tmp_path / "a.csv").code == 0
    assert run(*words, "-n", n, "--batch-size", batch_size, "--out", tmp_path / "b.csv").code == 0
    a, b = (tables.read(tmp_path / name, label_column="side") for name in ("a.csv", "b.csv"))
    assert (a.labels == b.labels[:1300]).all()
    assert np.abs((a.points - b.points[:1300]) / a.points.std(0)).max() < 1e-4


def test_same_seed_same_model(folder, run, tmp_path):
    def fit(seed: int) -> dict[str, torch.Tensor]:
        words = ["fit", folder / "points.csv", "--label-column", "side", "--steps", 5, "--seed", seed]
        assert run(*words, "--out", tmp_path / "m.safetensors").code == 0
        return load_file(tmp_path / "m.safetensors")

    first = fit(1)
    assert same(first, fit(1))
    assert not same(first, fit(2))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_no_command_opens_a_connection(folder, run, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    points, model = folder / "points.csv", tmp_path / "m.safetensors"
    assert run("fit", points, "--label-column", "side", "--steps", 2, "--out", model).code == 0
    assert run("show", model).code == 0
    assert run("sample", model, "-n", 5, "--steps", 2, "--out", tmp_path / "new.parquet").code == 0
    log_prob = ["log-prob", model, tmp_path / "new.parquet", "--tolerance", 0.1]
    assert run(*log_prob, "--out", tmp_path / "d.npy").code == 0


# Flags -------------------------------------------------------------------------------------------

OTHER = {
    "steps": 7,
    "batch_size": 9,
    "schedule": "cosine",
    "preconditioning": "noise",
    "solver": "heun",
    "device": "cpu",
    "sigma_start": 2.5,
}


def other(name: str, default: object) -> object:
    """Return a valid value that is not the default."""
    if name in OTHER:
        return OTHER[name]
    if isinstance(default, bool):
        return not default
    return default + 1 if isinstance(default, int) else float(default) / 2 + 0.01


class StopError(Exception):
    pass


@pytest.mark.parametrize("name", [field.name for field in fields(td.TrainConfig)])
def test_fit_has_a_flag_for_every_setting(folder, tmp_path, monkeypatch, name):
    def fit_table(self: td.Diffusion, *_: object, **__: object) -> None:
        raise StopError(self.config)

    monkeypatch.setattr(td.Diffusion, "fit_table", fit_table)
    value = other(name, getattr(td.TrainConfig(), name))
    words = [flag(name), str(value)]
    if isinstance(value, bool):
        words = [flag(name) if value else flag("no_" + name)]
    with pytest.raises(StopError) as stop:
        main(
            [
                "fit",
                str(folder / "points.csv"),
                "--columns",
                "speed",
                "--out",
                str(tmp_path / "m.safetensors"),
                *words,
            ]
        )
    assert stop.value.args[0] == replace(td.TrainConfig(), **{name: value})
    assert stop.value.args[0] != td.TrainConfig()


@pytest.mark.parametrize("name", [field.name for field in fields(td.SampleConfig)])
def test_sample_has_a_flag_for_every_setting(folder, tmp_path, monkeypatch, name):
    def sample_blocks(*_: object, sampling: td.SampleConfig, **__: object) -> None:
        raise StopError(sampling)

    monkeypatch.setattr(td.Diffusion, "sample_blocks", sample_blocks)
    value = other(name, getattr(td.SampleConfig(), name))
    model, out = folder / "model.safetensors", tmp_path / "new.csv"
    # Noise injection goes with the Runge-Kutta solvers only.
    solver = {"solver": "heun"} if name == "churn" else {}
    more = [word for key, kind in solver.items() for word in (flag(key), kind)]
    with pytest.raises(StopError) as stop:
        main(["sample", str(model), "-n", "5", "--out", str(out), flag(name), str(value), *more])
    assert stop.value.args[0] == replace(td.SampleConfig(), **{name: value}, **solver)
    assert stop.value.args[0] != td.SampleConfig()


def test_every_flag_explains_itself():
    commands = typer.main.get_command(app).commands
    mute = [
        f"{name} {parameter.name}"
        for name, command in commands.items()
        for parameter in command.params
        if not (parameter.help or "").strip(" .")
    ]
    assert mute == []
    assert all(command.help for command in commands.values())


def test_a_preset_holds_but_for_the_flags_given(folder, run, tmp_path):
    words = ["fit", folder / "points.csv", "--columns", "speed", "--preset", "original", "--steps", 2]
    assert run(*words, "--width", 8, "--out", tmp_path / "m.safetensors").code == 0
    model, preset = td.load(tmp_path / "m.safetensors"), td.PRESETS["original"]
    assert model.config == replace(preset.train, steps=2, width=8)
    assert model.sampling == preset.sample


@pytest.mark.parametrize(
    "command", ["", "fit", "sample", "log-prob", "outliers", "report", "score", "distill", "show", "demo"]
)
def test_help_fits_a_terminal_and_is_for_readers_without_python(run, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    result = run(*command.split(), "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: toydiffusion {command}".rstrip())
    needed = {
        "fit": 2,
        "sample": 3,
        "log-prob": 3,
        "outliers": 3,
        "report": 2,
        "score": 3,
        "distill": 2,
        "show": 1,
    }
    assert result.out.count("[required]") == needed.get(command, 0)
    assert max(map(len, result.out.splitlines())) <= 80
    for ugly in ("((", "None", "True", "False", "SCHEDULES", "SOLVERS", "`", "{", "<bool>", "..."):
        assert ugly not in result.out.replace("[ARGS]...", "")


def test_help_without_a_command_lists_the_commands(run):
    result = run()
    assert result == run("--help")
    for command in typer.main.get_command(app).commands.values():
        assert (command.help.partition("\n")[0] in result.out) is not command.hidden
    assert "\n    toydiffusion fit points.csv --label-column class" in result.out


@pytest.mark.parametrize(("command", "config"), [("fit", td.TrainConfig()), ("sample", td.SampleConfig())])
def test_help_shows_every_setting_with_its_default(run, monkeypatch, command, config):
    monkeypatch.setenv("COLUMNS", "80")
    text = " ".join(run(command, "--help").out.split())
    for field in fields(config):
        about = text.partition(f" {flag(field.name)}")[2].partition(" --")[0]
        value = getattr(config, field.name)
        if isinstance(value, bool):
            assert f"[default: {'yes' if value else 'no'}]" in text.partition(flag("no_" + field.name))[2]
        elif value is None:
            assert "By default it is" in about
        else:
            shown = about.partition("[default: ")[2].partition("]")[0]
            assert type(value)(shown) == value


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "toydiffusion ",
            {
                "fit",
                "sample",
                "log-prob",
                "sweep",
                "outliers",
                "report",
                "distill",
                "show",
                "lab",
                "export",
                "demo",
            },
        ),
        ("toydiffusion fit --sch", {"--schedule"}),
        ("toydiffusion fit points.csv --schedule k", {"karras"}),
        ("toydiffusion fit points.csv --preset ", {"default", "original", "table"}),
        ("toydiffusion sample m.safetensors --solver e", {"euler", "euler-maruyama"}),
        ("toydiffusion log-prob m.safetensors --on-bad ", {"raise", "skip"}),
        # Nothing: the shell then completes names of files.
        ("toydiffusion fit poi", set()),
        ("toydiffusion fit points.csv --out ", set()),
    ],
)
def test_the_shell_completes_words(run, monkeypatch, capsys, line, expected):
    words = line.split(" ")
    monkeypatch.setenv("_TOYDIFFUSION_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 0
    assert set(capsys.readouterr().out.split()) == expected
    monkeypatch.setenv("_TOYDIFFUSION_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    with pytest.raises(SystemExit):
        run()
    told = capsys.readouterr().out
    assert all(f'"{word}"' in told for word in expected)
    assert expected or told == "_files\n"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_of_completion(run, monkeypatch, capsys, shell):
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    with pytest.raises(SystemExit) as ended:
        run("--show-completion")
    assert not ended.value.code
    assert f"_TOYDIFFUSION_COMPLETE=complete_{shell}" in capsys.readouterr().out


def test_version(run):
    assert run("--version") == Result(0, f"toydiffusion {td.__version__}\n", "")


def test_show_tells_what_the_model_is_of(folder, run):
    result = run("show", folder / "model.safetensors")
    assert (result.code, result.err) == (0, "")
    for words in ("2,000", "speed, height", "left", "right", "300 steps", "flow-matching", "adams"):
        assert words in result.out


def test_fit_ends_with_the_card_and_the_file(folder, run, tmp_path):
    out = tmp_path / "m.safetensors"
    result = run("fit", folder / "points.csv", "--columns", "speed", "--steps", 2, "--out", out)
    assert (result.code, result.err) == (0, "")
    assert result.out == run("show", out).out + f"wrote {out}\n"
    assert names(tmp_path) == ["m.safetensors"]


def test_files_have_the_permissions_of_ordinary_ones(folder, run, tmp_path):
    (tmp_path / "ordinary").touch()
    fit = ["fit", folder / "points.csv", "--columns", "speed", "--steps", 2]
    assert run(*fit, "--out", tmp_path / "m.safetensors").code == 0
    assert run("sample", tmp_path / "m.safetensors", "-n", 2, "--out", tmp_path / "new.csv").code == 0
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1


def test_demo_calls_the_report(run, monkeypatch):
    calls = []
    monkeypatch.setattr("toydiffusion.report.demo", lambda out, *, seed: calls.append((out, seed)))
    assert run("demo").code == 0
    assert run("demo", "--out", "elsewhere", "--seed", 4).code == 0
    assert calls == [(Path("demo"), 0), (Path("elsewhere"), 4)]


# Stopped -----------------------------------------------------------------------------------------


def test_exit_code_and_the_one_line_of_the_installed_program(folder, tmp_path):
    program = Path(sys.executable).with_name("toydiffusion")
    command = [program, "fit", folder / "nothing.csv", "--out", tmp_path / "m.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing.csv" in one_line(done.stderr)


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_matter(folder):
    with subprocess.Popen(
        [*PROGRAM, "show", folder / "model.safetensors"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def fit_words(folder: Path, out: Path, steps: int) -> list[str]:
    words = ["fit", str(folder / "points.csv"), "--label-column", "side", "--out", str(out)]
    return [*words, "--steps", str(steps), "--batch-size", "20", "--width", "8", "--held-out", "0.1"]


def resume_command(text: str) -> list[str]:
    """Return the words of the command that an interrupted `fit` says to run, without the program's name."""
    program, *words = shlex.split(text.rpartition("run: ")[2])
    assert program == "toydiffusion"
    return words


def test_ctrl_c_in_training_then_resume_is_as_if_never_interrupted(folder, run, tmp_path):
    out = tmp_path / "it's.safetensors"
    words = fit_words(folder, out, 600)
    watched, terminal = pty.openpty()  # on a terminal, so that the progress bar tells when training is on
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        text = b""
        while b"loss" not in text:
            text += os.read(watched, 4096)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b""
    assert process.returncode == 130
    text += drain(watched)
    os.close(watched)
    assert names(tmp_path) == ["it's.checkpoint"]
    last = text.decode().strip().splitlines()[-1]
    assert "toydiffusion: interrupted; " in last
    assert resume_command(last) == [*words, "--resume"]
    assert run(*resume_command(last)).code == 0
    assert names(tmp_path) == ["it's.safetensors"]
    resumed = load_file(out)
    assert run(*words).code == 0
    assert same(resumed, load_file(out))


def drain(descriptor: int) -> bytes:
    """Return what is left to read of a terminal that the other side has closed."""
    text = b""
    try:
        while block := os.read(descriptor, 4096):
            text += block
    except OSError:  # how Linux tells the end
        pass
    return text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_step_is_whole_or_not_at_all_in_the_checkpoint(folder, run, tmp_path, monkeypatch, number):
    """The signal comes right after the weights have moved, before the step is counted."""
    words, step, calls = fit_words(folder, tmp_path / "m.safetensors", 12), training_loop._adam, []

    def interrupted(*args: object) -> None:
        step(*args)
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "_adam", interrupted)
        stopped = run(*words)
    assert stopped.code == 130
    assert names(tmp_path) == ["m.checkpoint"]
    assert run(*resume_command(one_line(stopped.err))).code == 0
    resumed = load_file(tmp_path / "m.safetensors")
    assert run(*words).code == 0
    assert same(resumed, load_file(tmp_path / "m.safetensors"))


def test_interrupted_twice(folder, run, tmp_path, monkeypatch):
    words = fit_words(folder, tmp_path / "m.safetensors", 12)
    for turn in ([], ["--resume"]):
        with monkeypatch.context() as patch:
            patch.setattr(RowNoise, "generator", interrupting(RowNoise.generator, after=8))
            stopped = run(*words, *turn)
        assert stopped.code == 130
        assert resume_command(one_line(stopped.err)) == [*words, "--resume"]
    assert run(*words, "--resume").code == 0


def interrupting(function, after: int):
    """Return the function, but its call number `after` brings Ctrl-C first."""
    calls = []

    def call(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == after:
            signal.raise_signal(signal.SIGINT)
        return function(*args, **kwargs)

    return call


def test_ctrl_c_before_training_says_nothing_of_resuming(folder, run, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "read", interrupting(tables.read, after=1))
    stopped = run(*fit_words(folder, tmp_path / "m.safetensors", 5))
    assert (stopped.code, stopped.out, names(tmp_path)) == (130, "", [])
    assert "resume" not in one_line(stopped.err)


def size_of(file: Path) -> int:
    """Return its size. It may be gone: the command tries first whether it can write."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def test_ctrl_c_in_sampling_leaves_no_file(folder, tmp_path):
    words = ["sample", folder / "unlabelled.safetensors", "-n", "100000000", "--steps", "2"]
    with subprocess.Popen(
        [*PROGRAM, *words, "--out", tmp_path / "new.npy"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        until = time.monotonic() + 60
        while not any(size_of(file) > 10_000 for file in tmp_path.iterdir()):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert one_line(err.decode()) == "toydiffusion: interrupted"
    assert names(tmp_path) == []


def test_sigterm_in_sampling_keeps_the_old_file(folder, run, tmp_path, monkeypatch):
    out = tmp_path / "new.csv"
    out.write_text("old")
    write = tables.Writer.write

    def stopped(self: tables.Writer, *args: object) -> None:
        write(self, *args)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(tables.Writer, "write", stopped)
    handler = signal.getsignal(signal.SIGTERM)
    result = run("sample", folder / "model.safetensors", "-n", 10, "--out", out)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert (result.code, result.out) == (130, "")
    one_line(result.err)
    assert (names(tmp_path), out.read_text()) == (["new.csv"], "old")


@pytest.mark.parametrize("command", ["fit", "sample .csv", "sample .npy", "sample .parquet"])
def test_a_full_disk(folder, run, tmp_path, command):
    verb, _, suffix = command.partition(" ")
    words = [*fit_words(folder, tmp_path / "m.safetensors", 2), "--edges", "500"]
    if verb == "sample":
        out = tmp_path / f"new{suffix}"
        words = ["sample", folder / "unlabelled.safetensors", "-n", 5000, "--steps", 1, "--out", out]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A write past the limit fails like one on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, limit[1]))
    try:
        result = run(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (result.code, result.out, names(tmp_path)) == (1, "", [])
    assert "File too large" in one_line(result.err)


def test_training_that_fails_says_at_which_step(run, tmp_path):
    (tmp_path / "points.csv").write_text("x\n1e30\n-1e30\n3e30\n")
    out = tmp_path / "m.safetensors"
    result = run("fit", tmp_path / "points.csv", "--no-standardize", "--steps", 3, "--out", out)
    assert (result.code, result.out, names(tmp_path)) == (1, "", ["points.csv"])
    assert "step 1 of 3" in one_line(result.err)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_sampling_is_in_constant_memory(folder, tmp_path, suffix):
    def peak(n: int) -> int:
        out = tmp_path / f"{n}{suffix}"
        words = ["sample", folder / "unlabelled.safetensors", "-n", str(n), "--steps", "1", "--out", out]
        process = subprocess.Popen([*PROGRAM, *words], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss * 1024

    few, many = 200_000, 2_000_000
    as_an_array = (many - few) * 2 * 8
    assert peak(many) - peak(few) < as_an_array / 3
