"""Is a learned density one to trust? Its mass, leak and errors, and where its loss comes from."""

from toydiffusion.certificate.budget import Budget, budget
from toydiffusion.certificate.check import Certificate, check
from toydiffusion.certificate.mass import Mass, importance, quadrature

__all__ = ["Budget", "Certificate", "Mass", "budget", "check", "importance", "quadrature"]
