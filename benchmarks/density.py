"""The numbers of benchmarks/README.md on log-density.

`python benchmarks/density.py [name ...]`, the names being those of `ROWS`; without any, all of them. Each row
prints what was measured and what must be reached. Default settings throughout.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from measure import DRAWS, MIXTURE, each, report
from numpy.typing import NDArray
from scipy.integrate._ivp import dop853_coefficients as dop853
from scipy.stats import spearmanr
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.neighbors import KernelDensity

import toydiffusion as td
from toydiffusion.density import LogDensity, ProbabilityFlow, elbo, log_density
from toydiffusion.density.trace import denoise_with_trace
from toydiffusion.distributions import (
    BUILT_IN,
    Checkerboard,
    ConcentricSquares,
    Distribution,
    GaussianMixture,
    Prior,
    Square,
    TwoMoons,
)
from toydiffusion.report.densities import quadruples

SIGMA_MIN, SIGMA_MAX = td.TrainConfig().sigma_min, td.TrainConfig().sigma_max
OVERLAPPING = GaussianMixture(
    [[-0.8, 0.0], [0.8, 0.3], [0.0, -0.9]],
    [[[0.5, 0.2], [0.2, 0.4]], [[0.4, -0.1], [-0.1, 0.6]], [[0.6, 0.0], [0.0, 0.3]]],
    weights=[0.4, 0.35, 0.25],
)


@functools.cache
def fitted(law: Distribution, n: int, draw: int, labelled: bool = False) -> td.Diffusion:
    x, y = law.sample(n, seed=100 + draw)
    return td.Diffusion().fit(x, y if labelled else None, seed=draw, progress=False)


def standard(law: Distribution) -> Distribution:
    """Return the law in its own standard coordinates."""
    return law.standardized(law.mean.numpy(), law.covariance.diagonal().sqrt().numpy())


def gaussians(law: Distribution, labelled: bool) -> Distribution:
    """Return the law's moments: what a model's prior is made of."""
    if labelled:
        return GaussianMixture(law.class_means, law.class_covariances, weights=law.frequencies)
    return GaussianMixture(law.mean[None], law.covariance[None])


# The exact denoisers --------------------------------------------------------------------------------


def exact() -> None:
    cases = (
        ("square", Square(), False),
        ("concentric squares, by class", ConcentricSquares(), True),
        ("concentric squares, as a mixture", ConcentricSquares(), False),
        ("3-component mixture, by class", MIXTURE, True),
        ("3-component mixture, as a whole", MIXTURE, False),
        ("two moons", TwoMoons(), False),
        ("checkerboard", Checkerboard(), False),
    )
    n = 4000
    for name, plain, labelled in cases:
        law = standard(plain)
        z, drawn = law.rows(0, n, seed=0, sigma=SIGMA_MIN)
        label = drawn if labelled else None
        truth = law.log_prob(z, SIGMA_MIN, label).numpy()
        level = torch.full((n,), SIGMA_MIN, dtype=torch.float64)
        for start, prior in (
            ("exact prior", Prior(law, SIGMA_MAX)),
            ("Gaussian prior", Prior(gaussians(law, labelled), SIGMA_MAX)),
        ):
            found = log_density(ProbabilityFlow(law.denoise, prior.distribution), prior, z, level, label)
            miss, bar = np.abs(found.value - truth), found.error + found.prior_error
            report(
                f"exact denoiser, {name}, {start}: error, 99th percentile",
                f"{np.quantile(miss, 0.99):.1e}",
                "<= 1e-3 nats",
            )
            print(
                f"    within the bar {np.mean(miss <= bar):.2%} (>= 99 %), median bar over median error "
                f"{np.median(bar) / max(np.median(miss), 1e-15):.1f} (<= 10), "
                f"{found.evaluations.mean():.0f} evaluations",
                flush=True,
            )


def held_out() -> None:
    """The same where nothing had a part in choosing the solver's settings, as the points of `exact` had."""
    cases = [
        (name, law, labelled, seed)
        for seed in (101, 102, 103)
        for name, law, labelled in (
            ("square", Square(), False),
            ("concentric squares, by class", ConcentricSquares(), True),
            ("3-component mixture", MIXTURE, False),
        )
    ]
    cases += [
        ("eight gaussians", BUILT_IN["eight_gaussians"](), False, 101),
        ("spiral", BUILT_IN["spiral"](), False, 101),
        ("overlapping mixture", OVERLAPPING, False, 101),
        ("three concentric squares, by class", ConcentricSquares(3), True, 101),
    ]
    for k in range(6):
        rng = np.random.default_rng(1000 + k)
        m = int(rng.integers(2, 6))
        shapes = [0.1 * a @ a.T + 0.05 * np.eye(2) for a in rng.normal(size=(m, 2, 2))]
        law = GaussianMixture(1.2 * rng.normal(size=(m, 2)), shapes, weights=rng.dirichlet(np.full(m, 3.0)))
        cases.append((f"random mixture {k}", law, False, 101))
    n = 4000
    for name, plain, labelled, seed in cases:
        law = standard(plain)
        z, drawn = law.rows(0, n, seed=seed, sigma=SIGMA_MIN)
        label = drawn if labelled else None
        prior = Prior(gaussians(law, labelled), SIGMA_MAX)
        level = torch.full((n,), SIGMA_MIN, dtype=torch.float64)
        found = log_density(ProbabilityFlow(law.denoise, prior.distribution), prior, z, level, label)
        miss = np.abs(found.value - law.log_prob(z, SIGMA_MIN, label).numpy())
        bar = found.error + found.prior_error
        ratio = np.median(bar) / max(np.median(miss), 1e-15)
        measured = f"{np.quantile(miss, 0.99):.1e}; {np.mean(miss <= bar):.2%}; {ratio:.1f}"
        report(f"held out, {name}, seed {seed}: error, covered, bar ratio", measured, "1e-3; 99 %; 10")


def learned() -> None:
    """The bars on networks, near the data and far from it, against the same flow in fine steps.

    The solver's settings were chosen on models with draws 0, 1 and 2, near and at 5 and 30 standard
    deviations: of the square, concentric squares, moons, checkerboard, spiral, eight gaussians, mixtures
    and 6-d mixtures 0 and 1, with waves and without. Six of them are here. The others are fresh: other
    draws, and two laws not
    seen (the overlapping mixture, 6-d mixture 2).
    """
    six = [GaussianMixture(*_six(seed)) for seed in range(3)]
    spiral, eight = BUILT_IN["spiral"](), BUILT_IN["eight_gaussians"]()
    cases: list[tuple[str, str, Distribution, bool, int, int]] = [
        ("chosen on", "square", Square(), False, 0, 0),
        ("chosen on", "square", Square(), False, 0, 32),
        ("chosen on", "concentric squares by class", ConcentricSquares(), True, 0, 0),
        ("chosen on", "two moons", TwoMoons(), False, 1, 32),
        ("chosen on", "mixture", MIXTURE, False, 0, 0),
        ("chosen on", "6-d mixture", six[0], False, 0, 0),
        ("fresh", "square", Square(), False, 5, 0),
        ("fresh", "square", Square(), False, 6, 32),
        ("fresh", "concentric squares by class", ConcentricSquares(), True, 5, 0),
        ("fresh", "concentric squares by class", ConcentricSquares(), True, 6, 32),
        ("fresh", "two moons", TwoMoons(), False, 5, 0),
        ("fresh", "checkerboard", Checkerboard(), False, 5, 0),
        ("fresh", "spiral", spiral, False, 5, 0),
        ("fresh", "spiral", spiral, False, 6, 32),
        ("fresh", "eight gaussians", eight, False, 5, 0),
        ("fresh", "overlapping mixture by class", OVERLAPPING, True, 5, 0),
        ("fresh", "6-d mixture", six[2], False, 5, 0),
    ]
    for kind, name, law, labelled, draw, waves in cases:
        x, y = law.sample(1000, seed=100 + draw)
        model = td.Diffusion(td.TrainConfig(waves=waves))
        model.fit(x, y if labelled else None, seed=draw, progress=False)
        fresh, classes = law.sample(400, seed=900 + draw)
        label = torch.as_tensor(classes) if labelled else None
        rng = np.random.default_rng(draw)
        way = rng.normal(size=(200, law.dim))
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        near = model.standardizer.z(torch.from_numpy(fresh))
        for place, z in (("near", near), *((f"{k} sd", torch.from_numpy(k * way)) for k in (5, 10, 30))):
            own = None if label is None else label[: len(z)]
            level = torch.full((len(z),), model.sigma_min, dtype=torch.float64)
            found = log_density(model.fitted.density().quick_flow, model.prior(), z, level, own)
            miss = np.abs(found.value - in_fine_steps(model, z, own))
            ratio = np.median(found.error) / np.median(miss)
            measured = f"{np.mean(miss <= found.error):.2%}; {np.quantile(miss, 0.99):.1e}; {ratio:.1f}"
            report(
                f"{kind}: {name}, seed {draw}{', waves' if waves else ''}, {place}: covered, error, ratio",
                f"{measured}; {found.evaluations.mean():.0f} evaluations",
                "99 %; -; 10",
            )


def _six(seed: int) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    rng = np.random.default_rng(seed)
    return 1.2 * rng.normal(size=(4, 6)), [np.diag(rng.uniform(0.05, 0.5, 6)) for _ in range(4)]


def in_fine_steps(
    model: td.Diffusion, z: torch.Tensor, label: torch.Tensor | None, steps: int = 120
) -> NDArray[np.float64]:
    """Return the log-density at z by 120 steps of scipy's method of order 8, a second solver.

    Steps half as long change 3e-7 nats at most, and its own adaptive steps agree with these to 1e-8.
    """
    net, n, d = model.fitted.precise, *z.shape
    state = torch.cat([z, z.new_zeros(n, 1)], 1)
    grid = np.linspace(np.log(model.sigma_min), np.log(model.sigma_max), steps + 1)
    h = float(grid[1] - grid[0])
    for s in grid[:-1]:
        slopes: list[torch.Tensor] = []
        for i in range(dop853.N_STAGES):
            inner = state + sum((h * float(dop853.A[i, j]) * slopes[j] for j in range(i)), 0 * state)
            sigma = torch.full((n,), float(np.exp(s + dop853.C[i] * h)), dtype=torch.float64)
            clean, trace = denoise_with_trace(net, inner[:, :d], sigma, label)
            slopes.append(torch.cat([inner[:, :d] - clean, d - trace], 1))
        state = state + sum((h * float(b) * k for b, k in zip(dop853.B, slopes, strict=True)), 0 * state)
    return (model.prior().log_prob(state[:, :d], label) + state[:, d]).numpy()


def exact_elbo() -> None:
    law, n = standard(ConcentricSquares()), 2000
    z, label = law.rows(0, n, seed=0)
    net = torch.quasirandom.SobolEngine(2, scramble=True, seed=1).draw(2048, dtype=torch.float64)
    eps = torch.special.ndtri(net.clamp(1e-12, 1 - 1e-12))
    for name, asked in (("in class", label), ("out of class", (label + 1) % 5), ("as a whole", None)):
        want = np.array(
            [
                float(
                    law.log_prob(
                        z[i] + SIGMA_MIN * eps,
                        SIGMA_MIN,
                        None if asked is None else asked[i].expand(len(eps)),
                    ).mean()
                )
                for i in range(n)
            ]
        )
        prior = Prior(law, SIGMA_MAX)
        found = elbo(law.denoise, prior, z, asked, sigma_min=SIGMA_MIN, evaluations=1024, seed=3)
        off = found.value - want
        mean_error = float(np.sqrt((found.std_error**2).sum()) / n)
        report(
            f"exact denoiser and prior, concentric squares {name}: mean(ELBO - E log p)",
            f"{off.mean() / mean_error:+.2f} standard errors",
            "within 3",
        )
        print(
            f"    {off.mean():+.5f} +- {mean_error:.5f} nats; points within 3 of their own "
            f"{np.mean(np.abs(off) <= 3 * found.std_error):.1%} (3 of 8 nets' error: 98 % if normal)",
            flush=True,
        )


# The bound ------------------------------------------------------------------------------------------


def elbo_gap() -> None:
    cases = (
        ("square, 1,000 points", Square(), 1000, False),
        ("concentric squares as a mixture, 1,000 points", ConcentricSquares(), 1000, True),
        ("concentric squares as a mixture, 5,000 points", ConcentricSquares(), 5000, True),
        ("mixture, 5,000 points", MIXTURE, 5000, False),
        ("two moons, 5,000 points", TwoMoons(), 5000, False),
        ("checkerboard, 5,000 points", Checkerboard(), 5000, False),
    )
    for name, law, n, labelled in cases:
        means = []
        for draw in DRAWS if n == 1000 else DRAWS[:1]:
            model = fitted(law, n, draw, labelled)
            x = law.sample(2000, seed=500 + draw)[0]
            gap = model.elbo(x, evaluations=1024).value - model.log_prob(x).value
            means.append(float(gap.mean()))
        report(f"{name}: mean(ELBO - log-density), nats", each(means), "within 0.02 of 0")
        print(
            f"    from point to point {gap.std():.3f}, standard error of the mean "
            f"{gap.std() / len(gap) ** 0.5:.4f}",
            flush=True,
        )


def elbo_error() -> None:
    model = fitted(Square(), 1000, 0)
    x = Square().sample(500, seed=500)[0]
    for evaluations, target in ((256, 0.07), (1024, 0.025)):
        runs = [model.elbo(x, evaluations=evaluations, seed=seed) for seed in range(20)]
        reported = float(np.sqrt(np.mean([run.std_error**2 for run in runs])))
        spread = float(np.sqrt(np.stack([run.value for run in runs]).var(0, ddof=1).mean()))
        report(
            f"ELBO standard error at {evaluations} evaluations, root mean square",
            f"{reported:.4f}",
            f"<= {target}",
        )
        print(f"    spread over 20 seeds {spread:.4f}", flush=True)


# The learned density --------------------------------------------------------------------------------


def mass() -> None:
    for name, law, labelled in (
        ("square", Square(), False),
        ("concentric squares", ConcentricSquares(), True),
    ):
        start = time.perf_counter()
        found = fitted(law, 1000, 0, labelled).check_density(points=200, progress=False)
        took = time.perf_counter() - start
        report(
            f"mass of the trained {name} over the plane",
            f"{found.mass.value:.5f} +- {found.mass.std_error:.0e}",
            "1 +- 0.002",
        )
        each_class = ", ".join(f"{one.value:.5f}" for one in found.masses)
        print(f"    by class {each_class}; {took:.0f} s", flush=True)


def order() -> None:
    law = ConcentricSquares()
    for n in (1000, 5000):
        ordered, agreed, pooled = [], [], []
        for draw in DRAWS:
            model = fitted(law, n, draw, True)
            values = np.stack([model.log_prob(*pair).value for pair in quadruples(500, seed=draw)])
            ordered.append(float((np.diff(values, axis=0) < 0).all(0).sum()))
            pairs = quadruples(1000, seed=10 + draw, margin=0.0)
            s = model.standardizer
            true = law.standardized(s.mean, s.scale)
            ours = np.stack([model.log_prob(*pair).value for pair in pairs])
            exact = np.stack(
                [
                    true.log_prob(s.z(torch.from_numpy(x)), model.sigma_min, torch.from_numpy(c)).numpy()
                    for x, c in pairs
                ]
            )
            same, of = 0, 0
            for i in range(4):
                for j in range(i):
                    apart = np.abs(exact[i] - exact[j]) > 0.5
                    same += int((np.sign(exact[i] - exact[j]) == np.sign(ours[i] - ours[j]))[apart].sum())
                    of += int(apart.sum())
            agreed.append(same / of)
            i, j = np.random.default_rng(0).integers(0, ours.size, (2, 20_000))
            a, b = exact.ravel(), ours.ravel()
            apart = np.abs(a[i] - a[j]) > 0.5
            pooled.append(float(np.mean((np.sign(a[i] - a[j]) == np.sign(b[i] - b[j]))[apart])))
        report(
            f"concentric squares, {n:,} points: right > wrong > outside > far", each(ordered, 0), "500 of 500"
        )
        report("    unrestricted pairs of one point in the exact order", each(agreed), ">= 0.99")
        print(f"    pairs of any two points and labels: {each(pooled)}", flush=True)


def lost() -> None:
    losses, errors = [], []
    for draw in DRAWS:
        x = Square().sample(10_000, seed=500 + draw)[0]
        value = fitted(Square(), 1000, draw).log_prob(x).value
        losses.append(float(-value.mean() - np.log(4)))
        errors.append(float(value.std() / len(value) ** 0.5))
    report("-(mean log-density of 10,000 fresh points) - log 4, square", each(losses), "<= 0.07 nats")
    print(f"    standard errors {each(errors)}", flush=True)


def rank() -> None:
    for name, law in (("mixture", MIXTURE), ("two moons", TwoMoons())):
        found = []
        for draw in DRAWS:
            x = law.sample(3000, seed=500 + draw)[0]
            found.append(float(spearmanr(law.log_prob(x), fitted(law, 5000, draw).log_prob(x).value)[0]))
        report(f"{name}, 5,000 points: Spearman correlation with the truth", each(found), ">= 0.98")
        test = law.sample(3000, seed=500)[0]
        true, points = law.log_prob(test), law.sample(5000, seed=100)[0]
        peers = [
            KernelDensity(bandwidth=b).fit(points).score_samples(test) for b in np.geomspace(0.03, 0.3, 12)
        ]
        noise = np.random.default_rng(0).normal(size=len(true))
        many = fitted(law, 100_000, 0).log_prob(test).value
        best, ours = max(spearmanr(true, peer)[0] for peer in peers), spearmanr(true, many)[0]
        blurred = [spearmanr(true, true + size * noise)[0] for size in (0.05, 0.1)]
        print(
            f"    kernel density, best of 12 bandwidths {best:.3f}; with 100,000 points {ours:.3f}; the "
            f"truth with normal errors of 0.05 and 0.1 nats {blurred[0]:.3f}, {blurred[1]:.3f}",
            flush=True,
        )


def checkerboard() -> None:
    law = Checkerboard()
    areas, errors = [], []
    for draw in DRAWS:
        model = fitted(law, 5000, draw)
        s = model.standardizer
        half = float(law.sample(1000, seed=0)[0].__abs__().max())
        x = np.random.default_rng(draw).uniform(-half, half, (4000, 2))
        inside = law.contains(x)
        found = model.log_prob(x).value
        areas.append(float(roc_auc_score(inside, found)))
        # Points whose whole neighbourhood of 3 sigma_min lies within.
        reach = 3 * model.sigma_min * s.scale.numpy()
        around = np.array([[a, b] for a in (-1, 0, 1) for b in (-1, 0, 1)]) * reach
        deep = law.contains((x[:, None] + around).reshape(-1, 2)).reshape(len(x), -1).all(1)
        errors.append(float(np.abs(found - law.log_prob(x))[deep].mean()))
    report("checkerboard, 5,000 points: inside against outside, AUC", each(areas), ">= 0.99")
    report("    mean absolute error 3 sigma_min from the edges, nats", each(errors), "<= 0.15")


def classes() -> None:
    found = []
    for draw in DRAWS:
        x, y = OVERLAPPING.sample(5000, seed=500 + draw)
        ours = log_loss(y, fitted(OVERLAPPING, 5000, draw, True).predict_proba(x))
        found.append(float(ours - log_loss(y, OVERLAPPING.class_posterior(x))))
    report("overlapping mixture, 5,000 points: log-loss above the exact one's", each(found), "<= 0.02")


def cost() -> None:
    model = fitted(Square(), 1000, 0)
    x = Square().sample(20_000, seed=500)[0]
    small = x[:2000]
    found = model.log_prob(small)
    reference = runge_kutta(model, small)
    miss = np.abs(found.value - reference)
    report("default settings, square model: evaluations a point", f"{found.evaluations.mean():.1f}", "<= 64")
    report("    against RK4 in 256 steps, 99th percentile", f"{np.quantile(miss, 0.99):.1e}", "<= 0.01 nats")
    speeds = []
    for n in (2000, 20_000, 2000, 20_000):
        start = time.perf_counter()
        model.log_prob(x[:n])
        speeds.append(n / (time.perf_counter() - start))
    report(
        f"    points a second, {torch.get_num_threads()} threads, 2,000 and 20,000 points in turn",
        ", ".join(f"{v:,.0f}" for v in speeds),
        ">= 1,000 (stretch 5,000)",
    )


def runge_kutta(model: td.Diffusion, x: NDArray[np.float64], steps: int = 256) -> NDArray[np.float64]:
    """Return the log-density by the classical method in log sigma, everything plain: a second solver."""
    net = model.fitted.precise
    z = model.standardizer.z(torch.from_numpy(x))
    total = torch.zeros(len(z), dtype=torch.float64)

    def slope(z: torch.Tensor, s: float) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            drift = at - net(at, torch.full((len(at),), float(np.exp(s)), dtype=torch.float64), None)
            parts = [torch.autograd.grad(drift[:, i].sum(), at, retain_graph=True)[0][:, i] for i in (0, 1)]
        return drift.detach(), parts[0] + parts[1]

    grid = np.linspace(np.log(model.sigma_min), np.log(model.sigma_max), steps + 1)
    h = grid[1] - grid[0]
    for s in grid[:-1]:
        k1, l1 = slope(z, s)
        k2, l2 = slope(z + h / 2 * k1, s + h / 2)
        k3, l3 = slope(z + h / 2 * k2, s + h / 2)
        k4, l4 = slope(z + h * k3, s + h)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        total = total + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
    return (model.prior().log_prob(z) + total + model.standardizer.log_det).numpy()


def rays() -> None:
    for name, law, labelled in (
        ("square", Square(), False),
        ("concentric squares", ConcentricSquares(), True),
    ):
        model = fitted(law, 1000, 0, labelled)
        angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 20)
        way = np.stack([np.cos(angle), np.sin(angle)], 1) * model.standardizer.scale.numpy()
        values = np.stack(
            [
                LogDensity.__array__(model.log_prob(model.standardizer.mean.numpy() + k * way))
                for k in (5, 10, 30, 100)
            ]
        )
        falling = int((np.isfinite(values).all(0) & (np.diff(values, axis=0) < 0).all(0)).sum())
        report(f"{name}: rays at 5, 10, 30, 100 sd, strictly falling", f"{falling} of 20", "20 of 20")


def budget() -> None:
    print(fitted(Square(), 1000, 0).check_density(Square(), endless=True, progress=False))


ROWS: dict[str, Callable[[], None]] = {
    "exact": exact,
    "held-out": held_out,
    "learned": learned,
    "exact-elbo": exact_elbo,
    "elbo-gap": elbo_gap,
    "elbo-error": elbo_error,
    "mass": mass,
    "order": order,
    "lost": lost,
    "rank": rank,
    "checkerboard": checkerboard,
    "classes": classes,
    "cost": cost,
    "rays": rays,
    "budget": budget,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or ROWS:
        ROWS[name]()
