"""Bounds of columns: the maps, and models whose columns have them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import toydiffusion as td
from toydiffusion.codec import Bounds

ENDS = Bounds(
    torch.tensor([-math.inf, 0.0, -math.inf, 2.0]).double(),
    torch.tensor([math.inf, math.inf, 1.0, 5.0]).double(),
    torch.tensor([1.0, 2.0, 0.5, 3.0]).double(),
)
QUICK = td.TableConfig(networks=False, components=(1, 2, 3), bounds=((0, 1), (0, None), None))


def inside(n: int, near: float) -> torch.Tensor:
    """Points inside the bounds, some of them as near to the bounds as `near`, some far away."""
    t = torch.linspace(0, 1, n).double()
    size = near * (50 / near) ** t
    return torch.stack([10 * t - 5, size, 1 - size, 2 + 3 * (near + (1 - 2 * near) * t)], 1)


def table(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A uniform column, an exponential one and one without bounds, with their true log-densities."""
    rng = np.random.default_rng(seed)
    x = np.stack([rng.uniform(0, 1, n), rng.exponential(1, n), rng.normal(size=n)], 1)
    return x, stats.expon.logpdf(x[:, 1]) + stats.norm.logpdf(x[:, 2])


@pytest.fixture(scope="module")
def model():
    return td.Diffusion(QUICK).fit(table(500, 0)[0])


@pytest.fixture
def folder(tmp_path):
    return tmp_path


# The map ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("near", [1e-2, 1e-9])
def test_the_map_and_its_inverse(near):
    x = inside(200, near)
    y = ENDS.forward(x)
    assert bool(y.isfinite().all())
    assert bool((y.diff(dim=0)[:, [0, 1, 3]] > 0).all())
    # Distances from the bounds come back as exactly as a number near the bound can say.
    torch.testing.assert_close(ENDS.inverse(y), x, rtol=1e-13, atol=3e-15)


def test_its_slope_is_that_of_autograd():
    x = inside(100, 1e-6).requires_grad_(True)
    slope = torch.autograd.grad(ENDS.forward(x).sum(), x)[0]
    torch.testing.assert_close(ENDS.log_slope(x), slope.log(), rtol=1e-9, atol=1e-9)
    bend = torch.autograd.grad(ENDS.log_slope(x).sum(), x)[0]
    torch.testing.assert_close(ENDS.grad_log_slope(x), bend, rtol=1e-8, atol=1e-9)


def test_no_point_of_the_line_is_mapped_beyond_the_bounds():
    y = torch.tensor([-700.0, -40.0, -1.0, 0.0, 1.0, 40.0, 700.0]).double()[:, None].expand(-1, 4)
    x = ENDS.inverse(y)
    assert bool(x.isfinite().all())
    assert bool(((x >= ENDS.low) & (x <= ENDS.high)).all())


# Models ----------------------------------------------------------------------------------------------


def test_no_sample_leaks_and_none_piles_up(model):
    x = model.sample(4000, seed=1)
    assert ((x[:, 0] > 0) & (x[:, 0] < 1) & (x[:, 1] > 0)).all()
    # The training points are 500 themselves: their own distance from the truth is about 0.04.
    assert stats.kstest(x[:, 0], "uniform").statistic < 0.09
    assert stats.kstest(x[:, 1], "expon").statistic < 0.09
    ends = np.mean((x[:, 0] < 0.02) | (x[:, 0] > 0.98))
    assert ends == pytest.approx(0.04, abs=0.02)


def test_the_density_is_better_than_without_bounds(model):
    x, _ = table(500, 0)
    fresh, truth = table(1000, 1)
    plain = td.Diffusion(td.TableConfig(networks=False, components=(1, 2, 3))).fit(x)
    lost = [float((truth - one.log_prob(fresh).value).mean()) for one in (model, plain)]
    assert -0.02 < lost[0] < 0.1
    assert lost[1] > lost[0] + 0.1


def test_the_density_has_mass_one(model):
    """By quadrature over the bounded columns, at points of the third from its own density."""
    one = td.Diffusion(td.TableConfig(networks=False, components=(1,), bounds=((0, 1),))).fit(
        table(300, 0)[0][:, :1]
    )
    # Nodes that are dense near the bounds.
    nodes, weights = np.polynomial.legendre.leggauss(200)
    t = (nodes + 1) / 2
    x, jacobian = t**3 * (10 - 15 * t + 6 * t**2), 30 * t**2 * (1 - t) ** 2
    mass = (np.exp(one.log_prob(x[:, None]).value) * jacobian * weights / 2).sum()
    assert mass == pytest.approx(1, abs=1e-4)


def test_the_gradient_is_that_of_differences(model):
    x, step = table(20, 2)[0], 1e-5
    x[:, 0] = 0.1 + 0.8 * x[:, 0]
    x[:, 1] += 0.1
    found = model.grad_log_prob(x)
    for j in range(3):
        up, down = x.copy(), x.copy()
        up[:, j] += step
        down[:, j] -= step
        known = (model.log_prob(up).value - model.log_prob(down).value) / (2 * step)
        np.testing.assert_allclose(found[:, j], known, rtol=2e-4, atol=2e-3)


def test_a_file_keeps_the_bounds(model, tmp_path):
    model.save(tmp_path / "one.safetensors")
    again = td.load(tmp_path / "one.safetensors")
    x = table(30, 3)[0]
    np.testing.assert_array_equal(again.log_prob(x).value, model.log_prob(x).value)
    assert again.config.bounds == model.config.bounds == ((0, 1), (0, None), None)
    assert ("bounds", "x0 0 to 1, x1 0 to inf") in again.card()


def test_rounded_values_at_a_bound_have_whole_cells():
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, 4, 300), rng.normal(size=300)], 1).astype(float)
    model = td.Diffusion(td.TableConfig(networks=False, bounds=((0, 3), None))).fit(x)
    drawn = model.sample(1000, seed=0)[:, 0]
    assert set(drawn) == {0.0, 1.0, 2.0, 3.0}
    counts = np.bincount(drawn.astype(int)) / 1000
    np.testing.assert_allclose(counts, np.bincount(x[:, 0].astype(int)) / 300, atol=0.06)
    values = np.stack([np.arange(4.0), np.zeros(4)], 1)
    mass = np.exp(model.log_mass(values, samples=256).value)
    # The other column is independent, so this is its density at 0 times the four probabilities.
    assert mass.sum() == pytest.approx(stats.norm.pdf(0), abs=0.06)


@pytest.mark.parametrize("bound", [0.0, 0.3])
def test_a_bound_beside_a_grid_keeps_the_values_beyond_it_out(bound):
    """Values 0.5, 1.5, ...: the cell of the first one goes from 0 to 1, wherever its bound is in it."""
    x = np.random.default_rng(0).integers(0, 4, 200)[:, None] + 0.5
    model = td.Diffusion(td.TableConfig(networks=False, bounds=((bound, None),))).fit(x)
    assert model.sample(2000, seed=0).min() == 0.5
    assert model.fitted.codec.bounds.low.item() == pytest.approx(0, abs=1e-6)
    # Even the very end of the line is a value of the grid.
    ends = model.fitted.codec.to_x(torch.tensor([[-1e6], [0.0]]).double(), snapped=True)
    assert ends[0, 0] == 0.5


# Bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (5, "bounds must hold a pair"),
        (((0, 1, 2),), "each of bounds must be a pair"),
        (((1, 0),), "ascending order"),
        ((("a", 1),), "a bound"),
        (((math.nan, 1),), "a bound"),
    ],
)
def test_bounds_that_are_none(bounds, words):
    with pytest.raises(td.InputError, match=words):
        td.TableConfig(bounds=bounds)


def test_values_beyond_bounds_are_named(model):
    x = table(50, 0)[0]
    with pytest.raises(td.InputError, match=r"bounds has 1 pairs for 3 columns"):
        td.Diffusion(td.TableConfig(bounds=((0, 1),))).fit(x)
    x[7, 1] = -0.5
    with pytest.raises(td.InputError, match=r"column 'x1' has -0.5 in row 8"):
        td.Diffusion(QUICK).fit(x)
    with pytest.raises(
        td.InputError, match=r"row 8 .*column 'x1': -0.5 is outside the bounds of the model, 0 to"
    ):
        model.log_prob(x)
    with pytest.raises(td.InputError, match="power transforms, bounds or constant columns"):
        model.standardized(td.distributions.Gaussian(np.zeros(3), np.eye(3)))


def test_the_command_takes_bounds(run, refused, folder):
    np.savetxt(folder / "points.csv", table(60, 0)[0], delimiter=",", header="share,time,rest", comments="")
    code, out, _ = run("fit points.csv --preset table --bounds share=0:1,time=0: --out model.safetensors")
    assert code == 0
    assert "share 0 to 1, time 0 to inf" in out
    start = "fit points.csv --out other.safetensors --bounds "
    refused(start + "share=0:1", ["--bounds needs --preset table"])
    for given, words in (
        ("share", ["NAME=0:1", "'share'"]),
        ("share=0", ["NAME=0:1", "'share=0'"]),
        ("share=a:1", ["NAME=0:1", "'share=a:1'"]),
        ("shar=0:1", ["no column 'shar'", "share"]),
        ("share=1:0", ["ascending"]),
        ("share=0.5:1", ["'share'", "not between its bounds"]),
    ):
        refused(f"{start}{given} --preset table", words)


def test_the_command_takes_steps_of_the_grid(run, refused, folder):
    x = np.random.default_rng(0).normal(size=(60, 2)).round(3)
    x[:, 0] = x[:, 0].round()
    np.savetxt(folder / "points.csv", x, delimiter=",", header="a,b", comments="")
    assert run("fit points.csv --preset table --grid a=0.5,b=0 --out model.safetensors")[0] == 0
    assert td.load(folder / "model.safetensors").fitted.codec.cells.step.tolist() == [0.5, 0.0]
    start = "fit points.csv --out other.safetensors --grid "
    refused(start + "a=1", ["--grid needs --preset table"])
    for given, words in (
        ("a", ["NAME=0.5", "'a'"]),
        ("a=x", ["NAME=0.5", "'a=x'"]),
        ("c=1", ["no column 'c'"]),
        ("a=-1", ["step of the grid", "-1"]),
        ("b=0.5", ["'b'", "0.5"]),
    ):
        refused(f"{start}{given} --preset table", words)
