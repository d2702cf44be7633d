"""Row 3: log-density of any denoiser: by the probability flow, and from below by the ELBO."""

from toydiffusion.density.elbo import Elbo, Term, elbo
from toydiffusion.density.flow import TOLERANCE, Carried, Flow
from toydiffusion.density.log_density import (
    LogDensity,
    ToleranceWarning,
    gradient,
    log_density,
    prior_error,
    prior_mismatch,
)

__all__ = [
    "TOLERANCE",
    "Carried",
    "Elbo",
    "Flow",
    "LogDensity",
    "Term",
    "ToleranceWarning",
    "elbo",
    "gradient",
    "log_density",
    "prior_error",
    "prior_mismatch",
]
