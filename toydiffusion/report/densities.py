"""The section on log-density: points, maps, classes and the certificate, compared with the truth."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toydiffusion import figures
from toydiffusion.figures import Bins, Curve
from toydiffusion.metrics import Calibration, calibration
from toydiffusion.report.experiment import Learned, Part
from toydiffusion.report.settings import DemoSettings
from toydiffusion.report.square import SQUARE

HALF_WIDTH = 1.4
"""The half width of the map, in the square's units."""
HEIGHT = 0.1
"""The second coordinate of the cut through the map, in the square's units."""
MARGIN = 0.03
"""The least distance from every border of the points whose log-densities are compared."""
KINDS = ("right class", "wrong class", "outside", "far outside")

Pairs = list[tuple[NDArray[np.float64], NDArray[np.int64]]]


def quadruples(n: int, *, seed: int, margin: float = MARGIN, squares: int = 5) -> Pairs:
    """Return n points of the concentric squares four times with different labels: a pair for each of `KINDS`.

    1. the points with their own class.
    2. the points with another class that is not adjacent; with margin 0, with any other class.
    3. the points moved outwards by 2 in each coordinate, with the outermost class.
    4. the points moved outwards by 4 in each coordinate, with the outermost class.

    - `n`: the number of points.
    - `seed`: an integer >= 0.
    - `margin`: the least distance of the points from every border, default 0.03.
    - `squares`: the number of concentric squares, default 5.
    """
    generator = np.random.default_rng(seed)
    x = generator.uniform(-1, 1, (40 * n, 2))
    radius = np.abs(x).max(1)
    x = x[(np.abs(radius[:, None] - np.arange(1, squares + 1) / squares) >= margin).all(1)][:n]
    right = np.minimum((np.abs(x).max(1) * squares).astype(np.int64), squares - 1)
    adjacent = 1 if margin else 0
    wrong = np.array([generator.choice([k for k in range(squares) if abs(k - c) > adjacent]) for c in right])
    outermost = np.full(len(x), squares - 1)
    return [(x, right), (x, wrong), (x + 2 * np.sign(x), outermost), (x + 4 * np.sign(x), outermost)]


def densities(plain: Learned, concentric: Learned, settings: DemoSettings, *, seed: int) -> Part:
    """Compare the log-densities of the models of the square and the concentric squares with the truth."""
    points, estimates = _points(concentric, settings, seed=seed)
    classes, diagram = _classes(concentric, settings, seed=seed)
    grid = figures.lattice(HALF_WIDTH, settings.map)
    learned, exact = plain.model.log_prob(grid).value, plain.exact_log_prob(grid)
    found = plain.model.check_density(
        plain.law, endless=True, points=settings.tested, seed=seed, progress=False
    )
    test = plain.law.sample(settings.tested, seed=seed + 7)[0]
    ode, bound = plain.model.log_prob(test), plain.model.elbo(test, evaluations=256, seed=seed)
    return Part(
        {
            "sigma_min": plain.model.sigma_min * float(plain.model.standardizer.scale.mean()),
            "points": points,
            "classes": classes,
            "test_points": len(test),
            "mean": {
                "ode": float(ode.value.mean()),
                "elbo": float(bound.value.mean()),
                "exact": float(plain.exact_log_prob(test).mean()),
            },
            "elbo_std_error": float(np.sqrt(np.mean(bound.std_error**2))),
            "bar": float(np.median(ode.total_error)),
            "evaluations": float(ode.evaluations.mean()),
            "certificate": asdict(found),
            "certificate_rows": found.rows(),
        },
        {
            "points": estimates,
            "cut": _cut(plain, seed=seed),
            "map": figures.density_maps(learned, exact, outline=SQUARE, half_width=HALF_WIDTH),
            "reliability": diagram,
        },
    )


def _points(concentric: Learned, settings: DemoSettings, *, seed: int) -> tuple[dict[str, Any], Any]:
    """Return estimates at single points, as in the original: numbers for all points, a figure of a few."""
    shown = min(8, settings.quadruples)
    numbers: dict[str, Any] = {"number": settings.quadruples, "margin": MARGIN, "kinds": {}}
    groups, values = {}, []
    for kind, (x, label) in zip(KINDS, quadruples(settings.quadruples, seed=seed), strict=True):
        ode = concentric.model.log_prob(x, label)
        bound = concentric.model.elbo(x, label, evaluations=256, seed=seed)
        exact = concentric.exact_log_prob(x, label)
        values.append(ode.value)
        numbers["kinds"][kind] = {
            "ode": float(np.median(ode.value)),
            "bar": float(np.median(ode.total_error)),
            "elbo": float(np.median(bound.value)),
            "std_error": float(np.median(bound.std_error)),
            "exact": float(np.median(exact)),
        }
        groups[kind] = [
            Curve("probability flow", "model", ode.value[:shown], ode.total_error[:shown]),
            Curve("ELBO", "original", bound.value[:shown], bound.std_error[:shown]),
            Curve("exact", "truth", exact[:shown]),
        ]
    numbers["ordered"] = int((np.diff(np.stack(values), axis=0) < 0).all(0).sum())
    return numbers, figures.point_estimates(groups)


def _cut(plain: Learned, *, seed: int) -> Any:
    along = np.linspace(-HALF_WIDTH, HALF_WIDTH, 281)
    x = np.stack([along, np.full_like(along, HEIGHT)], 1)
    ode, bound = plain.model.log_prob(x), plain.model.elbo(x, evaluations=256, seed=seed)
    return figures.density_cut(
        along,
        [
            Curve("probability flow", "model", ode.value, ode.total_error),
            Curve("ELBO", "original", bound.value, bound.std_error),
            Curve("exact, smoothed at σ min", "truth", plain.exact_log_prob(x)),
        ],
    )


def _classes(concentric: Learned, settings: DemoSettings, *, seed: int) -> tuple[dict[str, Any], Any]:
    """Return the calibration of the class probabilities, learned and exact.

    The points are samples of the truth smoothed at sigma_min, so the exact posterior is calibrated.
    """
    model = concentric.model
    z, index = concentric.truth.rows(0, settings.tested, seed=seed + 8, sigma=model.sigma_min)
    x, label = model.standardizer.x(z).numpy(), index.numpy()
    learned = calibration(model.predict_proba(x), label)
    exact = calibration(concentric.exact_class_posterior(x), label)

    def numbers(one: Calibration) -> dict[str, float]:
        return {
            "log_loss": one.log_loss,
            "brier": one.brier,
            "expected_calibration_error": one.expected_calibration_error,
            "accuracy": float(one.accuracy @ one.count / one.count.sum()),
        }

    bins = [
        Bins(name, colour, one.confidence, one.accuracy, one.count)
        for name, colour, one in (("learned", "model", learned), ("exact", "truth", exact))
    ]
    return (
        {"points": len(x), "learned": numbers(learned), "exact": numbers(exact)},
        figures.reliability(bins),
    )
