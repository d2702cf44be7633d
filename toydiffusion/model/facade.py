"""`Diffusion`, the facade, and the only place where x becomes z and back."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from toydiffusion import tables
from toydiffusion.codec import Standardizer
from toydiffusion.distributions import GaussianMixture, Prior, moments
from toydiffusion.errors import InputError, nearest
from toydiffusion.files import Archive
from toydiffusion.model.drawing import Draws
from toydiffusion.model.fitted import Fitted
from toydiffusion.model.latents import Latents
from toydiffusion.model.presets import PRESETS
from toydiffusion.schedules import Schedule
from toydiffusion.solvers import SampleConfig
from toydiffusion.training import (
    History,
    TrainConfig,
    TrainState,
    fingerprint,
    run,
)
from toydiffusion.types import Denoiser


class Diffusion(Draws, Latents):
    """A diffusion model of points in a few dimensions: fit it to points, draw new ones, save it.

    `config` says how to train, `sampling` how to draw; by default both come from the `preset`, a name in
    `PRESETS`.

    >>> import toydiffusion as td
    >>> x, y = td.distributions.ConcentricSquares().sample(200, seed=0)
    >>> model = td.Diffusion(td.TrainConfig(steps=20)).fit(x, y, seed=0)
    >>> model.sample(5, label=3, steps=4, seed=1).shape
    (5, 2)
    """

    def __init__(
        self,
        config: TrainConfig | None = None,
        sampling: SampleConfig | None = None,
        *,
        preset: str = "default",
    ) -> None:
        if preset not in PRESETS:
            raise InputError(f"unknown preset {preset!r}: {nearest(str(preset), list(PRESETS))}")
        self.config = config or PRESETS[preset].train
        self.sampling = sampling or PRESETS[preset].sample
        self._fitted: Fitted | None = None

    # Fitting ----------------------------------------------------------------------------------------

    def fit(
        self,
        x: ArrayLike | Any,
        y: ArrayLike | Any | None = None,
        *,
        seed: int = 0,
        progress: bool | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> Diffusion:
        """Learn the points `x` `(n, d)`, with labels `y` `(n,)` or without; return the model itself.

        `x` is an array or a data frame (pandas, polars, Arrow); `y` holds ints, booleans or strings. The
        same seed gives the same weights on one machine, version and thread count.

        With `checkpoint`, a path, an interruption (Ctrl-C) leaves a file there before `KeyboardInterrupt`
        goes on, and so does every half minute of training and its end; `resume` takes it up where it
        stopped, to the same weights as if never interrupted. The file is yours to remove, once the model is
        saved.

        Raises `InputError` for points that cannot be learned from (fewer than two, NaN, a constant column,
        only one class) and `TrainingError` if the loss is no longer a number.
        """
        return self.fit_table(
            tables.from_frame(x, y),
            seed=seed,
            progress=progress,
            checkpoint=checkpoint,
            resume=resume,
        )

    def fit_table(
        self,
        table: tables.Table,
        *,
        seed: int = 0,
        progress: bool | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> Diffusion:
        """Learn a `Table`, as `tables.read` gives it: `fit` for points from a file."""
        tables.check_for_fit(table)
        x = torch.from_numpy(table.points)
        standardizer = Standardizer.fit(x) if self.config.standardize else Standardizer.identity(x.shape[1])
        z = standardizer.z(x)
        classes, label = None, None
        if table.labels is not None:
            classes, index = np.unique(table.labels, return_inverse=True)
            label = torch.from_numpy(index.astype(np.int64))
        num_classes = 1 if classes is None else len(classes)
        key = fingerprint(z, label, self.config, seed=seed)
        state = TrainState.start(z.shape[1], num_classes, self.config, seed=seed)
        if resume:
            if checkpoint is None:
                raise InputError("resume needs the checkpoint to take up")
            state.resume(checkpoint, key)
        run(state, z, label, self.config, key=key, progress=progress, checkpoint=checkpoint)
        self._fitted = Fitted(
            config=self.config,
            network=state.average.cpu().eval(),
            standardizer=standardizer,
            moments=moments(z, label),
            classes=classes,
            columns=table.columns,
            label_column=table.label_column,
            history=state.history,
            seed=int(seed),
            num_points=len(z),
        )
        return self

    # What was learned -------------------------------------------------------------------------------

    @property
    def denoiser(self) -> Denoiser:
        """The learned denoiser in z: tensors `(n, d)`, `(n,)`, `(n,)` or None to `(n, d)`."""
        return self._learned.network

    @property
    def standardizer(self) -> Standardizer:
        """The map `z = (x - mean) / scale` between the points' own coordinates and the model's."""
        return self._learned.standardizer

    @property
    def moments(self) -> GaussianMixture:
        """Per class the Gaussian of the data's mean and covariance, in z: what the start is made of."""
        return self._learned.moments

    @property
    def classes(self) -> NDArray[Any] | None:
        """The users' labels in ascending order; None in a model without labels."""
        return self._learned.classes

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of the columns, where the points had names."""
        return self._learned.columns

    @property
    def label_column(self) -> str | None:
        """The name of the label column, where it had one."""
        return self._learned.label_column

    @property
    def history(self) -> History:
        """The loss of every training step."""
        return self._learned.history

    @property
    def dim(self) -> int:
        """The number of columns d."""
        return self._learned.network.dim

    @property
    def sigma_min(self) -> float:
        """The lowest noise level, in z; the points drawn are denoised there."""
        return self.config.sigma_min

    @property
    def sigma_max(self) -> float:
        """The highest noise level, in z."""
        return self.config.sigma_max

    @property
    def schedule(self) -> Schedule:
        """The schedule that training drew its noise levels from."""
        return self.config.noise()

    def prior(self, sigma: float | None = None) -> Prior:
        """Return the law where the reverse process starts, at `sigma` (None: sigma_max), in z."""
        return self._learned.prior(sigma)

    # Files ------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a `.safetensors` file, whole or not at all; `load` reads it back."""
        import toydiffusion

        self._learned.archive(self.sampling, toydiffusion.__version__).write(path, "model")

    def __repr__(self) -> str:
        """Return one line: what kind of model of what."""
        if self._fitted is None:
            return "Diffusion(not fitted)"
        kind = "" if self.classes is None else f", {len(self.classes)} classes"
        return f"Diffusion({self.dim} columns{kind}, fitted to {self._fitted.num_points:,} points)"

    def card(self) -> list[tuple[str, str]]:
        """Return the model card as pairs of heading and text: what it is of, how trained, how it draws."""
        return self._learned.card(self.sampling)

    def _repr_html_(self) -> str:
        from html import escape

        if self._fitted is None:
            return f"<code>{escape(repr(self))}</code>"
        left = "style='text-align:left'"
        cells = "".join(
            f"<tr><th {left}>{escape(k)}</th><td {left}>{escape(v)}</td></tr>" for k, v in self.card()
        )
        return f"<table><caption><b>{escape(repr(self))}</b></caption>{cells}</table>"

    # Within -----------------------------------------------------------------------------------------

    @property
    def _learned(self) -> Fitted:
        if self._fitted is None:
            raise InputError("this model is not fitted yet: call fit(x) first, or load a saved one")
        return self._fitted


def load(path: str | os.PathLike[str]) -> Diffusion:
    """Return the model that `Diffusion.save` wrote.

    Raises `InputError` for a file that is missing, cut off, altered, of another version or not a model.
    """
    archive = Archive.read(path, "model")
    fitted = Fitted.from_archive(archive)
    model = Diffusion(fitted.config, SampleConfig(**archive.metadata["sampling"]))
    model._fitted = fitted
    return model
