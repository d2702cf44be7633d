"""How fast training is, and how near it comes to the exact denoiser.

`python benchmarks/training.py [name ...]` runs the named `ROWS`, or all of them.

- `step`: the time of a step of the default network, of the same step by autograd and torch's Adam, and of the
  products of its matrices alone.
- `kl`: KL to the truth of the default settings, on fresh draws of the training points.
- `short`: the same with few steps: as many as reach the KL that the defaults had while all edges were sharp.
- `borders`: concentric squares of 1,000 points at the defaults: accuracy and border mass, beside those of the
  tightest rings, by an estimator that is told the shape.
- `growth`: the time of a step by points in it, columns and width.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from measure import MIXTURE, each, in_turn, report
from numpy.typing import NDArray

import toydiffusion as td
from toydiffusion.distributions import ConcentricSquares, Distribution, Parallelogram, Square, TwoMoons
from toydiffusion.metrics import border_mass, denoiser_divergence, share_inside
from toydiffusion.training import FlatWeights, MirroredLoss, TrainConfig, build, denoising_loss

Labelled: TypeAlias = tuple[NDArray[np.float64], NDArray[np.int64]]
FRESH = range(10, 20)
"""Draws of points and weights that chose no setting."""


def step() -> None:
    config = TrainConfig()
    z, eps = torch.randn(2, 500, 2)
    sigma = torch.rand(500) + 0.01
    ours = MirroredLoss(FlatWeights(build(2, 1, config, seed=0)))
    network = build(2, 1, config, seed=0)
    adam = torch.optim.Adam(network.parameters(), fused=True)
    both, levels, noises = z.repeat(2, 1), sigma.repeat(2), torch.cat([eps, -eps])
    matrices = list(network.weights)
    rows = [torch.randn(1000, weight.shape[1]) for weight in matrices]
    backs = [torch.randn(1000, weight.shape[0]) for weight in matrices]

    def by_autograd() -> None:
        adam.zero_grad()
        denoising_loss(network, network.preconditioning, both, levels, noises, None).backward()  # type: ignore[no-untyped-call]
        adam.step()

    @torch.no_grad()
    def products() -> None:
        for weight, row, back in zip(matrices, rows, backs, strict=True):
            _ = row @ weight.T, back.T @ row, back @ weight

    def repeated(work: Callable[[], object]) -> Callable[[], None]:
        return lambda: [work() for _ in range(100)] and None

    work = {
        "loss and gradient, written out": repeated(lambda: ours(z, sigma, eps, None)),
        "the same by autograd, and Adam": repeated(by_autograd),
        "its matrix products alone": repeated(products),
    }
    for name, found in in_turn(work).items():
        report(f"100 steps of 500 points: {name}", str(found), "")
    x = Square().sample(1000, seed=0)[0]
    start = time.perf_counter()
    td.Diffusion().fit(x, progress=False)
    report("the default training of 1,000 points", f"{time.perf_counter() - start:.2f} s", "")


def divergence(law: Distribution, points: int, draw: int, n: int = 200_000) -> float:
    x, _ = law.sample(points, seed=100 + draw)
    return away(td.Diffusion().fit(x, seed=draw, progress=False), law, n)


def away(model: td.Diffusion, law: Distribution, n: int) -> float:
    s = model.standardizer
    scale = float(s.scale.log().mean().exp())
    truth = law.standardized(s.mean, s.scale)
    return denoiser_divergence(model.denoiser, truth, sigma_min=0.01 / scale, sigma_max=5 / scale, n=n).value


def kl() -> None:
    cases: dict[str, tuple[Distribution, int, range]] = {
        "square, 1,000 points": (Square(), 1000, FRESH),
        "rotated square, 1,000 points": (Parallelogram.rotated_square(30.0), 1000, range(10, 14)),
        "mixture, 1,000 points": (MIXTURE, 1000, range(10, 14)),
        "moons, 1,000 points": (TwoMoons(), 1000, range(10, 14)),
        "square, 10,000 points": (Square(), 10_000, range(10, 12)),
    }
    for name, (law, points, draws) in cases.items():
        start = time.process_time()
        found = [divergence(law, points, draw, 200_000 if points == 1000 else 40_000) for draw in draws]
        seconds = (time.process_time() - start) / len(draws)
        report(f"KL, {name}, nats, median [draws]", each(found), "")
        mean = f"{statistics.mean(found):.4f}; {seconds:.1f}"
        report(f"KL, {name}: mean; processor seconds a draw, judging included", mean, "")


def short() -> None:
    for points, steps, draws in ((1000, 500, FRESH), (10_000, 1500, range(10, 13))):
        found, seconds = [], []
        for draw in draws:
            x, _ = Square().sample(points, seed=100 + draw)
            start = time.perf_counter()
            model = td.Diffusion(TrainConfig(steps=steps)).fit(x, seed=draw, progress=False)
            seconds.append(time.perf_counter() - start)
            found.append(away(model, Square(), 60_000))
        name = f"square, {points:,} points, {steps:,} steps"
        value = f"{statistics.mean(found):.4f}; {statistics.median(seconds):.2f}"
        report(f"KL, {name}: mean; seconds of a training", value, "")


def tightest_rings(x: NDArray[np.float64], y: NDArray[np.int64], n: int, seed: int) -> Labelled:
    """Return n points of the tightest laws of this shape: a class's points lie between two rectangles.

    Each of their edges lies at the class's outermost point, or at its innermost one on that side.
    """
    rng, found = np.random.default_rng(seed), []
    for c, count in enumerate((n * ConcentricSquares().frequencies.numpy()).round().astype(int)):
        own = x[y == c]
        low, high = own.min(0), own.max(0)
        sides = [sign * own[:, i] for i in range(2) for sign in (-1, 1)]
        left, right, bottom, top = (side[side == np.abs(own).max(1)].min() * (c > 0) for side in sides)
        points = rng.uniform(low, high, (20 * count, 2))
        hole = (points > [-left, -bottom]) & (points < [right, top])
        found.append(points[~hole.all(1)][:count])
    return np.concatenate(found), np.repeat(np.arange(len(found)), [len(part) for part in found])


def borders() -> None:
    squares, accuracy, mass, told, told_mass = ConcentricSquares(), [], [], [], []
    for draw in FRESH:
        x, y = squares.sample(1000, seed=100 + draw)
        model = td.Diffusion().fit(x, y, seed=draw, progress=False)
        new, labels = model.sample(20_000, seed=draw, return_labels=True)
        accuracy.append(share_inside(new, squares, labels))
        mass.append(border_mass(new, labels))
        new, labels = tightest_rings(x, y, 20_000, draw)
        told.append(share_inside(new, squares, labels))
        told_mass.append(border_mass(new, labels))
    report("concentric squares, 1,000 points: accuracy", each(accuracy, 3), "0.96")
    report("the same: border mass over the truth", each(mass, 3), "0.80")
    report("the tightest rings: accuracy; border mass", f"{each(told, 3)}; {each(told_mass, 3)}", "")


def growth() -> None:
    def steps(columns: int = 2, size: int = 500, **settings: int) -> Callable[[], object]:
        x = torch.randn(1000, columns).double().numpy()
        config = TrainConfig(steps=50, batch_size=size, **settings)
        return lambda: td.Diffusion(config).fit(x, progress=False)

    work = {"default": steps()}
    work |= {f"{size:,} points a step": steps(size=size) for size in (125, 2000)}
    work |= {f"{columns} columns": steps(columns) for columns in (10, 50)}
    work |= {f"width {width}": steps(width=width) for width in (128, 256)}
    for name, found in in_turn(work, rounds=3).items():
        report(f"50 steps: {name}", str(found), "")


ROWS: dict[str, Callable[[], None]] = {
    "step": step,
    "kl": kl,
    "short": short,
    "borders": borders,
    "growth": growth,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ROWS:
        ROWS[name]()
