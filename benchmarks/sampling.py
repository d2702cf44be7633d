"""How few evaluations suffice for samples, beside the samplers of azula and smalldiffusion.

`python benchmarks/sampling.py [name ...]` runs the named `ROWS`, or all of them, in the environment of the
peers (`make bench`). Every comparison starts from the same latents, and every method has the same denoiser.

- `ends`: trained models. Root mean square distance to the end points of 400 steps, over that of azula's REAB.
- `bins`: trained models. Total variation to the truth over that of 400 steps.
- `exact`: exact denoisers. Sliced Wasserstein distance to exact samples, over that of azula's best sampler.
- `time`: a trained square. Seconds for 10^6 points that are equally near to the end points of 400 steps.

azula's samplers take their steps on its cosine, rectified and variance-exploding schedules, from latents
with the moments of the data, as its documentation recommends. Each number of evaluations has the best of the
three, in hindsight, separately for each law: a choice that a user does not have.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import azula.denoise
import azula.noise
import azula.sample
import numpy as np
import torch
from measure import MIXTURE, in_turn, report
from scipy.stats import norm, qmc
from torch import Tensor

import toydiffusion as td
from toydiffusion.distributions import (
    Bounded,
    Boxes,
    Checkerboard,
    Circles,
    ConcentricSquares,
    Distribution,
    GaussianMixture,
    Parallelogram,
    Spiral,
    Square,
    TwoMoons,
)
from toydiffusion.metrics import total_variation
from toydiffusion.solvers import SampleConfig, last, solver, trajectory
from toydiffusion.types import Denoiser

FEW = (3, 5, 8, 15, 30)
MANY = (1, 2, 3, 5, 8, 10, 15, 30)
TUNED: dict[str, Distribution] = {
    "square": Square(),
    "checkerboard": Checkerboard(),
    "mixture": MIXTURE,
    "moons": TwoMoons(),
    "circles": Circles(),
    "spiral": Spiral(),
    "rotated square": Parallelogram.rotated_square(30.0),
    "line": ConcentricSquares(3, dim=1),
    "box in 3-D": Boxes([[0.0] * 3, [1.0, 1.0, 1.0]], [[1.0] * 3, [2.0, 3.0, 1.5]]),
}
"""The laws on which, exact or trained, the constants of `Adams` were chosen."""
FRESH: dict[str, Distribution] = {
    "eight in a ring": GaussianMixture(
        [[math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)] for k in range(8)], [0.01 * torch.eye(2)] * 8
    ),
    "two boxes": Boxes([[0.0, 0.0], [3.0, 0.0]], [[1.0, 4.0], [4.0, 1.0]]),
    "squares in 4-D": ConcentricSquares(2, dim=4),
}
"""Laws that chose nothing."""


def latents(n: int, dim: int, seed: int = 0) -> Tensor:
    """Return n standard normal points, from a scrambled Sobol sequence."""
    uniform = qmc.Sobol(dim, rng=seed).random(n)
    return torch.from_numpy(norm.ppf(uniform.clip(1e-9, 1 - 1e-9)))


def started(law: Distribution, latent: Tensor, sigma: float, label: Tensor | None = None) -> Tensor:
    """Return the latents at noise level sigma: with the moments of the law, or of each point's class."""
    means, covariances = law.mean[None], law.covariance[None]
    kind = torch.zeros(len(latent), dtype=torch.int64)
    if label is not None:
        means, covariances, kind = law.class_means, law.class_covariances, label
    values, axes = torch.linalg.eigh(covariances)
    return means[kind] + torch.einsum("nij,nj->ni", axes[kind], latent * (values[kind] + sigma**2).sqrt())


def ours(
    denoiser: Denoiser, law: Distribution, latent: Tensor, steps: int, label: Tensor | None = None
) -> Tensor:
    """Return the end points of the default sampler. `law` has the moments of the data."""
    config = SampleConfig(steps)
    levels = config.levels(0.01, 20.0)
    start = started(law, latent, float(levels[0]), label)
    return last(trajectory(denoiser, start, levels, solver(config.solver), label=label, moments=law))


def fine(denoiser: Denoiser, law: Distribution, latent: Tensor, label: Tensor | None = None) -> Tensor:
    """Return the end points of 400 steps of Heun's method, which none of the compared methods resembles."""
    config = SampleConfig(400, "heun", "karras")
    levels = config.levels(0.01, 20.0)
    start = started(law, latent, float(levels[0]), label)
    return last(trajectory(denoiser, start, levels, solver("heun"), label=label))


# Peers -------------------------------------------------------------------------------------------------


class OurDenoiser(azula.denoise.Denoiser):
    """One of our denoisers as one of azula's: the posterior mean given `x = alpha z0 + sigma eps`."""

    def __init__(self, denoiser: Denoiser, schedule: azula.noise.Schedule) -> None:
        super().__init__()
        self.ours, self.schedule = denoiser, schedule

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> azula.denoise.DiracPosterior:
        alpha, sigma = self.schedule(t)
        level = (sigma / alpha).to(x).reshape(1).expand(len(x))
        return azula.denoise.DiracPosterior(mean=self.ours(x / alpha, level, label))


SCHEDULES: dict[str, azula.noise.Schedule] = {
    "cosine": azula.noise.CosineSchedule(alpha_min=0.05, sigma_min=1e-3),
    "rectified": azula.noise.RectifiedSchedule(alpha_min=0.05, sigma_min=1e-3),
    "VE": azula.noise.VESchedule(sigma_min=1e-3, sigma_max=20.0),
}
SAMPLERS = {
    "REAB": azula.sample.REABSampler,
    "DDIM": azula.sample.DDIMSampler,
    "zAB": azula.sample.zABSampler,
    "vAB": azula.sample.vABSampler,
    "zEAB": azula.sample.zEABSampler,
    "xEAB": azula.sample.xEABSampler,
}


def azulas(
    denoiser: Denoiser,
    law: Distribution,
    latent: Tensor,
    steps: int,
    label: Tensor | None = None,
    *,
    sampler: str = "REAB",
    spacing: str = "cosine",
) -> Tensor:
    """Return the end points of one of azula's samplers from the same latents."""
    wrapped = OurDenoiser(denoiser, SCHEDULES[spacing])
    method = SAMPLERS[sampler](wrapped, steps=steps, silent=True, dtype=torch.float64)
    alpha, sigma = wrapped.schedule(method.timesteps[0])
    start = alpha * started(law, latent, float(sigma / alpha), label)
    given = {} if label is None else {"label": label}
    end: Tensor = method(start, **given)
    return end


def smalldiffusion() -> ModuleType:
    """Return the module of smalldiffusion's sampler. The package itself would import torchvision."""
    found = importlib.util.find_spec("smalldiffusion")
    assert found is not None
    assert found.submodule_search_locations
    path = f"{found.submodule_search_locations[0]}/diffusion.py"
    spec = importlib.util.spec_from_file_location("smalldiffusion_diffusion", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small(denoiser: Denoiser, law: Distribution, latent: Tensor, steps: int) -> Tensor:
    """Return the end points of smalldiffusion's accelerated sampler from the same latents."""
    module = smalldiffusion()
    schedule = module.ScheduleLogLinear(1000, sigma_min=0.01, sigma_max=20.0)
    sigmas = schedule.sample_sigmas(steps)

    class Model:
        def eval(self) -> None: ...

        def rand_input(self, n: int) -> Tensor:
            return torch.zeros(n, latent.shape[1])  # mu = 0 adds no noise

        def predict_eps_cfg(self, x: Tensor, sigma: Tensor, cond: None, scale: float) -> Tensor:
            level = sigma.to(x).reshape(1).expand(len(x))
            return (x - denoiser(x, level, None)) / sigma.to(x)

    start = started(law, latent, float(sigmas[0]))
    *_, end = module.samples(Model(), sigmas, gam=2.0, mu=0.0, xt=start, accelerator=_Here())
    found: Tensor = end
    return found


class _Here:
    """The part of accelerate's interface that the sampler uses, without its start-up."""

    device = torch.device("cpu")

    def prepare(self, model: object) -> object:
        return model


# Rows --------------------------------------------------------------------------------------------------


@torch.enable_grad()
def trained(law: Distribution, labels: bool = False) -> td.Diffusion:
    """Return a model of 2,000 points of the law, with the default network."""
    x, y = law.sample(2000, seed=100)
    config = td.TrainConfig(steps=2000, batch_size=500)
    return td.Diffusion(config).fit(x, y if labels else None, seed=0, progress=False)


CASES: dict[str, tuple[Bounded, bool]] = {
    "square": (Square(), False),
    "concentric squares by class": (ConcentricSquares(), True),
    "checkerboard": (Checkerboard(), False),
}


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().sum(1).mean().sqrt())


def models() -> Iterator[tuple[str, Bounded, td.Diffusion, bool]]:
    for name, (law, labels) in CASES.items():
        yield name, law, trained(law, labels), labels


def chosen(law: Distribution, labels: bool, n: int) -> Tensor | None:
    return law.rows(0, n, seed=7)[1] if labels else None


@torch.no_grad()
def ends() -> None:
    for name, law, model, labels in models():
        latent, label = latents(2**13, law.dim), chosen(law, labels, 2**13)
        target = fine(model.denoiser, model.moments, latent, label)
        for steps in FEW:
            mine = distance(ours(model.denoiser, model.moments, latent, steps, label), target)
            theirs = {
                spacing: distance(
                    azulas(model.denoiser, model.moments, latent, steps, label, spacing=spacing), target
                )
                for spacing in SCHEDULES
            }
            best = min(theirs, key=theirs.__getitem__)
            report(
                f"{name}, {steps} evaluations: distance to 400 steps over REAB's",
                f"{mine / theirs[best]:.3f} ({mine:.4f}, {theirs[best]:.4f} on {best})",
                "<= 0.5",
            )


@torch.no_grad()
def in_bins(law: Bounded, model: td.Diffusion, labels: bool, steps: int, n: int = 10**6) -> float:
    """Return the total variation to the truth of the end points of n common latents."""
    latent, label = latents(2**20, law.dim)[:n], chosen(law, labels, n)
    parts = [
        ours(model.denoiser, model.moments, part, steps, None if label is None else label[i : i + len(part)])
        for i, part in zip(range(0, n, 2**14), latent.split(2**14), strict=True)
    ]
    return total_variation(model.standardizer.x(torch.cat(parts)).numpy(), law)


def bins() -> None:
    for name, law, model, labels in models():
        end = in_bins(law, model, labels, 400)
        for steps in (3, 5, 8, 15):
            must = {("square", 3): "<= 1.00"}.get((name, steps), "<= 1.03" if steps == 8 else "")
            report(
                f"{name}, {steps} evaluations: total variation over that of 400",
                f"{in_bins(law, model, labels, steps) / end:.3f} (400: {end:.4f})",
                must,
            )


def sliced_wasserstein(a: Tensor, b: Tensor) -> float:
    """Return the root of the mean squared Wasserstein-2 distance of 64 projections of equally many points."""
    angle = torch.from_numpy(np.random.default_rng(0).normal(size=(a.shape[1], 64)))
    along = angle / angle.norm(dim=0)
    return float(((a @ along).sort(0).values - (b @ along).sort(0).values).square().mean().sqrt())


@torch.no_grad()
def exact(n: int = 2**15) -> None:
    for group, laws in (("chosen on", TUNED), ("fresh", FRESH)):
        for name, law in laws.items():
            law = law.standardized(law.mean, law.covariance.diagonal().sqrt())
            latent = latents(n, law.dim)
            truth, again = law.rows(0, n, seed=1)[0], law.rows(0, n, seed=2)[0]
            floor = sliced_wasserstein(truth, again)
            before = math.inf
            for steps in MANY:
                mine = sliced_wasserstein(ours(law.denoise, law, latent, steps), truth)
                theirs = {
                    f"{sampler} on {spacing}": sliced_wasserstein(
                        azulas(law.denoise, law, latent, steps, sampler=sampler, spacing=spacing), truth
                    )
                    for sampler in SAMPLERS
                    for spacing in SCHEDULES
                }
                best = min(theirs, key=theirs.__getitem__)
                falls = mine <= max(1.2 * before, floor)
                report(
                    f"{name} ({group}), {steps} evaluations: sliced Wasserstein",
                    f"{mine:.4f}, azula {theirs[best]:.4f} ({best}), floor {floor:.4f}",
                    f"<= {1.05 * theirs[best]:.4f} or floor: {mine <= max(1.05 * theirs[best], floor)}, "
                    f"falls: {falls}",
                )
                before = mine


@torch.no_grad()
def timing() -> None:
    law = Square()
    model = trained(law)
    n = 10**6
    latent = latents(2**20, law.dim)[:n]
    some = latent[: 2**13]
    target = fine(model.denoiser, model.moments, some)

    def batched(method: Callable[..., Tensor], steps: int, **settings: str) -> Callable[[], None]:
        def run() -> None:
            for i in range(0, n, 2**13):
                method(model.denoiser, model.moments, latent[i : i + 2**13], steps, **settings)

        return run

    for steps in (3, 5, 8, 15):
        near = distance(ours(model.denoiser, model.moments, some, steps), target)
        work = {"ours": batched(ours, steps)}
        peers: list[tuple[str, Callable[..., Tensor], dict[str, str]]] = [
            (f"azula {sampler} on {spacing}", azulas, {"sampler": sampler, "spacing": spacing})
            for sampler in SAMPLERS
            for spacing in SCHEDULES
        ]
        fewest: dict[str, tuple[int, str, Callable[[], None]]] = {}
        for name, method, settings in [*peers, ("smalldiffusion", small, {})]:
            for k in (*range(steps, 33), 40, 50, 64, 80, 100):
                if distance(method(model.denoiser, model.moments, some, k, **settings), target) <= near:
                    group = name.split()[0]
                    if group not in fewest or k < fewest[group][0]:
                        fewest[group] = (k, name, batched(method, k, **settings))
                    break
        work |= {f"{name}, {k} evaluations": run for k, name, run in fewest.values()}
        for name, found in in_turn(work, rounds=3).items():
            must = "" if name == "ours" else "ratio >= 1.5"
            report(f"10^6 points as near as {steps} of ours ({near:.4f}): {name}", str(found), must)


ROWS: dict[str, Callable[[], None]] = {"ends": ends, "bins": bins, "exact": exact, "time": timing}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ROWS:
        ROWS[name]()
