"""A student of the log-density: one call gives the value, its error bar and the prior's mismatch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toydiffusion.density import LogDensity
from toydiffusion.students.network import StudentNetwork, in_pieces
from toydiffusion.types import Labels, Points

ZONES = ("inside", "steep", "outside")
"""The zones with error bars of their own, in the order of their numbers."""
STEEP = 10.0
"""The slope of the log-density from which on a point is in the zone "steep", in nats per unit of z."""
OUTPUTS = 4
"""The outputs of the network."""


@dataclass(frozen=True, eq=False)
class DensityStudent:
    """The log-density of a teacher at sigma_min, learned by a network of one call.

    The outputs of the network are log p, up to a constant of each class, and the logarithms of its error, of
    the mismatch of the prior, and of the slope |grad log p|. The value and the mismatch are learned from the
    teacher's flow, the slope from its score. Error and mismatch are quantiles at 99 % (pinball loss).

    A point is *outside* if log p is below `threshold`, else *steep* if the slope is above `STEEP`, else
    *inside*. In each zone the error is multiplied by a factor, the split-conformal one: with it the bars
    held for 99 % of points of that zone that took no part in the training (Romano et al. 2019,
    arXiv:1905.03222).

    - `network`: inputs and places are z.
    - `low`, `high` `(d,)`: the training range, in z. Outside it the student has no answer.
    - `log_mass` `(K,)`: what is subtracted from the first output, for each class. It is the logarithm of the
      mass that the class would have, so the mass is 1.
    - `threshold` `(K,)`: for each class the least log-density inside, in nats.
    - `factors` `(3,)`: the factors of the zones.
    """

    network: StudentNetwork
    low: Tensor
    high: Tensor
    log_mass: Tensor
    threshold: Tensor
    factors: Tensor

    def knows(self, z: Points) -> Tensor:
        """Return whether each point is in the training range, `(n,)`. NaN is not."""
        within = (z >= self.low) & (z <= self.high)
        # In one go where all are: along short rows it takes several times as long.
        return torch.ones(len(z), dtype=torch.bool) if bool(within.all()) else within.all(1)

    @torch.no_grad()
    def log_prob(self, z: Points, label: Labels | None) -> LogDensity:
        """Return the log-density at z `(n, d)`, in nats of z, with its error bar. There `knows` must hold."""
        value, error, prior, zone = self._outputs(z, label)
        n = len(z)
        return LogDensity(
            value=value.numpy(),
            error=(self.factors[zone] * error).numpy(),
            prior_error=prior.numpy(),
            std_error=np.zeros(n),
            evaluations=np.ones(n, dtype=np.int64),
            met=np.ones(n, dtype=np.bool_),
        )

    @torch.no_grad()
    def zones(self, z: Points, label: Labels | None) -> Tensor:
        """Return the number of each point's zone, in the order of `ZONES`, `(n,)`."""
        return self._outputs(z, label)[3]

    def _outputs(self, z: Points, label: Labels | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return log p, the error before its factor, the mismatch of the prior, and the zone, each `(n,)`.

        They are on the CPU.
        """
        at = z.to(self.network.label_bias)
        own = None if label is None else label.to(at.device)
        found = in_pieces(self.network.prepared(), at, own).double().cpu()
        raw, error, prior, slope = found.unbind(1)
        kind = 0 if label is None else label.cpu()
        value = raw - self.log_mass[kind]
        zone = torch.where(value < self.threshold[kind], 2, (slope > math.log(STEEP)).long())
        return value, error.exp(), prior.exp(), zone
