"""Where the probability flow takes points: between data and latents, and new points with their densities."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from toydiffusion import tables
from toydiffusion.density import TOLERANCE, LogDensity, prior_error
from toydiffusion.errors import InputError, whole_number
from toydiffusion.model.scoring import Scoring


class Latents(Scoring):
    """The part of `Diffusion` that carries points along the probability flow."""

    @torch.no_grad()
    def encode(
        self, x: ArrayLike | Any, label: Any = None, *, tolerance: float = 1e-5
    ) -> NDArray[np.float64]:
        """Return where the probability flow carries x from sigma_min to sigma_max, `(n, d)`, in z.

        Divided by `sqrt(1 + sigma_max^2)` these are about standard normal. Without a label the flow is that
        of the network trained with dropped labels.
        """
        learned = self._learned
        z = self._z(x)
        index = learned.label_index(label, len(z))
        carried = learned.flow(tolerance).carry(
            z, self._levels(None, len(z)), learned.config.sigma_max, index
        )
        return carried.z.numpy()

    @torch.no_grad()
    def decode(self, latent: ArrayLike, label: Any = None, *, tolerance: float = 1e-5) -> NDArray[np.float64]:
        """Return the points x, `(n, d)`, that `encode` carries to `latent`, `(n, d)`.

        They stop at sigma_min, without the last denoising that `sample` ends with.
        """
        learned = self._learned
        given = tables.from_frame(latent).points
        if given.shape[1] != learned.dim:
            raise InputError(f"latent must have {learned.dim} columns, got {given.shape[1]}")
        z = torch.from_numpy(given)
        index = learned.label_index(label, len(z))
        top = torch.full((len(z),), learned.config.sigma_max, dtype=torch.float64)
        carried = learned.flow(tolerance).carry(z, top, learned.config.sigma_min, index)
        return learned.standardizer.x(carried.z).numpy()

    @torch.no_grad()
    def sample_with_log_prob(
        self, n: int, label: Any = None, *, tolerance: float = TOLERANCE, seed: int = 0
    ) -> tuple[NDArray[np.float64], LogDensity, NDArray[Any] | None]:
        """Return n new points `(n, d)`, their log-densities and their labels, from one pass of the flow.

        The points are exact samples of the density that `log_prob` gives, which at these points returns the
        same values; like `decode` they stop at sigma_min. In a model with labels the density is that under
        the point's label, drawn by class frequency where none is asked for; without, the labels are None.
        """
        learned, config = self._learned, self._learned.config
        n = whole_number("the number of points", n, 0)
        index = learned.label_index(label, n)
        latent, index = learned.prior().sample(0, n, seed=seed, label=index)
        if learned.classes is None:
            index = None
        flow = learned.flow(tolerance)
        top = torch.full((n,), config.sigma_max, dtype=torch.float64)
        carried = flow.carry(latent, top, config.sigma_min, index)
        value = learned.prior().log_prob(latent, index) + carried.change[:, 0]
        density = LogDensity(
            value.numpy() + learned.standardizer.log_det,
            carried.error.numpy(),
            prior_error(learned.precise, learned.prior(), latent, index).numpy(),
            np.zeros(n),
            carried.evaluations.numpy(),
            carried.met.numpy(),
        )
        density.warn(tolerance)
        labels = None if index is None or learned.classes is None else learned.classes[index.numpy()]
        return learned.standardizer.x(carried.z).numpy(), density, labels
