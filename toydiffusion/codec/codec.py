"""The codec: the map from tables of the user to points z and class indices, and back."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toydiffusion.codec.bounds import Bounds
from toydiffusion.codec.cells import Cells
from toydiffusion.codec.power import PowerMap
from toydiffusion.codec.standardizer import Standardizer
from toydiffusion.errors import InputError, nearest, shown, store
from toydiffusion.tables import Table, choose_columns, default_columns, label_name, label_words, names_of
from toydiffusion.types import FloatArray, LabelArray, Labels, Points

_FARTHEST = 1e100
"""Squares of points farther from the data than this, in standard deviations, may overflow."""


@dataclass(frozen=True, eq=False)
class Codec:
    """The map between tables in x and points z, and between the user's labels and class indices.

    A model for tables also takes columns as they come: `constants` are left out, `bounds` and then `power`
    come before the standardiser, and samples return to the grid of `cells`. All others have None of these,
    and then `z = (x - mean) / scale`.

    - `standardizer`: the map of the coordinates, `z = (x - mean) / scale`, after `bounds` and `power`.
    - `columns`: the names of the columns. None (default): they have no names.
    - `classes` `(K,)`: the user's labels in ascending order. None (default): there are no labels.
    - `label_column`: the name of the label column, or None (default).
    - `power`: the power transforms of the columns, or None (default).
    - `cells`: the grid of the columns, or None (default).
    - `constants`: position and value of each column that is the same in every row.
    - `bounds`: the bounds of the columns, or None (default).
    """

    standardizer: Standardizer
    columns: tuple[str, ...] | None = None
    classes: LabelArray | None = None
    label_column: str | None = None
    power: PowerMap | None = None
    cells: Cells | None = None
    constants: tuple[tuple[int, float], ...] = ()
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        """Guard the classes: whoever changed them in place would change what the model means."""
        if self.classes is not None:
            classes = self.classes.copy()
            classes.flags.writeable = False
            store(self, "classes", classes)

    @classmethod
    def fit(cls, table: Table, *, standardize: bool = True) -> Codec:
        """Return the codec of this table. With `standardize` False, z is x."""
        x = torch.from_numpy(table.points)
        return cls(
            Standardizer.fit(x) if standardize else Standardizer.identity(x.shape[1]),
            table.columns,
            None if table.labels is None else np.unique(table.labels),
            table.label_column,
        )

    @property
    def dim(self) -> int:
        """The number of columns d of z: those of the table that are not constant."""
        return len(self.standardizer.mean)

    @property
    def num_columns(self) -> int:
        """The number of columns of the table."""
        return self.dim + len(self.constants)

    @property
    def varying(self) -> NDArray[np.int64]:
        """The positions of the columns that are not constant, `(d,)`."""
        return np.setdiff1d(np.arange(self.num_columns), [j for j, _ in self.constants])

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns; `x0`, `x1`, ... if they have none."""
        return self.columns or default_columns(self.num_columns)

    @property
    def whole(self) -> tuple[str, ...]:
        """The names of the columns that hold whole numbers alone, as far as `cells` knows."""
        if self.cells is None:
            return ()
        found = [int(j) for j in self.varying[self.cells.whole]]
        found += [j for j, value in self.constants if value % 1 == 0 and abs(value) < 2**53]
        return tuple(self.names[j] for j in sorted(found))

    @property
    def label_name(self) -> str | None:
        """What the label column of new tables is called; None without labels."""
        return None if self.classes is None else label_name(self.label_column, self.names)

    @property
    def num_classes(self) -> int:
        """The number of classes K; 1 without labels."""
        return 1 if self.classes is None else len(self.classes)

    def log_det(self, points: FloatArray) -> FloatArray:
        """Return `log |dz/dx|` at points x, `(n,)`, so that `log p(x) = log p(z) + log_det`, in nats."""
        found = np.full(len(points), self.standardizer.log_det)
        x = self._varied(points)
        for one in self._maps:
            found = found + one.log_slope(x).sum(1).numpy()
            x = one.forward(x)
        return found

    def gradient_to_x(self, points: FloatArray, slope: Tensor) -> FloatArray:
        """Return the gradient of `log p(x)` in x, `(n, columns)`, from that of `log p(z)` in z, `(n, d)`.

        It is 0 in columns that are constant.
        """
        inner = slope / self.standardizer.scale
        before = [self._varied(points)]
        for one in self._maps:
            before.append(one.forward(before[-1]))
        for one, x in reversed(list(zip(self._maps, before, strict=False))):
            inner = inner * one.log_slope(x).exp() + one.grad_log_slope(x)
        found = np.zeros((len(points), self.num_columns))
        found[:, self.varying] = inner.numpy()
        return found

    # Points -----------------------------------------------------------------------------------------

    def select(self, table: Table, what: str) -> Table:
        """Return the table with the columns that the codec was fitted to, in their order.

        - `table`: the table. Its columns match by name, or by position if there are no names.
        - `what`: what error messages call the table.

        Raises `InputError` for a missing column or the wrong number of columns.
        """
        # Columns without names are called x0, x1, ... in files: a table with all of these goes by them.
        if table.columns is not None and (self.columns is not None or set(self.names) <= set(table.columns)):
            table = table.select(self.names)
        if table.points.shape[1] != self.num_columns:
            raise InputError(
                f"{what} must have {self.num_columns} column{'s' if self.num_columns > 1 else ''}, "
                f"those the model was fitted to, got {table.points.shape[1]}"
            )
        return table

    def positions(self, columns: Sequence[str]) -> list[int]:
        """Return the positions of columns by name.

        Raises `InputError` for no name, and for one that is unknown or given twice.
        """
        wanted = names_of(columns)
        if not wanted:
            raise InputError(f"columns must be some of {', '.join(map(shown, self.names[:20]))}, got none")
        return choose_columns(self.names, wanted, "the model")

    def to_z(self, table: Table) -> Points:
        """Return the points in z, `(n, d)`. Missing rows contain NaN.

        Raises `InputError` for a point outside the bounds, or too far from the data to compute with.
        """
        x = self._varied(table.points)
        self._check_bounds(x, table)
        for one in self._maps:
            x = one.forward(x)
        z = self.standardizer.z(x)
        near = z.abs() <= _FARTHEST
        if not bool(near.all()) and (far := ~near.all(1).numpy() & ~table.missing).any():
            raise InputError(
                f"{table.source}: row {int(far.argmax()) + 1} (counted from 1) is more than {_FARTHEST:g} "
                "standard deviations from the data, too far to compute with"
            )
        return z

    def to_x(self, z: Points, *, snapped: bool = False) -> FloatArray:
        """Return the points in x, `(n, columns)`, with the columns that are constant.

        - `snapped`: whether points of cells become the values whose cells they are, as in the table.
        """
        inner = self.standardizer.x(z.detach().cpu())
        for one in reversed(self._maps):
            inner = one.inverse(inner)
        x: FloatArray = inner.numpy()
        if snapped and self.cells is not None:
            x = self.cells.snapped(x)
            if self.bounds is not None:
                # A point at the very end of the outermost cell may be rounded out of it.
                half = torch.from_numpy(self.cells.step / 2)
                low, high = self.bounds.low + half, self.bounds.high - half
                x = np.clip(x, *(self.cells.snapped(one[None].numpy()) for one in (low, high)))
        if not self.constants:
            return x
        found = np.empty((len(x), self.num_columns))
        found[:, self.varying] = x
        for j, value in self.constants:
            found[:, j] = value
        return found

    def spread(self, table: Table, *, seed: int) -> FloatArray:
        """Return the points in x, `(n, columns)`, with the values of rounded columns spread over their cells.

        - `seed`: of the places in the cells (`Cells.spread`).
        """
        if self.cells is None:
            return table.points
        points, varying = table.points.copy(), self.varying
        points[:, varying] = self.cells.spread(points[:, varying], seed=seed)
        return points

    @property
    def _maps(self) -> list[Bounds | PowerMap]:
        """The maps of single columns before the standardiser, in their order."""
        return [one for one in (self.bounds, self.power) if one is not None]

    def _check_bounds(self, x: Points, table: Table) -> None:
        if self.bounds is None:
            return
        outside = (~self.bounds.inside(x)).numpy() & ~table.missing[:, None]
        if outside.any():
            row, j = (int(one) for one in np.argwhere(outside)[0])
            low, high, name = self.bounds.low[j], self.bounds.high[j], self.names[self.varying[j]]
            raise InputError(
                f"{table.source}: row {row + 1} (counted from 1), column {shown(name)}: "
                f"{float(x[row, j]):g} is outside the bounds of the model, {low:g} to {high:g}"
            )

    def _varied(self, points: FloatArray) -> Points:
        """Return the columns that are not constant, as a tensor."""
        return torch.from_numpy(points[:, self.varying] if self.constants else points)

    # Labels -----------------------------------------------------------------------------------------

    def class_index(self, label: Any, n: int, where: str = "") -> Labels | None:
        """Return class indices, `(n,)`; None if `label` is None.

        - `label`: one label for all rows, or n labels.
        - `n`: the number of rows.
        - `where`: the start of the message about an unknown label.

        Raises `InputError` for an unknown label, the wrong number of labels, and a model without labels.
        """
        if label is None:
            return None
        if self.classes is None:
            raise InputError("this model was fitted without labels, so none can be asked for")
        wanted = np.asarray(label, dtype=object)
        if wanted.ndim > 1 or (wanted.ndim == 1 and len(wanted) != n):
            raise InputError(f"label must be one label or {n} of them, got shape {wanted.shape}")
        index = {value: i for i, value in enumerate(self.classes.tolist())}
        values = wanted.ravel().tolist()
        try:
            found = np.fromiter(map(index.__getitem__, values), dtype=np.int64, count=len(values))
        except (KeyError, TypeError):  # unknown, or not hashable
            row = next(
                i for i, value in enumerate(values) if not isinstance(value, Hashable) or value not in index
            )
            place = f" in row {row + 1} (counted from 1)" if wanted.ndim else ""
            words, kind = [str(name) for name in index], type(next(iter(index))).__name__
            text = str(values[row])
            hint = f"the labels are of type {kind}" if text in words else nearest(text, words)
            raise InputError(f"{where}unknown label {shown(values[row])}{place}: {hint}") from None
        return torch.from_numpy(found).expand(n)

    def table_index(self, table: Table) -> Labels | None:
        """Return the class indices of the labels of the table, `(n,)`; None if it has none.

        A CSV file does not distinguish the text "1" from the number 1. So labels of another type than the
        classes are matched by how they are written.

        Raises `InputError` for an unknown label.
        """
        labels, texts = table.labels, table.label_texts
        if labels is None or texts is None:
            return None
        if self.classes is not None and labels.dtype != self.classes.dtype:
            words = label_words(self.classes)
            labels = np.array([words.get(text, text) for text in texts.tolist()], dtype=object)
        column = "" if table.label_column is None else f", column {shown(table.label_column)}"
        return self.class_index(labels, len(table.points), f"{table.source}{column}: ")

    def labels(self, index: Labels | None) -> LabelArray | None:
        """Return the user's labels of class indices, `(n,)`; None without classes or without indices."""
        if self.classes is None or index is None:
            return None
        labels: LabelArray = self.classes[index.cpu().numpy()]
        return labels
