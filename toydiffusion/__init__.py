"""Diffusion models for points: small enough to see through, exact enough to trust.

The names below are imported when the first of them is used. So `import toydiffusion` costs nothing, and the
command line can be interrupted while torch is still loading.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toydiffusion.public import *
else:

    def __getattr__(name: str) -> object:
        """Import the public names, and return this one."""
        if name not in __all__:
            raise AttributeError(f"module 'toydiffusion' has no attribute {name!r}")
        from toydiffusion import public

        return getattr(public, name)


__version__ = "0.2.0.dev0"

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


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
