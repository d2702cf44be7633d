"""A student of the sampler: one call maps a noisy point of the prior to a clean one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from toydiffusion.distributions import Distribution, Reference
from toydiffusion.students.network import StudentNetwork, in_pieces
from toydiffusion.types import Labels, Points


@dataclass(frozen=True, eq=False)
class SampleStudent:
    """The end points of a teacher's reverse process, learned by two small networks.

    For Gaussian data the end point of a start z is known (`Reference`): g, with the same whitened coordinate
    at noise level 0. From there

        c = g + coarse(g),    end point = c + fine(g, c, edges at c).

    The edges are sharp where the teacher's are. So a small error of c at an edge is put right.

    - `coarse`, `fine`: the networks.
    - `sigma`: the noise level of the starts.
    """

    coarse: StudentNetwork
    fine: StudentNetwork
    sigma: float

    def gaussian(self, z: Points, moments: Distribution, label: Labels | None) -> Points:
        """Return g for starts z `(n, d)` at noise level `sigma`, in float64."""
        reference = Reference.of(moments, z, label)
        level = z.new_full((1,), self.sigma)
        return reference.points(reference.whitened(z, level), torch.zeros_like(level))

    def both(self, g: Points, label: Labels | None) -> tuple[Points, Points]:
        """Return the coarse points c and the end points, `(n, d)`, in the precision of the weights."""
        coarse = g + self.coarse(g, label)
        return coarse, coarse + self.fine(torch.cat([g, coarse], 1), label)

    @torch.no_grad()
    def ends(self, z: Points, moments: Distribution, label: Labels | None) -> Points:
        """Return the end points of starts z `(n, d)`, `(n, d)` float64, on the device of z.

        - `moments`: the moments of the data and of its classes, in z.
        - `label` `(n,)`: class indices; None without classes.
        """
        g = self.gaussian(z, moments, label)
        start = g.to(self.coarse.label_bias)
        return in_pieces(lambda part, c: self.both(part, c)[1], start, label).to(z)
