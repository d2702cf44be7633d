"""The exact distributions against mpmath at 50 digits, by formulas other than the ones they use."""

import functools
import itertools
import math
from collections.abc import Callable

import mpmath as mp
import numpy as np
import pytest

from toydiffusion.distributions import (
    Boxes,
    Checkerboard,
    Circles,
    ConcentricSquares,
    Distribution,
    Empirical,
    Gaussian,
    GaussianMixture,
    Parallelogram,
    Spiral,
    Square,
    TwoMoons,
)

mp.mp.dps = 50
SIGMAS = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
Density = Callable[[list, mp.mpf, int | None], mp.mpf]


def interval_mass(x, sigma, low, high):
    """P(low < x + sigma eps < high), from the tail side so that 50 digits are enough."""
    a, b = (low - x) / sigma, (high - x) / sigma
    if mp.re(a + b) < 0:
        a, b = -b, -a
    return (mp.erfc(a / mp.sqrt(2)) - mp.erfc(b / mp.sqrt(2))) / 2


def integral(f, cuts):
    """Gauss-Legendre, 20 nodes a piece. (`mp.quad` stops by absolute error: too early in the tails.)"""
    nodes = [
        (mp.mpf(float(x)), mp.mpf(float(w)))
        for x, w in zip(*np.polynomial.legendre.leggauss(20), strict=True)
    ]
    return sum(
        (b - a) / 2 * mp.fsum(w * f((a + b) / 2 + (b - a) / 2 * x) for x, w in nodes)
        for a, b in itertools.pairwise(cuts)
    )


def boxes_density(low, high, weight, label) -> Density:
    def density(x, sigma, c):
        total, mass = mp.mpf(0), mp.mpf(0)
        for j in range(len(low)):
            if c is None or label[j] == c:
                sides = [(mp.mpf(float(a)), mp.mpf(float(b))) for a, b in zip(low[j], high[j], strict=True)]
                masses = [
                    interval_mass(x_i, sigma, *side) / (side[1] - side[0])
                    for x_i, side in zip(x, sides, strict=True)
                ]
                total += weight[j] * mp.fprod(masses)
                mass += weight[j]
        return total / mass

    return density


def squares_density(squares, dim) -> Density:
    """Class c as all cells of the grid of `(2 squares)^dim` whose outermost coordinate is in square c."""

    def density(x, sigma, c):
        lines = [mp.mpf(k) / squares for k in range(-squares, squares + 1)]
        mass = [[interval_mass(x_i, sigma, *cell) for cell in itertools.pairwise(lines)] for x_i in x]
        depth = [min(k, 2 * squares - 1 - k) for k in range(2 * squares)]
        cells = [
            mp.fprod(mass[i][k] for i, k in enumerate(cell))
            for cell in itertools.product(range(2 * squares), repeat=dim)
            if c is None or squares - 1 - min(depth[k] for k in cell) == c
        ]
        return sum(cells) / len(cells) * squares**dim

    return density


def cube_density(dim) -> Density:
    return lambda x, sigma, c: mp.fprod(interval_mass(x_i, sigma, -1, 1) / 2 for x_i in x)


def gaussians_density(means, covariances, weights, labels) -> Density:
    def density(x, sigma, c):
        total, mass, d = mp.mpf(0), mp.mpf(0), len(x)
        for mean, covariance, weight, label in zip(means, covariances, weights, labels, strict=True):
            if c is None or label == c:
                S = mp.matrix(np.asarray(covariance).tolist()) + sigma**2 * mp.eye(d)
                away = mp.matrix([x[i] - mp.mpf(float(mean[i])) for i in range(d)])
                square = (away.T * mp.inverse(S) * away)[0]
                total += mp.mpf(float(weight)) * mp.exp(-square / 2) / mp.sqrt((2 * mp.pi) ** d * mp.det(S))
                mass += mp.mpf(float(weight))
        return total / mass

    return density


def circles_density(factor, noise) -> Density:
    """The density of a noised circle is a Bessel function."""

    def density(x, sigma, c):
        v = mp.mpf(noise) ** 2 + sigma**2
        rho = mp.sqrt(x[0] ** 2 + x[1] ** 2)
        circle = [
            mp.exp(-((rho - r) ** 2) / (2 * v))
            * mp.exp(-rho * r / v)
            * mp.besseli(0, rho * r / v)
            / (2 * mp.pi * v)
            for r in (mp.mpf(1), mp.mpf(factor))
        ]
        return sum(circle) / 2 if c is None else circle[c]

    return density


def arcs_density(arcs, noise, scale=(1, 1)) -> Density:
    """The integral along each arc cut into 40 pieces; arcs map an mpf to two."""

    def density(x, sigma, c):
        v = [(mp.mpf(noise) / s) ** 2 + sigma**2 for s in scale]

        def at(arc, t):
            p = arc(t)
            return mp.exp(-sum((x[i] - p[i] / scale[i]) ** 2 / v[i] for i in (0, 1)) / 2)

        cuts = [mp.mpf(k) / 40 for k in range(41)]
        each = [integral(functools.partial(at, arc), cuts) for i, arc in enumerate(arcs) if c in (None, i)]
        return sum(each) / len(each) / (2 * mp.pi * mp.sqrt(v[0] * v[1]))

    return density


MOONS = [
    lambda t: (mp.cos(mp.pi * t), mp.sin(mp.pi * t)),
    lambda t: (1 - mp.cos(mp.pi * t), mp.mpf(1) / 2 - mp.sin(mp.pi * t)),
]


def spiral_arm(c):
    def arm(t):
        angle = mp.sqrt((mp.pi / 2) ** 2 * (1 - t) + (3 * mp.pi) ** 2 * t)
        return angle / (3 * mp.pi) * mp.cos(angle + mp.pi * c), angle / (3 * mp.pi) * mp.sin(
            angle + mp.pi * c
        )

    return arm


def parallelogram_density(center, sides) -> Density:
    """Segments along the *shorter* side, integrated over the longer one. (The code does the opposite.)"""
    ordered = sorted(np.asarray(sides, float).tolist(), key=lambda e: math.hypot(*e))
    short, long = (mp.matrix(side) for side in ordered)
    length = mp.norm(short)
    e = short / length
    n = mp.matrix([-e[1], e[0]])

    def density(x, sigma, c):
        away = mp.matrix([x[i] - mp.mpf(float(center[i])) for i in (0, 1)])

        def at(u):
            rest = away - u * long
            across = (rest.T * n)[0] / sigma
            return (
                mp.exp(-(across**2) / 2)
                / mp.sqrt(2 * mp.pi)
                / sigma
                * interval_mass((rest.T * e)[0], sigma, -length / 2, length / 2)
            )

        half, d, drift = mp.mpf(1) / 2, (long.T * n)[0], (long.T * e)[0]
        level, ends = (away.T * n)[0] / d, [((away.T * e)[0] + s * length / 2) / drift for s in (-1, 1)]
        soft = [(level, sigma / d), *((u, sigma / drift) for u in ends)]
        soft += [(s * half, sigma / t) for s in (-1, 1) for t in (d, drift)]
        cuts = {mp.re(u + s * k * w) for u, w in soft for k in (0, 1, 3, 6, 12, 24) for s in (-1, 1)}
        inner = sorted(u for u in cuts if -half < u < half)
        return integral(at, [-half, *inner, half]) / length

    return density


def random_spread(rng, m, d):
    A = rng.normal(size=(m, d, d))
    return A @ A.transpose(0, 2, 1) / d + 0.01 * np.eye(d)


rng = np.random.default_rng(5)
LOW = rng.uniform(-1, 0.5, size=(6, 2))
HIGH = LOW + rng.uniform(0.01, 1, size=(6, 2))
WEIGHT, LABEL = np.arange(1, 7), np.array([0, 1, 2, 0, 1, 2])
MEANS, SPREADS = rng.normal(size=(4, 2)), random_spread(rng, 4, 2)
FAR_MEANS, FAR_SPREADS = rng.normal(size=(3, 5)), random_spread(rng, 3, 5)
FINITE = rng.uniform(-1, 1, size=(12, 2))
SIDES = [[1.0, 0.3], [0.8, 0.9]]
CELLS = [(i / 2 - 1, j / 2 - 1) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
SHIFT, SCALE = np.array([0.3, -0.2]), np.array([0.25, 2.0])

QUICK: dict[str, tuple[Distribution, Density]] = {
    "square": (Square(), cube_density(2)),
    "line": (Square(1), cube_density(1)),
    "cube 20-D": (Square(20), cube_density(20)),
    "concentric squares": (ConcentricSquares(), squares_density(5, 2)),
    "concentric squares 1-D": (ConcentricSquares(3, 1), squares_density(3, 1)),
    "concentric squares 4-D": (ConcentricSquares(2, 4), squares_density(2, 4)),
    "checkerboard": (
        Checkerboard(),
        boxes_density(CELLS, [(a + 0.5, b + 0.5) for a, b in CELLS], [1] * 8, [0] * 8),
    ),
    "boxes": (Boxes(LOW, HIGH, weight=WEIGHT, label=LABEL), boxes_density(LOW, HIGH, WEIGHT.tolist(), LABEL)),
    "boxes standardized": (
        Boxes(LOW, HIGH, weight=WEIGHT, label=LABEL).standardized(SHIFT, SCALE),
        boxes_density((LOW - SHIFT) / SCALE, (HIGH - SHIFT) / SCALE, WEIGHT.tolist(), LABEL),
    ),
    "gaussian": (Gaussian(MEANS[0], SPREADS[0]), gaussians_density(MEANS[:1], SPREADS[:1], [1], [0])),
    "mixture": (
        GaussianMixture(MEANS, SPREADS, weights=[1, 2, 3, 4], labels=[0, 1, 1, 0]),
        gaussians_density(MEANS, SPREADS, [1, 2, 3, 4], [0, 1, 1, 0]),
    ),
    "mixture 5-D": (
        GaussianMixture(FAR_MEANS, FAR_SPREADS),
        gaussians_density(FAR_MEANS, FAR_SPREADS, [1] * 3, range(3)),
    ),
    "mixture standardized": (
        GaussianMixture(MEANS, SPREADS).standardized(SHIFT, SCALE),
        gaussians_density((MEANS - SHIFT) / SCALE, SPREADS / np.outer(SCALE, SCALE), [1] * 4, range(4)),
    ),
    "finite": (
        Empirical(FINITE, [0, 1, 2] * 4),
        gaussians_density(FINITE, np.zeros((12, 2, 2)), [1] * 12, [0, 1, 2] * 4),
    ),
    "circles": (Circles(), circles_density(0.5, 0.1)),
    "thin circles": (Circles(0.8, 0.01), circles_density(0.8, 0.01)),
    "thick circles": (Circles(0.3, noise=1.0), circles_density(0.3, 1.0)),
}
INTEGRALS: dict[str, tuple[Distribution, Density]] = {
    "moons": (TwoMoons(), arcs_density(MOONS, 0.1)),
    "moons standardized": (
        TwoMoons().standardized(0, [0.25, 2]),
        arcs_density(MOONS, 0.1, (mp.mpf("0.25"), 2)),
    ),
    "spiral": (Spiral(), arcs_density([spiral_arm(0), spiral_arm(1)], 0.05)),
    "rotated square": (
        Parallelogram.rotated_square(30),
        parallelogram_density([0, 0], [[math.sqrt(3), 1], [-1, math.sqrt(3)]]),
    ),
    "parallelogram": (Parallelogram([0.1, -0.2], SIDES), parallelogram_density([0.1, -0.2], SIDES)),
    "rotated square standardized": (
        Parallelogram.rotated_square(45).standardized(0, [0.1, 2]),
        parallelogram_density([0, 0], np.array([[1, 1], [-1, 1]]) * math.sqrt(2) / np.array([0.1, 2])),
    ),
}


def compare(dist: Distribution, density: Density, points: int, sigmas=SIGMAS) -> np.ndarray:
    """Return the greatest errors of log_prob, score and denoise in units of what is allowed.

    The gradient comes from the density at complex arguments: `Im log p(x + i h) / h`, exact to h^2.
    """
    rng = np.random.default_rng(1)
    worst = np.zeros(3)
    for sigma in sigmas:
        own, label = dist.sample(points, seed=3)
        total = math.hypot(sigma, float(getattr(dist, "_noise", 0.0)))
        direction = rng.normal(size=own.shape)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        x = own + total * np.array([1, 20, 0, 4])[np.arange(points) % 4, None] * direction
        for i in range(points):
            # In turn the mixture, the point's own class, another class.
            c = [None, int(label[i]), (int(label[i]) + 1) % dist.num_classes][i % 3]
            z, s, step = [mp.mpf(float(v)) for v in x[i]], mp.mpf(sigma), mp.mpf(10) ** -12 * mp.mpf(sigma)
            axes = range(min(dist.dim, 2))
            logs = [
                mp.log(density([mp.mpc(v, step * (j == k)) for j, v in enumerate(z)], s, c)) for k in axes
            ]
            value, score = mp.re(logs[0]), [mp.im(log) / step for log in logs]
            got_score, got_mean = (ask(x[i : i + 1], sigma, c)[0] for ask in (dist.score, dist.denoise))
            error = [
                abs(dist.log_prob(x[i : i + 1], sigma, c)[0] - value) / max(1, abs(value)),
                max(abs(got_score[k] - score[k]) for k in axes) / max([1 / s, *map(abs, score)]),
                max(abs(got_mean[k] - z[k] - s**2 * score[k]) for k in axes),
            ]
            worst = np.maximum(worst, np.array([float(e) for e in error]) / 1e-9)
    return worst


@pytest.mark.parametrize("name", QUICK)
def test_closed_forms_against_mpmath(name):
    assert compare(*QUICK[name], points=12, sigmas=(3e-3, 3.0)).max() < 1


@pytest.mark.parametrize("name", INTEGRALS)
def test_integrals_against_mpmath(name):
    assert compare(*INTEGRALS[name], points=1, sigmas=(0.3,)).max() < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK | INTEGRALS)
def test_all_noise_levels_against_mpmath(name):
    if name in QUICK:
        assert compare(*QUICK[name], points=12).max() < 1
    else:
        assert compare(*INTEGRALS[name], points=2, sigmas=(1e-3, 0.1, 10.0)).max() < 1
