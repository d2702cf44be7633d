"""Preconditioning, the loss, and training compared with the least possible loss."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import toydiffusion as td
from toydiffusion.denoisers import PRECONDITIONINGS, Network, preconditioning
from toydiffusion.distributions import ConcentricSquares, Gaussian, GaussianMixture, Square
from toydiffusion.errors import InputError
from toydiffusion.metrics import (
    border_mass,
    denoiser_divergence,
    share_inside,
    total_variation,
)
from toydiffusion.row_noise import RowNoise
from toydiffusion.training import (
    Checkpoint,
    FlatWeights,
    History,
    MirroredLoss,
    TrainConfig,
    TrainState,
    build,
    denoising_loss,
    expected_loss,
    fingerprint,
    train,
)

QUICK = TrainConfig(steps=180, batch_size=64, width=16, edges=8, waves=3)


# Preconditioning and network --------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PRECONDITIONINGS))
@pytest.mark.parametrize("sigma", [0.01, 0.5, 1.0, 30.0])
def test_network_input_and_target_have_unit_variance_for_unit_data(name: str, sigma: float) -> None:
    scheme = preconditioning(name)
    at = torch.full((200_000,), sigma, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    clean, eps = torch.randn(2, 200_000, generator=g, dtype=torch.float64)
    noisy = clean + sigma * eps
    assert float((scheme.c_in(at) * noisy).var()) == pytest.approx(1, rel=0.02)
    target = (clean - scheme.c_skip(at) * noisy) / scheme.c_out(at)
    assert float(target.var()) == pytest.approx(1, rel=0.02)
    torch.testing.assert_close(scheme.weight(at) * scheme.c_out(at) ** 2, torch.ones_like(at))
    if name == "noise":
        torch.testing.assert_close(target, eps, rtol=0, atol=1e-10)
    if name == "edm":  # c_skip is the regression slope: what is left is uncorrelated with the input
        assert abs(float((target * noisy).mean())) < 0.01 * max(1, sigma)


def network(num_classes: int = 3, name: str = "edm") -> Network:
    net = Network(
        2,
        num_classes,
        width=16,
        hidden_layers=2,
        edges=6,
        waves=4,
        preconditioning=preconditioning(name),
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return net


@torch.no_grad()
def test_the_network_uses_position_noise_level_and_label_and_no_other_row() -> None:
    net = network()
    z = torch.tensor([[0.3, -0.2], [1.0, 0.5], [-1.0, 2.0]], dtype=torch.float64)
    sigma = torch.tensor([0.5, 0.2, 3.0], dtype=torch.float64)
    label = torch.tensor([0, 1, 2])
    out = net(z, sigma, label)
    assert out.dtype == torch.float64
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(net(z[one], sigma[one], label[one]), out[one], rtol=0, atol=1e-5)
    for changed in (
        net(z + 0.1, sigma, label),
        net(z, sigma * 1.3, label),
        net(z, sigma, (label + 1) % 3),
        net.unconditional(z, sigma),
    ):
        assert float((changed - out).abs().max(1).values.min()) > 1e-3
    assert net.size == sum(p.numel() for p in net.parameters() if p.requires_grad)


def test_float64_points_lose_nothing_at_low_noise() -> None:
    """At sigma 1e-3 the denoised point is z plus 1e-3 of the network: float32 throughout would lose it."""
    net = network()
    z = torch.tensor([[1.234567890123, -1.1]], dtype=torch.float64)
    sigma = torch.tensor([1e-3], dtype=torch.float64)
    label = torch.tensor([1])
    raw = net.raw(z.float(), sigma.float(), label).double()
    c_skip, c_out = 1 / (1 + 1e-6), 1e-3 / math.sqrt(1 + 1e-6)
    torch.testing.assert_close(net(z, sigma, label), c_skip * z + c_out * raw, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", sorted(PRECONDITIONINGS))
def test_a_fresh_network_is_the_best_linear_start(name: str) -> None:
    config = TrainConfig(preconditioning=name)
    state = TrainState.start(2, 1, config, seed=0)
    z = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    sigma = torch.tensor([2.0], dtype=torch.float64)
    expected = {"noise": 1.0, "data": 0.0, "edm": 0.2}[name]
    torch.testing.assert_close(state.weights.network(z, sigma), expected * z)


# The loss ---------------------------------------------------------------------------------------------


def test_the_least_loss_of_a_gaussian_is_its_closed_form() -> None:
    """E|D - z|^2 = C sigma^2 / (C + sigma^2) per coordinate; averaged over the noise law by quadrature."""
    variance = 0.6
    truth = Gaussian([0.0], [[variance]])
    config = TrainConfig()
    noise = config.noise()

    def weighted(u: float) -> float:
        sigma = float(noise.sigma_at(torch.tensor(u, dtype=torch.float64)))
        return (1 + sigma**2) / sigma**2 * variance * sigma**2 / (variance + sigma**2)

    exact, _ = quad(weighted, 0, 1)
    z = truth.rows(0, 200_000, seed=0)[0]
    found, error = expected_loss(truth.denoise, config, z, None)
    assert abs(found - exact) < 4 * error
    assert error < 0.01 * exact
    worse, _ = expected_loss(lambda z, sigma, label=None: z, config, z, None)
    assert worse > exact * 1.2


def test_the_loss_squares_and_weighs_each_point() -> None:
    z = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    sigma = torch.tensor([0.5, 2.0])
    eps = torch.tensor([[1.0, 0.0], [0.5, -1.0]])
    loss = denoising_loss(lambda z, s, y=None: 0 * z, preconditioning("noise"), z, sigma, eps, None)
    assert float(loss) == pytest.approx(((1 + 4) / 2 / 0.25 + 1 / 2 / 4) / 2)


@pytest.mark.parametrize("name", sorted(PRECONDITIONINGS))
def test_training_on_a_gaussian_reaches_the_least_loss(name: str) -> None:
    truth = Gaussian([0.0, 0.0], [[1.0, 0.7], [0.7, 1.0]])
    config = TrainConfig(steps=500, batch_size=250, width=48, preconditioning=name, sigma_min=0.05)
    state = TrainState.start(2, 1, config, seed=0)
    for _ in train(state, truth.rows(0, 50_000, seed=0)[0], None, config):
        pass
    fresh = truth.rows(0, 50_000, seed=1)[0]
    least, _ = expected_loss(truth.denoise, config, fresh, None)
    reached, _ = expected_loss(state.average.network, config, fresh, None)
    assert least * 0.999 < reached < least * 1.02
    assert np.mean(state.history.loss[-50:]) == pytest.approx(reached, rel=0.03)


def test_the_default_model_of_1000_points_of_the_square_is_close_to_the_truth() -> None:
    """And its edges, of softness 0.05 before training, have become as sharp as the borders."""
    square = Square()
    model = td.Diffusion().fit(square.sample(1000, seed=5)[0], seed=0)
    s = model.standardizer
    scale = float(s.scale.log().mean().exp())
    divergence = denoiser_divergence(
        model.denoiser,
        square.standardized(s.mean, s.scale),
        sigma_min=0.01 / scale,
        sigma_max=5 / scale,
        n=8000,
    )
    assert divergence.value < 0.045
    network = model.denoiser
    use = network.weights[0][:, -len(network.edge_softness) :].norm(dim=0)
    softness = network.edge_softness.abs() / network.edge_direction.norm(dim=1)
    assert float(softness[use.topk(8).indices].median()) < 0.04
    x = model.sample(10_000, seed=1)
    assert share_inside(x, square) > 0.965
    assert total_variation(x, square) < 0.15


def test_labels_are_learned_and_so_is_the_mixture() -> None:
    pair = GaussianMixture([[-2.0, 0.0], [2.0, 0.0]], [[[0.3, 0.0], [0.0, 0.3]]] * 2, weights=[1.0, 3.0])
    z, label = pair.rows(0, 4000, seed=0)
    config = TrainConfig(steps=400)
    state = TrainState.start(2, 2, config, seed=0)
    for _ in train(state, z, label, config):
        pass
    assert state.step == 400
    network = state.average.network
    for denoiser, own, bound in ((network, True, 0.05), (network.unconditional, False, 0.08)):
        cost = denoiser_divergence(denoiser, pair, sigma_min=0.05, sigma_max=5, n=4000, conditional=own)
        assert cost.value < bound
    swapped = denoiser_divergence(
        lambda z, s, y=None: state.average.network(z, s, None if y is None else 1 - y),
        pair,
        sigma_min=0.05,
        sigma_max=5,
        n=2000,
        conditional=True,
    )
    assert swapped.value > 1


# Resuming, determinism, failure -----------------------------------------------------------------------


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    return {
        **state.average.network.state_dict(),
        **{f"now.{k}": v for k, v in state.weights.network.state_dict().items()},
    }


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path) -> None:
    z, label = ConcentricSquares(3).rows(0, 150, seed=0)
    config = replace(QUICK, held_out=0.2, label_dropout=0.3)
    key = fingerprint(z, label, config, seed=4)
    whole = TrainState.start(2, 3, config, seed=4)
    for _ in train(whole, z, label, config):
        pass
    first = TrainState.start(2, 3, config, seed=4)
    for state in train(first, z, label, config):
        if state.step == 77:
            break
    half = Checkpoint(tmp_path / "half", key)
    half.save(first)
    second = TrainState.start(2, 3, config, seed=4)
    half.resume(second)
    assert second.step == 77
    for _ in train(second, z, label, config):
        pass
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(second)[name]), name
    np.testing.assert_array_equal(np.float32(second.history.loss), np.float32(whole.history.loss))
    assert second.history.held_out == whole.history.held_out
    assert len(whole.history.held_out) == 60

    other = fingerprint(z + 1e-9, label, config, seed=4)
    with pytest.raises(InputError, match="other points, settings or seed"):
        Checkpoint(half.path, other).resume(second)
    keys = {
        key,
        other,
        fingerprint(z, (label + 1) % 3, config, seed=4),
        fingerprint(z, label, replace(config, width=17), seed=4),
        fingerprint(z, label, config, seed=5),
        fingerprint(z, None, config, seed=4),
    }
    assert len(keys) == 6


def test_a_checkpoint_of_another_version_is_refused_with_what_to_do(tmp_path) -> None:
    z = Square().rows(0, 50, seed=0)[0]
    state = TrainState.start(2, 1, QUICK, seed=0)
    state.weights.values = state.weights.values[:-8]  # as many as without softness
    checkpoint = Checkpoint(tmp_path / "m.checkpoint", fingerprint(z, None, QUICK, seed=0))
    checkpoint.save(state)
    size = TrainState.start(2, 1, QUICK, seed=0).weights.values.numel()
    words = rf"it has {size - 8:,} weights, this version of toydiffusion {size:,}; remove it or train"
    with pytest.raises(InputError, match=words):
        checkpoint.resume(TrainState.start(2, 1, QUICK, seed=0))


def test_the_softness_of_a_smooth_law_grows() -> None:
    """It starts at 0.05. Nothing in a mixture of wide Gaussians is as sharp."""
    law = GaussianMixture([[-1.5, 0.0], [1.5, 0.0]], [[[0.3, 0.0], [0.0, 0.3]]] * 2)
    model = td.Diffusion(TrainConfig(steps=500)).fit(law.sample(1000, seed=5)[0], seed=0)
    assert float(model.denoiser.edge_softness.abs().median()) > 0.1


def test_same_seed_same_weights_other_seed_other_weights() -> None:
    x = Square().sample(100, seed=0)[0]
    first, again, other = (td.Diffusion(QUICK).fit(x, seed=s) for s in (3, 3, 4))
    at = torch.rand(20, 2, dtype=torch.float64), torch.rand(20, dtype=torch.float64) + 0.01
    assert torch.equal(first.denoiser(*at), again.denoiser(*at))
    assert float((first.denoiser(*at) - other.denoiser(*at)).abs().max()) > 1e-4


def test_every_point_is_used_equally_often_and_held_out_ones_never(monkeypatch) -> None:
    z = torch.arange(10.0, dtype=torch.float64)[:, None]
    seen: list[float] = []
    config = TrainConfig(steps=30, batch_size=4, held_out=0.3, width=4, edges=0)
    state = TrainState.start(1, 1, config, seed=0)
    mirrored_loss = MirroredLoss.__call__
    sigmas: list[float] = []

    def spy(self, z, sigma, eps, label):
        seen.extend(z[:, 0].tolist())
        sigmas.extend(sigma.tolist())
        return mirrored_loss(self, z, sigma, eps, label)

    monkeypatch.setattr(MirroredLoss, "__call__", spy)
    for _ in train(state, z, None, config):
        pass
    counts = np.bincount(np.round(seen).astype(int), minlength=10)
    assert sorted(counts)[:3] == [0, 0, 0]
    assert max(counts) - sorted(counts)[3] <= 1
    assert sum(counts) == 120
    assert len(set(sigmas)) == 120


def test_a_loss_that_is_no_number_stops_with_step_and_learning_rate() -> None:
    z = Square().rows(0, 100, seed=0)[0]
    state = TrainState.start(2, 1, QUICK, seed=0)
    steps = train(state, z, None, QUICK)
    for _ in range(3):
        next(steps)
    with torch.no_grad():
        state.weights.network.biases[0].fill_(math.nan)
    with pytest.raises(td.TrainingError, match=r"step 4 of 180, learning rate 0\.00"):
        next(steps)


NETWORKS = {
    "default": (2, 1, {}),
    "labels and waves": (3, 3, {"waves": 5, "hidden_layers": 3}),
    "one column, no edges": (1, 1, {"edges": 0, "hidden_layers": 1}),
    "labels, no edges": (2, 4, {"edges": 0}),
}


@pytest.mark.parametrize("scheme", ["edm", "noise", "data"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_is_that_of_autograd(name: str, scheme: str) -> None:
    """The written-out gradient against autograd's of `denoising_loss` at both noises of each point."""
    dim, classes, settings = NETWORKS[name]
    config = TrainConfig(preconditioning=scheme, width=16, **settings)
    generator = torch.Generator().manual_seed(2)
    ours, autograds = (build(dim, classes, config, seed=0).double() for _ in range(2))
    with torch.no_grad():
        for a, b in zip(ours.parameters(), autograds.parameters(), strict=True):
            b.copy_(a.copy_(0.5 * torch.randn(a.shape, generator=generator)))
    z, eps = torch.randn(2, 9, dim, generator=generator, dtype=torch.float64)
    sigma = 0.05 + torch.rand(9, generator=generator, dtype=torch.float64)
    label = None if classes == 1 else torch.randint(classes + 1, (9,), generator=generator)
    weights = FlatWeights(ours)
    loss, gradient = MirroredLoss(weights)(z, sigma, eps, label)
    both = None if label is None else label.repeat(2)
    exact = denoising_loss(
        autograds,
        preconditioning(scheme),
        z.repeat(2, 1),
        sigma.repeat(2),
        torch.cat([eps, -eps]),
        both,
    )
    exact.backward()
    assert float(loss) == pytest.approx(exact.item(), rel=1e-12)
    for (weight, own), b in zip(weights.named(gradient).items(), autograds.parameters(), strict=True):
        slope = torch.zeros_like(b) if b.grad is None else b.grad
        torch.testing.assert_close(own, slope, rtol=1e-9, atol=1e-10, msg=weight)
    # A second call starts anew, and the network follows its vector of weights.
    again = MirroredLoss(weights)(z, sigma, eps, label)[1]
    torch.testing.assert_close(again, gradient, rtol=0, atol=0)
    weights.values.mul_(2)
    assert torch.equal(ours.biases[0], 2 * autograds.biases[0])


def test_a_step_is_adams() -> None:
    """The weights of ten steps against torch's Adam on autograd's gradients of the same batches."""
    z = Square().rows(0, 60, seed=0)[0]
    config = TrainConfig(steps=30, batch_size=20, width=8, edges=4)
    state = TrainState.start(2, 1, config, seed=0)
    other = build(2, 1, config, seed=0)
    adam = torch.optim.Adam(other.parameters())
    batches: list[tuple[torch.Tensor, ...]] = []
    mirrored_loss = MirroredLoss.__call__

    def spy(self, *given):
        batches.append(given)
        return mirrored_loss(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MirroredLoss, "__call__", spy)
        for _ in itertools.islice(train(state, z, None, config), 10):
            pass
    for step, (points, sigma, eps, _) in enumerate(batches):
        adam.param_groups[0]["lr"] = config.learning_rate * (1 - step / 30) * (step + 1) / 20
        adam.zero_grad()
        noises, levels = torch.cat([eps, -eps]), sigma.repeat(2)
        denoising_loss(other, other.preconditioning, points.repeat(2, 1), levels, noises, None).backward()
        adam.step()
    for a, b in zip(state.weights.network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-3, atol=1e-5)


def test_with_held_out_points_the_best_average_is_kept() -> None:
    x = Square().sample(40, seed=0)[0]
    config = TrainConfig(steps=1500, width=32, held_out=0.5, learning_rate=0.02)
    state = TrainState.start(2, 1, config, seed=0)
    z = torch.from_numpy(x)
    for _ in train(state, z, None, config):
        pass
    losses = [loss for _, loss in state.held_out]
    # Twenty points are learned by heart, so the last weights are not the best ones.
    assert min(losses) < 0.98 * losses[-1]
    order = torch.randperm(40, generator=RowNoise(0, "held out").generator())[:20]
    kept, _ = expected_loss(state.trained, config, z[order].float(), None)
    assert kept == pytest.approx(min(losses), rel=1e-6)


def test_the_average_lags_behind_the_weights_and_can_be_turned_off() -> None:
    z = Square().rows(0, 100, seed=0)[0]
    for averaging in (0.0, 0.1):
        config = replace(QUICK, averaging=averaging)
        state = TrainState.start(2, 1, config, seed=0)
        for now in train(state, z, None, config):
            if now.step == 30:
                break
        gap = max(
            float((a - b.detach()).abs().max())
            for a, b in zip(
                state.average.network.parameters(), state.weights.network.parameters(), strict=True
            )
            if a.numel()
        )
        assert (gap == 0) == (averaging == 0)


def test_steps_and_batches_grow_with_classes_and_points_unless_given() -> None:
    assert [TrainConfig().total_steps(1000, k) for k in (1, 3, 10, 50)] == [1500, 3000, 10_000, 10_000]
    assert [TrainConfig(steps=7).total_steps(10**6, k) for k in (1, 5)] == [7, 7]
    expected = ((2, 500, 250), (1000, 1500, 500), (3375, 5062, 750), (8000, 6000, 1000), (10**9, 6000, 2000))
    for n, steps, batch in expected:
        assert TrainConfig().total_steps(n, 1) == steps
        assert TrainConfig().total_steps(n, 5) == max(5000, steps)
        assert TrainConfig().points_per_step(n) == batch
    assert TrainConfig(batch_size=7).points_per_step(10**6) == 7


def test_history_goes_into_tensors_and_back() -> None:
    history = History((1.5, 0.25), ((2, 0.125),))
    assert History.from_tensors(history.tensors()) == history
    assert History.from_tensors(History().tensors()) == History()


# Metrics ----------------------------------------------------------------------------------------------


def test_divergence_of_a_wrong_gaussian_is_its_closed_form() -> None:
    """KL between N(0, C) and N(0, C') noised to sigma_min, less that at sigma_max: de Bruijn's identity."""
    truth, wrong = Gaussian([0.0], [[1.0]]), Gaussian([0.5], [[1.7]])

    def kl(sigma: float) -> float:
        v, w = 1.0 + sigma**2, 1.7 + sigma**2
        return (math.log(w / v) + (v + 0.25) / w - 1) / 2

    found = denoiser_divergence(wrong.denoise, truth, sigma_min=0.05, sigma_max=8.0, n=60_000)
    assert abs(found.value - (kl(0.05) - kl(8.0))) < 4 * found.std_error
    assert found.std_error < 0.01
    assert denoiser_divergence(truth.denoise, truth, sigma_min=0.1, sigma_max=2.0, n=100).value == 0


def test_total_variation_by_hand() -> None:
    square = Square()
    assert total_variation(np.full((10, 2), 5.0), square) == pytest.approx(1.0)
    grid = (np.stack(np.meshgrid(range(20), range(20)), -1).reshape(-1, 2) + 0.5) / 10 - 1
    assert total_variation(grid, square) == pytest.approx(0.0, abs=1e-12)
    left = grid[grid[:, 0] < 0]
    assert total_variation(left, square) == pytest.approx(0.5)
    assert total_variation(np.concatenate([grid, grid * 100]), square) == pytest.approx(0.5)


def test_shares_by_hand() -> None:
    x = np.array([[0.0, 0.1], [0.0, 0.19], [0.0, 0.21], [0.9, 0.0], [1.2, 0.0]])
    label = np.array([0, 0, 0, 4, 4])
    assert share_inside(x, ConcentricSquares(), label) == pytest.approx(3 / 5)
    assert share_inside(x, ConcentricSquares()) == pytest.approx(4 / 5)
    # one point of five is near a border and on its own side; the true share is the strips' area over 4
    true_share = 8 * 0.04 * (0.2 + 0.4 + 0.6 + 0.8) / 4
    assert border_mass(x, label) == pytest.approx(1 / 5 / true_share)
    fresh, own = ConcentricSquares().sample(200_000, seed=0)
    assert border_mass(fresh, own) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1 and <= 1,000,000,000, got 0"),
        ({"width": True}, "width must be a whole number"),
        ({"learning_rate": 0}, "learning_rate must be a finite number > 0"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number"),
        ({"held_out": 1}, "held_out must be a finite number >= 0 and < 1"),
        ({"preconditioning": "edn"}, "did you mean 'edm'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"sigma_min": 3.0, "sigma_max": 2.0}, "0 < sigma_min < sigma_max"),
        ({"standardize": "yes"}, "standardize must be True or False"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"learning_rat": 0.1}, "did you mean 'learning_rate'"),
    ],
)
def test_unusable_settings_say_why(settings, words: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainConfig.from_dict(settings)
    assert words in str(caught.value)
