"""What fitting leaves behind, and how it is kept in a file and told in words."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toydiffusion.codec import Standardizer
from toydiffusion.denoisers import Network
from toydiffusion.density import ProbabilityFlow
from toydiffusion.distributions import Distribution, GaussianMixture, Prior
from toydiffusion.errors import InputError, nearest
from toydiffusion.files import Archive
from toydiffusion.solvers import SampleConfig
from toydiffusion.tables import Table, default_columns
from toydiffusion.training import History, TrainConfig, TrainState, build, run
from toydiffusion.types import Labels, Points


@dataclass(frozen=True)
class Fitted:
    """All that fitting leaves behind, with the settings it was fitted by."""

    config: TrainConfig
    network: Network
    standardizer: Standardizer
    moments: GaussianMixture
    classes: NDArray[Any] | None
    columns: tuple[str, ...] | None
    label_column: str | None
    history: History
    seed: int
    num_points: int

    @property
    def dim(self) -> int:
        """The number of columns."""
        return self.network.dim

    @cached_property
    def precise(self) -> Network:
        """The network in float64, its weights fixed: what log-densities are computed with."""
        return deepcopy(self.network).double().requires_grad_(False)

    def prior(self, sigma: float | None = None) -> Prior:
        """Return the law where the reverse process starts and the log-density ends; None: at sigma_max."""
        return Prior(self.moments, self.config.sigma_max if sigma is None else sigma)

    def flow(self, tolerance: float, max_evaluations: int = 1000) -> ProbabilityFlow:
        """Return the probability flow of the network, solved to this tolerance in nats."""
        return ProbabilityFlow(self.precise, self.moments, tolerance, max_evaluations)

    def own(self, table: Table, what: str) -> Table:
        """Return the columns of the table that the model was fitted to, in their order.

        Columns match by name, or by position where there are no names. Raises `InputError` for a column that
        is not there, or another number of them.
        """
        if self.columns is not None and table.columns is not None:
            table = table.select(self.columns)
        if table.points.shape[1] != self.dim:
            raise InputError(
                f"{what} must have {self.dim} column{'s' if self.dim > 1 else ''}, "
                f"those the model was fitted to, got {table.points.shape[1]}"
            )
        return table

    def z(self, table: Table) -> Points:
        """Return the points in z, NaN where the table's are missing.

        Raises `InputError` for a point so far away that its distance has no square in floating point.
        """
        z = self.standardizer.z(torch.from_numpy(table.points))
        far = ~(z.abs() <= _FARTHEST).all(1).numpy() & ~table.missing
        if far.any():
            raise InputError(
                f"{table.source}: row {int(far.argmax()) + 1} (counted from 1) is more than {_FARTHEST:g} "
                "standard deviations from the data, too far to compute with"
            )
        return z

    def labels_of(self, table: Table) -> Labels | None:
        """Return the class indices of the table's own labels; None if it has none."""
        column = "" if table.label_column is None else f", column {table.label_column!r}"
        return self.label_index(table.labels, len(table.points), f"{table.source}{column}: ")

    def label_index(self, label: Any, n: int, where: str = "") -> Labels | None:
        """Return the class indices `(n,)` of users' labels: one for all, or n of them; None for None."""
        if label is None:
            return None
        if self.classes is None:
            raise InputError("this model was fitted without labels, so none can be asked for")
        known = {value: i for i, value in enumerate(self.classes.tolist())}
        wanted = np.asarray(label, dtype=object)
        if wanted.ndim > 1 or (wanted.ndim == 1 and len(wanted) != n):
            raise InputError(f"label must be one label or {n} of them, got shape {wanted.shape}")
        values = wanted.ravel().tolist()
        for row, value in enumerate(values):
            if not isinstance(value, Hashable) or value not in known:
                place = f" in row {row + 1} (counted from 1)" if wanted.ndim else ""
                words = [str(name) for name in known]
                kind = type(next(iter(known))).__name__
                hint = f"the labels are of type {kind}" if str(value) in words else nearest(str(value), words)
                raise InputError(f"{where}unknown label {value!r}{place}: {hint}")
        return torch.tensor([known[value] for value in values], dtype=torch.int64).expand(n)

    def trained_endlessly(self, truth: Distribution) -> Network:
        """Return the same network trained anew on fresh points of `truth`, in z, none of them seen twice."""
        classes = self.network.num_classes
        steps = self.config.total_steps(self.num_points, classes)
        size = self.config.points_per_step(self.num_points)
        config = replace(self.config, steps=steps, batch_size=size)
        z, label = truth.rows(0, steps * size, seed=self.seed + 1)
        state = TrainState.start(self.dim, classes, config, seed=self.seed)
        run(state, z, label if classes > 1 else None, config, key="endless", progress=False)
        return deepcopy(state.average).cpu().double().requires_grad_(False)

    def archive(self, sampling: SampleConfig, version: str) -> Archive:
        """Return it as tensors and metadata, for a file."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= self.history.tensors()
        tensors |= {
            "standardizer.mean": self.standardizer.mean,
            "standardizer.scale": self.standardizer.scale,
            "moments.means": self.moments.class_means,
            "moments.covariances": self.moments.class_covariances,
            "moments.frequencies": self.moments.frequencies,
        }
        metadata = {
            "config": asdict(self.config),
            "sampling": asdict(sampling),
            "schedule": self.config.noise().parameters,
            "columns": self.columns,
            "label_column": self.label_column,
            "classes": None if self.classes is None else self.classes.tolist(),
            "seed": self.seed,
            "num_points": self.num_points,
            "versions": {"toydiffusion": version, "torch": str(torch.__version__)},
        }
        return Archive(tensors, metadata)

    @classmethod
    def from_archive(cls, archive: Archive) -> Fitted:
        """Return what `archive` put into a file."""
        meta, tensors = archive.metadata, archive.tensors
        config = TrainConfig.from_dict(meta["config"])
        frequencies, mean = tensors["moments.frequencies"], tensors["standardizer.mean"]
        network = build(len(mean), len(frequencies), config, seed=meta["seed"]).requires_grad_(False)
        network.load_state_dict(_named(tensors, "network."))
        return cls(
            config=config,
            network=network.eval(),
            standardizer=Standardizer(mean, tensors["standardizer.scale"]),
            moments=GaussianMixture(
                tensors["moments.means"], tensors["moments.covariances"], weights=frequencies
            ),
            classes=None if meta["classes"] is None else _classes(meta["classes"]),
            columns=None if meta["columns"] is None else tuple(meta["columns"]),
            label_column=meta["label_column"],
            history=History.from_tensors(tensors),
            seed=meta["seed"],
            num_points=meta["num_points"],
        )

    def card(self, sampling: SampleConfig) -> list[tuple[str, str]]:
        """Return what the model is of, how it was trained and how it draws: pairs of heading and text."""
        loss = self.history.loss
        tail = loss[-max(1, len(loss) // 20) :]
        rows = [
            ("points", f"{self.num_points:,} in {self.dim} dimension{'s' if self.dim > 1 else ''}"),
            ("columns", ", ".join(self.columns or default_columns(self.dim))),
        ]
        if self.classes is not None:
            shares = zip(self.classes.tolist(), self.moments.frequencies.tolist(), strict=True)
            rows.append(("classes", ", ".join(f"{name} ({share:.1%})" for name, share in shares)))
        c = self.config
        rows += [
            ("noise", f"sigma {c.sigma_min:.4g} to {c.sigma_max:.4g}, schedule {c.schedule}"),
            ("network", f"{self.network.size:,} weights, preconditioning {c.preconditioning}"),
            (
                "training",
                f"{len(loss):,} steps of {c.points_per_step(self.num_points):,} points, seed {self.seed}",
            ),
            ("loss", f"{np.mean(tail):.4f} (mean of the last {len(tail)} steps)"),
        ]
        if self.history.held_out:
            rows.append(("held-out loss", f"{self.history.held_out[-1][1]:.4f}"))
        rows.append(
            ("sampling", f"{sampling.steps} steps of {sampling.solver} on {sampling.schedule} levels")
        )
        return rows


_FARTHEST = 1e100
"""Standard deviations from the data beyond which a point is an error."""


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _classes(values: list[Any]) -> NDArray[Any]:
    return np.array(values, dtype=object if isinstance(values[0], str) else None)
