"""Exact distributions: laws that coincide by symmetry or construction, borders, and bad input."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.datasets import make_moons

from toydiffusion.distributions import (
    Boxes,
    Checkerboard,
    Circles,
    ConcentricSquares,
    Empirical,
    Gaussian,
    Parallelogram,
    Square,
    TwoMoons,
)
from toydiffusion.errors import InputError

SHIFT, SCALE = np.array([0.3, -0.2]), np.array([0.4, 2.0])


def test_entropy_of_known_sets():
    assert Square().entropy == pytest.approx(math.log(4), abs=1e-15)
    assert ConcentricSquares().entropy == pytest.approx(math.log(4), abs=1e-14)
    assert Checkerboard().entropy == pytest.approx(math.log(2), abs=1e-14)
    assert Boxes([[0, 0], [0.5, -1]], [[1, 1], [0.7, 1]]).entropy is None


@pytest.mark.parametrize("dim", [1, 2, 20])
@pytest.mark.parametrize("sigma", [1e-3, 0.05, 1.0, 100.0])
def test_the_concentric_squares_together_are_the_cube(dim, sigma):
    cube, squares, line = Square(dim), ConcentricSquares(5, dim), Square(1)
    x = np.random.default_rng(0).uniform(-1 - 5 * sigma, 1 + 5 * sigma, size=(50, dim))
    sides = np.stack([line.log_prob(x[:, i : i + 1], sigma) for i in range(dim)])
    assert np.allclose(cube.log_prob(x, sigma), sides.sum(0), rtol=1e-13, atol=1e-12)
    assert np.allclose(squares.log_prob(x, sigma), sides.sum(0), rtol=1e-12, atol=1e-12)
    assert np.allclose(squares.denoise(x, sigma), cube.denoise(x, sigma), atol=1e-10)
    means = np.concatenate([line.denoise(x[:, i : i + 1], sigma) for i in range(dim)], 1)
    assert np.allclose(cube.denoise(x, sigma), means, atol=1e-13)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_derivatives_on_an_edge_are_those_of_a_half_normal(side):
    """On an edge, at low noise, the clean point is half-normal: its variance is `(1 - 2 / pi) sigma^2`."""
    sigma = 0.05
    x = torch.tensor([[side, 0.0]], dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda x: Square().denoise(x, sigma), x)[0, :, 0]
    torch.testing.assert_close(jacobian, torch.diag(torch.tensor([1 - 2 / math.pi, 1.0])).double())
    (slope,) = torch.autograd.grad(Square().log_prob(x, sigma).sum(), x)
    assert slope[0, 0].item() == pytest.approx(-side * math.sqrt(2 / math.pi) / sigma, rel=1e-12)


@pytest.mark.parametrize("sigma", [0.0, 1e-3, 0.05, 1.0, 100.0])
@pytest.mark.parametrize("degrees", [0, 17, 90, 135, -60])
def test_a_rotated_square_is_a_square_rotated(sigma, degrees):
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    square, turned = Square(), Parallelogram.rotated_square(degrees)
    x = np.random.default_rng(1).uniform(-1 - 15 * sigma, 1 + 15 * sigma, size=(300, 2))
    assert np.allclose(turned.log_prob(x @ turn.T, sigma), square.log_prob(x, sigma), rtol=1e-11, atol=1e-11)
    if sigma:
        assert np.allclose(turned.denoise(x @ turn.T, sigma), square.denoise(x, sigma) @ turn.T, atol=1e-10)


def test_standardizing_agrees_between_boxes_and_parallelograms():
    box = Square().standardized(SHIFT, SCALE)
    same = Parallelogram.rotated_square(90).standardized(SHIFT, SCALE)
    x = box.sample(200, seed=0, sigma=0.5)[0]
    assert np.allclose(box.log_prob(x, 0.5), same.log_prob(x, 0.5), atol=1e-11)
    assert np.allclose(box.mean, same.mean)


def test_two_moons_lie_where_scikit_learn_puts_them():
    x, y = make_moons(400, shuffle=False)
    thin = TwoMoons(0.01)
    assert (thin.class_posterior(x).argmax(1) == y).all()
    middle = [i for i in range(400) if 5 < i % 200 < 195]
    height = -math.log(math.pi * 0.01 * math.sqrt(2 * math.pi))
    assert np.allclose(thin.log_prob(x[middle], 0.0, y[middle]), height, atol=1e-3)


def test_a_finite_set_far_larger_than_a_chunk():
    points = Square().sample(100_000, seed=1)[0]
    finite = Empirical(points)
    x = Square().sample(20, seed=2, sigma=0.1)[0]
    square = ((x[:, None] - points) ** 2).sum(2)
    logs = logsumexp(-square / 0.02, axis=1) - math.log(len(points) * 2 * math.pi * 0.01)
    assert np.allclose(finite.log_prob(x, 0.1), logs, atol=1e-11)
    share = np.exp(-square / 0.02)
    assert np.allclose(finite.denoise(x, 0.1), share @ points / share.sum(1)[:, None], atol=1e-12)


def test_every_point_of_the_concentric_squares_belongs_to_one_class():
    squares = ConcentricSquares()
    radii = np.arange(6) / 5
    values = np.concatenate([radii, np.nextafter(radii, 0), np.nextafter(radii, 2)])
    grid = np.array(list(itertools.product([*values, *-values], repeat=2)))
    inside = np.stack([squares.contains(grid, c) for c in range(5)], 1)
    radius = np.abs(grid).max(1)
    for c in range(5):
        assert (inside[:, c] == ((c / 5 <= radius) & (radius < (c + 1) / 5))).all()
    assert np.isnan(squares.class_posterior([[2.0, 0.0]])).all()


square = Square()
BAD = {
    "one point": (lambda: square.log_prob([0.0, 0.0]), r"x must have shape \(n, 2\), got \(2,\)"),
    "dimension": (lambda: square.log_prob([[0.0]]), r"x must have shape \(n, 2\), got \(1, 1\)"),
    "nan": (lambda: square.log_prob([[0.0, math.nan]]), r"x must be finite, got nan at index \(0, 1\)"),
    "inf": (lambda: square.denoise(torch.tensor([[0.0, math.inf]]), 1.0), "x must be finite, got inf"),
    "words": (lambda: square.log_prob([["a", "b"]]), "x must be real numbers"),
    "complex": (lambda: square.log_prob(torch.zeros(1, 2, dtype=torch.complex64)), "x must be real numbers"),
    "ragged": (lambda: square.log_prob([[0.0, 1.0], [2.0]]), "x must be a table of numbers"),
    "negative sigma": (
        lambda: square.log_prob([[0.0, 0.0]], -1.0),
        r"sigma must be >= 0, got -1.0 \(row 0\)",
    ),
    "nan sigma": (lambda: square.log_prob([[0.0, 0.0]], math.nan), "sigma must be finite"),
    "sigmas": (
        lambda: square.log_prob([[0.0, 0.0]], [1.0, 2.0]),
        r"sigma must have shape \(1,\), got \(2,\)",
    ),
    "label": (lambda: square.log_prob([[0.0, 0.0]], 1.0, 1), r"label must be >= 0 and <= 0, got 1"),
    "negative label": (lambda: square.log_prob([[0.0, 0.0]], 1.0, -1), "label must be >= 0"),
    "real label": (lambda: square.log_prob([[0.0, 0.0]], 1.0, 0.0), "label must be integers or None"),
    "labels": (
        lambda: square.log_prob([[0.0, 0.0]], 1.0, [0, 0]),
        r"label must be one integer or have shape \(1,\)",
    ),
    "sampled label": (lambda: square.sample(2, label=7), "label must be >= 0 and <= 0, got 7"),
    "n": (lambda: square.sample(-1), "n must be a whole number >= 0, got -1"),
    "seed": (lambda: square.sample(1, seed=-1), "seed must be a whole number >= 0"),
    "rows": (lambda: square.rows(3, 2, seed=0), "0 <= start <= stop"),
    "scale": (lambda: square.standardized(0.0, 0.0), "scale must be > 0, got 0.0"),
    "mean": (lambda: square.standardized([0.0] * 3, 1.0), r"mean must have shape \(2,\), got \(3,\)"),
    "dim": (lambda: Square(0), "dim must be a whole number >= 1, got 0"),
    "squares": (lambda: ConcentricSquares(2.5), "squares must be a whole number >= 1, got 2.5"),
    "cells": (lambda: Checkerboard(True), "cells must be a whole number >= 1, got True"),
    "box": (lambda: Boxes([[0.0]], [[0.0]]), "low must be < high, got 0.0 and 0.0 at box 0 axis 0"),
    "weight": (lambda: Boxes([[0.0]], [[1.0]], weight=[0.0]), "weights must be > 0, got 0.0"),
    "far label": (lambda: Empirical([[0.0], [1.0]], [0, 10**12]), "labels must be 0..K-1 without gaps"),
    "gap": (lambda: Empirical([[0.0], [1.0]], [0, 2]), "labels must be 0..K-1 without gaps, got 2 but no 1"),
    "no points": (lambda: Empirical(np.empty((0, 2))), "at least one"),
    "covariance": (
        lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]),
        "covariance must be positive definite",
    ),
    "asymmetric": (lambda: Gaussian([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "covariance must be symmetric"),
    "sides": (lambda: Parallelogram([0.0, 0.0], [[1.0, 1.0], [2.0, 2.0]]), "sides must not be parallel"),
    "noise": (lambda: TwoMoons(0.0), "noise must be > 0, got 0.0"),
    "factor": (lambda: Circles(1.0), "factor must be > 0 and < 1, got 1.0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, words = BAD[name]
    with pytest.raises(InputError, match=words):
        call()
