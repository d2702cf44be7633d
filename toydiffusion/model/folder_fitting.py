"""What fitting needs of a folder of tables: its moments and classes in one pass, then rows for each step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toydiffusion.codec import Codec, RunningMoments, Standardizer
from toydiffusion.distributions import GaussianMixture
from toydiffusion.errors import InputError, shown
from toydiffusion.progress import bar
from toydiffusion.tables import MOST_CLASSES, MOST_COLUMNS, TableFolder
from toydiffusion.training import Batch
from toydiffusion.types import LabelArray


@dataclass(frozen=True, eq=False)
class Surveyed:
    """What one pass over a folder finds.

    - `moments`: those of all rows.
    - `classes` `(K,)`: the labels that occur, in order, or None.
    - `of_class`: the moments of each class; of all rows without labels.
    - `digest`: of all numbers and labels, in order.
    """

    moments: RunningMoments
    classes: LabelArray | None
    of_class: tuple[RunningMoments, ...]
    digest: str


def survey(folder: TableFolder, progress: bool | None) -> Surveyed:
    """Read all rows once.

    Raises `InputError` for what cannot be fitted: missing numbers, constant columns, one class only.
    """
    name = shown(str(folder.path))
    if len(folder.columns) > MOST_COLUMNS:
        raise InputError(f"{name}: {len(folder.columns):,} columns, at most {MOST_COLUMNS:,} can be fitted")
    whole: RunningMoments | None = None
    classes: dict[Any, RunningMoments] = {}
    kind: np.dtype[Any] | None = None
    digest, done = hashlib.sha256(), 0
    with bar("reading", folder.num_rows, progress) as move:
        for block in folder.blocks():
            about = block.points.mean(axis=0) if whole is None else whole.about
            own = RunningMoments.of(block.points, about)
            whole = own if whole is None else whole.merged(own)
            digest.update(np.ascontiguousarray(block.points).tobytes())
            if block.labels is not None:
                if kind not in (None, block.labels.dtype):
                    raise InputError(f"{block.source}: labels of another kind than in the files before it")
                kind = block.labels.dtype
                values, index = np.unique(block.labels, return_inverse=True)
                digest.update(repr(values.tolist()).encode() + index.astype(np.int32).tobytes())
                for k, value in enumerate(values.tolist()):
                    part = RunningMoments.of(block.points[index == k], about)
                    classes[value] = classes[value].merged(part) if value in classes else part
                if len(classes) > MOST_CLASSES:
                    raise InputError(f"{block.source}: more than {MOST_CLASSES:,} classes so far")
            done += len(block.points)
            move(done, "")
    assert whole is not None
    constant = np.flatnonzero(whole.low == whole.high)
    if len(constant):
        j = int(constant[0])
        raise InputError(
            f"{name}: column {shown(folder.columns[j])} is {whole.low[j]} in every row; leave it out"
        )
    if not np.isfinite(whole.deviation).all() or not (whole.deviation > 0).all():
        raise InputError(f"{name}: values are too large or too close to each other; rescale the columns")
    if kind is None:
        return Surveyed(whole, None, (whole,), digest.hexdigest())
    if len(classes) < 2:
        raise InputError(
            f"{name}: there is only one class in column {shown(folder.label_column)}; "
            "give at least 2, or no labels"
        )
    order = sorted(classes)
    return Surveyed(
        whole, np.array(order, dtype=kind), tuple(classes[one] for one in order), digest.hexdigest()
    )


def codec_of(folder: TableFolder, found: Surveyed, *, standardize: bool) -> Codec:
    """Return the codec of a folder."""
    dim = len(folder.columns)
    standardizer = (
        Standardizer(torch.from_numpy(found.moments.mean), torch.from_numpy(found.moments.deviation))
        if standardize
        else Standardizer.identity(dim)
    )
    return Codec(standardizer, folder.columns, found.classes, folder.label_column)


def moments_of(found: Surveyed, codec: Codec) -> GaussianMixture:
    """Return the mixture of one Gaussian per class in z, as `distributions.moments` does of points."""
    mean, scale = codec.standardizer.mean, codec.standardizer.scale
    means = [(torch.from_numpy(one.mean) - mean) / scale for one in found.of_class]
    covariances = [torch.from_numpy(one.covariance) / (scale[:, None] * scale) for one in found.of_class]
    counts = torch.tensor([float(one.count) for one in found.of_class], dtype=torch.float64)
    floor = 1e-10 * torch.eye(len(mean), dtype=torch.float64)
    return GaussianMixture(torch.stack(means), torch.stack(covariances) + floor, weights=counts)


def batch_of(folder: TableFolder, codec: Codec, rows: NDArray[np.int64]) -> Batch:
    """Return these rows in z. A block at a time becomes float32, so that float64 never holds them all."""
    points = torch.empty(len(rows), codec.dim)
    labels = None if codec.classes is None else torch.empty(len(rows), dtype=torch.int64)
    first = 0
    for table in folder.taken(rows):
        part = slice(first, first + len(table.points))
        points[part] = codec.to_z(table).float()
        if labels is not None and (index := codec.table_index(table)) is not None:
            labels[part] = index
        first = part.stop
    return Batch(points, labels)
