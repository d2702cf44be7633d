"""The public names of the package, imported together when the first of them is used."""

from toydiffusion import distributions, estimators, figures, metrics, schedules, solvers
from toydiffusion.baselines import Baseline, Comparison
from toydiffusion.certificate import Budget, Certificate, Mass
from toydiffusion.codec import Codec, Standardizer
from toydiffusion.density import DensityConfig, Elbo, LogDensity, Term, ToleranceWarning
from toydiffusion.distillation import DistillationWarning, DistillConfig, distill
from toydiffusion.errors import InputError
from toydiffusion.experts import ExpertsReport, TableConfig
from toydiffusion.metrics import Estimate
from toydiffusion.model import (
    PRESETS,
    Block,
    Copying,
    Densities,
    Diffusion,
    FittedModel,
    Outliers,
    Preset,
    Provenance,
    Reasons,
    load,
    selected,
)
from toydiffusion.solvers import SampleConfig
from toydiffusion.students import Student, StudentCertificate, ZoneErrors
from toydiffusion.tables import Table
from toydiffusion.training import History, TrainConfig, TrainingError
from toydiffusion.types import Denoiser

__all__ = [
    "PRESETS",
    "Baseline",
    "Block",
    "Budget",
    "Certificate",
    "Codec",
    "Comparison",
    "Copying",
    "Denoiser",
    "Densities",
    "DensityConfig",
    "Diffusion",
    "DistillConfig",
    "DistillationWarning",
    "Elbo",
    "Estimate",
    "ExpertsReport",
    "FittedModel",
    "History",
    "InputError",
    "LogDensity",
    "Mass",
    "Outliers",
    "Preset",
    "Provenance",
    "Reasons",
    "SampleConfig",
    "Standardizer",
    "Student",
    "StudentCertificate",
    "Table",
    "TableConfig",
    "Term",
    "ToleranceWarning",
    "TrainConfig",
    "TrainingError",
    "ZoneErrors",
    "distill",
    "distributions",
    "estimators",
    "figures",
    "load",
    "metrics",
    "schedules",
    "selected",
    "solvers",
]
