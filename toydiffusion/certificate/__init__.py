"""The certificate of a learned density: its mass, its leak, its errors and its error budget."""

from toydiffusion.certificate.budget import Budget, budget
from toydiffusion.certificate.check import DENSITIES, Certificate, check
from toydiffusion.certificate.mass import Mass, importance, quadrature

__all__ = ["DENSITIES", "Budget", "Certificate", "Mass", "budget", "check", "importance", "quadrature"]
