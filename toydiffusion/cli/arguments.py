"""Arguments that several commands have, and what is checked of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from toydiffusion import tables
from toydiffusion.cli.flags import flag
from toydiffusion.errors import InputError, shown
from toydiffusion.files import check_target, file_digest
from toydiffusion.jobs import Executor, Local, OnRay
from toydiffusion.model import Diffusion

Model: TypeAlias = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model file, saved by the command fit.")
]
Table: TypeAlias = Annotated[
    Path, typer.Argument(metavar="POINTS", help="A table of points: .csv, .parquet or .npy.")
]
Fdr: TypeAlias = Annotated[
    float, flag(float, "The share of inliers among the rows selected, on average, at most.")
]
OnBad: TypeAlias = Annotated[
    str,
    flag(
        str,
        "Rows with missing or infinite numbers: raise stops with an error, skip leaves them out.",
        choices=tables.ON_BAD,
    ),
]
Workers: TypeAlias = Annotated[
    int | None,
    flag(
        int,
        "Processes that compute at once, for a folder.",
        default="one for each processor",
    ),
]
Cluster: TypeAlias = Annotated[
    str | None,
    flag(
        str,
        "Compute on Ray, for a folder: local starts it here, HOST:PORT joins a cluster.",
        metavar="ADDRESS",
        default="processes of this machine",
    ),
]
ShardRows: TypeAlias = Annotated[
    int | None,
    flag(int, "Rows in each file, for a folder.", default="about a 64th of all"),
]
DEVICE = "Where to compute: cpu, cuda (a GPU), cuda:1, or auto, which is a GPU if there is one."


def check_model_file(out: Path) -> None:
    """Raise InputError unless a model can be written to `out`."""
    if out.suffix != ".safetensors":
        raise InputError(
            f"{shown(str(out))}: a model file ends in '.safetensors', not in {shown(out.suffix)}"
        )
    check_target(out)


def check_not_the_source(out: Path, model: Diffusion) -> None:
    """Raise InputError if `out` is the table that the model was fitted to, under any name."""
    source = model.fitted.provenance.source_digest
    if source is not None and out.is_file() and file_digest(out) == source:
        raise InputError(f"{shown(str(out))} is the table that the model was fitted to; give another name")


def executor_of(workers: int | None, cluster: str | None) -> Executor:
    """Return what computes pieces of work."""
    return Local(workers) if cluster is None else OnRay(None if cluster == "local" else cluster, workers)
