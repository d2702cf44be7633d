"""Bulk jobs: what they cost beside the bare operation, what two workers gain, memory, and how cost grows.

`python benchmarks/jobs.py [part ...]`: `overhead`, `workers`, `memory`, `growth`. Files go to a temporary
folder, which needs 4 GB. The program is started anew for each measurement of time, one after another.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import toydiffusion as td
from toydiffusion import jobs
from toydiffusion.jobs import Local
from toydiffusion.model import load
from toydiffusion.threads import one_thread

ROUNDS = 5
STEPS = 10


def model_at(folder: Path) -> Path:
    """Fit the square to 1,000 points, and save it."""
    path = folder / "m.safetensors"
    td.Diffusion().fit(td.distributions.Square().sample(1000, seed=0)[0], seed=0).save(path)
    return path


def timed(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def overhead(folder: Path) -> None:
    """One worker over the bare operation in one thread, in turn: 10^7 samples and 10^5 log-densities."""
    path = model_at(folder)
    model = load(path)
    plan = td.SampleConfig(steps=STEPS)
    jobs.sample(path, 100_000, folder / "points", executor=Local(1))
    table = td.tables.read(folder / "points" / "part-000000.parquet")
    whole = td.Table(model.sample(100_000, seed=5), ("x0", "x1"))
    whole.to_pandas().to_parquet(folder / "points.parquet")
    assert len(table.points)

    def bare_sample() -> None:
        with one_thread():
            for _ in model.sample_blocks(10**7, sampling=plan):
                pass

    def bulk_sample() -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        jobs.sample(path, 10**7, folder / "out", sampling=plan, executor=Local(1))

    def bare_scores() -> None:
        with one_thread():
            for _ in model.log_prob_blocks(whole):
                pass

    def bulk_scores() -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        jobs.log_prob(path, folder / "points.parquet", folder / "out", executor=Local(1))

    for name, bare, bulk, rounds in (
        ("10^7 samples in 10 steps", bare_sample, bulk_sample, 3),
        ("10^5 log-densities", bare_scores, bulk_scores, 3),
    ):
        pairs = [(timed(bare), timed(bulk)) for _ in range(rounds)]
        ratios = [after / before for before, after in pairs]
        seconds = statistics.median(before for before, _ in pairs)
        print(
            f"{name}: bare {seconds:.1f} s, one worker takes {statistics.median(ratios):.3f} times that "
            f"({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )


def workers(folder: Path) -> None:
    """Two workers against one, start excluded: five pairs in turn."""
    path = model_at(folder)
    plan = td.SampleConfig(steps=STEPS)

    def seconds(number: int, n: int) -> float:
        """From the first shard that is finished to the last one, with as many shards at work all the time."""
        shutil.rmtree(folder / "out", ignore_errors=True)
        command = [sys.executable, "-m", "toydiffusion", "sample", str(path), "-n", str(n)]
        command += ["--steps", str(plan.steps), "--out", f"{folder}/out/", "--workers", str(number)]
        process = subprocess.Popen([*command, "--shard-rows", "100000"], stdout=subprocess.DEVNULL)
        first = last = 0.0
        seen = at_first = 0
        while process.poll() is None or not last:
            found = len(list((folder / "out").glob("part-*.parquet"))) if (folder / "out").exists() else 0
            if found > seen:
                now = time.perf_counter()
                if not first and found >= number:
                    first, at_first = now, found
                last, seen = now, found
            time.sleep(0.01)
        return (last - first) / (seen - at_first)

    ratios = []
    for _ in range(ROUNDS):
        one, two = seconds(1, 6 * 10**6), seconds(2, 6 * 10**6)
        ratios.append(one / two)
        print(f"a shard each {one:.3f} s with one worker, {two:.3f} s with two: {one / two:.2f}", flush=True)
    print(f"median gain of two workers: {statistics.median(ratios):.2f}", flush=True)


def memory(folder: Path) -> None:
    """Peak memory of driver and workers, as the kernel counts it, for 10^7 and 10^8 samples."""
    path = model_at(folder)
    for n in (10**7, 10**8):
        shutil.rmtree(folder / "out", ignore_errors=True)
        command = [sys.executable, "-m", "toydiffusion", "sample", str(path), "-n", str(n), "--steps", "2"]
        process = subprocess.Popen([*command, "--out", f"{folder}/out/", "--workers", "2"])
        peaks: dict[str, int] = {}
        while process.poll() is None:
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    if int(entry.name) == process.pid or parent == process.pid:
                        peak = next(
                            int(line.split()[1])
                            for line in (entry / "status").read_text().splitlines()
                            if line.startswith("VmHWM")
                        )
                        peaks[entry.name] = max(peak, peaks.get(entry.name, 0))
                except (OSError, StopIteration):
                    continue
            time.sleep(0.2)
        driver = peaks.pop(str(process.pid)) / 2**20
        others = max(peaks.values()) / 2**20
        size = sum(file.stat().st_size for file in (folder / "out").iterdir()) / 1e9
        print(
            f"{n:,} samples: driver {driver:.2f} GiB, workers {others:.2f} GiB, files {size:.2f} GB",
            flush=True,
        )


def growth(folder: Path) -> None:
    """Seconds a million samples, by points, columns and width; one worker."""
    for name, dim, width, n in (
        ("10^6 points", 2, 64, 10**6),
        ("10^7 points", 2, 64, 10**7),
        ("4 columns", 4, 64, 10**6),
        ("16 columns", 16, 64, 10**6),
        ("width 128", 2, 128, 10**6),
        ("width 256", 2, 256, 10**6),
    ):
        law = td.distributions.Gaussian(
            [0.0] * dim, [[float(i == j) for j in range(dim)] for i in range(dim)]
        )
        path = folder / "grown.safetensors"
        config = td.TrainConfig(width=width, steps=20)
        td.Diffusion(config).fit(law.sample(500, seed=0)[0], seed=0).save(path)
        shutil.rmtree(folder / "out", ignore_errors=True)
        plan = td.SampleConfig(steps=STEPS)
        seconds = timed(
            lambda: jobs.sample(path, n, folder / "out", sampling=plan, executor=Local(1))  # noqa: B023
        )
        size = sum(file.stat().st_size for file in (folder / "out").iterdir())
        print(f"{name}: {seconds / n * 1e6:.2f} s a million, {size / n:.1f} bytes a row", flush=True)


PARTS = {"overhead": overhead, "workers": workers, "memory": memory, "growth": growth}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for part in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as place:
            PARTS[part](Path(place))
    print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
