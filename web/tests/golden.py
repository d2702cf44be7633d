"""Write the numbers that the page's engine must reproduce: `golden.json`, and two model files, beside this.

Run it after a change of the mathematics: `python web/tests/golden.py`. `tests/test_lab.py` checks that what
stands in the files is what Python computes today.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import toydiffusion as td
from toydiffusion.distributions import BUILT_IN
from toydiffusion.files import Archive
from toydiffusion.row_noise import RowNoise
from toydiffusion.schedules import SCHEDULES, schedule
from toydiffusion.solvers import SOLVERS
from toydiffusion.training import FlatWeights, MirroredLoss, TrainConfig, TrainState, expected_loss, train

HERE = Path(__file__).parent
MODELS = {
    "square": ("square", {"width": 14, "edges": 7, "steps": 300, "batch_size": 100, "held_out": 0.1}),
    "rings": (
        "concentric_squares",
        {"width": 10, "edges": 9, "waves": 3, "hidden_layers": 3, "steps": 300, "batch_size": 90},
    ),
    "moons": ("two_moons", {"width": 8, "edges": 0, "steps": 60, "preconditioning": "noise"}),
}
"""Models small enough to keep in the repository, with every kind of weights, and none of some."""


def flat(values: Any) -> list[float]:
    """Return the numbers of a tensor or array, row by row; of float32 the digits that it has."""
    numbers = torch.as_tensor(values).flatten()
    if numbers.dtype == torch.float32:
        return [float(f"{number:.9g}") for number in numbers.tolist()]
    return numbers.tolist()  # type: ignore[no-any-return]


def random_numbers() -> dict[str, Any]:
    """Return numbers of every stream."""
    generator = RowNoise(7, "noise").generator(3, 2)
    double = {"generator": generator, "dtype": torch.float64}
    return {
        "uniform": flat(torch.rand(5, **double)),
        "uniform_float": flat(torch.rand(3, generator=generator)),
        "normal": flat(torch.randn(20, **double)),
        "normal_float": flat(torch.randn(37, generator=generator)),
        "few": flat(torch.randn(3, generator=generator)) + flat(torch.randn(3, **double)),
        "permutation": flat(torch.randperm(10, generator=generator)),
        "rows": flat(RowNoise(2**40 + 3, "start").normal(1020, 1030, dim=2, step=5)),
    }


def schedules() -> dict[str, Any]:
    """Return times and levels of every schedule."""
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    found = {}
    for name in SCHEDULES:
        s = schedule(name, {"sigma_min": 0.01, "sigma_max": 20.0})
        t = s.t(s.sigma_at(u))
        found[name] = {
            "sigma": flat(s.sigma_at(u)),
            "t": flat(t),
            "slope": flat(s.dsigma(t)),
            "alpha": flat(s.alpha(t)),
            "levels": flat(s.levels(6)),
            "sample": flat(s.sample_sigma(11, RowNoise(0, "levels").generator())),
        }
    return found


def laws() -> dict[str, Any]:
    """Return densities, denoised points, classes and samples of every law of the page."""
    line = torch.linspace(-1.3, 1.6, 5, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    found = {}
    for name, build in BUILT_IN.items():
        if name == "rotated_square":
            continue
        law, at = build(), {}
        for sigma in (0.03, 0.4, 5.0):
            label = torch.arange(len(x)) % law.num_classes
            other = law.standardized([0.1, -0.2], [0.7, 1.5])
            at[str(sigma)] = {
                "log_prob": flat(law.log_prob(x, sigma)),
                "log_prob_label": flat(law.log_prob(x, sigma, label)),
                "denoise": flat(law.denoise(x, sigma)),
                "classes": flat(law.class_posterior(x, sigma)),
                "standardized": flat(other.log_prob(x, sigma)),
            }
        points, labels = law.rows(0, 40, seed=5, sigma=0.3)
        found[name] = {
            "at": at,
            "mean": flat(law.mean),
            "covariance": flat(law.covariance),
            "points": flat(points),
            "labels": flat(labels),
            "clean": flat(law.rows(1000, 1040, seed=2**33)[0]),
        }
    return {"x": flat(x), "laws": found}


def one_model(name: str, folder: Path) -> dict[str, Any]:
    """Train a small model, write its file, and return what it computes."""
    law_name, settings = MODELS[name]
    law = BUILT_IN[law_name]()
    x, label = law.sample(200, seed=1)
    given = label if law.num_classes > 1 else None
    config = TrainConfig(**settings)
    model = td.Diffusion(config).fit(x, given, seed=4)
    model.save(folder / f"{name}.safetensors")
    fitted = model.fitted
    network = fitted.denoiser
    z = fitted.codec.standardizer.z(torch.from_numpy(x))
    row = torch.arange(20)
    sigma = torch.logspace(-2, 1.3, 20, dtype=torch.float64)
    noisy = z[:20] + sigma[:, None] * RowNoise(0, "golden").normal(0, 20, dim=2)
    chosen = None if given is None else torch.from_numpy(label[:20])
    clean, trace = network.with_trace(noisy, sigma, chosen)
    found: dict[str, Any] = {
        "law": law_name,
        "config": asdict(config),
        "x": flat(x),
        "label": None if given is None else label.tolist(),
        "noisy": flat(noisy),
        "sigma": flat(sigma),
        "clean": flat(clean.detach()),
        "trace": flat(trace.detach()),
        "unconditional": flat(network.unconditional(noisy, sigma).detach()),
        "expected_loss": expected_loss(
            network, config, z, None if given is None else torch.from_numpy(label)
        )[0],
    }

    # The loss and its gradient, and training from the first step.
    state = TrainState.start(2, law.num_classes, config, seed=4)
    found["initial"] = {key: flat(value) for key, value in state.weights.network.state_dict().items()}
    weights = FlatWeights(network)
    dropped = None if chosen is None else torch.where(row % 5 == 0, law.num_classes, chosen)
    loss, gradient = MirroredLoss(weights)(
        z[:20].float(), sigma.float(), RowNoise(0, "eps").normal(0, 20, dim=2).float(), dropped
    )
    found["loss"] = loss.item()
    found["gradient"] = {key: flat(value) for key, value in weights.named(gradient).items()}
    steps = train(state, z, None if given is None else torch.from_numpy(label), config)
    for _ in range(100 if config.total_steps(200, law.num_classes) > 100 else 40):
        next(steps)
    found["steps"] = state.step
    found["losses"] = list(state.loss)
    found["held_out"] = [list(pair) for pair in state.held_out]
    parts = {"weights": state.weights.values, "average": state.average.values}
    parts |= dict(zip(("mean", "square"), state.moments, strict=True))

    def now() -> dict[str, dict[str, list[float]]]:
        return {
            part: {key: flat(value) for key, value in weights.named(vector).items()}
            for part, vector in parts.items()
        }

    found["state"] = now()
    next(steps)
    found["next"] = now()

    # Samples by every solver, and the densities of some of them.
    found["samples"] = {}
    for solver in SOLVERS:
        points = model.sample(12, steps=6, solver=solver, seed=3)
        found["samples"][solver] = flat(points)
    if given is not None:
        found["guided"] = flat(model.sample(12, label=1, steps=4, guidance=2.0, seed=3))
    places = x[:12] + 0.2 * RowNoise(0, "places").normal(0, 12, dim=2).numpy()
    ld = model.log_prob(places)
    found |= {"places": flat(places), "log_prob": flat(ld.value), "error": flat(ld.error)}
    if given is not None:
        one = model.log_prob(places, label=label[:12])
        found |= {"log_prob_label": flat(one.value), "classes": flat(model.predict_proba(places))}
    bound = model.elbo(places, label=None if given is None else label[:12], evaluations=4096, seed=0)
    found |= {
        "elbo": flat(bound.value),
        "elbo_std_error": flat(bound.std_error),
        "elbo_prior": flat(bound.prior.value),
        "elbo_reconstruction": flat(bound.reconstruction.value),
    }
    return found


def earlier(folder: Path) -> list[float]:
    """Write the model of the square as an earlier version did; return what it denoises.

    Its edges had no softness, and its solver another name.
    """
    archive = Archive.read(folder / "square.safetensors", "model")
    tensors = {name: t for name, t in archive.tensors.items() if name != "network.edge_softness"}
    sampling = {**archive.metadata["sampling"], "solver": "adams-bashforth"}
    path = folder / "earlier.safetensors"
    Archive(tensors, {**archive.metadata, "sampling": sampling}).write(path, "model")
    model = td.load(path)
    z = RowNoise(0, "golden").normal(0, 20, dim=2)
    return flat(model.denoiser(z, torch.logspace(-2, 1.3, 20, dtype=torch.float64)))


def golden(folder: Path) -> dict[str, Any]:
    """Return all numbers, and write the model files into this folder."""
    torch.set_num_threads(1)
    return {
        "random": random_numbers(),
        "schedules": schedules(),
        "laws": laws(),
        "models": {name: one_model(name, folder) for name in MODELS},
        "earlier": earlier(folder),
    }


if __name__ == "__main__":
    (HERE / "golden.json").write_text(json.dumps(golden(HERE)) + "\n")
