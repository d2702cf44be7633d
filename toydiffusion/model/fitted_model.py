"""The fitted model: a value that every operation takes."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from toydiffusion.baselines import Comparison
from toydiffusion.codec import Codec
from toydiffusion.denoisers import Guided, Network, Stacked
from toydiffusion.density import DensityConfig, DensityModel
from toydiffusion.devices import CPU
from toydiffusion.distributions import GaussianMixture, Prior
from toydiffusion.errors import InputError
from toydiffusion.experts import ExpertsReport, TableConfig
from toydiffusion.solvers import SampleConfig
from toydiffusion.students import Student
from toydiffusion.training import History, TrainConfig
from toydiffusion.types import Denoiser


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    - `seed`: the seed of the training.
    - `num_points`: the number of training points.
    - `versions`: pairs of package and version, at the time of the training.
    - `source_digest`: the SHA-256 digest of the file that the training points came from, or None.
    """

    seed: int
    num_points: int
    versions: tuple[tuple[str, str], ...] = ()
    source_digest: str | None = None


@dataclass(frozen=True, eq=False)
class FittedModel:
    """All that fitting leaves behind. It is frozen, complete, and can be pickled.

    - `codec`: the map between tables and z, and between labels and class indices.
    - `denoiser`: the learned `Denoiser`, in z.
    - `prior`: the law at sigma_max where sampling starts and densities end. Its distribution holds for each
      class the Gaussian of the data's moments, in z.
    - `config`: the settings of the model and its training.
    - `sampling`: the settings of sampling, unless a call says otherwise.
    - `history`: the loss during training.
    - `provenance`: seed, number of points, versions.
    - `student`: what answers in one call, in a distilled model; None (default) in others.
    - `experts`: what was found out about the experts of a model for tables; None (default) in others.
    - `comparison`: the held-out log-density beside baselines, if `fit` was asked for it; None (default).
    """

    codec: Codec
    denoiser: Denoiser
    prior: Prior
    config: TrainConfig | TableConfig
    sampling: SampleConfig
    history: History
    provenance: Provenance
    student: Student | None = None
    experts: ExpertsReport | None = None
    comparison: Comparison | None = None

    @property
    def dim(self) -> int:
        """The number of columns d."""
        return self.codec.dim

    @property
    def sigma_min(self) -> float:
        """The lowest noise level, in z."""
        low = self.config.sigma_min
        assert low is not None  # fitting fills it in
        return low

    @property
    def sigma_max(self) -> float:
        """The highest noise level, in z."""
        return self.config.sigma_max

    @property
    def unconditional_denoiser(self) -> Denoiser:
        """The denoiser without labels: of a network, the one trained with dropped labels.

        Raises `InputError` for a model for tables with labels, whose experts know no such denoiser.
        """
        if isinstance(self.denoiser, Stacked) and self.codec.classes is not None:
            raise InputError(
                "guidance needs a network trained with dropped labels, which a model for tables does not have"
            )
        return self.denoiser.unconditional if isinstance(self.denoiser, Network) else self.denoiser

    @property
    def device(self) -> torch.device:
        """Where the network is. Another denoiser is given points on the CPU."""
        return self.denoiser.device if isinstance(self.denoiser, Network | Stacked) else CPU

    def on(self, device: torch.device) -> FittedModel:
        """Return the same model with its network on this device. Every operation then runs there."""
        if not isinstance(self.denoiser, Network | Stacked) or device == self.device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = replace(
                self,
                denoiser=deepcopy(self.denoiser).to(device),
                student=None if self.student is None else self.student.to(device),
            )
        return self._elsewhere[device]

    @cached_property
    def _elsewhere(self) -> dict[torch.device, FittedModel]:
        return {}

    @cached_property
    def precise(self) -> Denoiser:
        """The denoiser in float64, with its weights fixed."""
        if not isinstance(self.denoiser, Network | Stacked):
            return self.denoiser
        return deepcopy(self.denoiser).double().requires_grad_(False)

    def guided(self, weight: float) -> Denoiser:
        """Return the denoiser with classifier-free guidance of this weight; 1 is the denoiser itself.

        Raises `InputError` for another weight in a model without labels.
        """
        if weight == 1:
            return self.denoiser
        if self.codec.classes is None:
            raise InputError("guidance needs a model with labels; this one was fitted without")
        return Guided(self.denoiser, self.unconditional_denoiser, weight)

    def density(self, plan: DensityConfig | None = None) -> DensityModel:
        """Return the density model in z: denoiser, prior, and how exactly to compute."""
        return DensityModel(
            self.precise,
            self.prior,
            self.sigma_min,
            plan or DensityConfig(),
            device=self.device,
        )

    def with_denoiser(self, denoiser: Denoiser) -> FittedModel:
        """Return the same model with another denoiser in the network's place, in z.

        With the exact one, `model.standardized(truth).denoise`, it shows what a perfect network gives. The
        students of a distilled model, which imitate the old denoiser, are left out.
        """
        return replace(self, denoiser=denoiser, student=None)

    def card(self) -> list[tuple[str, str]]:
        """Return the model card as pairs of heading and text."""
        codec, config, sampling, loss = self.codec, self.config, self.sampling, self.history.loss
        num_points = self.provenance.num_points
        rows = [
            ("points", f"{num_points:,} in {self.dim} dimension{'s' if self.dim > 1 else ''}"),
            ("columns", ", ".join(codec.names)),
        ]
        if codec.classes is not None:
            frequencies = self.prior.distribution.frequencies.tolist()
            pairs = zip(codec.classes.tolist(), frequencies, strict=True)
            rows.append(("classes", ", ".join(f"{name} ({share:.1%})" for name, share in pairs)))
        low, high = f"{self.sigma_min:.4g}", f"{self.sigma_max:.4g}"
        if isinstance(config, TrainConfig):
            rows.append(("noise", f"sigma {low} to {high}, schedule {config.schedule}"))
        else:
            rows.append(("noise", f"sigma {low} to {high}"))
            rows += self._columns_card()
        if isinstance(self.denoiser, Network) and isinstance(config, TrainConfig):
            rows.append(
                ("network", f"{self.denoiser.size:,} weights, preconditioning {config.preconditioning}")
            )
            rows.append(
                (
                    "training",
                    f"{len(loss):,} steps of {config.points_per_step(num_points):,} points, "
                    f"seed {self.provenance.seed}",
                )
            )
        if self.experts is not None:
            rows += self._experts_card(self.experts)
        if loss:
            tail = loss[-max(1, len(loss) // 20) :]
            rows.append(("loss", f"{np.mean(tail):.4f} (mean of the last {len(tail)} steps)"))
        if self.history.held_out:
            rows.append(("held-out loss", f"{self.history.held_out[-1][1]:.4f}"))
        spacing = "" if sampling.schedule is None else f" on {sampling.schedule} levels"
        rows.append(("sampling", f"{sampling.steps} steps of {sampling.solver}{spacing}"))
        if self.comparison is not None:
            rows += self.comparison.rows()
        if self.student is not None:
            rows.append(("students", f"samples and log-densities in one call, seed {self.student.seed}"))
            rows += [(f"    {name}", text) for name, text in self.student.certificate.rows()]
        return rows

    def _columns_card(self) -> list[tuple[str, str]]:
        """Return what the codec of a table does with its columns."""
        codec, rows = self.codec, []
        names = [codec.names[j] for j in codec.varying]
        if codec.constants:
            known = (f"{codec.names[j]} = {value:g}" for j, value in codec.constants)
            rows.append(("constant columns", f"{', '.join(known)}; left out, and put back in samples"))
        if codec.bounds is not None:
            ends = zip(names, codec.bounds.low.tolist(), codec.bounds.high.tolist(), strict=True)
            known = (f"{name} {a:g} to {b:g}" for name, a, b in ends if a > -math.inf or b < math.inf)
            rows.append(("bounds", ", ".join(known)))
        if codec.power is not None:
            bent = (
                f"{name} {power:.2g}"
                for name, power in zip(names, codec.power.power.tolist(), strict=True)
                if power != 1
            )
            rows.append(("powers (Yeo-Johnson)", ", ".join(bent)))
        if codec.cells is not None and codec.cells.rounded.any():
            cells = codec.cells
            steps = (
                f"{name} {step:g} ({tied:.0%} repeat)"
                for name, step, tied in zip(names, cells.step, cells.tied, strict=True)
                if step
            )
            rows.append(("grid steps", ", ".join(steps)))
        if codec.cells is not None and codec.cells.spikes:
            spikes = (f"{names[j]} = {value:g}" for j, value, _, _ in codec.cells.spikes)
            rows.append(("values that repeat", ", ".join(spikes)))
        return rows

    def _experts_card(self, found: ExpertsReport) -> list[tuple[str, str]]:
        """Return what the experts of a table are, and how they did on held-out points."""
        kept = [one for one in found.candidates if one.share > 0]
        law = self.prior.distribution
        components = len(law.weights) if isinstance(law, GaussianMixture) else 0
        rows = [
            ("mixture", f"{components} Gaussians, from {len(kept)} of {len(found.candidates)} candidates"),
            (
                "held-out log-density in z",
                f"one Gaussian {found.gaussian:.3f}, mixture {found.mixture:.3f} nats",
            ),
        ]
        networks = self.denoiser.networks if isinstance(self.denoiser, Stacked) else []
        members = sum(network.sizes.members for network in networks)
        if members:
            rows.append(
                (
                    "networks",
                    f"{members}, best after {found.network_steps:,} steps; the stack gains "
                    f"{found.gain:.3f} ± {found.gain_error:.2g} nats over the mixture (held-out bound)",
                )
            )
        else:
            rows.append(("networks", "none: they did not help on held-out points"))
        return rows
