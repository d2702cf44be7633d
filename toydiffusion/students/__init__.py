"""Students: small networks that answer in one call what their teacher computes in many.

`DensityStudent` gives log-densities with error bars, `SampleStudent` samples. A distilled model carries a
`Student`, the pair of them with their certificate. The folder `distillation` trains them.
"""

from toydiffusion.students.density_student import ZONES, DensityStudent
from toydiffusion.students.network import SCALES, StudentNetwork
from toydiffusion.students.sample_student import SampleStudent
from toydiffusion.students.student import Student, StudentCertificate, ZoneErrors, student_sizes

__all__ = [
    "SCALES",
    "ZONES",
    "DensityStudent",
    "SampleStudent",
    "Student",
    "StudentCertificate",
    "StudentNetwork",
    "ZoneErrors",
    "student_sizes",
]
