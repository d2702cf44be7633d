"""Every operation on a GPU: the same results as on the CPU, within rounding.

A pretended GPU finds every tensor that was not moved. A real one is used where there is one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import toydiffusion as td
from toydiffusion import devices
from toydiffusion.devices import torch_device


@pytest.fixture(scope="module", params=["pretended", "real"])
def gpu(request):
    """Let `torch_device("cuda")` be a GPU."""
    if request.param == "real":
        if not torch.cuda.is_available():
            pytest.skip("needs a GPU, and torch finds none")
        yield
        return
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("needs a version of torch in which a device can be written in Python")
    import pretend_gpu

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(devices, "_GPU", pretend_gpu.DEVICE.type)
        # A tensor of a class of its own cannot take over the data of another: modules get new parameters.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        yield
        torch.__future__.set_overwrite_module_params_on_conversion(False)


SQUARES = td.distributions.ConcentricSquares(3)
X, Y = SQUARES.sample(200, seed=0)
CONFIG = td.TrainConfig(steps=30, width=16, edges=8, waves=2, held_out=0.1, sigma_min=0.05, device="cpu")


@pytest.fixture(scope="module")
def model():
    return td.Diffusion(CONFIG).fit(X, Y, seed=0)


def test_the_pretended_device_refuses_tensors_of_the_cpu(gpu):
    there = torch.ones(3).to(torch_device("cuda"))
    with pytest.raises(RuntimeError, match="device"):
        there + torch.ones(3)
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()


def test_training_gives_the_same_weights(gpu, model):
    from dataclasses import replace

    there = td.Diffusion(replace(CONFIG, device="cuda")).fit(X, Y, seed=0)
    for name, weight in there.denoiser.state_dict().items():
        torch.testing.assert_close(
            weight.cpu(), model.denoiser.state_dict()[name], rtol=1e-3, atol=1e-3, msg=name
        )
    np.testing.assert_allclose(there.history.held_out, model.history.held_out, rtol=1e-3)


@pytest.mark.slow
def test_distilling_gives_the_same_students(gpu, model, monkeypatch):
    import warnings

    from toydiffusion.distillation import checks

    for name, value in (("_EACH", 150), ("_EACH_FRESH", 100), ("_POOL", 2000), ("_PAIRS", 200)):
        monkeypatch.setattr(checks, name, value)
    tiny = td.DistillConfig(points=500, pairs=500, steps=20, batch_size=100, width=8, hidden_layers=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", td.DistillationWarning)
        here, there = (td.distill(model, tiny, device=device) for device in ("cpu", "cuda"))
    for ask in (
        lambda one, at: one.sample(50, device=at),
        lambda one, at: one.log_prob(X[:50], device=at).value,
    ):
        assert ask(there, "cpu") == pytest.approx(ask(here, "cpu"), rel=0.05, abs=0.05)
        assert ask(here, "cuda") == pytest.approx(ask(here, "cpu"), rel=1e-4, abs=1e-4)


ONE = Y[0].item()
OPERATIONS = {
    "sample": lambda model, device: model.sample(50, seed=1, device=device),
    "stochastic": lambda model, device: model.sample(
        50, solver="predictor-corrector", steps=5, device=device
    ),
    "churn": lambda model, device: model.sample(50, ONE, solver="heun", steps=5, churn=2.0, device=device),
    "guidance": lambda model, device: model.sample(50, guidance=1.5, steps=5, device=device),
    "from given points": lambda model, device: model.sample(start=X[:9], sigma_start=0.5, device=device),
    "trajectory": lambda model, device: model.trajectory(20, device=device)[0],
    "log_prob": lambda model, device: model.log_prob(X[:20], device=device).value,
    "error bars": lambda model, device: model.log_prob(X[:20], Y[:20], device=device).total_error,
    "probes": lambda model, device: model.log_prob(X[:9], ONE, probes=4, device=device).value,
    "grad_log_prob": lambda model, device: model.grad_log_prob(X[:5], device=device),
    "score": lambda model, device: model.score(X[:20], device=device),
    "elbo": lambda model, device: model.elbo(X[:5], evaluations=16, device=device).value,
    "encode": lambda model, device: model.encode(X[:5], Y[:5], device=device),
    "decode": lambda model, device: model.decode(np.ones((2, 2)), ONE, device=device),
    "predict_proba": lambda model, device: model.predict_proba(X[:20], device=device),
    "sample_with_log_prob": lambda model, device: model.sample_with_log_prob(9, ONE, device=device)[1].value,
    "check_density": lambda model, device: (
        model.check_density(SQUARES, ONE, points=20, device=device, progress=False).mass.value
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("check_density", "grad_log_prob")))
        for name in OPERATIONS
    ],
)
def test_an_operation_gives_the_same(gpu, model, name):
    here, there = (OPERATIONS[name](model, device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-4)


def test_the_model_itself_stays_where_it_was(gpu, model, tmp_path):
    model.sample(5, device="cuda")
    assert model.denoiser.edge_offset.device.type == "cpu"
    model.save(tmp_path / "m.safetensors")


def test_a_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = td.Diffusion(td.TrainConfig(steps=2)).fit(X, seed=0)
    with pytest.raises(td.InputError, match="device 'cuda' was asked for, but torch finds none"):
        model.sample(5, device="cuda")
    with pytest.raises(td.InputError, match="unknown device 'gpu'"):
        model.log_prob(X, device="gpu")
