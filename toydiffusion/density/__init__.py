"""Log-density of any denoiser: by the probability flow, and from below by the ELBO.

`DensityModel` and the functions of `density_model` answer for one class or for the mixture of all classes.
They are made of `log_density`, `elbo` and `ProbabilityFlow`, which pass the label to the denoiser as it is.
"""

from toydiffusion.density.array_with_errors import ArrayWithErrors
from toydiffusion.density.density_config import DensityConfig
from toydiffusion.density.density_model import (
    DensityModel,
    class_log_probs,
    class_posterior,
    evidence_lower_bound,
    flow_sample,
    grad_log_prob,
    log_prob,
    sample_with_log_prob,
    score,
)
from toydiffusion.density.elbo import Elbo, Term, elbo
from toydiffusion.density.log_density import (
    LogDensity,
    ToleranceWarning,
    log_density,
    prior_error,
    prior_mismatch,
    value_and_gradient,
)
from toydiffusion.density.probability_flow import MAX_EVALUATIONS, TOLERANCE, FlowResult, ProbabilityFlow

__all__ = [
    "MAX_EVALUATIONS",
    "TOLERANCE",
    "ArrayWithErrors",
    "DensityConfig",
    "DensityModel",
    "Elbo",
    "FlowResult",
    "LogDensity",
    "ProbabilityFlow",
    "Term",
    "ToleranceWarning",
    "class_log_probs",
    "class_posterior",
    "elbo",
    "evidence_lower_bound",
    "flow_sample",
    "grad_log_prob",
    "log_density",
    "log_prob",
    "prior_error",
    "prior_mismatch",
    "sample_with_log_prob",
    "score",
    "value_and_gradient",
]
