"""Log-density of any denoiser: by the probability flow, and from below by the ELBO."""

from toydiffusion.density.elbo import Elbo, Term, elbo
from toydiffusion.density.log_density import (
    LogDensity,
    ToleranceWarning,
    gradient,
    log_density,
    prior_error,
    prior_mismatch,
)
from toydiffusion.density.probability_flow import TOLERANCE, FlowResult, ProbabilityFlow

__all__ = [
    "TOLERANCE",
    "Elbo",
    "FlowResult",
    "LogDensity",
    "ProbabilityFlow",
    "Term",
    "ToleranceWarning",
    "elbo",
    "gradient",
    "log_density",
    "prior_error",
    "prior_mismatch",
]
