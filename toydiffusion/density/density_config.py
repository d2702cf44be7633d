"""How exactly log-densities are computed."""

from __future__ import annotations

from dataclasses import dataclass

from toydiffusion.density.probability_flow import MAX_EVALUATIONS, TOLERANCE
from toydiffusion.errors import finite_number, whole_number


@dataclass(frozen=True)
class DensityConfig:
    """How exactly log-densities are computed.

    - `tolerance`: the error bar asked for, in nats. Each point takes the steps that it needs. None (default)
      asks the flow for `TOLERANCE`, and a student for nothing: it answers all that it knows.
    - `max_evaluations`: denoiser evaluations after which a point is refined no further.
    - `probes`: None for the exact divergence. A number >= 4 estimates it from so many random probes
      (Hutchinson); this is worth it only for far more columns than 50.
    """

    tolerance: float | None = None
    max_evaluations: int = MAX_EVALUATIONS
    probes: int | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        if self.tolerance is not None:
            finite_number("tolerance", self.tolerance, above=0, unit="of nats")
        whole_number("max_evaluations", self.max_evaluations, 1)
        if self.probes is not None:
            whole_number("probes", self.probes, 4, hint=" (their spread is the standard error)")

    @property
    def nats(self) -> float:
        """The error bar that is asked of the flow, in nats."""
        return TOLERANCE if self.tolerance is None else self.tolerance
