"""What the sections of the demo share: models with their truth, and measures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from toydiffusion.distributions import Bounded, Distribution
from toydiffusion.figures import save_gif, save_png, squares
from toydiffusion.metrics import Estimate, denoiser_divergence, share_inside, total_variation
from toydiffusion.model import PRESETS, Diffusion
from toydiffusion.training import TrainConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Images = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class Part:
    """The results of a section.

    - `numbers`: for `results.json`.
    - `figures`: by file name.
    - `animations`: by file name.
    """

    numbers: dict[str, Any]
    figures: dict[str, Figure]
    animations: dict[str, Images] = field(default_factory=dict)

    def write(self, folder: Path) -> dict[str, Path]:
        """Write figures and animations into the folder, and return the file of each."""
        written = {name: folder / f"{name}.png" for name in self.figures}
        for name, figure in self.figures.items():
            save_png(figure, written[name])
        for name, images in self.animations.items():
            written[name] = folder / f"{name}.gif"
            save_gif(images, written[name])
        return written


class Fit(NamedTuple):
    """How well points fit the truth: total variation on 20 x 20 bins, and share inside."""

    total_variation: float
    inside: float


def fit_of(x: NDArray[np.float64], law: Bounded) -> Fit:
    """Return how well points, `(n, 2)`, fit the law."""
    return Fit(total_variation(x, law), share_inside(x, law))


def floor(law: Bounded, n: int, *, seed: int, repeats: int = 9) -> float:
    """Return the mean total variation of n samples of the law itself, which is due to chance alone."""
    return float(np.mean([total_variation(law.sample(n, seed=seed + i)[0], law) for i in range(repeats)]))


@dataclass(frozen=True)
class Learned:
    """A fitted model and its exact law.

    - `model`: the model.
    - `config`: how it was trained.
    - `law`: the exact law, in x.
    - `seed`: the seed of the training.
    """

    model: Diffusion
    config: TrainConfig
    law: Bounded
    seed: int

    @cached_property
    def truth(self) -> Distribution:
        """The exact law in the model's coordinates z."""
        return self.model.standardized(self.law)

    @cached_property
    def exact(self) -> Diffusion:
        """The same model with the exact denoiser instead of the network."""
        return self.model.with_denoiser(self.truth.denoise)

    def divergence(self, n: int, *, seed: int) -> Estimate:
        """Return the KL divergence that the network's error causes over the model's noise levels, in nats."""
        return denoiser_divergence(
            self.model.denoiser,
            self.truth,
            sigma_min=self.model.sigma_min,
            sigma_max=self.model.sigma_max,
            n=n,
            seed=seed,
        )

    def exact_log_prob(
        self, x: NDArray[np.float64], label: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Return the log-density in x, `(n,)`, of the law smoothed at sigma_min, which the model learns."""
        standardizer = self.model.standardizer
        index = None if label is None else torch.from_numpy(label)
        found = self.truth.log_prob(standardizer.z(torch.from_numpy(x)), self.model.sigma_min, index)
        exact: NDArray[np.float64] = found.numpy() + standardizer.log_det
        return exact

    def exact_class_posterior(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the exact class probabilities under the law smoothed at sigma_min, `(n, K)`."""
        z = self.model.standardizer.z(torch.from_numpy(x))
        exact: NDArray[np.float64] = self.truth.class_posterior(z, self.model.sigma_min).numpy()
        return exact

    def outline(self, *half_widths: float) -> list[NDArray[np.float64]]:
        """Return the outlines, in z, of squares in x."""
        mean, scale = self.model.standardizer.mean.numpy(), self.model.standardizer.scale.numpy()
        return [(line - mean) / scale for line in squares(*half_widths)]


def learn(
    law: Bounded,
    preset: str,
    *,
    points: int,
    seed: int,
    effort: float = 1.0,
    schedule: str | None = None,
    batch_size: int | None = None,
    labelled: bool = False,
) -> Learned:
    """Return a model fitted to samples of the law.

    - `law`: the exact law.
    - `preset`: a key of `PRESETS`.
    - `points`: the number of points.
    - `seed`: the seed of the points and of the training.
    - `effort`: the share of the preset's training steps, default 1.
    - `schedule`, `batch_size`: None (default): those of the preset.
    - `labelled`: whether the model gets the labels, default False.
    """
    recipe = PRESETS[preset]
    train = recipe.train
    assert isinstance(train, TrainConfig)
    config = replace(
        train,
        steps=max(1, round(train.total_steps(points, law.num_classes if labelled else 1) * effort)),
        batch_size=batch_size or train.batch_size,
        schedule=schedule or train.schedule,
    )
    x, y = law.sample(points, seed=seed)
    model = Diffusion(config, recipe.sample).fit(x, y if labelled else None, seed=seed, progress=False)
    return Learned(model, config, law, seed)
