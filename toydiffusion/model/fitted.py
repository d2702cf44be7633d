"""What fitting leaves behind, and how it is kept in a file and told in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toydiffusion.archive import Archive
from toydiffusion.denoisers import Network
from toydiffusion.distributions import GaussianMixture
from toydiffusion.sampling import SampleConfig
from toydiffusion.standardize import Standardizer
from toydiffusion.tables import default_columns
from toydiffusion.training import History, TrainConfig, build


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
                f"{len(loss):,} steps of {c.points_per_step(self.network.num_classes):,} points, "
                f"seed {self.seed}",
            ),
            ("loss", f"{np.mean(tail):.4f} (mean of the last {len(tail)} steps)"),
        ]
        if self.history.held_out:
            rows.append(("held-out loss", f"{self.history.held_out[-1][1]:.4f}"))
        rows.append(
            ("sampling", f"{sampling.steps} steps of {sampling.solver} on {sampling.schedule} levels")
        )
        return rows


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _classes(values: list[Any]) -> NDArray[Any]:
    return np.array(values, dtype=object if isinstance(values[0], str) else None)
