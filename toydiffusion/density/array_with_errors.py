"""An array that carries errors beside its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray


class ArrayWithErrors(NDArrayOperatorsMixin):
    """A base class for a `value` `(n,)` with more beside it.

    In arithmetic, comparisons, indexing and NumPy it acts as its `value`.

    >>> class Length(ArrayWithErrors):
    ...     value = np.array([1.0, 2.0])
    >>> length = Length()
    >>> (length + 1).tolist(), float(np.mean(length)), length[1].item(), len(length)
    ([2.0, 3.0], 1.5, 2.0, 2)
    """

    value: NDArray[np.float64]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return `value`."""
        return np.array(self.value, dtype=dtype) if copy is not False else np.asarray(self.value, dtype)

    def __array_ufunc__(self, function: np.ufunc, method: str, *inputs: Any, **named: Any) -> Any:
        """Calculate with `value`."""
        plain = (one.value if isinstance(one, ArrayWithErrors) else one for one in inputs)
        return getattr(function, method)(*plain, **named)

    def __len__(self) -> int:
        """Return n."""
        return len(self.value)

    def __getitem__(self, index: Any) -> Any:
        """Return `value[index]`."""
        return self.value[index]

    def __iter__(self) -> Iterator[Any]:
        """Go through `value`."""
        return iter(self.value)


SHOWN = 6
"""How many points a table in a notebook shows one by one."""


def summary_rows(columns: Iterable[tuple[NDArray[Any], str]]) -> list[list[str]]:
    """Return rows of text: the first points, then mean, minimum, median and maximum over all of them.

    - `columns`: the values `(n,)` of each column, and the format of its texts. A point whose first value is
      NaN does not count.

    >>> summary_rows([(np.array([1.0, 2.0, 6.0]), ".1f")])[2:5]
    [['2', '6.0'], ['mean', '3.0'], ['minimum', '1.0']]
    """
    values, forms = zip(*columns, strict=True)
    table = np.stack(values, axis=1).astype(np.float64)
    rows = {str(i): row for i, row in enumerate(table[:SHOWN])}
    known = table[~np.isnan(table[:, 0])]
    if len(known):
        rows["mean"], rows["minimum"] = known.mean(axis=0), known.min(axis=0)
        rows["median"], rows["maximum"] = np.median(known, axis=0), known.max(axis=0)
    return [
        [name, *(format(value, form) for value, form in zip(row, forms, strict=True))]
        for name, row in rows.items()
    ]
