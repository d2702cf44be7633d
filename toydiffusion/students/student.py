"""The pair of students that a distilled model carries, and what is known of their errors."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from toydiffusion.errors import InputError, finite_number, seed_number, whole_number
from toydiffusion.metrics import Estimate
from toydiffusion.students.density_student import OUTPUTS, ZONES, DensityStudent
from toydiffusion.students.network import Sizes, StudentNetwork
from toydiffusion.students.sample_student import SampleStudent
from toydiffusion.views import html_table, text_table


@dataclass(frozen=True)
class ZoneErrors:
    """The errors of a density student against its teacher's flow, at fresh points of one zone, in nats.

    - `points`: the number of points.
    - `mean_error`, `median_error`, `error_99`: mean, median and 99 % quantile of the absolute error.
    - `median_bar`: the median error bar.
    - `covered`: the share of points whose error is at most their bar.
    """

    points: int
    mean_error: float
    median_error: float
    error_99: float
    median_bar: float
    covered: float


@dataclass(frozen=True)
class StudentCertificate:
    """What was measured of a pair of students against their teacher, on fresh points.

    `str` returns a table, `rows` pairs of texts.

    - `inside`, `steep`, `outside`: the errors of the log-densities by zone (`DensityStudent`). A zone without
      points is None.
    - `mass`: the total mass of the student's density, the mean over the classes by their frequencies.
    - `distance`: the root mean square distance in z of the student's samples to the end points of its
      teacher's reverse process in many steps from the same starts.
    - `solver_distance`: the same distance for the teacher's own default sampling.
    """

    inside: ZoneErrors | None
    steep: ZoneErrors | None
    outside: ZoneErrors | None
    mass: Estimate
    distance: float
    solver_distance: float

    def zones(self) -> dict[str, ZoneErrors]:
        """Return the zones that have points, by name."""
        return {name: getattr(self, name) for name in ZONES if getattr(self, name) is not None}

    @property
    def passed(self) -> bool:
        """Whether the students can stand in for their teacher.

        The mass is 1 within 0.01 and three times its error. In every zone at least 97 % of the bars hold. The
        mean error inside is at most 0.1 nats.
        """
        mass = abs(self.mass.value - 1) <= 0.01 + 3 * self.mass.std_error
        covered = all(zone.covered >= 0.97 for zone in self.zones().values())
        return mass and covered and self.inside is not None and self.inside.mean_error <= 0.1

    def rows(self) -> list[tuple[str, str]]:
        """Return pairs of a check and its result."""
        rows = [
            (
                f"log-densities, {name}",
                f"mean error {one.mean_error:.4f} nats, 99 % below {one.error_99:.3f}; "
                f"median bar {one.median_bar:.3f}, {one.covered:.1%} hold ({one.points:,} points)",
            )
            for name, one in self.zones().items()
        ]
        rows.append(("total mass", f"{self.mass.value:.5f} ± {self.mass.std_error:.1g}"))
        rows.append(
            (
                "samples",
                f"{self.distance:.4f} from the teacher's end points in z "
                f"(its default sampling {self.solver_distance:.4f})",
            )
        )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: object) -> StudentCertificate:
        """Return the certificate that `to_dict` put into a file; `InputError` for anything else."""
        if not isinstance(given, dict) or set(given) != {f.name for f in fields(cls)}:
            raise InputError("its student's certificate is not one")

        def zone(name: str) -> ZoneErrors | None:
            found = given[name]
            if found is None:
                return None
            if not isinstance(found, dict) or set(found) != {f.name for f in fields(ZoneErrors)}:
                raise InputError(f"the zone {name!r} of its student's certificate is not one")
            numbers = {key: finite_number(key, found[key], least=0) for key in found if key != "points"}
            return ZoneErrors(points=whole_number("points", found["points"], 1), **numbers)

        mass = given["mass"]
        if not isinstance(mass, dict) or set(mass) != {f.name for f in fields(Estimate)}:
            raise InputError("the mass of its student's certificate is not one")
        return cls(
            inside=zone("inside"),
            steep=zone("steep"),
            outside=zone("outside"),
            mass=Estimate(**{key: finite_number(key, mass[key]) for key in mass}),
            distance=finite_number("distance", given["distance"], least=0),
            solver_distance=finite_number("solver_distance", given["solver_distance"], least=0),
        )

    def _repr_html_(self) -> str:
        return html_table("StudentCertificate", self.rows())

    def __str__(self) -> str:
        """Return the rows as a table."""
        return text_table(self.rows())


@dataclass(frozen=True, eq=False)
class Student:
    """What a distilled model carries beside its teacher.

    - `density`: answers `log_prob` at sigma_min.
    - `samples`: answers `sample`.
    - `certificate`: what was measured of both.
    - `seed`: the seed of the distillation.
    """

    density: DensityStudent
    samples: SampleStudent
    certificate: StudentCertificate
    seed: int

    def to(self, device: torch.device) -> Student:
        """Return the same with its networks on this device."""
        density, samples = self.density, self.samples
        return replace(
            self,
            density=replace(density, network=deepcopy(density.network).to(device)),
            samples=replace(
                samples, coarse=deepcopy(samples.coarse).to(device), fine=deepcopy(samples.fine).to(device)
            ),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, for a file."""
        networks = {"density": self.density.network, "coarse": self.samples.coarse, "fine": self.samples.fine}
        tensors = {
            f"{part}.{name}": value
            for part, network in networks.items()
            for name, value in network.state_dict().items()
        }
        return tensors | {name: getattr(self.density, name) for name in _NUMBERS}

    def to_dict(self) -> dict[str, Any]:
        """Return all that is not a tensor, for a file."""
        network = self.density.network
        return {
            "width": network.label_bias.shape[1],
            "hidden_layers": len(network.biases),
            "sigma": self.samples.sigma,
            "seed": self.seed,
            "certificate": self.certificate.to_dict(),
        }

    @classmethod
    def from_file(cls, given: object, tensors: Mapping[str, Tensor], dim: int, num_classes: int) -> Student:
        """Return the student of which `to_dict` and `tensors` gave the parts.

        Raises `InputError` unless every name, shape and number is as it must be.
        """
        names = {"width", "hidden_layers", "sigma", "seed", "certificate"}
        if not isinstance(given, dict) or set(given) != names:
            raise InputError("its student is not described as one")
        width = whole_number("the student's width", given["width"], 1)
        layers = whole_number("the student's hidden_layers", given["hidden_layers"], 1, 100)
        edges = tensors.get("density.direction", torch.empty(0)).numel() // dim
        sizes = student_sizes(dim, num_classes, width=width, hidden_layers=layers, edges=edges)
        # Coarse networks of earlier versions have one layer less.
        depth = sum(name.startswith("coarse.weights.") for name in tensors) - 1
        sizes["coarse"] = replace(sizes["coarse"], hidden_layers=max(1, depth))
        shapes = {f"{part}.{name}": s for part, one in sizes.items() for name, s in one.shapes().items()}
        numbers = {
            "low": (dim,),
            "high": (dim,),
            "log_mass": (num_classes,),
            "threshold": (num_classes,),
            "factors": (len(ZONES),),
        }
        if set(tensors) != {*shapes, *numbers}:
            raise InputError("its student lacks tensors, or has unknown ones")
        for name, shape in (shapes | numbers).items():
            tensor, kind = tensors[name], torch.float32 if name in shapes else torch.float64
            if tuple(tensor.shape) != shape or tensor.dtype != kind:
                raise InputError(f"its student's tensor {name!r} must have shape {shape} and type {kind}")
            if not bool(tensor.isfinite().all()):
                raise InputError(f"its student's tensor {name!r} has numbers that are not finite")
        if not bool((tensors["factors"] > 0).all()) or not bool((tensors["low"] < tensors["high"]).all()):
            raise InputError("its student has factors below 0, or a training range that is empty")
        networks = {}
        for part, one in sizes.items():
            network = StudentNetwork(one, torch.Generator()).requires_grad_(False)
            prefix = f"{part}."
            own = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            network.load_state_dict(own)
            networks[part] = network.eval()
        return cls(
            DensityStudent(networks["density"], **{name: tensors[name] for name in numbers}),
            SampleStudent(
                networks["coarse"],
                networks["fine"],
                finite_number("the student's sigma", given["sigma"], above=0),
            ),
            StudentCertificate.from_dict(given["certificate"]),
            seed_number(given["seed"], "the student's seed"),
        )


_NUMBERS = ("low", "high", "log_mass", "threshold", "factors")


def student_sizes(
    dim: int, num_classes: int, *, width: int, hidden_layers: int, edges: int
) -> dict[str, Sizes]:
    """Return the sizes of the networks of a pair of students, by name.

    - `dim`, `num_classes`: of the teacher.
    - `width`, `hidden_layers`: the units in each hidden layer, and the number of these layers. The network
      that puts points right at edges has one.
    - `edges`: the edge units of a network that has them.
    """
    return {
        "density": Sizes(dim, OUTPUTS, dim, num_classes, width, hidden_layers, edges),
        "coarse": Sizes(dim, dim, dim, num_classes, width, hidden_layers, 0),
        "fine": Sizes(2 * dim, dim, dim, num_classes, width, 1, edges),
    }
