"""Bulk jobs: what they cost beside the bare operation, what two workers gain, memory, and how cost grows.

`python benchmarks/jobs.py [part ...]`: `overhead`, `workers`, `memory`, `learning`, `standardizer`,
`sweeping`, `growth`. Files go to a temporary folder, which needs 5 GB.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import toydiffusion as td
from toydiffusion import jobs
from toydiffusion.codec import RunningMoments
from toydiffusion.jobs import Local
from toydiffusion.model import load
from toydiffusion.sweeps import Sweep, run_sweep
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
    whole = td.Table(model.sample(100_000, seed=5), ("x0", "x1"))
    whole.to_pandas().to_parquet(folder / "points.parquet")

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
        ("10^7 samples in 10 steps", bare_sample, bulk_sample, 1),
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
        process = subprocess.Popen([*command, "--shard-rows", "50000"], stdout=subprocess.DEVNULL)
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
        one, two = seconds(1, 2 * 10**6), seconds(2, 2 * 10**6)
        ratios.append(one / two)
        print(f"a shard each {one:.3f} s with one worker, {two:.3f} s with two: {one / two:.2f}", flush=True)
    print(f"median gain of two workers: {statistics.median(ratios):.2f}", flush=True)


def peaks(command: list[str]) -> tuple[float, float]:
    """Run a command; return the peak memory of it and of its largest child, in GiB, by the kernel."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    found: dict[int, int] = {}
    while process.poll() is None:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if process.pid in (int(entry.name), parent):
                    lines = (entry / "status").read_text().splitlines()
                    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
                    found[int(entry.name)] = max(peak, found.get(int(entry.name), 0))
            except (OSError, StopIteration):
                continue
        time.sleep(0.2)
    assert process.returncode == 0
    driver = found.pop(process.pid)
    return driver / 2**20, max(found.values(), default=0) / 2**20


def memory(folder: Path) -> None:
    """Peak memory of driver and workers for 10^7 and 10^8 samples."""
    path = model_at(folder)
    for n in (10**7, 10**8):
        shutil.rmtree(folder / "out", ignore_errors=True)
        command = [sys.executable, "-m", "toydiffusion", "sample", str(path), "-n", str(n), "--steps", "2"]
        began = time.perf_counter()
        driver, worker = peaks([*command, "--out", f"{folder}/out/", "--workers", "2"])
        seconds = time.perf_counter() - began
        size = sum(file.stat().st_size for file in (folder / "out").iterdir()) / 1e9
        print(
            f"{n:,} samples: driver {driver:.2f} GiB, workers {worker:.2f} GiB, "
            f"{size:.2f} GB, {seconds:.0f} s",
            flush=True,
        )


def learning(folder: Path) -> None:
    """Peak memory of a training on 4 GB of Parquet, of few and of many columns, and how long it takes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for dim in (2, 16):
        (folder / "in").mkdir()
        for number in range(16):
            x = np.random.default_rng(number).uniform(-1, 1, size=(2**25 // dim, dim))
            table = pa.table({f"x{j}": x[:, j] for j in range(dim)})
            pq.write_table(
                table, folder / "in" / f"{number:02}.parquet", use_dictionary=False, compression="none"
            )
        size = sum(file.stat().st_size for file in (folder / "in").iterdir()) / 1e9
        began = time.perf_counter()
        command = [sys.executable, "-m", "toydiffusion", "fit", str(folder / "in"), "--steps", "1000"]
        driver, _ = peaks([*command, "--out", str(folder / "m.safetensors")])
        seconds = time.perf_counter() - began
        print(f"{size:.1f} GB of Parquet, {dim} columns: {driver:.2f} GiB, {seconds:.0f} s", flush=True)
        shutil.rmtree(folder / "in")


def standardizer(_: Path) -> None:
    """Mean and deviation of 10^8 streamed rows against two passes in long double."""
    n, size, about = 10**8, 2**16, None

    def blocks() -> Iterator[np.ndarray]:
        for first in range(0, n, size):
            yield np.random.default_rng([1, first]).normal(1e6, 1.0, size=(min(size, n - first), 1))

    found, total = None, np.longdouble(0)
    for x in blocks():
        own = RunningMoments.of(x, about)
        found = own if found is None else found.merged(own)
        about = found.about
        total += x.astype(np.longdouble).sum()
    mean = total / n
    square = sum((((x.astype(np.longdouble) - mean) ** 2).sum() for x in blocks()), np.longdouble(0))
    deviation = np.sqrt(square / n)
    assert found is not None
    print(f"mean off by {abs(float(found.mean[0] - mean) / float(deviation)):.1e} deviations,", end=" ")
    print(f"deviation by {abs(float(found.deviation[0] / deviation) - 1):.1e}", flush=True)


def sweeping(folder: Path) -> None:
    """What a sweep adds to 1,000 stand-in cells of 0.2 s, and how long a rerun of it takes."""
    from toydiffusion.sweeps import running

    model = load(model_at(folder))
    running.trained = lambda training: model
    running.nats_lost = lambda model, training: 0.0
    running.measured = wait_a_little
    sweep = Sweep(seeds=tuple(range(50)), sample={"steps": tuple(range(1, 21))})
    seconds = timed(lambda: run_sweep(sweep, folder / "study", executor=Local(1)))
    print(f"1,000 cells of 0.2 s: {seconds:.1f} s, {seconds / 200 - 1:.1%} more than 200 s")
    print(
        f"a rerun: {timed(lambda: run_sweep(sweep, folder / 'study', executor=Local(1))):.2f} s", flush=True
    )
    executor = timed(lambda: sum(Local(2).run(wait, range(1000))))
    print(f"1,000 pieces of 0.2 s by two workers: {executor:.1f} s, {executor / 100 - 1:.1%} more than 100 s")


def wait_a_little(model: object, cell: object) -> dict[str, float]:
    time.sleep(0.2)
    return {}


def wait(number: int) -> int:
    time.sleep(0.2)
    return number


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


PARTS = {
    "overhead": overhead,
    "workers": workers,
    "memory": memory,
    "learning": learning,
    "standardizer": standardizer,
    "sweeping": sweeping,
    "growth": growth,
}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for part in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as place:
            PARTS[part](Path(place))
