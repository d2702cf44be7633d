"""The numbers of benchmarks/README.md, compared with the exact denoiser.

`python benchmarks/quality.py [name ...]` runs the named `ROWS`, or all of them. Each row prints the measured
value and the target. The settings are the defaults, except for the concentric squares.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from measure import DRAWS, each, report

import toydiffusion as td
from toydiffusion.distributions import (
    ConcentricSquares,
    Distribution,
    Parallelogram,
    Square,
)
from toydiffusion.metrics import border_mass, denoiser_divergence, share_inside, total_variation
from toydiffusion.solvers import SampleConfig


def fitted(law: Distribution, n: int, seed: int) -> tuple[td.Diffusion, float]:
    """Return the default model of n points, and its training time in seconds."""
    x, _ = law.sample(n, seed=100 + seed)
    start = time.perf_counter()
    return td.Diffusion().fit(x, seed=seed, progress=False), time.perf_counter() - start


def divergence(model: td.Diffusion, law: Distribution) -> float:
    """Return the KL divergence in nats, for sigma from 0.01 to 5 in the units of the law."""
    s = model.standardizer
    scale = float(s.scale.log().mean().exp())
    truth = law.standardized(s.mean, s.scale)
    return denoiser_divergence(
        model.denoiser, truth, sigma_min=0.01 / scale, sigma_max=5 / scale, n=20_000
    ).value


def square() -> None:
    found, seconds = [], []
    for seed in DRAWS:
        model, took = fitted(Square(), 1000, seed)
        found.append(divergence(model, Square()))
        seconds.append(took)
    report("KL to the square, 1,000 points, nats, median [seeds]", each(found), "<= 0.06")
    # A multiplication and an addition for every weight of the matrices, once forward and twice backward.
    config = model.config
    weights = sum(p.numel() for p in model.denoiser.parameters() if p.ndim == 2)  # type: ignore[attr-defined]
    steps = config.total_steps(1000, 1)
    flops = 6 * weights * 2 * config.points_per_step(1000) * steps
    torch.set_num_threads(1)
    a, b = torch.randn(2, 1024, 1024)
    start = time.perf_counter()
    for _ in range(20):
        a @ b
    peak = 20 * 2 * 1024**3 / (time.perf_counter() - start)
    share = flops / statistics.median(seconds) / peak
    measured = f"{each(seconds, 1)} s"
    report("training time to that, one thread", measured, "<= 20 s")
    print(
        f"    {steps} steps, {flops / 1e9:.0f} GFLOP, {share:.0%} of one core's matrix peak "
        f"({peak / 1e9:.0f} GFLOP/s)"
    )


def square_many() -> None:
    found = [divergence(fitted(Square(), 100_000, seed)[0], Square()) for seed in DRAWS]
    report("KL to the square, 100,000 points", each(found), "<= 0.015")


def rotated() -> None:
    turned = Parallelogram.rotated_square(30.0)
    upright, rotated = [], []
    for seed in DRAWS:
        upright.append(divergence(fitted(Square(), 1000, seed)[0], Square()))
        rotated.append(divergence(fitted(turned, 1000, seed)[0], turned))
    ratio = statistics.median(rotated) / statistics.median(upright)
    report("KL, square rotated by 30 degrees over upright", f"{ratio:.2f} = {each(rotated)}", "<= 1.25")


def ten() -> None:
    inside, distance = [], []
    for seed in DRAWS:
        model, _ = fitted(Square(), 1000, seed)
        x = model.sample(100_000, steps=10, seed=seed)
        inside.append(share_inside(x, Square()))
        distance.append(total_variation(x, Square()))
    report("100,000 samples in 10 evaluations: share inside", each(inside), ">= 0.975")
    report("    20x20-bin total variation (floor 0.025)", each(distance), "<= 0.10")


def concentric_squares(n: int, guidance: float, accuracy: str, border: str) -> None:
    """Print accuracy and border mass, with more low noise levels in training and guidance below 1."""
    law = ConcentricSquares()
    right, near, own, seconds = [], [], [], []
    plain_right, plain_near = [], []
    for seed in DRAWS if n <= 1000 else DRAWS[:1]:
        x, y = law.sample(n, seed=100 + seed)
        start = time.perf_counter()
        model = td.Diffusion(td.TrainConfig(schedule="lognormal", batch_size=1000)).fit(
            x, y, seed=seed, progress=False
        )
        seconds.append(time.perf_counter() - start)
        points, label = model.sample(100_000, guidance=guidance, return_labels=True, seed=seed)
        right.append(share_inside(points, law, label))
        near.append(border_mass(points, label))
        points, label = model.sample(100_000, return_labels=True, seed=seed)
        plain_right.append(share_inside(points, law, label))
        plain_near.append(border_mass(points, label))
        own.append(border_mass(x, y))
    report(f"concentric squares, {n:,} points, guidance {guidance}: class accuracy", each(right), accuracy)
    report("    border mass over truth", each(near), border)
    print(f"    plain (guidance 1): accuracy {each(plain_right)}, border mass {each(plain_near)}")
    print(f"    border mass of the training points {each(own, 3)}; training {each(seconds, 1)} s", flush=True)


def concentric_few() -> None:
    concentric_squares(1000, 0.92, ">= 0.96", ">= 0.85")


def concentric_many() -> None:
    concentric_squares(100_000, 0.98, ">= 0.98", ">= 0.95")


def speed() -> None:
    model, _ = fitted(Square(), 1000, 0)
    model.sample(10_000)
    start = time.perf_counter()
    model.sample(100_000, steps=10)
    measured = f"{100_000 / (time.perf_counter() - start):,.0f} points a second"
    report(f"sampling in 10 evaluations, {torch.get_num_threads()} threads", measured, "no target")
    print(f"    default: {SampleConfig().steps} steps of {SampleConfig().solver}")


def import_time() -> None:
    def seconds(module: str) -> float:
        # The public names of this package are imported when the first of them is used.
        code = f"import time; t = time.perf_counter(); import {module.partition('.')[0]}; {module}; "
        code += "print(time.perf_counter() - t)"
        runs = [
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(5)
        ]
        return statistics.median(float(run.stdout) for run in runs)

    extra = seconds("toydiffusion.Diffusion") - seconds("torch")
    report("import toydiffusion beyond torch's own", f"{extra:.2f} s", "<= 0.3 s")


ROWS: dict[str, Callable[[], None]] = {
    "import": import_time,
    "square": square,
    "square-many": square_many,
    "rotated": rotated,
    "ten": ten,
    "concentric": concentric_few,
    "concentric-many": concentric_many,
    "speed": speed,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or ROWS:
        ROWS[name]()
