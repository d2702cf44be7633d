"""Distillation: students that answer in one call what their teacher, a fitted model, computes in many.

`distilling` has the steps: `lessons` lets the teacher compute, `teaching` trains students on that, and
`checks` calibrates the error bars and makes the certificate.
"""

from toydiffusion.distillation.config import DistillConfig
from toydiffusion.distillation.distilling import DistillationWarning, distill

__all__ = ["DistillConfig", "DistillationWarning", "distill"]
