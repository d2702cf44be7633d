"""Distillation: the students against their teacher, closed forms, and what a distilled model promises."""

from __future__ import annotations

import math
import pickle
import warnings
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

import toydiffusion as td
from toydiffusion.density import DensityConfig
from toydiffusion.density import log_prob as flow_log_prob
from toydiffusion.distillation import checks, lessons
from toydiffusion.distillation.soap import Soap
from toydiffusion.distributions import ConcentricSquares, Gaussian, GaussianMixture, Prior, Square
from toydiffusion.files import Archive
from toydiffusion.solvers import SampleConfig, last, solver, trajectory
from toydiffusion.students import ZONES, SampleStudent, StudentNetwork, student_sizes
from toydiffusion.students.network import SCALES, Sizes

TRAIN = td.TrainConfig(steps=300, width=24, edges=12, batch_size=200)
QUICK = td.DistillConfig(points=6000, pairs=6000, steps=600, batch_size=500, width=24, hidden_layers=2)
TINY = replace(QUICK, points=1000, pairs=1000, steps=50)
NAMES = np.array(["inner", "middle", "outer"])


def distilled(model: td.Diffusion, config: td.DistillConfig = QUICK, seed: int = 0) -> td.Diffusion:
    """Return the model with students that learned for a second."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", td.DistillationWarning)
        patch.setattr(checks, "_EACH", 500)
        patch.setattr(checks, "_EACH_FRESH", 300)
        patch.setattr(checks, "_POOL", 12_000)
        patch.setattr(checks, "_PAIRS", 2000)
        return td.distill(model, config, seed=seed)


@pytest.fixture(scope="module")
def teacher():
    x, y = ConcentricSquares(3).sample(400, seed=0)
    return td.Diffusion(TRAIN).fit(x, NAMES[y], seed=0)


@pytest.fixture(scope="module")
def quick(teacher):
    return distilled(teacher)


@pytest.fixture(scope="module")
def plain():
    """Return a distilled model of a Gaussian, without labels."""
    x, _ = Gaussian([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]]).sample(600, seed=0)
    return distilled(td.Diffusion(TRAIN).fit(x, seed=0))


# The optimiser ------------------------------------------------------------------------------------------


def test_soap_takes_the_same_way_in_turned_coordinates() -> None:
    """Rotating rows and columns of a matrix rotates every step; Adam, bound to its axes, has no such law."""
    generator = torch.Generator().manual_seed(0)

    def orthogonal(n: int) -> torch.Tensor:
        return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]

    left, right = orthogonal(4), orthogonal(4)
    goal = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    stretch = torch.logspace(-2, 0, 4, dtype=torch.float64)

    def way(turn_left: torch.Tensor, turn_right: torch.Tensor) -> list[torch.Tensor]:
        weight = (turn_left @ torch.zeros(4, 4).double() @ turn_right).requires_grad_()
        optimiser, found = Soap([weight]), []
        for _ in range(40):
            plain = turn_left.T @ weight @ turn_right.T
            loss = (((plain - goal) * stretch).square() * torch.linspace(1, 3, 16).view(4, 4)).sum()
            (weight.grad,) = torch.autograd.grad(loss, [weight])
            optimiser.step(0.02)
            found.append((turn_left.T @ weight @ turn_right.T).detach().clone())
        return found

    for here, there in zip(way(torch.eye(4).double(), torch.eye(4).double()), way(left, right), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-5)
    assert float((here - goal).abs().max()) < float(goal.abs().max())


def test_soap_moves_vectors_as_adam_does() -> None:
    ours, theirs = (torch.zeros(3, requires_grad=True) for _ in range(2))
    optimiser, adam = Soap([ours]), torch.optim.Adam([theirs], betas=(0.95, 0.95))
    gradients = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    ours.grad = gradients[0]
    optimiser.step(1.0)  # starts the bases and moves nothing
    assert not ours.detach().any()
    for gradient in gradients[1:]:
        ours.grad = theirs.grad = gradient
        optimiser.step(0.01)
        adam.param_groups[0]["lr"] = 0.01
        adam.step()
    torch.testing.assert_close(ours, theirs)


# The networks -------------------------------------------------------------------------------------------


def test_a_student_sees_each_edge_of_its_teacher_at_every_scale(teacher) -> None:
    """All units of one edge and class vanish on its line, and their slopes are those of the scales."""
    own = deepcopy(teacher.denoiser).requires_grad_(False)
    edges = len(own.edge_offset)
    own.edge_softness.copy_(torch.linspace(0, 0.1, edges))
    network = StudentNetwork(Sizes(2, 1, 2, 3, 4, 1, len(SCALES) * edges), torch.Generator())
    network.take_edges(own, 0.01)
    network.requires_grad_(False)
    for c in range(3):
        for edge in range(edges):
            w = own.edge_direction[edge]
            b = own.edge_offset[edge] + own.edge_label_offset[c, edge]
            on_the_line = -b * w / w.square().sum()
            for i, scale in enumerate(SCALES):
                unit = i * edges + edge
                for far in (0.0, 0.03):
                    at = on_the_line + far * w
                    found = float(network.direction[unit] @ at + network.offset[c, unit])
                    distance = far * float(w.square().sum())
                    tau = math.hypot(0.01, own.edge_softness[edge])
                    assert found == pytest.approx(distance / (4 * scale * tau), abs=1e-4)


def test_a_network_gives_each_row_its_own_label() -> None:
    network = StudentNetwork(Sizes(3, 2, 2, 4, 8, 2, 6), torch.Generator().manual_seed(0)).requires_grad_(
        False
    )
    for weight in network.parameters():
        weight.normal_(generator=torch.Generator().manual_seed(len(weight)))
    inputs = torch.randn(7, 3)
    label = torch.tensor([3, 0, 1, 1, 2, 3, 0])
    mixed = network(inputs, label)
    # The equation of the docstring, row by row.
    for x, c, found in zip(inputs, label, mixed, strict=True):
        edges = torch.tanh(network.direction @ x[1:] + network.offset[c])
        inner = network.weights[0] @ x + network.edge_weight @ edges + network.label_bias[c]
        for weight, bias in zip(network.weights[1:], network.biases, strict=True):
            inner = weight @ torch.nn.functional.silu(inner) + bias
        torch.testing.assert_close(found, inner, rtol=1e-4, atol=1e-4)
    for c in range(4):
        rows = label == c
        # One label for all rows, once expanded and once written out.
        for one in (torch.tensor(c).expand(7), torch.full((7,), c)):
            torch.testing.assert_close(network(inputs, one)[rows], mixed[rows])
    assert not torch.allclose(network(inputs, label.roll(1)), mixed)
    # Without gradients the activations are in place, with them they are not.
    network.requires_grad_(True)
    torch.testing.assert_close(network(inputs, label).detach(), mixed)


def test_before_training_the_sampler_is_that_of_the_gaussian() -> None:
    """For Gaussian classes it is exact: the end points of many steps from the same starts."""
    law = GaussianMixture(
        [[0.0, 1.0], [2.0, -1.0]], [[[1.0, 0.3], [0.3, 0.2]], [[0.1, 0.0], [0.0, 2.0]]], weights=[0.3, 0.7]
    )
    sizes = student_sizes(2, 2, width=8, hidden_layers=3, edges=4)
    networks = [StudentNetwork(sizes[name], torch.Generator()) for name in ("coarse", "fine")]
    student = SampleStudent(*networks, sigma=7.5)
    start, label = Prior(law, 7.5).rows(range(200), seed=0)
    own_class = [Gaussian(law.class_means[c], law.class_covariances[c]) for c in range(2)]

    def denoise(z, sigma, label):
        both = [one.denoise(z, sigma) for one in own_class]
        return torch.where((label == 0)[:, None], *both)

    levels = SampleConfig(300, "heun", "karras", sigma_start=7.5).levels(1e-3, 20.0)
    exact = last(trajectory(denoise, start, levels, solver("heun"), label=label))
    torch.testing.assert_close(student.ends(start, law, label), exact, rtol=0, atol=2e-3)


# Error bars ---------------------------------------------------------------------------------------------


def test_the_conformal_factor_covers_as_often_as_its_rank_says() -> None:
    """With n exchangeable ratios the next one is below the k-th smallest with probability k / (n + 1)."""
    generator = np.random.default_rng(0)
    n, rank = 150, math.ceil(0.99 * 151)
    inside = []
    for _ in range(4000):
        ratio = generator.exponential(size=n)
        factor = checks.conformal_factor(ratio)
        assert factor is not None
        inside.append(1 - math.exp(-factor))
    spread = np.std(inside) / 4000**0.5
    assert abs(np.mean(inside) - rank / (n + 1)) < 4 * spread
    assert checks.conformal_factor(np.arange(98.0)) is None
    assert checks.conformal_factor(np.arange(99.0)) == 98.0


def test_bars_hold_for_99_percent_of_fresh_points_of_each_zone(quick, teacher) -> None:
    """500 points of calibration and 1,500 fresh ones: 99 % within four standard errors of both."""
    fitted, student = teacher.fitted, quick.student.density
    z, label = lessons.starts(fitted, range(20_000), lessons.every_class(fitted, 20_000), seed=123)
    ends = lessons.end_points(fitted, z, label, steps=15)
    ground = lessons.Ground(student.low, student.high)
    pool = ground.points(ends, (1 / 3, 1 / 3), seed=77, purpose="test")
    zone, density = student.zones(pool, label), fitted.density(DensityConfig())
    assert len(zone.unique()) == len(ZONES)
    for number in range(len(ZONES)):
        rows = (zone == number).nonzero()[:1500, 0]
        found = student.log_prob(pool[rows], label[rows])
        exact = flow_log_prob(density, pool[rows], density.lowest(len(rows)), label[rows])
        covered = np.mean(np.abs(found.value - exact.value) <= found.error)
        assert abs(covered - 0.99) < 4 * math.sqrt(0.99 * 0.01 * (1 / 500 + 1 / len(rows))), ZONES[number]
        # The certificate says the same of other points.
        stated = getattr(quick.student.certificate, ZONES[number])
        error = np.abs(found.value - exact.value).mean()
        assert 0.6 < stated.mean_error / error < 1.6
        assert 0.6 < stated.median_bar / np.median(found.error) < 1.6


def test_the_zones_are_where_they_say(quick, teacher) -> None:
    """Outside: less probable than 99.5 % of the samples. Steep: the teacher's score is large."""
    student = quick.student.density
    x, y = teacher.sample(4000, seed=9, return_labels=True)
    table, index = teacher.standardizer.z(torch.from_numpy(x)), teacher.fitted.codec.class_index(y, 4000)
    zone = student.zones(table, index)
    assert 0.001 < float((zone == 2).double().mean()) < 0.015
    slope = lessons.slopes(teacher.fitted, table, index)
    known = zone < 2
    agree = (zone[known] == 1) == (slope[known] > 10)
    assert float(agree.double().mean()) > 0.9
    assert float(slope[zone == 0].median()) < 10 < float(slope[zone == 1].median())


def test_each_zone_has_its_own_factor(quick) -> None:
    student = quick.student.density
    z = lessons.Ground(student.low, student.high).points(
        torch.zeros(2000, 2).double(), (0.0, 0.0), seed=0, purpose="test"
    )
    label = torch.arange(2000) % 3
    zone = student.zones(z, label).numpy()
    assert set(zone) == {0, 1, 2}
    one = replace(student, factors=torch.ones(3).double()).log_prob(z, label)
    three = replace(student, factors=torch.tensor([2.0, 5.0, 9.0]).double()).log_prob(z, label)
    np.testing.assert_allclose(three.error / one.error, np.array([2.0, 5.0, 9.0])[zone])
    np.testing.assert_array_equal(three.value, one.value)


def test_a_zone_with_too_few_points_has_the_largest_factor(teacher, quick, monkeypatch) -> None:
    monkeypatch.setattr(checks, "_EACH", 400)
    monkeypatch.setattr(checks, "_POOL", 3000)
    density = quick.student.density
    # No point is outside.
    student = replace(density, threshold=torch.full((3,), -1e9).double(), factors=torch.ones(3).double())
    ground = lessons.Ground(density.low, density.high)
    factors = checks.calibrated(teacher.fitted, student, ground, 0, lambda n: None).factors
    assert float(factors[2]) == float(factors[:2].max())


# The distilled model ------------------------------------------------------------------------------------


def test_log_densities_come_near_the_teachers(quick, teacher) -> None:
    x, y = ConcentricSquares(3).sample(300, seed=5)
    for label in (None, NAMES[y]):
        near, exact = quick.log_prob(x, label), teacher.log_prob(x, label)
        assert np.abs(near.value - exact.value).mean() < 0.3
        assert np.mean(np.abs(near.value - exact.value) <= near.error) > 0.96
        ratio = near.prior_error / exact.prior_error
        assert 0.9 < np.median(ratio) < 20
        assert near.met.all()
        assert set(near.evaluations) == ({3} if label is None else {1})


def test_the_mixture_and_the_classes_are_made_of_the_classes(quick) -> None:
    x, y = ConcentricSquares(3).sample(50, seed=6)
    each = np.stack([quick.log_prob(x, name).value for name in NAMES], 1)
    joint = each + np.log(quick.moments.frequencies.numpy())
    whole = np.log(np.exp(joint).sum(1))
    np.testing.assert_allclose(quick.log_prob(x).value, whole, atol=1e-5)
    np.testing.assert_allclose(quick.predict_proba(x), np.exp(joint - whole[:, None]), atol=1e-5)
    np.testing.assert_allclose(quick.log_prob(x, NAMES[y]).value, each[np.arange(50), y], atol=1e-5)


def test_the_mass_of_every_class_is_one(quick) -> None:
    """By the midpoint rule, which is not what set it to one."""
    scale = quick.standardizer.scale.numpy()
    side = np.arange(-1.6, 1.6, 0.01) + 0.005
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    inside = (np.abs(grid) < 1.4).all(1)
    assert scale.max() < 1
    for name in NAMES:
        density = np.exp(quick.log_prob(grid[inside], name).value)
        assert density.sum() * 0.01**2 == pytest.approx(1, abs=0.01)


def test_the_flow_answers_what_the_student_does_not_know(quick, teacher) -> None:
    x, y = ConcentricSquares(3).sample(6, seed=7)
    x[2], x[4] = [30.0, 0.0], [0.0, -40.0]
    for label in (None, NAMES[y]):
        found, exact = quick.log_prob(x, label), teacher.log_prob(x, label)
        far = np.array([False, False, True, False, True, False])
        assert (found.evaluations > 10).tolist() == far.tolist()
        np.testing.assert_array_equal(found.evaluations[far], exact.evaluations[far])
        np.testing.assert_allclose(found.value[far], exact.value[far], rtol=1e-5)
        np.testing.assert_allclose(found.error[far], exact.error[far], rtol=1e-2)
    np.testing.assert_allclose(quick.predict_proba(x)[far], teacher.predict_proba(x)[far], atol=1e-9)


def test_a_tolerance_is_kept_by_asking_the_flow_for_the_rest(quick, teacher) -> None:
    x, y = ConcentricSquares(3).sample(60, seed=8)
    student = quick.log_prob(x, NAMES[y])
    tolerance = float(np.median(student.error))
    found, exact = (
        quick.log_prob(x, NAMES[y], tolerance=tolerance),
        teacher.log_prob(x, NAMES[y], tolerance=tolerance),
    )
    wide = student.error > tolerance
    assert 10 < wide.sum() < 50
    np.testing.assert_allclose(found.value[wide], exact.value[wide], atol=1e-3)
    np.testing.assert_allclose(found.value[~wide], student.value[~wide], rtol=1e-6)
    assert (found.error <= tolerance).all()
    assert ((found.evaluations > 1) == wide).all()


def test_noise_levels_and_probes_are_for_the_flow(quick, teacher) -> None:
    x = np.zeros((3, 2))
    for asked in ({"sigma": 0.01}, {"sigma": 0.5}, {"probes": 4}):
        found, exact = quick.log_prob(x, "inner", **asked), teacher.log_prob(x, "inner", **asked)
        np.testing.assert_array_equal(found.value, exact.value)
    for ask in ("score", "grad_log_prob", "encode"):
        np.testing.assert_array_equal(getattr(quick, ask)(x, "inner"), getattr(teacher, ask)(x, "inner"))


def test_missing_rows_stay_in_place(quick) -> None:
    x, _ = ConcentricSquares(3).sample(4, seed=0)
    holes = x.copy()
    holes[1, 0] = np.nan
    found = quick.log_prob(holes, on_bad="skip")
    np.testing.assert_array_equal(np.isnan(found.value), [False, True, False, False])
    np.testing.assert_allclose(found.value[[0, 2, 3]], quick.log_prob(x[[0, 2, 3]]).value, rtol=1e-5)


def test_samples_are_those_of_the_teacher_up_to_their_distance(quick, teacher) -> None:
    ours, y = quick.sample(20_000, seed=3, return_labels=True)
    theirs, own = teacher.sample(20_000, seed=3, steps=40, sigma_start=9.0, return_labels=True)
    np.testing.assert_array_equal(y, own)
    away = (ours - theirs) / teacher.standardizer.scale.numpy()
    distance = np.sqrt(np.square(away).sum(1).mean())
    assert distance == pytest.approx(quick.student.certificate.distance, rel=0.35)
    assert distance < 0.25


def test_samples_do_not_depend_on_their_batch(quick) -> None:
    whole = quick.sample(3000, seed=4)
    np.testing.assert_allclose(quick.sample(500, seed=4, first_row=2100), whole[2100:2600], atol=2e-5)
    np.testing.assert_allclose(quick.sample(3000, seed=4, batch_size=700), whole, atol=2e-5)
    assert quick.sample(0).shape == (0, 2)
    assert (quick.sample(5, seed=1) != quick.sample(5, seed=2)).all()


def test_with_settings_the_teacher_samples(quick, teacher) -> None:
    plan = td.SampleConfig(4)
    for asked in (
        {"steps": 15},
        {"sampling": plan},
        {"guidance": 1.0},
        {"start": np.zeros((9, 2)), "sigma_start": 1.0},
    ):
        n = None if "start" in asked else 9
        np.testing.assert_array_equal(
            quick.sample(n, "outer", seed=2, **asked), teacher.sample(n, "outer", seed=2, **asked)
        )
    assert (quick.sample(9, "outer", seed=2) != teacher.sample(9, "outer", seed=2)).any()


def test_samples_with_their_density(quick, teacher) -> None:
    for label in (None, "middle"):
        x, density, y = quick.sample_with_log_prob(20, label, seed=5)
        np.testing.assert_array_equal(x, quick.sample(20, label, seed=5))
        np.testing.assert_allclose(density.value, quick.log_prob(x, label).value, rtol=1e-6)
        assert len(y) == 20
    exact = teacher.sample_with_log_prob(5, "middle", tolerance=0.01, seed=5)
    found = quick.sample_with_log_prob(5, "middle", tolerance=0.01, seed=5)
    np.testing.assert_array_equal(found[0], exact[0])
    np.testing.assert_array_equal(found[1].value, exact[1].value)


def test_gaussian_data_without_labels(plain) -> None:
    """The truth is known: the Gaussian, smoothed at sigma_min."""
    law = Gaussian([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]])
    x, _ = law.sample(500, seed=1)
    found = plain.log_prob(x)
    assert np.abs(found.value - law.log_prob(x)).mean() < 0.15
    assert set(found.evaluations) == {1}
    new = plain.sample(20_000, seed=0)
    np.testing.assert_allclose(new.mean(0), [1.0, -2.0], atol=0.15)
    np.testing.assert_allclose(np.cov(new.T), [[2.0, 0.6], [0.6, 0.5]], atol=0.25)


def test_another_denoiser_leaves_the_students_behind(quick) -> None:
    truth = quick.standardized(ConcentricSquares(3))
    assert quick.with_denoiser(truth.denoise).student is None
    assert quick.student is not None
    assert "students" in dict(quick.card())
    assert "students" not in dict(quick.with_denoiser(truth.denoise).card())


# Files --------------------------------------------------------------------------------------------------


def test_a_saved_model_answers_with_the_same_bits(quick, plain, tmp_path) -> None:
    x = np.array([[0.1, 0.2], [0.5, -0.5]])
    for model in (quick, plain):
        model.save(tmp_path / "quick.safetensors")
        copies = [td.load(tmp_path / "quick.safetensors"), pickle.loads(pickle.dumps(model))]
        for copy in copies:
            np.testing.assert_array_equal(copy.sample(9, seed=1), model.sample(9, seed=1))
            for name in ("value", "error", "prior_error"):
                np.testing.assert_array_equal(
                    getattr(copy.log_prob(x), name), getattr(model.log_prob(x), name)
                )
            assert copy.student.certificate == model.student.certificate
            assert str(copy.student.certificate) == str(model.student.certificate)
            assert copy.card() == model.card()


def test_students_of_earlier_versions_are_loaded(teacher, tmp_path, monkeypatch) -> None:
    """They saw each edge at three scales, and had a coarse network of one layer less."""

    def sizes_then(*where: int, **of: int) -> dict[str, Sizes]:
        sizes = student_sizes(*where, **of)
        return sizes | {"coarse": replace(sizes["coarse"], hidden_layers=of["hidden_layers"] - 1)}

    monkeypatch.setattr("toydiffusion.distillation.teaching.student_sizes", sizes_then)
    for module in ("students.network", "distillation.teaching"):
        monkeypatch.setattr(f"toydiffusion.{module}.SCALES", (1.0, 4.0, 16.0))
    quick = distilled(teacher, td.DistillConfig(points=400, steps=3, width=8))
    monkeypatch.undo()
    quick.save(tmp_path / "quick.safetensors")
    copy = td.load(tmp_path / "quick.safetensors")
    assert len(copy.student.density.network.direction) == 3 * len(teacher.denoiser.edge_offset)
    assert len(copy.student.samples.coarse.weights) == 3
    x = np.array([[0.1, 0.2], [0.5, -0.5]])
    np.testing.assert_array_equal(copy.log_prob(x).value, quick.log_prob(x).value)
    np.testing.assert_array_equal(copy.sample(9, seed=1), quick.sample(9, seed=1))


def _changed(what: str, tensors: dict, metadata: dict) -> None:
    student = metadata["student"]
    match what:
        case "no description":
            del metadata["student"]
        case "no tensors":
            for name in [name for name in tensors if name.startswith("student.")]:
                del tensors[name]
        case "one tensor less":
            del tensors["student.factors"]
        case "one tensor more":
            tensors["student.spy"] = torch.zeros(1)
        case "another shape":
            tensors["student.density.label_bias"] = torch.zeros(3, 7)
        case "another type":
            tensors["student.low"] = tensors["student.low"].float()
        case "a NaN":
            tensors["student.fine.weights.0"] = tensors["student.fine.weights.0"] * math.nan
        case "an empty range":
            tensors["student.low"] = tensors["student.high"] + 1.0
        case "a factor of 0":
            tensors["student.factors"] = torch.zeros(3).double()
        case "a width of text":
            student["width"] = "24"
        case "a width beyond memory":
            student["width"] = 10**9
        case "no certificate":
            student["certificate"] = None
        case "a zone that is none":
            student["certificate"]["steep"] = {"points": 3}
        case "a mass of text":
            student["certificate"]["mass"]["value"] = "1"
        case "a start below 0":
            student["sigma"] = -1.0
        case "a seed below 0":
            student["seed"] = -1
        case "an unknown key":
            student["spy"] = 1


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("no description", "disagree"),
        ("no tensors", "disagree"),
        ("one tensor less", "lacks tensors"),
        ("one tensor more", "unknown"),
        ("another shape", "label_bias"),
        ("another type", "'low'"),
        ("a NaN", "not finite"),
        ("an empty range", "range"),
        ("a factor of 0", "factors"),
        ("a width of text", "width"),
        ("a width beyond memory", "shape"),
        ("no certificate", "certificate"),
        ("a zone that is none", "steep"),
        ("a mass of text", "value"),
        ("a start below 0", "sigma"),
        ("a seed below 0", "seed"),
        ("an unknown key", "student"),
    ],
)
def test_what_a_bad_file_is_told(quick, tmp_path, what, word) -> None:
    path = tmp_path / "bad.safetensors"
    quick.save(path)
    archive = Archive.read(path, "model")
    tensors, metadata = dict(archive.tensors), dict(archive.metadata)
    _changed(what, tensors, metadata)
    Archive(tensors, metadata).write(path, "model")
    with pytest.raises(td.InputError, match=r"is not a usable model file: ") as caught:
        td.load(path)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


# What is refused ----------------------------------------------------------------------------------------


def test_bad_arguments(teacher) -> None:
    for call, words in [
        (lambda: td.distill("model.safetensors"), "must be a Diffusion"),
        (lambda: td.distill(td.Diffusion()), "not fitted yet"),
        (lambda: td.distill(teacher, td.TrainConfig()), "must be a DistillConfig"),
        (lambda: td.distill(teacher, seed=-1), "seed must be"),
        (lambda: td.distill(teacher, device="tpu"), "device"),
        (lambda: td.distill(teacher.with_denoiser(lambda z, s, c: z)), "its own network"),
        (lambda: td.DistillConfig(points=99), "points must be a whole number >= 100"),
        (lambda: td.DistillConfig(width=0), "width must be"),
        (lambda: td.DistillConfig(steps=2.5), "steps must be"),
        (lambda: td.DistillConfig(learning_rate=1.0), "learning_rate must be"),
    ]:
        with pytest.raises(td.InputError, match=words):
            call()


def test_more_than_three_columns_are_refused_unless_they_pass(monkeypatch) -> None:
    x = np.random.default_rng(0).normal(size=(200, 4))
    model = td.Diffusion(TRAIN).fit(x, seed=0)
    with pytest.raises(td.InputError, match="has 4 columns, and its students are not near enough"):
        distilled(model, replace(TINY, steps=3))
    monkeypatch.setattr(td.StudentCertificate, "passed", property(lambda self: True))
    found = distilled(model, replace(TINY, steps=3))
    assert np.isfinite(found.log_prob(x).value).all()
    assert found.sample(3).shape == (3, 4)


def test_poor_students_of_few_columns_are_a_warning(teacher, monkeypatch) -> None:
    for name, value in (("_EACH", 150), ("_EACH_FRESH", 100), ("_POOL", 3000), ("_PAIRS", 200)):
        monkeypatch.setattr(checks, name, value)
    with pytest.warns(td.DistillationWarning, match="less exact than they should be: log-densities, "):
        td.distill(teacher, replace(TINY, steps=2), seed=0)


def test_what_a_certificate_needs_to_pass(quick) -> None:
    good = replace(
        quick.student.certificate,
        **{name: td.ZoneErrors(100, 0.05, 0.04, 0.2, 0.2, 0.99) for name in ZONES},
        mass=td.Estimate(1.001, 0.001),
    )
    assert good.passed
    assert replace(good, steep=None).passed
    assert not replace(good, inside=None).passed
    assert not replace(good, mass=td.Estimate(1.02, 0.001)).passed
    assert replace(good, mass=td.Estimate(1.02, 0.01)).passed
    assert not replace(good, outside=td.ZoneErrors(100, 0.05, 0.04, 0.2, 0.2, 0.95)).passed
    assert not replace(good, inside=td.ZoneErrors(100, 0.2, 0.04, 0.2, 0.2, 0.99)).passed


def test_a_loss_that_is_not_finite_is_an_error(teacher, monkeypatch) -> None:
    def explode(optimiser: Soap, rate: float) -> None:
        for state in optimiser._states:
            state.weight.fill_(math.nan)

    monkeypatch.setattr(Soap, "step", torch.no_grad()(explode))
    with pytest.raises(td.TrainingError, match=r"learning rate .* try a lower learning_rate"):
        distilled(teacher, replace(TINY, steps=101))


# The same again -----------------------------------------------------------------------------------------


def test_the_seed_decides(quick, teacher) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, other = distilled(teacher, TINY), distilled(teacher, TINY, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    x = np.zeros((2, 2))
    assert (other.log_prob(x).value != first.log_prob(x).value).all()
    # Also from a model that is distilled already: its teacher is the same.
    again = distilled(quick, TINY)
    np.testing.assert_array_equal(again.log_prob(x).value, first.log_prob(x).value)
    np.testing.assert_array_equal(again.sample(5), first.sample(5))
    assert again.student.certificate == first.student.certificate


# The command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory, teacher):
    folder = tmp_path_factory.mktemp("distill")
    teacher.save(folder / "model.safetensors")
    (folder / "points.csv").write_text("x0,x1\n0.1,0.2\n0.5,-0.5\n50,50\n")
    return folder


FLAGS = "--points 2000 --pairs 2000 --steps 100 --batch-size 200 --width 16 --hidden-layers 2"


def test_the_command(folder, run, refused, monkeypatch) -> None:
    monkeypatch.setattr(checks, "_EACH", 150)
    monkeypatch.setattr(checks, "_EACH_FRESH", 100)
    monkeypatch.setattr(checks, "_POOL", 3000)
    code, out, err = run(f"distill model.safetensors --out quick.safetensors {FLAGS}")
    assert code == 0, err
    assert "log-densities, outside" in out
    assert out.endswith("wrote quick.safetensors\n")
    assert "warning: the students are less exact" in err
    assert run("show quick.safetensors")[1].splitlines() == out.splitlines()[:-1]
    assert run("sample quick.safetensors -n 4 --out new.csv")[0] == 0
    assert run("log-prob quick.safetensors points.csv --out densities.csv")[0] == 0
    quick = td.load(folder / "quick.safetensors")
    new = np.loadtxt(folder / "new.csv", delimiter=",", skiprows=1, usecols=(0, 1))
    np.testing.assert_array_equal(new, quick.sample(4))
    found = np.loadtxt(folder / "densities.csv", delimiter=",", skiprows=1, usecols=0)
    x = [[0.1, 0.2], [0.5, -0.5], [50.0, 50.0]]
    np.testing.assert_allclose(found, quick.log_prob(x).value, rtol=1e-6)
    assert run("log-prob quick.safetensors points.csv --tolerance 0.002 --out exact.csv")[0] == 0
    exact = np.loadtxt(folder / "exact.csv", delimiter=",", skiprows=1, usecols=0)
    teacher = td.load(folder / "model.safetensors")
    np.testing.assert_allclose(exact, teacher.log_prob(x).value, rtol=1e-9)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("distill model.safetensors --out quick.txt", ["'quick.txt'", ".safetensors"]),
        ("distill points.csv --out quick.safetensors", ["points.csv"]),
        ("distill missing.safetensors --out quick.safetensors", ["missing.safetensors"]),
        ("distill model.safetensors --out no/quick.safetensors", ["no"]),
        ("distill model.safetensors --out quick.safetensors --steps 0", ["--steps", ">= 1", "0"]),
        ("distill model.safetensors --out quick.safetensors --steps many", ["whole number", "many"]),
        ("distill model.safetensors --out quick.safetensors --width 100000000", ["weights"]),
        ("distill model.safetensors --out quick.safetensors --device tpu", ["device", "tpu"]),
    ],
)
def test_what_the_command_refuses(refused, command, words) -> None:
    refused(command, words)


def test_an_interrupted_command_leaves_nothing(folder, run, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Soap, "step", interrupt)
    threads = torch.get_num_threads()
    code, _, err = run(f"distill model.safetensors --out half.safetensors {FLAGS}")
    assert (code, err) == (130, "toydiffusion: interrupted\n")
    assert not list(folder.glob("half*"))
    assert torch.get_num_threads() == threads


# At full size -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_defaults_on_the_square() -> None:
    """The figures that benchmarks/README.md states, with room for other draws."""
    x, _ = Square().sample(1000, seed=1)
    model = td.Diffusion().fit(x, seed=1)
    found = td.distill(model, seed=1).student.certificate
    assert found.passed
    assert found.inside.mean_error <= 0.01
    assert found.steep.mean_error <= 0.04
    assert found.outside.mean_error <= 0.06
    for zone in found.zones().values():
        assert 0.98 <= zone.covered <= 0.999
        assert zone.median_bar <= 10 * zone.median_error
    assert abs(found.mass.value - 1) <= 0.005
    assert found.distance <= 0.0015
