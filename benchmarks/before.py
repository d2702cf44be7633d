"""An earlier version of the package beside this one, in turn on the same points.

`python benchmarks/before.py COMMIT [name ...]` runs the named `ROWS`, or all of them. The version of the
commit comes from git. Each training is a process of its own.

- `kl`: the distance from the truth of the default settings, over that of the earlier version.
- `time`: the time of the earlier version's default training, over that of a training now whose steps suffice
  to come as near.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import MIXTURE, report

import toydiffusion as td
from toydiffusion.distributions import (
    Checkerboard,
    Circles,
    Distribution,
    GaussianMixture,
    Parallelogram,
    Square,
    TwoMoons,
)
from toydiffusion.metrics import denoiser_divergence

ROOT = Path(__file__).parents[1]
LAWS: dict[str, Distribution] = {
    "square": Square(),
    "rotated square": Parallelogram.rotated_square(30.0),
    "mixture": MIXTURE,
    "moons": TwoMoons(),
    "six columns": GaussianMixture(
        np.random.default_rng(0).normal(size=(4, 6)) * 2,
        [np.cov(np.random.default_rng(k).normal(size=(12, 6)).T) for k in range(4)],
    ),
    "checkerboard": Checkerboard(),
    "circles": Circles(),
}
FUNNEL = "funnel"
"""A law without an exact denoiser: the deviation of the second column is exp(x0 / 2)."""


def funnel(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    first = rng.normal(size=n)
    return np.stack([first, rng.normal(size=n) * np.exp(first / 2)], 1)


def lost(model: td.Diffusion, name: str, draw: int) -> float:
    """Return KL to the truth; of the funnel, the nats of log-likelihood that fresh points lose."""
    if name == FUNNEL:
        a, b = (x := funnel(4000, 1000 + draw)).T
        exact = -(a**2 + b**2 * np.exp(-a) + a) / 2 - np.log(2 * np.pi)
        return float((exact - model.log_prob(x).value).mean())
    s = model.standardizer
    scale = float(s.scale.log().mean().exp())
    truth = LAWS[name].standardized(s.mean, s.scale)
    found = denoiser_divergence(model.denoiser, truth, sigma_min=0.01 / scale, sigma_max=5 / scale, n=40_000)
    return found.value


def one(name: str, points: int, draw: int, steps: int | None) -> None:
    """Print the seconds of a training and what it lost. This runs in both versions."""
    torch.set_num_threads(1)
    x = funnel(points, draw) if name == FUNNEL else LAWS[name].sample(points, seed=100 + draw)[0]
    td.Diffusion(td.TrainConfig(steps=5)).fit(x, seed=draw, progress=False)
    start = time.perf_counter()
    model = td.Diffusion(td.TrainConfig(steps=steps)).fit(x, seed=draw, progress=False)
    print(json.dumps([time.perf_counter() - start, lost(model, name, draw)]))


def in_version(tree: Path, *work: str | int | None) -> tuple[float, float]:
    """Return what `one` prints in the version of the package in this folder."""
    run = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(work)],
        env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, value = json.loads(run.stdout)
    return seconds, value


def ratio(values: list[float]) -> str:
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{error} [{min(values):.2f} to {max(values):.2f}]"


def kl(before: Path) -> None:
    work = [(name, 1000, range(10, 20 if name == "square" else 14)) for name in (*LAWS, FUNNEL)]
    for name, points, draws in [*work, ("square", 100_000, range(10, 11))]:
        pairs = [[in_version(tree, name, points, d, None)[1] for tree in (before, ROOT)] for d in draws]
        means = " and ".join(f"{statistics.mean(side):.4f}" for side in zip(*pairs, strict=True))
        value = f"{ratio([new / old for old, new in pairs])}, means {means}"
        report(f"{name}, {points:,} points: nats now over before", value, "")


def timed(before: Path) -> None:
    work = [("square", 1000, 500, 5), ("mixture", 1000, 500, 4), ("moons", 1000, 700, 4)]
    for name, points, steps, draws in [*work, ("checkerboard", 1000, 1500, 4), ("square", 10_000, 1500, 2)]:
        seconds, means = [], []
        for d in range(10, 10 + draws):
            old, new = in_version(before, name, points, d, None), in_version(ROOT, name, points, d, steps)
            seconds.append(old[0] / new[0])
            means.append((old[1], new[1]))
        was, now = map(statistics.mean, zip(*means, strict=True))
        report(f"{name}, {points:,} points, {steps:,} steps now: time of before over now", ratio(seconds), "")
        report("    nats", f"{was:.4f} before, {now:.4f} now", "")


ROWS: dict[str, Callable[[Path], None]] = {"kl": kl, "time": timed}

if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(*json.loads(sys.argv[2]))
    else:
        commit, *names = sys.argv[1:]
        archive = subprocess.run(
            ["git", "archive", commit, "toydiffusion"], cwd=ROOT, capture_output=True, check=True
        )
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
                files.extractall(folder, filter="data")
            for row in names or ROWS:
                ROWS[row](Path(folder))
