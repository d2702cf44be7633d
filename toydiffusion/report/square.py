"""The sections on the square: forward process, training, samples, numbers of steps, fields."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from toydiffusion import figures
from toydiffusion.distributions import Bounded
from toydiffusion.figures import LossCurve, Scatter, StepCurve
from toydiffusion.report.experiment import Learned, Part, fit_of, floor
from toydiffusion.report.findings import settled, solver_or_network
from toydiffusion.report.settings import DemoSettings
from toydiffusion.row_noise import RowNoise
from toydiffusion.schedules import SCHEDULES, schedule
from toydiffusion.training import build, expected_loss

ORIGINALS = ("sqrt", "linear", "exp")
"""The three schedules of the original, in its order."""
RANGE = {"sigma_min": float(np.exp(-5)), "sigma_max": 1.0}
"""The noise levels of the original, in the square's units."""
SETTLED = 0.02
"""A total variation has settled if it differs from the last one by at most this."""
SQUARE = figures.squares(1.0)


def forward(law: Bounded, settings: DemoSettings, *, seed: int) -> Part:
    """Show the forward process with the original's schedules, and the curves of all schedules."""
    x, _ = law.sample(settings.points, seed=seed)
    eps = RowNoise(seed, "forward noise").normal(0, len(x), dim=2).numpy()
    times = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    grid, table = [], {}
    for name in ORIGINALS:
        sigmas = schedule(name, RANGE).sigma(times).tolist()
        noisy = [x + sigma * eps for sigma in sigmas]
        grid.append(
            [
                Scatter(z, f"t = {t:g}, σ = {sigma:.3g}", "data")
                for z, t, sigma in zip(noisy, times.tolist(), sigmas, strict=True)
            ]
        )
        table[name] = {
            "time": times.tolist(),
            "sigma": sigmas,
            "spread": [float(z.std()) for z in noisy],
            "true_spread": [float(np.sqrt(float(law.covariance[0, 0]) + sigma**2)) for sigma in sigmas],
        }
    curves = {name: schedule(name, RANGE) for name in SCHEDULES}
    return Part(
        {"schedules": table, "points": len(x)},
        {
            "forward": figures.scatters(grid, outline=SQUARE, half_width=2.6, row_names=ORIGINALS, panel=1.9),
            "schedules": figures.schedule_curves(curves),
        },
    )


def training(recipes: dict[str, Learned], settings: DemoSettings, *, seed: int) -> Part:
    """Compare the loss of each recipe with its least possible loss."""
    numbers, curves = {}, []
    for name, learned in recipes.items():
        model = learned.model
        z, _ = learned.truth.rows(0, settings.fresh, seed=seed + 1)
        training_z = model.standardizer.z(torch.from_numpy(learned.law.sample(settings.points, seed=seed)[0]))
        # Each training point needs many noise levels, or the average over the noise is too inaccurate.
        training_z = training_z.repeat(-(-settings.fresh // len(training_z)), 1)
        least, least_error = expected_loss(learned.truth.denoise, learned.config, z, None, seed=seed)
        fresh, fresh_error = expected_loss(model.denoiser, learned.config, z, None, seed=seed)
        own, own_error = expected_loss(model.denoiser, learned.config, training_z, None, seed=seed)
        kl = learned.divergence(settings.fresh, seed=seed)
        numbers[name] = {
            "steps": len(model.history.loss),
            "weights": build(model.dim, 1, learned.config, seed=0).size,
            "least": {"value": least, "std_error": least_error},
            "fresh": {"value": fresh, "std_error": fresh_error},
            "training_points": {"value": own, "std_error": own_error},
            "excess": fresh - least,
            "kl": {"value": kl.value, "std_error": kl.std_error},
            "sigma_min": model.sigma_min,
            "sigma_max": model.sigma_max,
        }
        colour = "model" if name == "default" else name
        title = f"{name} recipe"
        curves.append(LossCurve(title, colour, np.array(model.history.loss), least, fresh))
    return Part({"recipes": numbers, "fresh_points": settings.fresh}, {"loss": figures.loss_curves(curves)})


def different_seeds(learned: Learned, settings: DemoSettings, *, seed: int) -> Part:
    """Sample the same number of points with several seeds."""
    seeds = [seed + i for i in range(settings.grid)]
    samples = [learned.model.sample(settings.shown, seed=s) for s in seeds]
    fits = [fit_of(x, learned.law) for x in samples]
    columns = max(1, round(settings.grid**0.5))
    panels = [Scatter(x, f"seed {s}") for x, s in zip(samples, seeds, strict=True)]
    grid = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    distance, inside = np.array(fits).T
    return Part(
        {
            "seeds": seeds,
            "points": settings.shown,
            "steps": learned.model.sampling.steps,
            "total_variation": distance.tolist(),
            "inside": inside.tolist(),
            "mean": {"total_variation": float(distance.mean()), "inside": float(inside.mean())},
            "std": {"total_variation": float(distance.std(ddof=1)), "inside": float(inside.std(ddof=1))},
            "floor": floor(learned.law, settings.shown, seed=seed),
        },
        {"seeds": figures.scatters(grid, outline=SQUARE, half_width=1.35, panel=2.6)},
    )


def steps(recipes: dict[str, Learned], settings: DemoSettings, *, seed: int) -> Part:
    """Sample in few and many steps, with each network and with the exact denoiser."""
    law = recipes["default"].law
    least = floor(law, settings.measured, seed=seed)
    grid, names, curves = [], [], []
    numbers: dict[str, dict[str, Any]] = {}
    for name, learned in recipes.items():
        sampling, colour = learned.model.sampling, "model" if name == "default" else name
        method = sampling.solver
        numbers[name] = {"solver": method}
        for who, sampler in (("learned", learned.model), ("exact", learned.exact)):
            exact = who == "exact"
            samples = [
                sampler.sample(settings.measured, sampling=replace(sampling, steps=k), seed=seed)
                for k in settings.steps
            ]
            distance, inside = zip(*(fit_of(x, law) for x in samples), strict=True)
            numbers[name][who] = {
                "total_variation": list(distance),
                "inside": list(inside),
                "settled": settled(settings.steps, distance, change=SETTLED),
            }
            titles = [
                f"{k:,} step{'s' * (k > 1)}\nTV {tv:.2f}"
                for k, tv in zip(settings.steps, distance, strict=True)
            ]
            shown = [x[: settings.shown] for x in samples]
            grid.append(
                [Scatter(*one, "truth" if exact else colour) for one in zip(shown, titles, strict=True)]
            )
            names.append(f"{name},\n{who}")
            label = f"{name}: {method}, {'exact denoiser' if exact else 'network'}"
            curves.append(StepCurve(label, colour, distance, inside, exact))
        numbers[name]["findings"] = [
            solver_or_network(
                f"the {name} recipe",
                settings.steps[i],
                learned=numbers[name]["learned"]["total_variation"][i],
                exact=numbers[name]["exact"]["total_variation"][i],
                floor=least,
            )
            for i in sorted({min(3, len(settings.steps) - 1), len(settings.steps) - 1})
        ]
    return Part(
        {
            "steps": list(settings.steps),
            "points": settings.measured,
            "shown": min(settings.shown, settings.measured),
            "floor": least,
            "settled": SETTLED,
            "recipes": numbers,
        },
        {
            "steps": figures.scatters(grid, outline=SQUARE, half_width=1.7, row_names=names, panel=1.75),
            "distance": figures.step_curves(settings.steps, curves, floor=least),
        },
    )


def fields(learned: Learned, settings: DemoSettings, *, seed: int) -> Part:
    """Show the score, the denoised means and the trajectories, and animate the reverse process."""
    model, sigmas = learned.model, [0.1, 0.3, 1.0, 3.0]
    outline = learned.outline(1.0)
    gap = []
    with torch.no_grad():
        for sigma in sigmas:
            level = torch.full((settings.fresh,), sigma, dtype=torch.float64)
            z, _ = learned.truth.rows(0, settings.fresh, seed=seed, sigma=sigma)
            difference = model.denoiser(z, level, None) - learned.truth.denoise(z, level)
            gap.append(float(difference.square().sum(1).mean().sqrt()) / sigma)
    sampling = replace(model.sampling, steps=60, sigma_start=2.0)
    both = (learned.model, learned.exact)
    trajectories = [one.trajectory(70, sampling=sampling, seed=seed)[0] for one in both]
    apart = float(np.sqrt(np.square(trajectories[0][-1] - trajectories[1][-1]).sum(1).mean()))
    film = replace(model.sampling, steps=settings.frames - 1, sigma_start=2.0)
    (learned_film, levels), (exact_film, _) = (
        one.trajectory(settings.shown, sampling=film, seed=seed) for one in both
    )
    scale = float(model.standardizer.scale.mean())
    titled = [("learned", "model"), ("exact", "truth")]
    return Part(
        {
            "sigma": sigmas,
            "gap": gap,
            "apart": apart,
            "trajectories": 70,
            "side": 2 / scale,
            "frames": len(levels),
        },
        {
            "score": figures.score_fields(
                model.denoiser, learned.truth.denoise, sigmas=sigmas, outline=outline
            ),
            "means": figures.denoised_grids(
                model.denoiser, learned.truth.denoise, sigmas=sigmas, outline=outline
            ),
            "trajectories": figures.trajectories(
                [(*title, points) for title, points in zip(titled, trajectories, strict=True)],
                outline=SQUARE,
                half_width=2.6,
            ),
        },
        {
            "reverse": figures.animation_frames(
                [(*titled[0], learned_film), (*titled[1], exact_film)], levels * scale, outline=SQUARE
            )
        },
    )
