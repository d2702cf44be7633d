"""How fast log-densities are, beside torchdiffeq's dopri5 on the same networks and the same equation.

`python benchmarks/flow.py [name ...]` runs the named `ROWS`, or all of them, in the environment of the peers.

- `speed`: seconds for the same points. Each solver has the loosest of a few tolerances whose 99th percentile
  of the error is at most 0.01 nats; 99 % of our bars must hold too. dopri5 runs in float32 and in float64,
  with the divergence from d backward passes, as a user would write it. "Forward" gives it our forward-mode
  divergence instead.
- `bars`: errors and bars at three tolerances, on models that chose none of the solver's constants.
- `precision`: what a network in float32 moves.
- `threads`: points a second with one thread and with two, the whole call of a user.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from measure import MIXTURE, in_turn, report
from torch import Tensor
from torchdiffeq import odeint

import toydiffusion as td
from toydiffusion.density import log_density
from toydiffusion.distributions import Checkerboard, ConcentricSquares, Distribution, Spiral, Square, TwoMoons

CASES: dict[str, tuple[Distribution, bool]] = {
    "square": (Square(), False),
    "concentric squares by class": (ConcentricSquares(), True),
    "checkerboard": (Checkerboard(), False),
    "mixture by class": (MIXTURE, True),
    "moons": (TwoMoons(), False),
    "spiral": (Spiral(), False),
}
POINTS = 8192


def models(names: list[str]) -> Iterator[tuple[str, td.FittedModel, Tensor, Tensor | None]]:
    """Yield models of 2,000 points each, and fresh points in z, half of them of the law, half noised."""
    for name in names:
        law, labels = CASES[name]
        x, y = law.sample(2000, seed=100)
        config = td.TrainConfig(steps=2000, batch_size=500)
        model = td.Diffusion(config).fit(x, y if labels else None, seed=0, progress=False)
        noise = np.arange(POINTS) % 2 * 0.1
        fresh, own = law.rows(0, POINTS, seed=7, sigma=torch.from_numpy(noise))
        yield name, model.fitted, model.standardizer.z(fresh), own if labels else None


def ours(model: td.FittedModel, z: Tensor, label: Tensor | None, tolerance: float) -> td.LogDensity:
    density = model.density(td.DensityConfig(tolerance))
    return log_density(density.quick_flow, model.prior, z, density.lowest(len(z)), label)


def dopri5(
    model: td.FittedModel,
    z: Tensor,
    label: Tensor | None,
    tolerance: float,
    *,
    kind: torch.dtype = torch.float32,
    forward: bool = False,
) -> Tensor:
    """Return log-densities by torchdiffeq, in s = log sigma, from sigma_min to sigma_max."""
    net = model.denoiser if kind == torch.float32 else model.precise

    def rate(s: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        at, d = state[0], state[0].shape[1]
        sigma = s.exp().expand(len(at))
        if forward:
            with torch.no_grad():
                clean, trace = net.with_trace(at, sigma, label)  # type: ignore[attr-defined]
            return at - clean, d - trace[:, 0]
        with torch.enable_grad():
            at = at.detach().requires_grad_()
            clean = net(at, sigma, label)
            trace = sum(
                torch.autograd.grad(clean[:, j].sum(), at, retain_graph=j + 1 < d)[0][:, j] for j in range(d)
            )
        return (at - clean).detach(), d - trace

    times = torch.tensor([model.sigma_min, model.sigma_max], dtype=kind).log()
    start = (z.to(kind), torch.zeros(len(z), dtype=kind))
    end, lost = odeint(rate, start, times, rtol=tolerance, atol=tolerance, method="dopri5")
    value: Tensor = model.prior.log_prob(end[-1].double(), label) + lost[-1].double()
    return value


def holds(found: td.LogDensity, exact: Tensor) -> float:
    return float((np.abs(found.value - exact.numpy()) <= found.error).mean())


def p99(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).abs().quantile(0.99))


def speed() -> None:
    for name, model, z, label in models(
        ["square", "concentric squares by class", "checkerboard", "mixture by class"]
    ):
        exact = torch.from_numpy(ours(model, z, label, 1e-5).value)
        work: dict[str, Callable[[], object]] = {}
        for tolerance in (0.05, 0.02, 0.01):
            found = ours(model, z, label, tolerance)
            error, covered = p99(torch.from_numpy(found.value), exact), holds(found, exact)
            report(
                f"{name}, tolerance {tolerance:g}: error p99; bars that hold; evaluations",
                f"{error:.1e} nats; {covered:.2%}; {found.evaluations.mean():.1f}",
                "0.01; 99 %",
            )
            if error <= 0.01 and covered >= 0.99:
                run_ours = lambda m=model, z=z, y=label, t=tolerance: ours(m, z, y, t)  # noqa: E731
                work[f"ours, tolerance {tolerance:g}"] = run_ours
                break
        for kind in (torch.float32, torch.float64):
            for forward in (False, True):
                for tolerance in np.geomspace(1e-2, 1e-6, 9):
                    run = lambda t=tolerance, k=kind, f=forward, m=model, z=z, y=label: dopri5(  # noqa: E731
                        m, z, y, t, kind=k, forward=f
                    )
                    if p99(run(), exact) <= 0.01:
                        way = "forward" if forward else "backward"
                        work[f"dopri5 {str(kind)[6:]}, {way}, tolerance {tolerance:.0e}"] = run
                        break
        for what, timing in in_turn(work, rounds=3).items():
            report(f"{name}: {what}", f"{POINTS / np.median(timing.seconds):,.0f} points/s, {timing}", "2")


def bars() -> None:
    for name, model, z, label in models(["moons", "spiral", "mixture by class", "checkerboard"]):
        exact = ours(model, z, label, 1e-5).value
        for tolerance in (2e-3, 0.01, 0.05):
            found = ours(model, z, label, tolerance)
            error = np.abs(found.value - exact)
            report(
                f"{name}, tolerance {tolerance:g}: covered; median bar over median error; p99; evaluations",
                f"{(error <= found.error).mean():.2%}; {np.median(found.error) / np.median(error):.1f}; "
                f"{np.quantile(error, 0.99):.1e}; {found.evaluations.mean():.1f}",
                "99 %",
            )


def precision() -> None:
    for name, model, z, label in models(["square", "concentric squares by class", "checkerboard"]):
        density = model.density()
        single = ours(model, z, label, density.config.tolerance)
        double = log_density(
            replace(density.flow, even_first=True), model.prior, z, density.lowest(len(z)), label
        )
        moved = np.abs(single.value - double.value)
        report(
            f"{name}: float32 less float64, median; p99; greatest; greatest over the bar",
            f"{np.median(moved):.0e}; {np.quantile(moved, 0.99):.0e}; {moved.max():.0e}; "
            f"{(moved / double.error).max():.3f}",
            "",
        )


def threads() -> None:
    x, _ = Square().sample(65_536, seed=7)
    model = td.Diffusion().fit(x[:2000], seed=0, progress=False)

    def with_threads(number: int) -> Callable[[], object]:
        def run() -> None:
            torch.set_num_threads(number)
            model.log_prob(x)
            torch.set_num_threads(1)

        return run

    for what, timing in in_turn({"two threads": with_threads(2), "one": with_threads(1)}, rounds=3).items():
        report(f"square, {len(x):,} log-densities: {what}", str(timing), "")


ROWS: dict[str, Callable[[], None]] = {
    "speed": speed,
    "bars": bars,
    "precision": precision,
    "threads": threads,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ROWS:
        ROWS[name]()
