"""Columns as they come: power maps, rounded values, values that repeat, constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from sklearn.preprocessing import PowerTransformer

import toydiffusion as td
from toydiffusion.codec import Cells, PowerMap
from toydiffusion.codec.codec import Codec
from toydiffusion.tables import Table

POWERS = torch.tensor([0.0, 0.3, 1.0, 1.6, 2.0], dtype=torch.float64)


def power_map() -> PowerMap:
    return PowerMap(torch.linspace(-1, 1, 5).double(), torch.linspace(0.5, 2, 5).double(), POWERS)


# Power maps ------------------------------------------------------------------------------------------


def test_the_map_is_that_of_scikit_learn() -> None:
    own = power_map()
    x = torch.linspace(-4, 4, 40, dtype=torch.float64)[:, None] * own.spread + own.center
    theirs = PowerTransformer(standardize=False)
    theirs.fit(np.random.default_rng(0).normal(size=(10, 5)))
    theirs.lambdas_ = POWERS.numpy()
    t = (x - own.center) / own.spread
    np.testing.assert_allclose(own.forward(x).numpy(), theirs.transform(t.numpy()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("t", [-50.0, -1.0, -1e-9, 0.0, 1e-9, 0.3, 1.0, 50.0])
def test_the_inverse_undoes_the_map(t: float) -> None:
    own = power_map()
    x = own.center[None] + own.spread * t
    torch.testing.assert_close(own.inverse(own.forward(x)), x, rtol=1e-8, atol=1e-8)


def test_its_slopes_are_those_of_autograd() -> None:
    own = power_map()
    x = torch.randn(50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    x.requires_grad_()
    (slope,) = torch.autograd.grad(own.forward(x).sum(), x)
    log_slope = own.log_slope(x)
    torch.testing.assert_close(log_slope.exp(), slope)
    (bend,) = torch.autograd.grad(log_slope.sum(), x)
    torch.testing.assert_close(own.grad_log_slope(x.detach()), bend)


def test_long_tails_become_short_and_normal_columns_stay_as_they_are() -> None:
    normal = torch.randn(2000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = PowerMap.fit(torch.cat([normal, normal.exp(), -normal.exp()], 1)).power
    assert abs(float(found[0]) - 1) <= 0.1
    assert float(found[1]) < 0.3
    assert float(found[2]) > 1.7


# Cells -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([1, 2, 2, 5], 1.0),
        ([0.1, 0.2, 0.2, 0.5], 0.1),
        ([10, 20, 20, 50], 10.0),
        ([1 / 3, 2 / 3, 2 / 3, 5 / 3], 1 / 3),
        ([0.25, 0.5, 0.5, 1.25], 0.25),
        ([1e-5, 3e-5, 3e-5, 9e-5], 2e-5),
    ],
)
def test_the_step_of_a_rounded_column_is_found(values: list[float], step: float) -> None:
    assert Cells.find(np.array(values)[:, None]).step[0] == pytest.approx(step)


def test_a_column_without_repeated_values_has_no_step() -> None:
    assert Cells.find(np.random.default_rng(0).normal(size=(100, 1))).step[0] == 0
    assert Cells.find(np.arange(100.0)[:, None]).step[0] == 0


def test_a_declared_step_is_taken_and_checked() -> None:
    x = np.array([[1.0], [2.5], [4.0]])
    assert Cells.find(x, [0.5]).step[0] == 0.5
    with pytest.raises(td.InputError, match="column 'x0' are not multiples of its step 1"):
        Cells.find(x, [1.0])


def test_spread_values_fill_their_cells_evenly_and_come_back() -> None:
    x = np.repeat([[1.1], [1.3], [1.7]], 4000, axis=0)
    cells = Cells.find(x)
    spread = cells.spread(x, seed=0)
    away = (spread - x) / cells.step
    assert np.abs(away).max() <= 0.5 + 1e-9
    # A uniform variable has variance 1/12; the mean of 12,000 of them is within 4 standard errors of 0.
    assert away.var() == pytest.approx(1 / 12, rel=0.03)
    assert abs(away.mean()) < 4 / np.sqrt(12 * len(x))
    np.testing.assert_array_equal(cells.snapped(spread), x)


def test_rows_of_spread_values_do_not_depend_on_their_batch() -> None:
    x = np.repeat([[1.0], [2.0]], 50, axis=0)
    cells = Cells.find(x)
    np.testing.assert_array_equal(cells.spread(x, seed=3)[40:], cells.spread(x[40:], seed=3, first_row=40))


def test_a_value_that_repeats_gets_a_cell_half_way_to_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([np.zeros(40), rng.uniform(0.5, 3, 360)])[:, None]
    cells = Cells.find(x)
    ((column, value, low, high),) = cells.spikes
    nearest = x[x > 0].min()
    assert (column, value) == (0, 0.0)
    assert (low, high) == (-nearest / 2, nearest / 2)
    spread = cells.spread(x, seed=0)
    assert (np.abs(spread[:40]) <= nearest / 2).all()
    assert len(np.unique(spread)) == 400
    np.testing.assert_array_equal(cells.snapped(spread), x)


def test_a_count_on_a_coarse_grid_is_no_spike() -> None:
    assert Cells.find(np.random.default_rng(0).poisson(0.3, size=(400, 1)).astype(float)).spikes == ()


# The codec -------------------------------------------------------------------------------------------


def skewed(n: int = 300) -> np.ndarray:
    rng = np.random.default_rng(4)
    a = np.exp(rng.normal(size=n))
    return np.stack([a, 5 * a + rng.normal(size=n), np.full(n, 7.0)], 1)


@pytest.fixture(scope="module")
def model() -> td.Diffusion:
    config = td.TableConfig(steps=60, width=16)
    return td.Diffusion(config).fit(skewed(), seed=0)


def test_the_log_determinant_is_that_of_autograd(model: td.Diffusion) -> None:
    codec = model.fitted.codec
    assert codec.power is not None
    x = torch.from_numpy(skewed(5)[:, :2]).requires_grad_()
    inner = (codec.power.forward(x) - codec.standardizer.mean) / codec.standardizer.scale
    (slope,) = torch.autograd.grad(inner.sum(), x)
    np.testing.assert_allclose(codec.log_det(skewed(5)), slope.log().sum(1).numpy())


def test_the_gradient_of_the_density_is_its_slope_in_x(model: td.Diffusion) -> None:
    x, h = skewed(4), 1e-5
    found = model.grad_log_prob(x, tolerance=1e-7)
    for j in range(2):
        step = np.eye(3)[j] * h * x[:, j : j + 1]
        ahead, behind = (model.log_prob(x + s * step, tolerance=1e-7).value for s in (1, -1))
        np.testing.assert_allclose(found[:, j], (ahead - behind) / (2 * h * x[:, j]), rtol=1e-3, atol=1e-3)
    assert (found[:, 2] == 0).all()


def test_a_density_of_one_skewed_column_has_mass_1() -> None:
    x = np.exp(np.random.default_rng(1).normal(size=400))[:, None]
    one = td.Diffusion(td.TableConfig(networks=False)).fit(x, seed=0)
    assert one.fitted.codec.power is not None
    mass, _ = quad(lambda v: float(np.exp(one.log_prob([[v]]).value[0])), -5, 60, limit=400, points=[0, 1, 3])
    assert mass == pytest.approx(1, abs=1e-3)


def test_a_constant_column_is_left_out_and_put_back(model: td.Diffusion) -> None:
    assert model.dim == 2
    assert (model.sample(20, seed=0)[:, 2] == 7.0).all()
    assert dict(model.card())["constant columns"].startswith("x2 = 7")
    other = skewed(5)
    other[:, 2] = -1
    np.testing.assert_array_equal(model.log_prob(other).value, model.log_prob(skewed(5)).value)


def test_samples_are_on_the_grid() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([np.round(rng.normal(size=200), 1), np.round(3 * rng.normal(size=200))], 1)
    found = td.Diffusion(td.TableConfig(networks=False)).fit(x, seed=0).sample(300, seed=1)
    np.testing.assert_array_equal(found[:, 0], np.round(found[:, 0], 1))
    np.testing.assert_array_equal(found[:, 1], np.round(found[:, 1]))
    stages, _ = td.Diffusion(td.TableConfig(networks=False)).fit(x, seed=0).trajectory(5, seed=1)
    np.testing.assert_array_equal(stages[-1], found[:5])


def test_a_sample_with_its_log_density_has_the_density_of_its_point(model: td.Diffusion) -> None:
    points, density, _ = model.sample_with_log_prob(20, seed=0)
    np.testing.assert_allclose(density.value, model.log_prob(points).value, atol=0.01)


def test_the_mass_of_a_cell_is_that_of_the_exact_law() -> None:
    """A rounded Gaussian column beside one that is not: the product of a probability and a density."""
    rng = np.random.default_rng(0)
    x = np.stack([np.round(2 * rng.normal(size=500)) / 2, rng.normal(size=500)], 1)
    config = td.TableConfig(power=False, networks=False, components=(1,))
    found = td.Diffusion(config).fit(x, seed=0)
    (mean,), (covariance,) = found.moments.means.numpy(), found.moments.covariances.numpy()
    scale, center = (one.numpy() for one in (found.standardizer.scale, found.standardizer.mean))
    covariance = covariance + found.sigma_min**2 * np.eye(2)
    test = x[:20]
    z = (test - center) / scale
    # Given the second column, the first one is normal.
    slope = covariance[0, 1] / covariance[1, 1]
    spread = np.sqrt(covariance[0, 0] - slope * covariance[0, 1])
    middle = mean[0] + slope * (z[:, 1] - mean[1])
    half = 0.25 / scale[0]
    cell = stats.norm.cdf((z[:, 0] + half - middle) / spread) - stats.norm.cdf(
        (z[:, 0] - half - middle) / spread
    )
    other = stats.norm.logpdf(z[:, 1], mean[1], np.sqrt(covariance[1, 1])) - np.log(scale[1])
    mass = found.log_mass(test, samples=256, seed=3)
    np.testing.assert_allclose(mass.value, np.log(cell) + other, atol=2e-3)
    assert (np.abs(mass.value - np.log(cell) - other) < 6 * mass.std_error + 1e-5).all()
    np.testing.assert_array_equal(
        found.log_mass(test[5:], samples=256, seed=3, first_row=5).value, mass.value[5:]
    )


def test_the_masses_of_all_values_of_a_column_add_up_to_1() -> None:
    counts = np.random.default_rng(0).poisson(3.0, size=(300, 1)).astype(float)
    found = td.Diffusion(td.TableConfig(networks=False)).fit(counts, seed=0)
    mass = found.log_mass(np.arange(-8.0, 40.0)[:, None])
    assert float(np.exp(mass.value).sum()) == pytest.approx(1, abs=2e-3)
    with pytest.raises(td.InputError, match="preset 'table'"):
        td.Diffusion(td.TrainConfig(steps=5)).fit(
            counts + np.random.default_rng(1).normal(size=(300, 1))
        ).log_mass(counts)


def test_a_copy_of_a_column_is_refused_by_name() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    x[:, 2] = 1 - 2 * x[:, 0]
    with pytest.raises(td.InputError, match="columns 'x0' and 'x2' are the same up to a shift and a scale"):
        td.Diffusion(preset="table").fit(x)
    x[:, 2] = x[:, 0] + x[:, 1]
    with pytest.raises(td.InputError, match="columns 'x0', 'x1', 'x2' depend on each other linearly"):
        td.Diffusion(preset="table").fit(x)


def test_a_truth_is_refused_where_z_is_no_shifted_and_scaled_x(model: td.Diffusion) -> None:
    with pytest.raises(td.InputError, match="power transforms, bounds or constant columns"):
        model.standardized(td.distributions.Gaussian([0, 0], [[1, 0], [0, 1]]))


def test_a_codec_takes_its_log_determinant_from_both_maps() -> None:
    x = torch.tensor([[1.0], [4.0]]).double()
    power = PowerMap(torch.zeros(1).double(), torch.ones(1).double(), torch.zeros(1).double())
    codec = Codec(td.Standardizer(torch.tensor([1.0]), torch.tensor([2.0])), power=power)
    # z = (log(1 + x) - 1) / 2, so dz/dx = 1 / (2 (1 + x)).
    np.testing.assert_allclose(codec.log_det(x.numpy()), -np.log(2 * (1 + x.numpy()[:, 0])))
    z = codec.to_z(Table(x.numpy(), None))
    torch.testing.assert_close(z, (x.log1p() - 1) / 2)
    np.testing.assert_allclose(codec.to_x(z), x.numpy())


@pytest.mark.parametrize(("step", "origin"), [(1.0, 0.5), (0.5, 0.25), (2.0, 1.125), (0.1, 0.05), (5.0, 3.0)])
def test_a_grid_may_start_between_the_multiples_of_its_step(step: float, origin: float) -> None:
    x = origin + step * np.random.default_rng(0).integers(0, 5, (200, 1))
    cells = Cells.find(x)
    assert cells.step.item() == pytest.approx(step)
    np.testing.assert_allclose(cells.snapped(cells.spread(x, seed=0)), x, rtol=1e-12)
    assert np.abs(cells.spread(x, seed=0) - x).max() <= step / 2
