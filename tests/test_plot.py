"""`Diffusion.plot`: every figure shows the samples, the data and the densities of the model."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from scipy import integrate, stats

import toydiffusion as td
from toydiffusion import figures
from toydiffusion.distributions import ConcentricSquares, GaussianMixture, Square
from toydiffusion.figures import cells

QUICK = td.TrainConfig(steps=300, width=32, edges=16, batch_size=250)
HASTY = td.TrainConfig(steps=3, width=8, edges=4)
LAW = GaussianMixture([[-1.5], [0.5], [2.5]], [[[0.2]], [[0.3]], [[0.1]]], weights=[0.5, 0.3, 0.2])
NAMES = np.array(["<low>", "_middle", "$high$"])


def offsets(ax) -> np.ndarray:
    return np.asarray(ax.collections[0].get_offsets())


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def assert_colours(ax, label, k) -> None:
    wanted = [to_rgba(figures.class_colours(k)[c]) for c in label]
    np.testing.assert_allclose(ax.collections[0].get_facecolor(), wanted)


@pytest.fixture(scope="module")
def squares() -> td.Diffusion:
    x, y = ConcentricSquares(3).sample(900, seed=0)
    names = np.array(["in", "middle", "out"])
    frame = pd.DataFrame({"width": 3e-6 * x[:, 0] + 5e-6, "height": 2e-6 * x[:, 1]})
    return td.Diffusion(QUICK).fit(frame, names[y], seed=0)


# One column -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (250.0, 1e6), (1e-6, 0.0)])
def test_the_density_curve_of_one_column_is_that_of_the_model(scale, shift) -> None:
    x = scale * LAW.sample(800, seed=0)[0] + shift
    model = td.Diffusion(QUICK).fit(x, seed=0)
    figure = model.plot(data=x[:100], n=500, seed=3)
    (ax,) = figure.axes
    at, density = ax.lines[0].get_xydata().T
    # Outside the limits lies a little of the density.
    assert integrate.trapezoid(density, at) == pytest.approx(1, abs=0.01)
    found = model.log_prob(at[::20, None])
    np.testing.assert_allclose(np.log(density[::20]), found.value, atol=4e-3)
    band = ax.collections[0].get_paths()[0].vertices
    peak = int(density.argmax())
    there = band[band[:, 0] == at[peak], 1]
    bar = model.log_prob(at[peak : peak + 1, None]).total_error[0]
    np.testing.assert_allclose(
        [there.min(), there.max()], density[peak] * np.array([1 - bar, 1 + bar]), rtol=1e-6
    )
    data, samples = ax.patches
    for bars, points in ((data, x[:100]), (samples, model.sample(500, seed=3))):
        heights, edges, _ = bars.get_data()
        inside = ((points >= edges[0]) & (points <= edges[-1])).mean()
        assert (heights * np.diff(edges)).sum() == pytest.approx(inside)
        counts = [((points >= a) & (points < b)).sum() for a, b in itertools.pairwise(edges)]
        np.testing.assert_allclose(heights * np.diff(edges) * len(points), counts, atol=1e-6)
    assert legend(figure) == ["data, 100 points", "500 samples", "learned density"]
    low, high = ax.get_xlim()
    assert ((x > low) & (x < high)).mean() > 0.99


def test_the_curves_of_the_classes_add_up_and_have_their_names() -> None:
    x, y = LAW.sample(900, seed=0)
    model = td.Diffusion(QUICK).fit(x, NAMES[y], seed=0)
    figure = model.plot(n=400)
    *parts, whole = figure.axes[0].lines
    at = whole.get_xdata()
    total = np.sum([line.get_ydata() for line in parts], axis=0)
    np.testing.assert_allclose(total, whole.get_ydata(), rtol=1e-9)
    shares = [integrate.trapezoid(line.get_ydata(), at) for line in parts]
    order = [NAMES.tolist().index(name) for name in model.classes]
    np.testing.assert_allclose(shares, np.bincount(y)[order] / 900, atol=0.01)
    assert legend(figure) == ["400 samples", *sorted(NAMES), "density, all classes"]
    assert [line.get_color() for line in parts] == figures.class_colours(3)


def test_the_truth_is_the_density_of_the_law_smoothed_as_that_of_the_model_is() -> None:
    law = td.distributions.Gaussian([3.0], [[4.0]])
    model = td.Diffusion(HASTY).fit(law.sample(100, seed=0)[0], seed=0)
    figure = model.plot(truth=law)
    exact = figure.axes[0].lines[-1]
    assert legend(figure)[-1] == "exact density"
    noise = model.sigma_min * float(model.standardizer.scale[0])
    at, density = exact.get_xdata(), exact.get_ydata()
    np.testing.assert_allclose(density, stats.norm.pdf(at, 3.0, np.sqrt(4.0 + noise**2)), rtol=1e-9)


# Two columns ----------------------------------------------------------------------------------------------


def test_a_map_stands_beside_the_points_and_their_classes(squares) -> None:
    x, y = ConcentricSquares(3).sample(200, seed=1)
    frame = pd.DataFrame({"other": 0 * y, "height": 2e-6 * x[:, 1], "width": 3e-6 * x[:, 0] + 5e-6})
    label = squares.classes[y]
    figure = squares.plot(data=frame, labels=label, n=300, seed=5)
    data, samples, picture = figure.axes[:3]
    np.testing.assert_array_equal(offsets(data), frame[["width", "height"]])
    points, own = squares.sample(300, seed=5, return_labels=True)
    np.testing.assert_array_equal(offsets(samples), points)
    assert_colours(data, y, 3)
    assert_colours(samples, np.searchsorted(squares.classes, own), 3)
    assert legend(figure) == ["in", "middle", "out"]
    limits = np.array([data.get_xlim(), data.get_ylim()])
    assert ((limits[:, 0] < points) & (points < limits[:, 1])).all(1).mean() > 0.99
    for ax in (data, samples, picture):
        np.testing.assert_array_equal([ax.get_xlim(), ax.get_ylim()], limits)
        box = ax.get_window_extent()
        assert box.width == pytest.approx(box.height)
    # The two columns have nearly the same unit, so both get the same length.
    assert np.ptp(limits[0]) == pytest.approx(np.ptp(limits[1]))
    (image,) = picture.images
    values = np.asarray(image.get_array())
    side = len(values)
    np.testing.assert_allclose(np.reshape(image.get_extent(), (2, 2)), limits)
    assert image.origin == "lower"
    rows = np.random.default_rng(0).choice(side**2, 200, replace=False)
    found = squares.log_prob(cells(limits, side)[rows]).value
    low, high = image.get_clim()
    assert high - low == pytest.approx(10)
    np.testing.assert_allclose(values.ravel()[rows], np.maximum(found, low), atol=0.05)
    assert side == 64
    assert (found > low).sum() > 50


def test_a_map_is_the_same_in_other_units_but_for_the_unit_of_density() -> None:
    x = Square().sample(300, seed=0)[0]
    maps = []
    for scale in (1.0, 2.0**20):
        figure = td.Diffusion(HASTY).fit(scale * x, seed=0).plot(n=100)
        maps.append((figure.axes[0], np.asarray(figure.axes[1].images[0].get_array())))
    (plain, one), (_, other) = maps
    np.testing.assert_allclose(one, other + 2 * np.log(2.0**20), atol=1e-6)
    width, height = np.ptp(plain.get_xlim()), np.ptp(plain.get_ylim())
    assert width == pytest.approx(height)


def test_columns_in_another_order_turn_the_map(squares) -> None:
    figure = squares.plot(columns=["height", "width"], n=100, seed=2)
    samples, picture = figure.axes[:2]
    assert (samples.get_xlabel(), samples.get_ylabel()) == ("height", "width")
    np.testing.assert_array_equal(offsets(samples), squares.sample(100, seed=2)[:, ::-1])
    turned = np.asarray(picture.images[0].get_array())
    straight = np.asarray(squares.plot(n=100, seed=2).axes[1].images[0].get_array())
    np.testing.assert_allclose(turned, straight.T, atol=1e-6)


def test_a_legend_only_if_it_fits() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(13), 3)
    figure = td.Diffusion(HASTY).fit(rng.normal(size=(39, 2)) + y[:, None], y).plot(n=50)
    assert figure.legends == []
    assert "13 classes" in figure.axes[0].get_title()
    # Each class takes a log-density in each cell, so there are fewer cells.
    assert figure.axes[1].images[0].get_array().shape == (30, 30)


def test_the_truth_has_a_map_of_its_own_in_the_same_colours() -> None:
    law = td.distributions.Gaussian([1.0, -2.0], [[1.0, 0.5], [0.5, 2.0]])
    model = td.Diffusion(HASTY).fit(law.sample(100, seed=0)[0], seed=0)
    figure = model.plot(truth=law)
    _, learned, exact = (ax for ax in figure.axes if ax.get_title())
    assert exact.get_title() == "exact log-density"
    assert learned.images[0].get_clim() == exact.images[0].get_clim()
    shown = exact.images[0].get_array()
    noise = np.diag((model.sigma_min * model.standardizer.scale.numpy()) ** 2)
    smoothed = stats.multivariate_normal([1.0, -2.0], np.array([[1.0, 0.5], [0.5, 2.0]]) + noise)
    at = cells(np.array([exact.get_xlim(), exact.get_ylim()]), len(shown))
    expected = np.maximum(smoothed.logpdf(at), exact.images[0].get_clim()[0])
    np.testing.assert_allclose(shown.ravel(), expected, rtol=1e-9)


# More columns ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eight() -> tuple[td.Diffusion, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(90, 8)) * 10.0 ** np.arange(-4, 4)
    return td.Diffusion(HASTY).fit(x), x


def test_pairs_show_samples_below_the_diagonal_and_data_above_it(eight) -> None:
    model, x = eight
    figure = model.plot(data=x, n=70, seed=1)
    axes = np.reshape(figure.axes, (6, 6))
    sample = model.sample(70, seed=1)
    for i in range(6):
        assert (axes[-1, i].get_xlabel(), axes[i, 0].get_ylabel()) == (f"x{i}", f"x{i}")
        for j in range(6):
            limits = axes[j, j].get_xlim()
            assert axes[i, j].get_xlim() == limits
            if i != j:
                shown = sample if j < i else x
                np.testing.assert_array_equal(offsets(axes[i, j]), shown[:, [j, i]])
                assert axes[i, j].get_ylim() == axes[i, i].get_xlim()
        data, new = axes[i, i].patches
        for bars, points in ((data, x), (new, sample)):
            heights, edges, _ = bars.get_data()
            inside = (points[:, i] >= edges[0]) & (points[:, i] <= edges[-1])
            assert (heights * np.diff(edges)).sum() == pytest.approx(inside.mean())
    assert figure.get_suptitle() == "the first 6 of 8 columns: samples below the diagonal, data above it"
    assert legend(figure) == ["data, 90 points", "70 samples"]


def test_columns_are_chosen_by_name(eight) -> None:
    model, _ = eight
    figure = model.plot(columns=["x7", "x0"], n=40)
    axes = np.reshape(figure.axes, (2, 2))
    np.testing.assert_array_equal(offsets(axes[1, 0]), model.sample(40)[:, [7, 0]])
    assert not axes[0, 1].get_visible()
    assert figure.get_suptitle() == ""
    (one,) = model.plot(columns=["x3"], n=40).axes
    assert one.get_xlabel() == "x3"
    assert len(model.plot(columns=model.fitted.codec.names, n=40).axes) == 64


def test_names_are_shown_as_they_are() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 3)), columns=["$x_1", "_hidden$", "a" * 50])
    y = np.array(["$a", "_b$", "c\n" * 30])[np.arange(60) % 3]
    figure = td.Diffusion(HASTY).fit(frame, y).plot(data=frame, labels=y, n=30)
    names = [ax.get_xlabel() for ax in figure.axes[6:]]
    assert names == ["$x_1", "_hidden$", "a" * 22 + "…"]
    assert legend(figure)[2:] == ["$a", "_b$", ("c\\n" * 8)[:22] + "…"]
    assert not any(ax.xaxis.label.get_parse_math() for ax in figure.axes[6:])


# The history, and what is refused -------------------------------------------------------------------------


def test_the_history_is_the_loss_of_every_step() -> None:
    x = Square().sample(100, seed=0)[0]
    model = td.Diffusion(td.TrainConfig(steps=60, width=8, edges=4, held_out=0.2)).fit(x)
    ax = model.plot("history").axes[0]
    raw, mean, held_out = ax.lines
    assert raw.get_ydata().tolist() == list(model.history.loss)
    assert mean.get_ydata()[-1] == pytest.approx(np.mean(model.history.loss[-4:]))
    assert held_out.get_xydata().tolist() == [list(pair) for pair in model.history.held_out]
    assert len(td.Diffusion(HASTY).fit(x).plot("history").axes[0].lines) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"what": "modle"}, "did you mean 'model'"),
        ({"what": "history", "data": [[1.0, 2.0]]}, r"not to plot\('history'\)"),
        ({"data": [[1.0]]}, "data must have 2 columns"),
        ({"data": [[1.0, np.nan]]}, "row 1"),
        ({"labels": ["in"]}, "give data too"),
        ({"data": [[0.0, 0.0]], "labels": ["inn"]}, "labels: unknown label 'inn'"),
        ({"data": [[0.0, 0.0]], "labels": ["in", "in"]}, "label must be one label or 1 of them"),
        ({"columns": ["hight"]}, "did you mean 'height'"),
        ({"columns": "height"}, "columns must be a list of names"),
        ({"columns": []}, "columns must be some of 'width', 'height', got none"),
        ({"columns": ["width", "width"]}, "two columns are called 'width'"),
        ({"truth": Square()}, "the model has 2 columns and 3 classes"),
        ({"truth": ConcentricSquares(3), "columns": ["width"]}, "truth is shown beside a density"),
        ({"n": 0}, "n must be a whole number >= 1"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(squares, arguments, words) -> None:
    with pytest.raises(td.InputError, match=words) as refused:
        squares.plot(**arguments)
    assert "\n" not in str(refused.value)


def test_a_model_that_is_not_fitted_has_no_figure() -> None:
    with pytest.raises(td.InputError, match="not fitted yet"):
        td.Diffusion().plot()
    plain = td.Diffusion(HASTY).fit(np.eye(2))
    with pytest.raises(td.InputError, match="fitted without labels"):
        plain.plot(data=np.eye(2), labels=[1, 2])
