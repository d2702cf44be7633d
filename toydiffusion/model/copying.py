"""Whether a model's samples are copies of its training rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from toydiffusion.distributions import Empirical
from toydiffusion.errors import InputError
from toydiffusion.metrics import Estimate
from toydiffusion.model.comparison import some_rows
from toydiffusion.model.fitted_model import FittedModel
from toydiffusion.model.outliers import selected
from toydiffusion.model.sampling import joined, sample_blocks
from toydiffusion.row_noise import RowNoise
from toydiffusion.tables import Table
from toydiffusion.types import Denoiser, FloatArray, Labels, Points
from toydiffusion.views import data_frame, html_table, text_table

if TYPE_CHECKING:
    from pandas import DataFrame

FRACTIONS = (0.25, 0.5, 1.0)
"""The noise levels at which the denoiser is compared with the one that memorises, in parts of `r / sqrt(d)`
with the median distance r of a row to its nearest. There the memory of single rows shows. At higher levels
the two agree in every good model, since both know the law of the rows."""
FDR = 0.1
"""The share of the listed samples that are no copies, on average, at most."""
_ROWS = 1000
"""The most rows of each kind whose nearness is compared; those that memorise have as many."""
_NOISY = 2000
"""About how many noisy rows are denoised at each level, at least."""


@dataclass(frozen=True, eq=False)
class Copying:
    """Whether a model repeats its training rows. `str` returns a table, `to_pandas` the list of copies.

    Distances are Euclidean, in z. Held-out rows show what is to be expected of a model that copies nothing.

    - `nearer`: the share of samples that are nearer to a training row than to a held-out row, among as many
      of each. It is 0.5 on average without copying. The standard error is that of random exchanges of
      training and held-out rows.
    - `distance_ratio`: the median over the samples of `d_1 / d_2`, the distances to the nearest and the
      second nearest training row. Copies have 0.
    - `held_out_ratio`: the same of held-out rows.
    - `levels`: noise levels sigma, in z: up to the distance between rows (`FRACTIONS`).
    - `memory`: for each level how much nearer the denoiser is to the one that memorises the training rows
      than to one that would memorise held-out rows: `1 - E|D - D_train|^2 / E|D - D_held_out|^2`, each at
      noisy rows of its own. It is 0 for a model that knows only the law of the rows, and 1 for one that
      knows only the rows themselves.
    - `samples`: the number of samples.
    - `sample` `(c,)`: the numbers, counted from 0, of the samples listed as copies: rows of
      `sample(samples, seed=seed)`.
    - `row` `(c,)`: the training row that each one is nearest to, counted from 1.
    - `ratio` `(c,)`: their `d_1 / d_2`.
    - `p_value` `(c,)`: the share of held-out rows with a ratio as small, `(1 + #{j: r_j <= r}) / (m + 1)`.
      The samples listed are selected at a false discovery rate of `FDR` (`selected`).
    """

    nearer: Estimate
    distance_ratio: float
    held_out_ratio: float
    levels: tuple[float, ...]
    memory: tuple[Estimate, ...]
    samples: int
    sample: NDArray[np.int64]
    row: NDArray[np.int64]
    ratio: FloatArray
    p_value: FloatArray

    @property
    def finding(self) -> str:
        """One sentence: what the checks say together."""
        signs = []
        if len(self.sample):
            signs.append(f"{len(self.sample):,} of {self.samples:,} samples are copies")
        if any(one.value > max(0.1, 3 * one.std_error) for one in self.memory):
            signs.append("the denoiser remembers training rows")
        if self.nearer.value > 0.5 + 3 * self.nearer.std_error:
            signs.append("samples lean towards training rows")
        return "; ".join(signs) if signs else "no sign of copying"

    def rows(self) -> list[tuple[str, str]]:
        """Return pairs of a check and its result."""
        found = [
            ("copying of training rows", self.finding),
            (
                "    nearer to a training row than to a held-out one",
                f"{self.nearer.value:.1%} ± {self.nearer.std_error:.1%} of {self.samples:,} samples "
                "(50 % without copying)",
            ),
            (
                "    nearest over second nearest distance (median)",
                f"{self.distance_ratio:.3f}, held-out rows {self.held_out_ratio:.3f}",
            ),
        ]
        for level, one in zip(self.levels, self.memory, strict=True):
            text = f"{one.value:.3f} ± {one.std_error:.2g} (0 without, 1 if it only memorises)"
            found.append((f"    memory of the denoiser at sigma {level:.2g}", text))
        return found

    def to_pandas(self) -> DataFrame:
        """Return a pandas data frame with a row for each sample listed as a copy."""
        return data_frame({name: getattr(self, name) for name in ("sample", "row", "ratio", "p_value")})

    def _repr_html_(self) -> str:
        return html_table("Copying", self.rows())

    def __str__(self) -> str:
        """Return the rows as a table."""
        return text_table(self.rows())


def check_copying(model: FittedModel, train: Table, held_out: Table, *, samples: int, seed: int) -> Copying:
    """Compare samples and denoiser with the training rows and with rows that the model has not seen."""
    codec = model.codec
    for table in (train, held_out):
        if codec.classes is not None and table.labels is None:
            raise InputError(f"{table.source}: the check for copying needs the labels of these rows too")
    own, other = codec.to_z(train), codec.to_z(held_out)
    if len(other) < 2:
        raise InputError(f"{held_out.source}: the check for copying needs at least two held-out rows")
    drawn = joined(sample_blocks(model, range(samples), model.sampling, seed=seed))[0]
    points = codec.to_z(Table(drawn, None)).numpy()
    place, ratio = _nearest(own.numpy(), points)
    _, usual = _nearest(own.numpy(), other.numpy())
    p = (1 + np.searchsorted(np.sort(usual), ratio, side="right")) / (len(usual) + 1)
    listed = np.flatnonzero(selected(p, FDR))
    listed = listed[np.lexsort((ratio[listed], p[listed]))]
    m = min(len(own), len(other), _ROWS)
    few = some_rows(train, m, seed=seed, purpose="training rows")
    same = some_rows(held_out, m, seed=seed, purpose="held-out rows")
    levels = _levels(codec.to_z(few).numpy(), model.sigma_min)
    return Copying(
        nearer=_nearer(codec.to_z(few).numpy(), codec.to_z(same).numpy(), points),
        distance_ratio=float(np.median(ratio)),
        held_out_ratio=float(np.median(usual)),
        levels=levels,
        memory=_memory(model, few, same, levels, seed),
        samples=samples,
        sample=listed,
        row=place[listed] + 1,
        ratio=ratio[listed],
        p_value=p[listed],
    )


def _nearest(rows: FloatArray, points: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """Return the nearest row of each point, `(n,)`, and `d_1 / d_2` among rows that differ, `(n,)`."""
    from scipy.spatial import KDTree

    different, first = np.unique(rows, axis=0, return_index=True)
    if len(different) < 2:
        raise InputError("the check for copying needs at least two different training rows")
    distance, place = KDTree(different).query(points, k=2)
    return first[place[:, 0]], distance[:, 0] / distance[:, 1]


def _nearer(train: FloatArray, held_out: FloatArray, points: FloatArray) -> Estimate:
    """Return the share of points whose nearest row is a training row, among as many rows of either kind.

    Let w_i be the share of points whose nearest row is i. With training and held-out rows exchanged at
    random the share `sum_i w_i [i is a training row]` has the mean 1/2 and the variance
    `(sum_i w_i^2 - 1 / N) N / (4 (N - 1))` over the N rows.
    """
    from scipy.spatial import KDTree

    both = np.concatenate([train, held_out])
    different, number, count = np.unique(both, axis=0, return_inverse=True, return_counts=True)
    hits = np.bincount(KDTree(different).query(points)[1], minlength=len(different)) / len(points)
    # Rows that are equal share their points.
    weight = (hits / count)[number.ravel()]
    n = len(both)
    variance = ((weight**2).sum() - 1 / n) * n / (4 * (n - 1))
    return Estimate(float(weight[: len(train)].sum()), math.sqrt(max(variance, 0.0)))


def _levels(rows: FloatArray, lowest: float) -> tuple[float, ...]:
    """Return the noise levels, `FRACTIONS` of the distance between rows but not below the model's lowest."""
    from scipy.spatial import KDTree

    different = np.unique(rows, axis=0)
    apart = np.median(KDTree(different).query(different, k=2)[0][:, 1]) / math.sqrt(rows.shape[1])
    return tuple(max(float(part * apart), lowest) for part in FRACTIONS)


def _memory(
    model: FittedModel, train: Table, held_out: Table, levels: tuple[float, ...], seed: int
) -> tuple[Estimate, ...]:
    """Return the memory of the denoiser at each level."""
    codec, denoiser = model.codec, model.precise
    found = []
    for level in levels:
        own, other = (
            _apart(
                denoiser,
                codec.to_z(one),
                None if codec.classes is None else codec.table_index(one),
                level,
                seed + j,
            )
            for j, one in enumerate((train, held_out))
        )
        ratio = float(own.mean() / other.mean())
        spread = (own.var() / len(own) + ratio**2 * other.var() / len(other)).sqrt() / other.mean()
        found.append(Estimate(1 - ratio, float(spread)))
    return tuple(found)


@torch.no_grad()
def _apart(denoiser: Denoiser, z: Points, label: Labels | None, level: float, seed: int) -> Points:
    """Return `|D - D*|^2` at noisy rows with D* what memorises the rows, the mean of each row."""
    m, d = z.shape
    copies = max(1, _NOISY // m)
    noise = RowNoise(seed, "copying").normal(0, m * copies, dim=d).to(z)
    noisy = z.repeat(copies, 1) + level * noise
    sigma = torch.full((len(noisy),), level, dtype=torch.float64)
    kind = None if label is None else label.repeat(copies)
    # The memory of each class is its own rows; not every class need be among them.
    own = None if kind is None else torch.unique(kind, return_inverse=True)[1]
    memorised = Empirical(z, None if own is None else own[:m]).denoise(noisy, sigma=level, label=own)
    away = denoiser(noisy, sigma, kind).to(memorised) - memorised
    return away.square().sum(1).reshape(copies, m).mean(0)
