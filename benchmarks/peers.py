"""Four density estimators on the same points: how much log-likelihood each loses, and how long it takes.

`make peers` runs it in an environment of its own, `.venv-peers`, since the spline flow comes from zuko.
`python benchmarks/peers.py [name ...]` runs the named `CASES`, or all of them. A case prints the mean over
fresh points of the log-density of the truth minus that of the estimator, in nats: the median of three draws
of the training points, and each of them. Without a known truth it is the mean over the held-out rows of five
folds, counted from the best estimator of the case.

Each estimator chooses its own settings by its usual way, on the training points alone:

- `toydiffusion`: the defaults.
- kernel density: scikit-learn's, Gaussian. The bandwidth of 30, and whether columns are standardised each or
  scaled together, by five-fold cross-validation.
- Gaussian mixture: scikit-learn's, full covariances, the number of components (1 to 32) and the
  regularisation by five-fold cross-validation, then the best of five starts.
- spline flow: zuko's `NSF`, three transforms of 8 bins with two layers of 64 units, Adam with a falling
  learning rate, stopped on a fifth of the points.

All others see standardised columns.

`ROWS`, which `make bench` runs, is the work of a user of one model: on 1,000 points of two moons it times the
fit, the log-densities of 10,000 fresh points and 100,000 samples, in turn. There is a fifth peer:

- continuous flow: zuko's `CNF` (FFJORD) with two layers of 64 units, 400 steps of 256 points, stopped as the
  spline flow. Its default tolerances (1e-6, 1e-5) are used for log-densities, 1e-3 in training.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import zuko
from measure import DRAWS, MIXTURE, in_turn, report
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KernelDensity

import toydiffusion as td
from toydiffusion.distributions import Checkerboard, Distribution, GaussianMixture, Spiral, Square, TwoMoons

Points = NDArray[np.float64]
FRESH = 2000
"""The points that judge."""


@dataclass(frozen=True)
class Density:
    """What an estimator has learned: log-densities of points, and new points."""

    log_prob: Callable[[Points], Points]
    sample: Callable[[int], Points]


Fit = Callable[[Points, int], Density]


def standardised(fit: Fit) -> Fit:
    """Return the same for columns of any mean and scale."""

    def fitted(x: Points, seed: int) -> Density:
        mean, scale = x.mean(0), x.std(0)
        found = fit((x - mean) / scale, seed)
        return Density(
            lambda test: found.log_prob((test - mean) / scale) - np.log(scale).sum(),
            lambda n: mean + scale * found.sample(n),
        )

    return fitted


def diffusion(x: Points, seed: int) -> Density:
    model = td.Diffusion().fit(x, seed=seed, progress=False)
    return Density(lambda test: model.log_prob(test).value, model.sample)


def distilled(x: Points, seed: int) -> Density:
    model = td.distill(td.Diffusion().fit(x, seed=seed, progress=False), progress=False)
    return Density(lambda test: model.log_prob(test).value, model.sample)


def kernel(x: Points, seed: int) -> Density:
    found = []
    for scale in (x.std(0), np.full(x.shape[1], x.std(0).mean())):
        search = GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.03, 1, 30)}, cv=5)
        search.fit(x / scale)
        # scikit-learn's score is the sum over the points of a fold.
        score = search.best_score_ - len(x) / 5 * np.log(scale).sum()
        found.append((score, scale, search.best_estimator_))
    _, scale, best = max(found, key=lambda one: one[0])
    return Density(
        lambda test: best.score_samples(test / scale) - np.log(scale).sum(), lambda n: scale * best.sample(n)
    )


@standardised
def mixture(x: Points, seed: int) -> Density:
    grid = {"n_components": [1, 2, 3, 4, 6, 8, 12, 16, 24, 32], "reg_covar": [1e-6, 1e-3, 1e-2, 1e-1]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(SklearnMixture(random_state=seed), grid, cv=5, refit=False).fit(x)
        best = SklearnMixture(n_init=5, random_state=seed, **search.best_params_).fit(x)
    return Density(best.score_samples, lambda n: best.sample(n)[0])


@standardised
def flow(x: Points, seed: int) -> Density:
    torch.manual_seed(seed)
    net = zuko.flows.NSF(x.shape[1], transforms=3, bins=8, hidden_features=(64, 64))
    return by_gradient(net, x, seed, 2000)


@standardised
def continuous(x: Points, seed: int) -> Density:
    torch.manual_seed(seed)
    net = zuko.flows.CNF(x.shape[1], hidden_features=(64, 64), atol=1e-3, rtol=1e-3)
    found = by_gradient(net, x, seed, 400)
    net.transform.atol, net.transform.rtol = 1e-6, 1e-5
    return found


def by_gradient(net: zuko.lazy.Flow, x: Points, seed: int, steps: int) -> Density:
    """Train a flow of zuko."""
    order = np.random.default_rng(seed).permutation(len(x))
    held, kept = (torch.from_numpy(x[part]).float() for part in np.split(order, [len(x) // 5]))
    best, weights = np.inf, net.state_dict()
    adam = torch.optim.Adam(net.parameters(), lr=2e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for step in range(steps):
        batch = kept[torch.randint(len(kept), (min(256, len(kept)),))]
        loss = -net().log_prob(batch).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        adam.step()
        falling.step()
        if step % 25 == 0:
            with torch.no_grad():
                found = -net().log_prob(held).mean().item()
            if found < best:
                best, weights = found, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(weights)

    @torch.no_grad()
    def log_prob(test: Points) -> Points:
        found: Points = net().log_prob(torch.from_numpy(test).float()).double().numpy()
        return found

    @torch.no_grad()
    def sample(n: int) -> Points:
        found: Points = net().sample((n,)).double().numpy()
        return found

    return Density(log_prob, sample)


ESTIMATORS: dict[str, Fit] = {
    "toydiffusion": diffusion,
    "kernel density": kernel,
    "Gaussian mixture": mixture,
    "spline flow": flow,
}


@dataclass(frozen=True)
class Found:
    """What an estimator gives: its mean log-density at the test points, and seconds to fit and to score."""

    value: float
    fit: float
    score: float


def measured(name: str, x: Points, test: Points, seed: int) -> Found:
    start = time.perf_counter()
    density = ESTIMATORS[name](x, seed)
    fitted = time.perf_counter()
    found = density.log_prob(test)
    return Found(float(found.mean()), fitted - start, time.perf_counter() - fitted)


def against(law: Distribution, points: int = 1000) -> dict[str, list[tuple[float, Found]]]:
    """Return for each estimator the nats below the truth in each draw."""
    found: dict[str, list[tuple[float, Found]]] = {name: [] for name in ESTIMATORS}
    for seed in DRAWS:
        x, test = law.sample(points, seed=100 + seed)[0], law.sample(FRESH, seed=500 + seed)[0]
        exact = float(np.mean(law.log_prob(test)))
        for name in ESTIMATORS:
            one = measured(name, x, test, seed)
            found[name].append((exact - one.value, one))
    return found


def held_out(x: Points) -> dict[str, list[tuple[float, Found]]]:
    """Return for each estimator the nats below the best one, over the held-out rows of five folds."""
    folds = KFold(5, shuffle=True, random_state=0).split(x)
    runs = [[measured(name, x[a], x[b], 0) for name in ESTIMATORS] for a, b in folds]
    best = max(statistics.mean(run[i].value for run in runs) for i in range(len(ESTIMATORS)))
    return {
        name: [(best - statistics.mean(run[i].value for run in runs), runs[0][i])]
        for i, name in enumerate(ESTIMATORS)
    }


SIX = GaussianMixture(
    np.random.default_rng(0).normal(size=(4, 6)) * 2,
    [np.cov(np.random.default_rng(k).normal(size=(12, 6)).T) for k in range(4)],
)
"""Four overlapping Gaussians in six dimensions."""

CASES: dict[str, Callable[[], dict[str, list[tuple[float, Found]]]]] = {
    "square": lambda: against(Square()),
    "checkerboard": lambda: against(Checkerboard()),
    "checkerboard, 5,000 points": lambda: against(Checkerboard(), 5000),
    "two moons": lambda: against(TwoMoons()),
    "spiral": lambda: against(Spiral()),
    "3 Gaussians": lambda: against(MIXTURE),
    "4 Gaussians in 6-D": lambda: against(SIX),
    "wine, 178 rows of 13": lambda: held_out(load_wine().data),
    "breast cancer, 569 of 30": lambda: held_out(load_breast_cancer().data),
}


def work() -> None:
    """Report what a user of one model waits for, with each estimator in turn."""
    law, test = TwoMoons(), TwoMoons().sample(10_000, seed=500)[0]
    exact = float(np.mean(law.log_prob(test)))
    kinds = {**ESTIMATORS, "toydiffusion, distilled": distilled, "continuous flow": continuous}
    learned, seconds = {}, {}
    for name, fit in kinds.items():
        start = time.perf_counter()
        learned[name] = fit(law.sample(1000, seed=100)[0], 0)
        seconds[name] = time.perf_counter() - start
    scores = in_turn({name: lambda d=d: d.log_prob(test) for name, d in learned.items()}, rounds=3)
    draws = in_turn({name: lambda d=d: d.sample(100_000) for name, d in learned.items()}, rounds=3)
    for name, density in learned.items():
        lost = exact - float(density.log_prob(test).mean())
        head = f"two moons, {name}"
        report(f"{head}: nats below the truth; seconds to fit", f"{lost:.3f}; {seconds[name]:.1f}", "")
        report(f"{head}: log-densities of 10,000 points", str(scores[name]), "")
        report(f"{head}: 100,000 samples", str(draws[name]), "")


ROWS = {"work": work}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        for name, found in CASES[case]().items():
            losses = [loss for loss, _ in found]
            each = f"[{', '.join(f'{v:.3f}' for v in losses)}]" if len(losses) > 1 else ""
            print(
                f"{case:26} {name:18} {statistics.median(losses):7.3f} {each:24} "
                f"fit {statistics.median(one.fit for _, one in found):6.1f} s, "
                f"score {statistics.median(one.score for _, one in found):7.3f} s",
                flush=True,
            )
