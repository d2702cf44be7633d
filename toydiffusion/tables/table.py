"""A table of points, and what fitting asks of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toydiffusion.errors import InputError, shown
from toydiffusion.tables.labels import FALSE_TRUE, texts_of
from toydiffusion.tables.names import check_names, choose_columns, default_columns, label_name, names_of
from toydiffusion.types import FloatArray, LabelArray
from toydiffusion.views import data_frame

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_COLUMNS = 1_000
"""The most columns a model is fitted to."""
MOST_CLASSES = 1_000
"""The most classes a model is fitted to."""


@dataclass(frozen=True, eq=False)
class Table:
    """Points and, if they have any, their labels.

    - `points`: `(n, d)`, float64. They are finite, but for the rows that are `missing`: those of a table
      read with `on_bad="skip"`.
    - `columns`: str each, d of them. None: the columns have no names (arrays).
    - `labels`: `(n,)`, int64, bool or str objects. None: there are none.
    - `label_column`: str. The name of the labels' column, or None.
    - `source`: str. What messages call the table.
    - `false_true`: two str. How boolean labels are written in the file.
    - `digest`: str. The SHA-256 digest of the file that the table was read from, or None.

    Raises `InputError` for other shapes and types, and for names that are blank or equal.

    >>> table = Table(np.array([[1.0, 2.0], [3.0, 4.0]]), ("a", "b"))
    >>> table.select(["b"]).points
    array([[2.],
           [4.]])
    """

    points: FloatArray
    columns: tuple[str, ...] | None
    labels: LabelArray | None = None
    label_column: str | None = None
    source: str = "the points"
    false_true: tuple[str, str] = FALSE_TRUE
    digest: str | None = None

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.dtype != np.float64:
            raise InputError(f"{self.source}: points are (n, d) float64, got {describe(self.points)}")
        n, dim = self.points.shape
        if dim == 0:
            raise InputError(f"{self.source}: there is no numeric column")
        if self.columns is not None:
            object.__setattr__(self, "columns", names_of(self.columns))
            check_names(self.columns, self.source)
            if len(self.columns) != dim:
                raise InputError(f"{self.source}: {len(self.columns)} names for {dim} columns")
        if self.labels is not None and self.labels.shape != (n,):
            raise InputError(
                f"{self.source}: {n} points need labels of shape ({n},), got {self.labels.shape}"
            )

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """Whether a number of the row is missing or infinite, `(n,)`."""
        finite = np.isfinite(self.points)
        # In one go where all are: along short rows it takes several times as long.
        return np.zeros(len(finite), dtype=bool) if finite.all() else np.asarray(~finite.all(axis=1))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns: x0, x1, ... where they have none."""
        return self.columns or default_columns(self.points.shape[1])

    @property
    def label_texts(self) -> LabelArray | None:
        """The labels as they are written in a CSV file, `(n,)` str objects; None if there are none.

        They match the keys of `label_words` of the classes that were written.

        >>> Table(np.zeros((2, 1)), None, np.array([7, 8])).label_texts.tolist()
        ['7', '8']
        """
        return None if self.labels is None else texts_of(self.labels, self.false_true)

    def to_pandas(self) -> DataFrame:
        """Return the table as a pandas data frame, with the labels in its last column.

        Columns without names are called x0, x1, ..., and a label column without a name `label`, or `label_1`,
        ... if that name is taken. `toydiffusion sample` uses the same names. Raises `ImportError` without
        pandas.

        >>> Table(np.array([[1.0], [2.0]]), None, np.array([7, 8])).to_pandas().to_dict("list")
        {'x0': [1.0, 2.0], 'label': [7, 8]}
        """
        names = self.columns or default_columns(self.points.shape[1])
        columns: dict[str, FloatArray | LabelArray] = dict(zip(names, self.points.T, strict=True))
        if self.labels is not None:
            columns[label_name(self.label_column, names)] = self.labels
        return data_frame(columns)

    def select(self, columns: Sequence[str]) -> Table:
        """Return the table with some of its columns, in the order asked for.

        - `columns`: str each. The names of the columns.

        Columns match by name. There is one exception, for arrays and `.npy` files, whose columns are only
        called x0, x1, ...: if none of these names is asked for and the number agrees, they match by position.

        Raises `InputError` for a column that is missing, with the nearest one there is.
        """
        wanted = names_of(columns)
        chosen = choose_columns(self.columns or default_columns(self.points.shape[1]), wanted, self.source)
        return replace(self, points=self.points[:, chosen], columns=wanted)

    def rows(self, rows: range) -> Table:
        """Return the table with these rows alone, counted from 0; without a digest."""
        part = slice(rows.start, rows.stop)
        labels = None if self.labels is None else self.labels[part]
        return replace(self, points=self.points[part], labels=labels, digest=None)

    def at(self, rows: NDArray[np.int64]) -> Table:
        """Return the rows of these numbers, from 0; without a digest."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, points=self.points[rows], labels=labels, digest=None)


def describe(values: FloatArray | LabelArray) -> str:
    """Return the shape and type of an array in words.

    >>> describe(np.zeros(3))
    'an array of shape (3,) and type float64'
    """
    return f"an array of shape {values.shape} and type {values.dtype}"


def check_for_fit(table: Table, *, constants: bool = False) -> None:
    """Raise InputError unless a model can be fitted to the table.

    - `table`: the points, with or without labels.
    - `constants`: whether columns may be constant, as long as not all are.

    A model needs at least 2 points without missing numbers, at most 1,000 columns, no constant column and,
    if there are labels, 2 to 1,000 classes. The mean and the variance of each column must be finite in
    float64 arithmetic, and the variance above 0.

    >>> check_for_fit(Table(np.array([[1.0, 5.0], [2.0, 5.0]]), ("a", "b")))
    Traceback (most recent call last):
    toydiffusion.errors.InputError: the points: column 'b' is 5.0 in every row; leave it out
    """
    points, source = table.points, table.source
    n, dim = points.shape
    if dim > MOST_COLUMNS:
        raise InputError(
            f"{source}: found {dim:,} columns, at most {MOST_COLUMNS:,} can be fitted; models are meant for "
            "1 to about 50 columns, choose some with `columns` (--columns)"
        )
    if table.missing.any():
        raise InputError(f"{source}: {int(table.missing.sum())} rows have missing numbers; leave them out")
    if n < 2:
        raise InputError(f"{source}: at least 2 points are needed to fit a model, found {n}")
    names = table.columns or default_columns(dim)
    constant = points.min(axis=0) == points.max(axis=0)
    if constant.all():
        raise InputError(f"{source}: all {n} points are identical; at least 2 different points are needed")
    if constant.any() and not constants:
        j = int(np.argmax(constant))
        value = float(points[0, j])
        raise InputError(f"{source}: column {shown(names[j])} is {value} in every row; leave it out")
    varying = ~constant
    _check_moments(points[:, varying], [name for name, on in zip(names, varying, strict=True) if on], source)
    if table.labels is not None and (table.labels == table.labels[0]).all():
        where = "" if table.label_column is None else f" in column {shown(table.label_column)}"
        only = shown(table.labels.tolist()[0])
        raise InputError(f"{source}: there is only one class{where}, {only}; give at least 2, or no labels")
    if table.labels is not None and (classes := len(set(table.labels.tolist()))) > MOST_CLASSES:
        raise InputError(
            f"{source}: found {classes:,} classes, at most {MOST_CLASSES:,} can be fitted; a column of "
            "numbers belongs to the points, not to the labels"
        )


def _check_moments(points: FloatArray, names: Sequence[str], source: str) -> None:
    """Raise InputError for a column whose mean or variance leaves the range of float64."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        mean, variance = points.mean(axis=0), points.var(axis=0)
    good = np.isfinite(mean) & np.isfinite(variance) & (variance > 0)
    if not good.all():
        j = int(np.argmin(good))
        low, high = float(points[:, j].min()), float(points[:, j].max())
        why = "too close to each other" if variance[j] == 0 else "too large"
        raise InputError(
            f"{source}: the values of column {shown(names[j])}, from {low} to {high}, are {why} to compute "
            "their variance; rescale the column, say to values of the order of 1"
        )
