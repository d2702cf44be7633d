"""A table of points, and what fitting asks of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toydiffusion.errors import InputError, nearest
from toydiffusion.tables.columns import Labels, Points


def default_columns(dim: int) -> tuple[str, ...]:
    """Return names for columns that have none.

    >>> default_columns(2)
    ('x0', 'x1')
    """
    return tuple(f"x{j}" for j in range(dim))


@dataclass(frozen=True, eq=False)
class Table:
    """Points `(n, d)` float64 and their labels if they have any.

    Points are finite, but for the rows that are `missing`: those of a table read with `on_bad="skip"`.

    `columns` is None where the columns have no names (arrays); `labels` `(n,)` are int64, bool or str
    objects; `label_column` is their name, if they have one; `source` is what messages call the table.

    >>> table = Table(np.array([[1.0, 2.0], [3.0, 4.0]]), ("a", "b"))
    >>> table.select(["b"]).points
    array([[2.],
           [4.]])
    """

    points: Points
    columns: tuple[str, ...] | None
    labels: Labels | None = None
    label_column: str | None = None
    source: str = "the points"

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.dtype != np.float64:
            raise InputError(f"{self.source}: points are (n, d) float64, got {describe(self.points)}")
        n, dim = self.points.shape
        if dim == 0:
            raise InputError(f"{self.source}: there is no numeric column")
        if self.columns is not None:
            check_names(self.columns, self.source)
            if len(self.columns) != dim:
                raise InputError(f"{self.source}: {len(self.columns)} names for {dim} columns")
        if self.labels is not None and self.labels.shape != (n,):
            raise InputError(
                f"{self.source}: {n} points need labels of shape ({n},), got {self.labels.shape}"
            )

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Whether a number of the row is missing or infinite, `(n,)`."""
        return np.asarray((~np.isfinite(self.points)).any(axis=1))

    def select(self, columns: Sequence[str]) -> Table:
        """Return the table with these columns in this order, others left out.

        Columns match by name. Those of arrays and `.npy` files have none, or only x0, x1, ...: if none
        of these is asked for and the number agrees, they match by position. Raises InputError naming the
        missing column and the nearest one there is.
        """
        chosen = choose_columns(self.columns or default_columns(self.points.shape[1]), columns, self.source)
        return Table(self.points[:, chosen], tuple(columns), self.labels, self.label_column, self.source)


def describe(values: Points | Labels) -> str:
    """Return the shape and type of an array in words.

    >>> describe(np.zeros(3))
    'an array of shape (3,) and type float64'
    """
    return f"an array of shape {values.shape} and type {values.dtype}"


def check_names(names: Sequence[str], source: str) -> None:
    """Raise InputError if a name is empty or occurs twice."""
    for j, name in enumerate(names):
        if not name:
            raise InputError(f"{source}: column {j + 1} has no name (an index? leave it out of the file)")
        if name in names[:j]:
            raise InputError(f"{source}: two columns are called {name!r}; each needs its own name")


def find_column(names: Sequence[str], name: str, source: str) -> int:
    """Return the position of a column; raise InputError with the nearest name if it is not there."""
    if name not in names:
        raise InputError(f"{source} has no column {name!r}; {nearest(name, list(names))}")
    return list(names).index(name)


def choose_columns(names: Sequence[str], wanted: Sequence[str], source: str) -> list[int]:
    """Return the positions of the `wanted` columns, by the rule of `Table.select`."""
    check_names(wanted, f"the columns chosen from {source}")
    unnamed = tuple(names) == default_columns(len(names))
    if unnamed and len(names) == len(wanted) and set(names).isdisjoint(wanted):
        return list(range(len(names)))
    return [find_column(names, name, source) for name in wanted]


def plan(
    names: Sequence[str], columns: Sequence[str] | None, label_column: str | None, source: str
) -> tuple[tuple[str, ...], list[int], int | None]:
    """Return names and positions of the point columns, and the position of the label column, of a file."""
    label = None if label_column is None else find_column(names, label_column, source)
    if columns is not None and label_column in columns:
        raise InputError(f"{source}: column {label_column!r} cannot be both the label and a coordinate")
    rest = [name for name in names if name != label_column]
    if not rest or (columns is not None and not columns):
        raise InputError(f"{source}: there is no numeric column left to read")
    wanted = tuple(rest if columns is None else columns)
    chosen = [names.index(rest[j]) for j in choose_columns(rest, wanted, source)]
    return wanted, chosen, label


def check_for_fit(table: Table) -> None:
    """Raise InputError unless a model can be fitted: at least 2 points, no constant column, no single class.

    >>> check_for_fit(Table(np.array([[1.0, 5.0], [2.0, 5.0]]), ("a", "b")))
    Traceback (most recent call last):
    toydiffusion.errors.InputError: the points: column 'b' is 5.0 in every row; leave it out
    """
    points, source = table.points, table.source
    n, dim = points.shape
    if table.missing.any():
        raise InputError(f"{source}: {int(table.missing.sum())} rows have missing numbers; leave them out")
    if n < 2:
        raise InputError(f"{source}: at least 2 points are needed to fit a model, found {n}")
    constant = points.min(axis=0) == points.max(axis=0)
    if constant.all():
        raise InputError(f"{source}: all {n} points are identical; at least 2 different points are needed")
    if constant.any():
        j = int(np.argmax(constant))
        name = (table.columns or default_columns(dim))[j]
        value = float(points[0, j])
        raise InputError(f"{source}: column {name!r} is {value} in every row; leave it out")
    if table.labels is not None and (table.labels == table.labels[0]).all():
        where = "" if table.label_column is None else f" in column {table.label_column!r}"
        only = table.labels.tolist()[0]
        raise InputError(f"{source}: there is only one class{where}, {only!r}; give at least 2, or no labels")
