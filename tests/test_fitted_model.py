"""The fitted model as a value: rows of an endless run, pickling, another denoiser in the network's place."""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from scipy import stats

import toydiffusion as td
from toydiffusion.distributions import GaussianMixture, Square

CONFIG = td.TrainConfig(steps=300, width=32, edges=16, batch_size=250)
THREE = GaussianMixture(
    [[-0.8, 0.0], [0.8, 0.3], [0.0, -0.9]],
    [[[0.5, 0.2], [0.2, 0.4]], [[0.4, -0.1], [-0.1, 0.6]], [[0.6, 0.0], [0.0, 0.3]]],
    weights=[0.5, 0.3, 0.2],
)
N = 2500  # more than two blocks of row noise
PARTS = list(itertools.pairwise([0, 1, 7, 1023, 1025, 2048, N]))


@pytest.fixture(scope="module")
def labelled() -> td.Diffusion:
    x, y = THREE.sample(900, seed=0)
    return td.Diffusion(CONFIG).fit(7 + 3 * x, np.array(["a", "b", "c"])[y], seed=0)


@pytest.fixture(scope="module")
def plain() -> td.Diffusion:
    return td.Diffusion(CONFIG).fit(Square().sample(900, seed=0)[0], seed=0)


# Rows of an endless run -----------------------------------------------------------------------------------

SAMPLERS = {
    "default": {},
    "three steps": {"steps": 3},
    "churn": {"solver": "heun", "steps": 8, "churn": 4.0},
    "stochastic": {"solver": "euler-maruyama", "steps": 12},
    "corrector": {"solver": "predictor-corrector", "steps": 8},
    "guidance": {"steps": 8, "guidance": 1.5},
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_parts_of_a_sample_join_to_the_whole(labelled, name) -> None:
    settings = SAMPLERS[name]
    x, y = labelled.sample(N, seed=3, return_labels=True, **settings)
    for batch_size in (8192, 100):
        points, labels = zip(
            *(
                labelled.sample(
                    stop - first,
                    seed=3,
                    first_row=first,
                    return_labels=True,
                    batch_size=batch_size,
                    **settings,
                )
                for first, stop in PARTS
            ),
            strict=True,
        )
        assert np.concatenate(labels).tolist() == y.tolist()
        np.testing.assert_allclose(np.concatenate(points) / 3, x / 3, atol=2e-6, rtol=0)


def test_parts_of_a_sample_under_labels_and_from_given_points(labelled) -> None:
    given, _ = THREE.sample(N, seed=9)
    given = 7 + 3 * given
    asked = np.array(["a", "b", "c"])[np.arange(N) % 3]
    for more in (
        lambda part: {"n": part.stop - part.start, "label": "b"},
        lambda part: {"n": part.stop - part.start, "label": asked[part]},
        lambda part: {"start": given[part], "sigma_start": 0.5, "label": asked[part]},
    ):
        whole = labelled.sample(**more(slice(0, N)), steps=8, seed=1)
        batches = labelled.sample(**more(slice(0, N)), steps=8, seed=1, batch_size=700)
        np.testing.assert_allclose(batches, whole, atol=1e-5, rtol=0)
        parts = [
            labelled.sample(**more(slice(first, stop)), steps=8, seed=1, first_row=first)
            for first, stop in PARTS
        ]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5, rtol=0)
    few = slice(0, 60)
    whole, labels = labelled.sample(start=given[few], sigma_start=0.5, steps=8, seed=1, return_labels=True)
    parts = [
        labelled.sample(start=given[a:b], sigma_start=0.5, steps=8, seed=1, first_row=a)
        for a, b in ((0, 11), (11, 60))
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5, rtol=0)
    assert set(labels) == {"a", "b", "c"}


def test_parts_of_a_trajectory(labelled) -> None:
    plan = td.SampleConfig(steps=6, solver="euler-maruyama")
    whole, levels = labelled.trajectory(1100, sampling=plan, seed=2)
    for first, stop in ((0, 5), (1000, 1100)):
        part, same = labelled.trajectory(stop - first, sampling=plan, seed=2, first_row=first)
        np.testing.assert_allclose(part, whole[:, first:stop], atol=1e-4, rtol=1e-5)
        np.testing.assert_array_equal(same, levels)
    np.testing.assert_array_equal(whole[-1], labelled.sample(1100, sampling=plan, seed=2))


def test_parts_of_densities(labelled) -> None:
    x, y = THREE.sample(40, seed=5)
    x, y = 7 + 3 * x, np.array(["a", "b", "c"])[y]
    cuts = ((0, 3), (3, 4), (4, 40))
    for label in (None, y):
        for ask in (
            lambda x, label, first: labelled.log_prob(x, label).value,
            lambda x, label, first: labelled.log_prob(x, label, probes=4, first_row=first).value,
            lambda x, label, first: labelled.elbo(x, label, evaluations=32, first_row=first).value,
            lambda x, label, first: labelled.elbo(x, label, evaluations=32, steps=9, first_row=first).value,
        ):
            whole = ask(x, label, 0)
            parts = [ask(x[a:b], None if label is None else y[a:b], a) for a, b in cuts]
            np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6, rtol=0)
    # The random numbers of a row are its own: other rows, other numbers.
    same, other = (labelled.elbo(x, y, evaluations=32, first_row=first).value for first in (0, 1))
    assert (same != other).all()


def test_parts_of_samples_with_their_densities(labelled, plain) -> None:
    for model, label in ((labelled, None), (labelled, "b"), (plain, None)):
        x, density, labels = model.sample_with_log_prob(30, label, seed=8)
        parts = [model.sample_with_log_prob(b - a, label, seed=8, first_row=a) for a, b in ((0, 7), (7, 30))]
        np.testing.assert_allclose(np.concatenate([part[0] for part in parts]), x, atol=1e-5, rtol=0)
        np.testing.assert_allclose(np.concatenate([p[1].value for p in parts]), density.value, atol=1e-5)
        if labels is not None:
            assert np.concatenate([part[2] for part in parts]).tolist() == labels.tolist()
        # Asked for in the same way, log_prob says the same of these points.
        again = model.log_prob(x, label)
        assert (np.abs(again.value - density.value) <= again.error + density.error + 1e-6).mean() > 0.95


def test_blocks_are_the_rows_in_order(labelled) -> None:
    blocks = list(labelled.sample_blocks(50, seed=4, first_row=3, batch_size=17))
    assert [len(block.points) for block in blocks] == [17, 17, 16]
    whole = labelled.sample(50, seed=4, first_row=3)
    np.testing.assert_allclose(np.concatenate([block.points for block in blocks]), whole, atol=1e-5)
    table = td.Table(whole, None)
    parts = list(labelled.log_prob_blocks(table, "b", batch_size=17))
    assert [len(part.log_prob) for part in parts] == [17, 17, 16]
    np.testing.assert_allclose(
        np.concatenate([part.class_probabilities for part in parts]), labelled.predict_proba(whole), atol=1e-9
    )


@pytest.mark.slow
def test_another_process_gives_the_same_bits(plain, tmp_path) -> None:
    plain.save(tmp_path / "m.safetensors")
    code = (
        "import sys, hashlib, torch, toydiffusion as td; torch.set_num_threads(1); m = td.load(sys.argv[1]); "
        "a = m.sample(300, seed=5, first_row=900); b = m.log_prob(a[:20]).value; "
        "print(hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "m.safetensors")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    }
    assert len(runs) == 1


@pytest.mark.parametrize("first_row", [-1, 1.5, True, 2**63])
def test_bad_first_rows(plain, first_row) -> None:
    with pytest.raises(td.InputError, match=r"first_row|rows are numbered"):
        plain.sample(3, first_row=first_row)
    if first_row != 2**63:
        with pytest.raises(td.InputError, match="first_row"):
            plain.log_prob([[0.0, 0.0]], probes=4, first_row=first_row)
        with pytest.raises(td.InputError, match="first_row"):
            plain.elbo([[0.0, 0.0]], first_row=first_row)


def test_rows_far_out_in_the_endless_sample(plain) -> None:
    far = 2**40
    np.testing.assert_allclose(
        plain.sample(5, seed=1, first_row=far)[2:], plain.sample(3, seed=1, first_row=far + 2), atol=1e-5
    )
    assert plain.sample(0).shape == (0, 2)


# The value -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [False, True])
def test_a_fitted_model_is_frozen_and_can_be_pickled_and_copied(labelled, used) -> None:
    if used:
        labelled.log_prob([[7.0, 7.0]])
    fitted = labelled.fitted
    with pytest.raises(FrozenInstanceError):
        fitted.sampling = td.SampleConfig(steps=1)
    for copied in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted), copy.copy(fitted)):
        again = td.Diffusion.of(copied)
        np.testing.assert_array_equal(again.sample(20, seed=1), labelled.sample(20, seed=1))
        at = [[7.0, 7.0], [9.0, 5.0]]
        np.testing.assert_array_equal(again.log_prob(at).value, labelled.log_prob(at).value)
        assert again.card() == labelled.card()
    facade = pickle.loads(pickle.dumps(labelled))
    np.testing.assert_array_equal(facade.sample(20, seed=1), labelled.sample(20, seed=1))
    assert isinstance(copy.deepcopy(td.Diffusion()), td.Diffusion)


def test_settings_of_a_fitted_model_cannot_be_changed_under_it(plain) -> None:
    for name, value in (("config", td.TrainConfig(sigma_min=0.3)), ("sampling", td.SampleConfig(steps=2))):
        with pytest.raises(AttributeError):
            setattr(plain, name, value)
    assert plain.sigma_min == plain.fitted.config.sigma_min == 0.01


def test_the_exact_denoiser_in_the_networks_place(labelled) -> None:
    law = GaussianMixture(
        7 + 3 * THREE.class_means.numpy(), 9 * THREE.class_covariances.numpy(), weights=[0.5, 0.3, 0.2]
    )
    truth = law.standardized(labelled.standardizer.mean, labelled.standardizer.scale)
    exact = labelled.with_denoiser(truth.denoise)
    assert exact.fitted.codec is labelled.fitted.codec
    assert exact.config == labelled.config
    x, y = law.sample(300, seed=3)
    own = np.array(["a", "b", "c"])[y]
    low = labelled.sigma_min
    for label, index in ((None, None), (own, y)):
        want = truth.log_prob(labelled.standardizer.z(torch.tensor(x)), low, index).numpy()
        want = want + labelled.standardizer.log_det
        # Two mixtures with the same classes, one weighted by the data's frequencies.
        slack = 0.0 if label is not None else 0.1
        assert np.abs(exact.log_prob(x, label).value - want).max() < 0.02 + slack
    sample, labels = exact.sample(4000, label="b", seed=0, return_labels=True)
    assert set(labels) == {"b"}
    for j in range(2):
        mean, sd = float(law.class_means[1, j]), float(law.class_covariances[1, j, j]) ** 0.5
        assert stats.kstest(sample[:, j], stats.norm(mean, sd).cdf).pvalue > 1e-3
    with pytest.raises(td.InputError, match="only a model with its own network can be saved"):
        exact.save("nowhere.safetensors")
    pickle.loads(pickle.dumps(exact.fitted))


# None is the mixture --------------------------------------------------------------------------------------


def test_the_network_without_labels_has_a_name_of_its_own(labelled, plain) -> None:
    z, sigma = torch.zeros(3, 2, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    with torch.no_grad():
        with pytest.raises(td.InputError, match="give a label for each point, or use `unconditional`"):
            labelled.denoiser(z, sigma, None)
        without = labelled.unconditional_denoiser(z, sigma, None)
        for c in range(3):
            assert (labelled.denoiser(z, sigma, torch.full((3,), c)) - without).abs().max() > 1e-4
        same = plain.unconditional_denoiser(z, sigma, None)
        torch.testing.assert_close(plain.denoiser(z, sigma, None), same, rtol=0, atol=0)


def test_given_points_without_labels_get_classes_from_their_posterior(labelled) -> None:
    """Noise that hides the class leaves the frequencies; hardly any noise leaves the class of the point."""
    x, y = THREE.sample(600, seed=2)
    x, names = 7 + 3 * x, np.array(["a", "b", "c"])
    _, little = labelled.sample(start=x, sigma_start=0.05, steps=4, seed=0, return_labels=True)
    posterior = labelled.predict_proba(x)
    expected = posterior[np.arange(600), y].mean()
    assert np.mean(little == names[y]) == pytest.approx(expected, abs=0.06)
    _, much = labelled.sample(start=x, sigma_start=20.0, steps=4, seed=0, return_labels=True)
    shares = [np.mean(much == name) for name in names]
    np.testing.assert_allclose(shares, labelled.moments.frequencies, atol=0.07)


@pytest.mark.slow
def test_check_density_of_one_class_and_of_the_mixture(labelled) -> None:
    whole = labelled.check_density(points=60, progress=False)
    one = labelled.check_density(label="b", points=60, progress=False)
    assert (len(whole.masses), len(one.masses)) == (3, 1)
    assert one.masses[0].value == pytest.approx(whole.masses[1].value, abs=1e-9)
    for found in (whole, one):
        assert found.mass.value == pytest.approx(1.0, abs=5e-3)
        assert abs(found.elbo_gap.value) < 0.2
