"""Kills, full disks and Ctrl-C: a job ends with the same bytes, and leaves no process behind.

Each test kills `--kills` times, once by default, at moments that differ from run to run. `make faults` kills
20 times. A failure names its seed.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from sessions import members

import toydiffusion as td

pytestmark = pytest.mark.slow
PROGRAM = [sys.executable, "-m", "toydiffusion"]
ROWS = 20_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("faults")
    x, y = td.distributions.ConcentricSquares(3).sample(200, seed=0)
    td.Diffusion(td.TrainConfig(steps=20)).fit(x, y, seed=0).save(made / "m.safetensors")
    frame = pd.DataFrame(x, columns=["x0", "x1"])
    frame.to_parquet(made / "points.parquet")
    (made / "points").mkdir()
    for k in range(3):
        frame.iloc[70 * k : 70 * (k + 1)].to_parquet(made / "points" / f"{k}.parquet")
    run(made, *SAMPLE, "--out", "whole/", "--workers", "1")
    assert len(list((made / "whole").glob("part-*.parquet"))) == 20
    return made


SAMPLE = ["sample", "m.safetensors", "-n", str(ROWS), "--shard-rows", "1000", "--steps", "200"]


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    seed = secrets.randbits(32)
    request.node.add_report_section("call", "seed", str(seed))
    return random.Random(seed)


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--kills"))


def begin(place: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start the program in a session of its own, so that what is left of it can be found."""
    return subprocess.Popen(
        [*PROGRAM, *words],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the program. What it leaves may hold its standard error open, so nobody reads that to the end."""
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


def run(place: Path, *words: str) -> str:
    process = begin(place, *words)
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()
    return err.decode()


def contents(at: Path) -> dict[str, str]:
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in sorted(at.iterdir())}


def workers(driver: int) -> list[int]:
    """Return the processes of a driver that compute: Ray's if it runs, else those that were spawned."""
    lines = command_lines(driver)
    # With Ray what was spawned is the guard.
    ray = any(b"--cluster" in line for line in lines.values())
    return [
        pid
        for pid, line in lines.items()
        if (line.startswith(b"ray::_piece") if ray else b"spawn_main" in line)
    ]


def command_lines(session: int) -> dict[int, bytes]:
    found = {}
    for pid in members(session):
        with suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
    return found


def begun(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait until workers are there, or the program has ended."""
    return until(lambda: process.poll() is not None or bool(workers(process.pid)), seconds)


def gone(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait until nothing is left of a program."""
    return until(lambda: not members(process.pid), seconds)


def until(what: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def files(at: Path) -> int:
    return len(list(at.glob("part-*.parquet"))) if at.exists() else 0


CLUSTERS = [pytest.param([], 5.0, id="local"), pytest.param(["--cluster", "local"], 30.0, id="ray")]


@pytest.mark.parametrize(("cluster", "seconds"), CLUSTERS)
def test_a_killed_worker_is_replaced(place, tmp_path, chance, kills, cluster, seconds) -> None:
    left = kills
    while left:
        out = tmp_path / "out"
        process = begin(place, *SAMPLE, "--out", f"{out}/", "--workers", "2", *cluster)
        # At most 3 kills a run: a shard is given up after 5 deaths.
        for _ in range(min(left, 3)):
            assert begun(process, 60)
            time.sleep(chance.uniform(0, 3))
            if alive := workers(process.pid):
                os.kill(chance.choice(alive), signal.SIGKILL)
                left -= 1
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()
        assert contents(out) == contents(place / "whole")
        assert gone(process, seconds)
        shutil.rmtree(out)


@pytest.mark.parametrize(("cluster", "seconds"), CLUSTERS)
def test_a_killed_driver_leaves_no_process_and_another_goes_on(
    place, tmp_path, chance, kills, cluster, seconds
) -> None:
    out = tmp_path / "out"
    for turn in range(kills):
        process = begin(place, *SAMPLE, "--out", f"{out}/", "--workers", "213"[turn % 3], *cluster)
        begun(process, 10)
        time.sleep(chance.uniform(0, 4))
        kill(process)
        assert gone(process, seconds)
        if files(out) == 20:
            shutil.rmtree(out)
    run(place, *SAMPLE, "--out", f"{out}/", "--workers", str(chance.choice([1, 2, 3])))
    assert contents(out) == contents(place / "whole")


SLEEP = """
import time
from toydiffusion.jobs import Local

if __name__ == "__main__":
    list(Local(2).run(time.sleep, [60, 60]))
"""


def test_workers_end_with_their_driver_in_the_middle_of_a_long_piece(tmp_path) -> None:
    (tmp_path / "script.py").write_text(SLEEP)
    process = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, start_new_session=True)
    try:
        assert until(lambda: len(workers(process.pid)) == 2, 60)
        time.sleep(1)
        process.kill()
        process.wait()
        assert gone(process, 5)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("cluster", "seconds"), CLUSTERS)
def test_ctrl_c_ends_everything_and_goes_on_later(place, tmp_path, chance, cluster, seconds) -> None:
    out = tmp_path / "out"
    process = begin(place, *SAMPLE, "--out", f"{out}/", "--workers", "2", *cluster)
    assert until(lambda: files(out) > 1, 60)
    # A terminal sends it to all processes of the group.
    os.killpg(process.pid, signal.SIGINT) if not cluster else process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert "Traceback" not in err.decode()
    assert gone(process, seconds)
    assert not list(out.glob(".*"))
    done = files(out)
    assert 1 < done < 20
    run(place, *SAMPLE, "--out", f"{out}/", "--workers", "1")
    assert contents(out) == contents(place / "whole")


@pytest.mark.parametrize(
    ("points", "preset"),
    [("points.parquet", "default"), ("points/", "default"), ("points.parquet", "table")],
)
def test_a_killed_training_goes_on_to_the_same_weights(
    place, tmp_path, chance, kills, points, preset
) -> None:
    steps = "1500" if preset == "default" else "600"
    words = [
        "fit",
        points,
        "--columns",
        "x0,x1",
        "--preset",
        preset,
        "--steps",
        steps,
        "--checkpoint-every",
        "0",
    ]
    whole, out = tmp_path / "whole.safetensors", tmp_path / "m.safetensors"
    run(place, *words, "--out", str(whole))
    checkpoint = out.with_suffix(".checkpoint")
    past = done = 0
    while done < kills:
        resume = ["--resume"] if checkpoint.exists() else []
        past += bool(resume)
        process = begin(place, *words, "--out", str(out), *resume)
        # Somewhere in the training, which begins with the first checkpoint of this run.
        stamp = checkpoint.stat().st_mtime_ns if resume else 0
        until(lambda: process.poll() is not None or _written(checkpoint) > stamp, 60)  # noqa: B023
        time.sleep(chance.uniform(0, 1))
        kill(process)
        assert gone(process, 5)
        done += 1
        if out.exists():
            assert out.read_bytes() == whole.read_bytes()
            out.unlink()
    resume = ["--resume"] if checkpoint.exists() else []
    past += bool(resume)
    run(place, *words, "--out", str(out), *resume)
    assert out.read_bytes() == whole.read_bytes()
    assert not checkpoint.exists()
    assert past >= 0.75 * kills


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.parametrize("number", ["1"])
def test_a_full_disk_is_an_error_that_names_the_file(place, tmp_path, number) -> None:
    """Shards of 40,000 rows need 640 kB. Files may have 300 kB; writing beyond fails as on a full disk."""
    out = tmp_path / "out"
    words = ["sample", "m.safetensors", "-n", "160000", "--shard-rows", "40000", "--steps", "2"]

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = subprocess.run(
        [*PROGRAM, *words, "--out", f"{out}/", "--workers", number],
        cwd=place,
        capture_output=True,
        check=False,
        preexec_fn=small,
    )
    assert process.returncode == 1
    line = process.stderr.decode()
    assert line.count("\n") == 1
    assert str(out / "part-00000") in line
    assert files(out) == 0
    assert not list(out.glob(".part*"))
    run(place, *words, "--out", f"{out}/", "--workers", number)
    assert files(out) == 4


FILL = """
mount -t tmpfs -o size=1m tmpfs disk
status=0
"$@" 2>told || status=$?
echo $status >status
ls -A disk >left
mount -o remount,size=16m disk
"$@"
cp -r disk grown
"""


@pytest.mark.parametrize("number", ["2"])
def test_a_full_file_system_in_memory_is_survived(place, tmp_path, number) -> None:
    """A file system of 1 MiB holds one shard of 640 kB; then it grows, and the same command goes on."""
    words = ["sample", str(place / "m.safetensors"), "-n", "160000", "--shard-rows", "40000", "--steps", "2"]
    (tmp_path / "disk").mkdir()
    namespace = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
    if subprocess.run([*namespace, "mount -t tmpfs tmpfs disk"], cwd=tmp_path, check=False).returncode:
        pytest.skip("no file system can be mounted here; the test with a limit on files stands for it")
    subprocess.run(
        [*namespace, FILL, "sh", *PROGRAM, *words, "--out", "disk/", "--workers", number],
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / "status").read_text() == "1\n"
    told = (tmp_path / "told").read_text()
    assert told.count("\n") == 1
    assert "disk/part-00000" in told
    assert "No space left on device" in told
    left = (tmp_path / "left").read_text().split()
    assert not [name for name in left if name.startswith(".part")]
    assert len([name for name in left if name.startswith("part-")]) <= 1
    run(place, *words, "--out", f"{tmp_path / 'whole'}/", "--workers", "1")
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


SCRIPT = """
import subprocess, sys
from toydiffusion.jobs import OnRay

if __name__ == "__main__":
    other = subprocess.Popen(["sleep", "60"])
    for _ in range(2):
        assert sorted(OnRay(None, 2).run(abs, [-1, -2, -3])) == [1, 2, 3]
    assert other.poll() is None
    other.kill()
"""


def test_ray_is_started_twice_in_one_process_and_spares_processes_of_others(tmp_path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr


def test_a_ray_that_cannot_be_started_is_one_line(place, tmp_path) -> None:
    """The names of its sockets are too long."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    process = subprocess.run(
        [*PROGRAM, *SAMPLE, "--out", f"{tmp_path}/out/", "--workers", "2", "--cluster", "local"],
        cwd=place,
        env={**os.environ, "TMPDIR": str(deep)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.startswith("toydiffusion: error: Ray cannot be started here: ")
    assert process.stderr.count("\n") == 1, process.stderr


def test_a_ray_of_ours_asks_for_a_fresh_token_whatever_the_environment_says(place, tmp_path) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "old", "OMP_NUM_THREADS": "1"}
    words = [*SAMPLE, "--out", f"{tmp_path}/out/", "--workers", "2", "--cluster", "local"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        [*PROGRAM, *words], cwd=place, env=environment, start_new_session=True, **quiet
    )
    assert begun(process, 90)
    lines = command_lines(process.pid)
    found = []
    for pid, line in lines.items():
        if line.partition(b"\0")[0].endswith(b"/raylet"):
            pairs = (one.partition(b"=") for one in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
            found.append({name.decode(): value.decode() for name, _, value in pairs})
    process.kill()
    process.communicate()
    assert gone(process, 30)
    assert len(found) == 1
    token = found[0]["RAY_AUTH_TOKEN"]
    assert (found[0]["RAY_AUTH_MODE"], found[0]["RAY_USAGE_STATS_ENABLED"], len(token)) == ("token", "0", 64)
    assert not any(token.encode() in line for line in lines.values())


def test_all_executors_write_the_same_bytes(place, tmp_path) -> None:
    scores = ["log-prob", "m.safetensors", "points.parquet", "--shard-rows", "60", "--tolerance", "0.05"]
    for k, words in enumerate(
        (["--workers", "1"], ["--workers", "3"], ["--workers", "2", "--cluster", "local"])
    ):
        run(place, *scores, "--out", f"{tmp_path}/{k}/", *words)
        assert contents(tmp_path / str(k)) == contents(tmp_path / "0")
