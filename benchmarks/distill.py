"""How near distilled students come to their teacher, and how fast they are.

`python benchmarks/distill.py [name ...]` runs the named `ROWS`, or all of them, in the environment of the
peers.

- `errors`: log-densities against the teacher's flow, on 20,000 fresh points of each zone: errors, bars, mass,
  and the time to build both students.
- `fresh`: the same for laws and draws on which nothing was chosen.
- `speed`: log-densities with their bars a second, beside torchdiffeq's fastest dopri5 and our own flow.
- `samples`: total variation to the truth beside the teacher's, distance to the end points of 400 steps, and
  the time of azula's samplers and of smalldiffusion for points that are as near.
- `optimiser`: the same students by Adam.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from flow import dopri5, p99
from measure import MIXTURE, in_turn, report
from sampling import SAMPLERS, SCHEDULES, azulas, chosen, distance, fine, latents, small, started
from torch import Tensor

import toydiffusion as td
from toydiffusion.distillation import lessons, teaching
from toydiffusion.distributions import (
    Bounded,
    Boxes,
    Checkerboard,
    Circles,
    ConcentricSquares,
    Distribution,
    Spiral,
    Square,
    TwoMoons,
)
from toydiffusion.metrics import total_variation
from toydiffusion.students import ZONES

CASES: dict[str, tuple[Distribution, bool, tuple[float, float, float]]] = {
    "square": (Square(), False, (0.01, 0.04, 0.06)),
    "concentric squares by class": (ConcentricSquares(), True, (0.03, 0.06, 0.1)),
}
"""The laws on which the students were designed, with the mean errors that each zone must reach."""
FRESH: dict[str, tuple[Distribution, bool]] = {
    "square, another draw": (Square(), False),
    "concentric squares by class, another draw": (ConcentricSquares(), True),
    "checkerboard": (Checkerboard(), False),
    "moons": (TwoMoons(), False),
    "spiral": (Spiral(), False),
    "circles by class": (Circles(), True),
    "mixture by class": (MIXTURE, True),
    "line by class": (ConcentricSquares(3, dim=1), True),
    "box in 3-D": (Boxes([[0.0] * 3, [1.0] * 3], [[1.0] * 3, [2.0, 3.0, 1.5]]), False),
}


def teacher(law: Distribution, labels: bool, draw: int = 0) -> td.Diffusion:
    x, y = law.sample(1000, seed=100 + draw)
    return td.Diffusion().fit(x, y if labels else None, seed=draw, progress=False)


def zones(model: td.Diffusion, quick: td.Diffusion, each: int) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return fresh points of each zone, in z, and their labels."""
    assert quick.student is not None
    student, found = quick.student.density, {}
    ground, n = lessons.Ground(student.low, student.high), 300_000
    start, label = lessons.starts(model.fitted, range(n), lessons.every_class(model.fitted, n), seed=999)
    samples = lessons.end_points(model.fitted, start, label, steps=15)
    pool = ground.points(samples, (1 / 3, 1 / 3), seed=999, purpose="benchmark")
    zone = student.zones(pool, label)
    for number, name in enumerate(ZONES):
        rows = (zone == number).nonzero()[:each, 0]
        found[name] = pool[rows], None if label is None else label[rows]
    return found


def measured(
    name: str, model: td.Diffusion, *, each: int, targets: tuple[float, float, float] | None = None
) -> None:
    start = time.perf_counter()
    quick = td.distill(model, progress=False)
    seconds = time.perf_counter() - start
    student = quick.student
    assert student is not None
    report(f"{name}: seconds to build both students", f"{seconds:.1f}", "40")
    must = dict(zip(ZONES, targets or (), strict=False))
    for zone, (z, label) in zones(model, quick, each).items():
        if not len(z):
            continue
        found = student.density.log_prob(z, label)
        exact = lessons.log_densities(model.fitted, z, label, tolerance=1e-3)
        error = np.abs(found.value - exact.value)
        report(
            f"{name}, {zone}: mean error, nats ({len(z):,} points)",
            f"{error.mean():.4f}",
            str(must.get(zone, "")),
        )
        report(
            f"{name}, {zone}: covered; median bar over median error",
            f"{np.mean(error <= found.error):.2%}; {np.median(found.error) / np.median(error):.1f}",
            "98.5 to 99.6 %; 10",
        )
    report(f"{name}: total mass", str(student.certificate.mass), "1 +- 0.005")


def errors() -> None:
    for name, (law, labels, targets) in CASES.items():
        measured(name, teacher(law, labels), each=20_000, targets=targets)


def fresh() -> None:
    for name, (law, labels) in FRESH.items():
        measured(name, teacher(law, labels, draw=1), each=5000)


def speed() -> None:
    for name, (law, labels, _) in CASES.items():
        speed_on(name, law, labels)


def speed_on(name: str, law: Distribution, labels: bool, few: int = 4096, many: int = 2**18) -> None:
    model = teacher(law, labels)
    quick = td.distill(model, progress=False)
    x, y = law.sample(many, seed=7)
    own = y if labels else None
    z, label = model.standardizer.z(torch.from_numpy(x[:few])), torch.from_numpy(y[:few]) if labels else None
    exact = torch.from_numpy(lessons.log_densities(model.fitted, z, label, tolerance=1e-5).value)
    work: dict[str, Callable[[], object]] = {
        "the student, with its bar": lambda: quick.log_prob(x, own),
        "our flow, default tolerance": lambda: model.log_prob(x[:few], None if own is None else own[:few]),
    }
    for kind in (torch.float32, torch.float64):
        for tolerance in np.geomspace(1e-2, 1e-6, 9):
            run = partial(dopri5, model.fitted, z, label, tolerance, kind=kind)
            if p99(run(), exact) <= 0.01:
                work[f"dopri5 {str(kind)[6:]}, tolerance {tolerance:.0e}"] = run
                break
    timings = in_turn(work, rounds=3)
    first = np.median(timings["the student, with its bar"].seconds) / many
    for what, found in timings.items():
        one = np.median(found.seconds) / (many if "student" in what else few)
        must = "" if "student" in what else "100" if "flow" in what else "150" if labels else "200"
        report(f"{name}: {what}", f"{1 / one:,.0f} points/s, {one / first:.0f} times the time", must)


def samples() -> None:
    laws: dict[str, tuple[Bounded, bool]] = {
        "square": (Square(), False),
        "concentric squares by class": (ConcentricSquares(), True),
        "checkerboard": (Checkerboard(), False),
    }
    for name, (law, labels) in laws.items():
        samples_of(name, law, labels)


def samples_of(name: str, law: Bounded, labels: bool, n: int = 10**6, block: int = 2**13) -> None:
    model = teacher(law, labels)
    quick, moments = td.distill(model, progress=False), model.moments
    assert quick.student is not None
    student = quick.student.samples
    latent, label = latents(2**20, law.dim)[:n], chosen(law, labels, n)
    some, kind = latent[:block], None if label is None else label[:block]

    def ends(at: Tensor, own: Tensor | None) -> Tensor:
        return student.ends(started(moments, at, student.sigma, own), moments, own)

    def whole(method: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        parts = [slice(i, i + block) for i in range(0, n, block)]
        with torch.no_grad():
            return torch.cat([method(latent[p], None if label is None else label[p]) for p in parts])

    taught = lessons.end_points(model.fitted, started(moments, latent, student.sigma, label), label)
    ours, theirs = (total_variation(quick.standardizer.x(end).numpy(), law) for end in (whole(ends), taught))
    report(
        f"{name}: total variation to the truth, less the teacher's",
        f"{ours - theirs:+.4f} ({theirs:.4f})",
        "+0.003",
    )

    with torch.no_grad():
        target = fine(model.denoiser, moments, some, kind)
        near = distance(ends(some, kind), target)
    methods: dict[str, Callable[[Tensor, Tensor | None, int], Tensor]] = {
        f"azula {sampler} on {spacing}": lambda at, own, k, sampler=sampler, spacing=spacing: azulas(  # type: ignore[misc]
            model.denoiser, moments, at, k, own, sampler=sampler, spacing=spacing
        )
        for sampler in SAMPLERS
        for spacing in SCHEDULES
    }
    if not labels:  # smalldiffusion's own guidance would evaluate the network twice
        methods["smalldiffusion"] = lambda at, own, k: small(model.denoiser, moments, at, k)
    fewest: dict[str, tuple[int, str]] = {}
    for what, method in methods.items():
        for k in (*range(2, 33), 40, 50, 64, 80, 100):
            with torch.no_grad():
                reached = distance(method(some, kind, k), target) <= near
            if reached:
                group = what.split()[0]
                fewest[group] = min(fewest.get(group, (k, what)), (k, what))
                break
    work: dict[str, Callable[[], object]] = {"the student": lambda: whole(ends)}
    for k, what in fewest.values():
        work[f"{what}, {k} evaluations"] = partial(
            whole, lambda at, own, k=k, what=what: methods[what](at, own, k)
        )
    for what, timing in in_turn(work, rounds=3).items():
        must = "" if what == "the student" else "ratio >= 4"
        report(f"{name}, 10^6 points as near as the student ({near:.4f}): {what}", str(timing), must)


class _Adam:
    """torch's Adam with the interface of `Soap`."""

    def __init__(self, weights: list[Tensor]) -> None:
        self._adam = torch.optim.Adam(weights)

    def step(self, rate: float) -> None:
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()


def optimiser() -> None:
    soap = teaching.Soap
    for name, (law, labels, _) in CASES.items():
        model = teacher(law, labels)
        for what, kind, config in (
            ("SOAP", soap, td.DistillConfig()),
            ("Adam, the same steps", _Adam, td.DistillConfig()),
            ("Adam, steps that take the same time", _Adam, td.DistillConfig(steps=4500)),
        ):
            teaching.Soap = kind  # type: ignore[misc,assignment]
            start = time.perf_counter()
            found = td.distill(model, config, progress=False).student
            seconds = time.perf_counter() - start
            assert found is not None
            certificate = found.certificate
            inner = ", ".join(f"{zone} {one.mean_error:.4f}" for zone, one in certificate.zones().items())
            report(
                f"{name}, {what}: mean errors; distance of samples; seconds",
                f"{inner}; {certificate.distance:.4f}; {seconds:.0f}",
                "",
            )
        teaching.Soap = soap  # type: ignore[misc]


ROWS: dict[str, Callable[[], None]] = {
    "errors": errors,
    "fresh": fresh,
    "speed": speed,
    "samples": samples,
    "optimiser": optimiser,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ROWS:
        ROWS[name]()
