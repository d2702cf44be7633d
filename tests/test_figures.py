"""Figures of exact distributions: every figure shows the values given, in the right place."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from PIL import Image

from toydiffusion import figures
from toydiffusion.distributions import ConcentricSquares, Square
from toydiffusion.figures import Bins, Comparison, Curve, Line, LossCurve, Plot, Scatter, StepCurve
from toydiffusion.schedules import SCHEDULES, schedule

LAW = Square()
OUTLINE = figures.squares(1.0)


def test_scatters_show_the_points_given_in_equal_axes():
    x, y = ConcentricSquares().sample(30, seed=0)
    before = dict(mpl.rcParams)
    grid = [[Scatter(x, "plain", "data"), Scatter(2 * x, "labelled", label=y)]]
    figure = figures.scatters(grid, outline=OUTLINE, half_width=1.5, row_names=["row"])
    assert dict(mpl.rcParams) == before
    for ax, cloud in zip(figure.axes, grid[0], strict=True):
        assert np.array_equal(ax.collections[0].get_offsets(), cloud.points)
        assert ax.get_title() == cloud.title
        assert np.array_equal(ax.lines[0].get_xydata(), OUTLINE[0])
        box = ax.get_window_extent()
        assert box.width == pytest.approx(box.height)
        assert (ax.get_xlim(), ax.get_ylim()) == ((-1.5, 1.5), (-1.5, 1.5))
    plain, labelled = (ax.collections[0].get_facecolor() for ax in figure.axes)
    assert np.allclose(plain, to_rgba(figures.COLOURS["data"]))
    assert np.allclose(labelled, [to_rgba(figures.CLASSES[c]) for c in y])


def test_classes_have_colours_of_their_own_however_many_there_are():
    for k in (1, 2, 3, 5, 6, 10, 11, 30):
        colours = figures.class_colours(k)
        assert len(set(colours)) == k
        pairs = itertools.combinations(map(to_rgba, colours), 2)
        apart = min((np.abs(np.subtract(a, b)).sum() for a, b in pairs), default=1.0)
        assert apart > (0.2 if k <= 10 else 0.03)
    assert len(figures.class_colours(1000)) == 1000
    label = np.arange(8)
    ax = figures.scatters([[Scatter(np.zeros((8, 2)), label=label)]]).axes[0]
    assert np.allclose(ax.collections[0].get_facecolor(), [to_rgba(c) for c in figures.class_colours(8)])


def test_a_notebook_shows_the_figure_as_an_image_of_its_size():
    figure = figures.scatters([[Scatter(np.zeros((1, 2)))] * 2], panel=2.0)
    data, shown = figure._repr_png_()
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        assert (shown["width"], shown["height"]) == (round(width / 1.5), round(height / 1.5))
        assert 500 < width < 620
        assert np.asarray(image.convert("L")).min() < 255


def test_limits_follow_the_points_but_not_the_few_far_out():
    points = np.random.default_rng(0).normal([1e6, 0.0], [1.0, 1e-6], (5000, 2))
    points[0] = 9e9
    limits = figures.window([points])
    assert ((limits[:, 0] < points) & (points < limits[:, 1])).all(1).mean() > 0.996
    assert (np.ptp(limits, axis=1) < [10, 1e-5]).all()
    both = figures.window([points, points + 50])
    assert (both[:, 0] <= limits[:, 0]).all()
    assert both[0, 1] == pytest.approx(limits[0, 1] + 50, abs=10)
    same = figures.window([np.full((3, 1), 7.0)])
    assert same[0, 0] < 7 < same[0, 1]
    wide = np.array([[0.0, 1.0], [0.0, 10.0]])
    assert figures.equalised(wide) is wide
    assert np.ptp(figures.equalised(wide / [[1], [5]]), axis=1).tolist() == [2.0, 2.0]


def test_schedule_curves_are_the_schedules():
    curves = {name: schedule(name, {"sigma_min": 0.01, "sigma_max": 1.0}) for name in SCHEDULES}
    figure = figures.schedule_curves(curves)
    for i, (name, one) in enumerate(curves.items()):
        sigma, log_sigma, snr = (ax.lines[i] for ax in figure.axes)
        # The inverse maps sigma back to u.
        back = one.u(torch.tensor(sigma.get_ydata()))
        assert np.allclose(back, sigma.get_xdata(), atol=1e-9), name
        assert np.allclose(snr.get_ydata() * log_sigma.get_ydata() ** 2, 1)
    wide = [line.get_label() for line in figure.axes[0].lines if line.get_linewidth() > 2]
    assert wide == ["exp", "linear", "sqrt"]


def test_loss_curve_shows_least_and_fresh():
    loss = np.linspace(2.0, 1.0, 100)
    ax = figures.loss_curves([LossCurve("a", "model", loss, least=0.8, fresh=0.9)]).axes[0]
    raw, mean, least, fresh = ax.lines
    assert np.array_equal(raw.get_ydata(), loss)
    assert mean.get_ydata()[-1] == pytest.approx(loss[-6:].mean())
    assert set(least.get_ydata()) == {0.8}
    assert (fresh.get_xdata()[0], fresh.get_ydata()[0]) == (100, 0.9)
    assert ax.get_ylim()[0] < 0.8
    held_out = np.array([[50.0, 3.0], [100.0, 1.5]])
    ax = figures.loss_curves([LossCurve("a", "model", loss, held_out=held_out)]).axes[0]
    assert np.array_equal(ax.lines[2].get_xydata(), held_out)
    assert len(ax.lines) == 3
    assert ax.get_ylim()[1] > 3
    ax = figures.loss_curves([LossCurve("a", "model", loss[:1])]).axes[0]
    assert ax.get_ylim()[0] < 2.0 < ax.get_ylim()[1]


def test_step_curves_and_comparisons_put_values_where_they_belong():
    figure = figures.step_curves([1, 10], [StepCurve("a", "model", [0.9, 0.3], [0.5, 1.0])], floor=0.25)
    left, right = (ax.lines[0] for ax in figure.axes)
    assert left.get_xydata().tolist() == [[1, 0.9], [10, 0.3]]
    assert right.get_xydata().tolist() == [[1, 0.5], [10, 1.0]]
    assert figure.axes[0].patches[0].get_height() == 0.25

    ax = figures.comparisons([Comparison("tv", {"exp": [1.0, 2.0, 3.0], "sqrt": [5.0]}, 0.5, "true")]).axes[0]
    assert ax.lines[0].get_ydata().tolist() == [1.0, 2.0, 3.0]
    (bar,) = (c for c in ax.collections if len(c.get_segments()) == 1)
    low, high = bar.get_segments()[0][:, 1]
    assert ((low + high) / 2, (high - low) / 2) == pytest.approx((2.0, 1 / np.sqrt(3)))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["exp", "sqrt"]


def test_plots_show_the_lines_given():
    lines = [Line("a", [1, 10], [0.1, 0.2], "truth"), Line("b", [1, 2], [3, 4], "#ff0000", False, True)]
    figure = figures.plots([Plot(lines[:1], "x", "y", "one"), Plot(lines, "steps", "error", "", True, True)])
    one, two = figure.axes
    assert (one.get_title(), one.get_xlabel(), one.get_ylabel()) == ("one", "x", "y")
    assert [(ax.get_xscale(), ax.get_yscale()) for ax in figure.axes] == [("linear",) * 2, ("log",) * 2]
    solid, dashed = two.lines
    assert solid.get_xydata().tolist() == [[1, 0.1], [10, 0.2]]
    assert (solid.get_color(), solid.get_marker(), solid.get_linestyle()) == (
        figures.COLOURS["truth"],
        "o",
        "-",
    )
    assert (dashed.get_color(), dashed.get_marker(), dashed.get_linestyle()) == ("#ff0000", "", "--")
    assert [text.get_text() for text in two.get_legend().get_texts()] == ["a", "b"]
    (cloud,) = figures.plots([Plot([Line("a", [1, 2], [3, 4], joined=False)], "x", "y")]).axes[0].lines
    assert (cloud.get_marker(), cloud.get_linestyle()) == ("o", "None")


def test_border_figures_of_the_truth():
    law = ConcentricSquares()
    x, y = law.sample(40_000, seed=0)
    density = figures.radius_density(x, y, bins=110, limit=1.1)
    assert density.sum() * 0.01 == pytest.approx(1)
    assert np.allclose(density.sum(1) * 0.01, law.frequencies, atol=0.01)
    middle = (np.arange(100) + 0.5) / 100
    assert np.allclose(density.sum(0)[:100], 2 * middle, atol=0.25)
    assert density[2, :40].sum() == density[2, 60:].sum() == 0
    ax = figures.border_profile(x, y).axes[0]
    top = ax.patches[-1].get_data()
    assert np.allclose(top.values, density.sum(0))

    bars = figures.border_bars([0.5, 0.6], [0.7, 0.8]).axes[0].patches
    assert [bar.get_height() for bar in bars] == [0.5, 0.7, 0.6, 0.8]
    assert [bar.get_facecolor() for bar in bars[:2]] == [to_rgba(c) for c in figures.class_colours(3)[:2]]


def test_score_field_of_the_truth_is_the_gradient_and_differs_nowhere():
    sigma = 0.5
    figure = figures.score_fields(LAW.denoise, LAW.denoise, sigmas=[sigma], outline=OUTLINE, half_width=2.0)
    learned, exact, difference = figure.axes[:3]
    arrows = learned.collections[0]
    z = np.asarray(arrows.get_offsets())
    points = torch.tensor(z, requires_grad=True)
    (gradient,) = torch.autograd.grad(LAW.log_prob(points, sigma).sum(), points)
    wanted = sigma * gradient.numpy()
    short = np.linalg.norm(wanted, axis=1) < 2
    shown = np.stack([arrows.U, arrows.V], 1)
    assert short.sum() > 100
    assert np.allclose(shown[short], wanted[short])
    assert np.array_equal(exact.collections[0].U, arrows.U)
    image = difference.images[0].get_array()
    assert float(image.max()) == 0
    assert np.ma.count_masked(np.ma.masked_invalid(image)) < image.size / 2


def test_difference_of_a_wrong_denoiser_is_its_error():
    shifted = lambda z, sigma, label=None: LAW.denoise(z, sigma) + torch.tensor([0.3, 0.4])  # noqa: E731
    figure = figures.score_fields(shifted, LAW.denoise, sigmas=[1.0], outline=OUTLINE, half_width=1.0)
    assert np.allclose(figure.axes[2].images[0].get_array(), 0.5)


def test_denoised_grid_of_the_truth_stays_in_the_square():
    figure = figures.denoised_grids(
        LAW.denoise, LAW.denoise, sigmas=[0.5, 2.0], outline=OUTLINE, half_width=1.5
    )
    for ax in figure.axes:
        bent = np.concatenate([line.get_xydata() for line in ax.lines[1:]])
        bent = bent[~np.isnan(bent).any(1)]
        assert len(bent) > 1000
        assert np.abs(bent).max() < 1
    # With more noise the denoised means are nearer to the centre.
    assert (
        np.abs(figure.axes[1].lines[1].get_xydata()).max()
        < np.abs(figure.axes[0].lines[1].get_xydata()).max()
    )


def test_noised_law_shows_density_arrows_and_means():
    sigma = 0.5
    figure = figures.noised_law(LAW, sigmas=[sigma, 1.0], outline=OUTLINE, half_width=4.0)
    density, arrows, means = figure.axes[::2]
    assert density.get_title() == "σ = 0.5"
    # Over a panel that holds all of it, the density has mass 1.
    image = density.images[0].get_array()
    assert float(image.sum()) * (8 / (len(image) - 1)) ** 2 == pytest.approx(1, abs=1e-3)
    # The noise adds to the variance of the law.
    along = np.linspace(-4, 4, len(image))
    variance = (image.sum(0) / image.sum()) @ along**2
    assert variance == pytest.approx(1 / 3 + sigma**2, abs=2e-3)
    field = arrows.collections[0]
    z, shown = np.asarray(field.get_offsets()), np.stack([field.U, field.V], 1)
    points = torch.tensor(z, requires_grad=True)
    (gradient,) = torch.autograd.grad(LAW.log_prob(points, sigma).sum(), points)
    wanted = sigma * gradient.numpy()
    short = np.linalg.norm(wanted, axis=1) < 2
    assert short.sum() > 20
    assert np.allclose(shown[short], wanted[short])
    bent = np.concatenate([line.get_xydata() for line in means.lines if len(line.get_xydata()) > 5])
    assert len(bent) > 1000
    # The first line is the bottom of the grid.
    bottom = np.stack([np.linspace(-4, 4, 161), np.full(161, -4.0)], 1)
    np.testing.assert_allclose(bent[:161], LAW.denoise(bottom, sigma))


def test_trajectories_and_animation(tmp_path):
    points = np.stack([LAW.sample(50, seed=0, sigma=sigma)[0] for sigma in (1.0, 0.3, 0.0)])
    ax = figures.trajectories([("exact", "truth", points)], outline=OUTLINE).axes[0]
    assert np.array_equal(ax.lines[1].get_xydata(), points[:, 0])
    assert np.array_equal(ax.lines[-1].get_xydata(), points[-1])
    assert np.array_equal(ax.lines[-2].get_xydata(), points[0])

    images = figures.animation_frames(
        [("exact", "truth", points)], np.array([1.0, 0.3, 0.0]), outline=OUTLINE
    )
    # The dots are dark. With less noise they are nearer to the middle of the panel.
    dark = [(image[40:-60].sum(2) < 300) for image in images]
    reach = [np.abs(np.argwhere(one)[:, 1] - one.shape[1] / 2).mean() for one in dark]
    assert reach[0] > reach[1] > reach[2]
    figures.save_gif(images, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 3
        film.seek(2)
        assert film.info["duration"] == 2000
        shown = np.asarray(film.convert("RGB")).astype(int)
    assert np.abs(shown - images[2]).mean() < 6


@pytest.mark.slow
def test_matplotlib_is_loaded_late_and_pyplot_never(tmp_path):
    code = (
        "import sys, numpy, toydiffusion as td, toydiffusion.report\n"
        "from toydiffusion import figures\n"
        "x = numpy.random.default_rng(0).normal(size=(50, 1))\n"
        "model = td.Diffusion(td.TrainConfig(steps=2, width=8, held_out=0.5)).fit(x)\n"
        "model.sample(5), model.log_prob(x[:3]), model._repr_html_()\n"
        "assert 'matplotlib' not in sys.modules\n"
        "model.plot(data=x, n=50)._repr_png_(), model.plot('history')\n"
        "figures.save_png(figures.scatters([[figures.Scatter(numpy.zeros((1, 2)))]]), sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True)


def test_density_maps_are_the_values_given_and_their_difference():
    grid = figures.lattice(1.4, 9)
    exact = LAW.log_prob(grid, 0.3)
    learned = exact + 0.5 * grid[:, 0]
    figure = figures.density_maps(learned, exact, outline=OUTLINE, half_width=1.4, floor=-3.0)
    ours, true, gap = (ax.images[0] for ax in figure.axes[:3])
    assert np.array_equal(ours.get_array().ravel(), learned)
    assert np.array_equal(true.get_array().ravel(), exact)
    assert ours.get_clim() == true.get_clim() == (-3.0, max(learned.max(), exact.max()))
    assert ours.origin == "lower"
    both_low = (learned < -3) & (exact < -3)
    assert both_low.any()
    shown = np.ma.filled(gap.get_array().astype(float), np.nan).ravel()
    assert np.array_equal(np.isnan(shown), both_low)
    inside = (learned > -3) & (exact > -3)
    np.testing.assert_allclose(shown[inside], 0.5 * grid[inside, 0], atol=1e-12)


def test_a_cut_and_points_show_every_value_with_its_bar():
    along = np.linspace(-1, 1, 5)
    value, bar = -(along**2), np.full(5, 0.25)
    ax = figures.density_cut(along, [Curve("a", "model", value, bar), Curve("b", "truth", value - 1)]).axes[0]
    assert [line.get_ydata().tolist() for line in ax.lines] == [value.tolist(), (value - 1).tolist()]
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(0.25)
    assert band.min() == pytest.approx(-1.25)
    groups = {"near": [Curve("a", "model", value, bar)], "far": [Curve("a", "model", 100 * value - 50, bar)]}
    ax = figures.point_estimates(groups).axes[0]
    assert ax.get_yscale() == "symlog"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["near", "far"]
    dots = [container.lines[0] for container in ax.containers]
    assert [line.get_ydata().tolist() for line in dots] == [value.tolist(), (100 * value - 50).tolist()]
    assert (np.abs(dots[1].get_xdata() - 1) < 0.5).all()


def test_a_reliability_diagram_shows_confidence_accuracy_and_share():
    bins = Bins("a", "model", np.array([0.4, 0.9]), np.array([0.5, 0.8]), np.array([30, 10]))
    upper, lower = figures.reliability([bins]).axes
    assert upper.collections[0].get_offsets().tolist() == [[0.4, 0.5], [0.9, 0.8]]
    assert upper.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
    assert [bar.get_height() for bar in lower.patches] == [0.75, 0.25]
