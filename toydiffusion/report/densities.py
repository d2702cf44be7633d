"""The section on log-density: points, maps, classes and the certificate, beside the exact answer."""

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
"""How far the map reaches, in the square's units."""
HEIGHT = 0.1
"""The second coordinate of the cut through the map."""
MARGIN = 0.03
"""How far from every border the points lie whose right class is beyond doubt."""
KINDS = ("right class", "wrong class", "outside", "far outside")

Pairs = list[tuple[NDArray[np.float64], NDArray[np.int64]]]


def quadruples(n: int, *, seed: int, margin: float = MARGIN, rings: int = 5) -> Pairs:
    """Return n points of the concentric squares with a label four times over, a pair for each of `KINDS`.

    Points at least `margin` from every border under their own class and under one that is not adjacent (with
    margin 0: any other); then moved outwards by 2 and by 4 in each coordinate, under the outermost label.
    """
    generator = np.random.default_rng(seed)
    x = generator.uniform(-1, 1, (40 * n, 2))
    radius = np.abs(x).max(1)
    x = x[(np.abs(radius[:, None] - np.arange(1, rings + 1) / rings) >= margin).all(1)][:n]
    right = np.minimum((np.abs(x).max(1) * rings).astype(np.int64), rings - 1)
    near = 1 if margin else 0
    wrong = np.array([generator.choice([k for k in range(rings) if abs(k - c) > near]) for c in right])
    outermost = np.full(len(x), rings - 1)
    return [(x, right), (x, wrong), (x + 2 * np.sign(x), outermost), (x + 4 * np.sign(x), outermost)]


def densities(plain: Learned, rings: Learned, settings: DemoSettings, *, seed: int) -> Part:
    """Judge points by the square's model and by the rings': every number beside the exact one."""
    points, estimates = _points(rings, settings, seed=seed)
    classes, diagram = _classes(rings, settings, seed=seed)
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


def _points(rings: Learned, settings: DemoSettings, *, seed: int) -> tuple[dict[str, Any], Any]:
    """Return the original's point estimates done right: numbers over many points, a figure of a few."""
    shown = min(8, settings.quadruples)
    numbers: dict[str, Any] = {"number": settings.quadruples, "margin": MARGIN, "kinds": {}}
    groups, values = {}, []
    for kind, (x, label) in zip(KINDS, quadruples(settings.quadruples, seed=seed), strict=True):
        ode = rings.model.log_prob(x, label)
        bound = rings.model.elbo(x, label, evaluations=256, seed=seed)
        exact = rings.exact_log_prob(x, label)
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


def _classes(rings: Learned, settings: DemoSettings, *, seed: int) -> tuple[dict[str, Any], Any]:
    """Return how good the class probabilities are, beside those of the exact posterior.

    Over points of the smoothed law, of which both are: the exact posterior then means what it says.
    """
    z, drawn = rings.truth.rows(0, settings.tested, seed=seed + 8, sigma=rings.model.sigma_min)
    x, label = rings.model.standardizer.x(z).numpy(), drawn.numpy()
    learned = calibration(rings.model.predict_proba(x), label)
    exact = calibration(rings.exact_class_posterior(x), label)

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
