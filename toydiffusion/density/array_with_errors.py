"""An array that carries errors beside its numbers."""

from __future__ import annotations

from collections.abc import Iterator
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
