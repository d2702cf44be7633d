"""Checks of the arguments of distributions, and their conversion to float64 tensors and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toydiffusion.errors import InputError
from toydiffusion.types import Labels, Levels, Points

Array = TypeVar("Array", Tensor, NDArray[Any])
"""Tensors give tensors. NumPy arrays and lists give NumPy arrays."""
Numbers: TypeAlias = float | Sequence[Any] | NDArray[Any] | Tensor
"""Anything that can be read as a number or a table of numbers."""


def answer(like: Array, value: Tensor) -> Array:
    """Return `value` as a tensor on the device of `like`; as a NumPy array if `like` is not a tensor."""
    return value.to(like.device) if isinstance(like, Tensor) else value.detach().numpy()


def numbers(name: str, value: Numbers, shape: tuple[int | None, ...]) -> Tensor:
    """Return `value` as a float64 tensor.

    - `name`: what error messages call the value.
    - `value`: a number, nested lists, an array or a tensor.
    - `shape`: the required shape; None stands for any length.

    Raises `InputError` for another shape, and for values that are not finite real numbers.

    >>> numbers("mean", [1, 2], (2,))
    tensor([1., 2.], dtype=torch.float64)
    >>> numbers("mean", [1, 2, 3], (2,))
    Traceback (most recent call last):
    toydiffusion.errors.InputError: mean must have shape (2,), got (3,)
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise InputError(f"{name} must be real numbers, got {value.dtype}")
        table = value.to("cpu", torch.float64)
    else:
        given = np.asarray(value) if not isinstance(value, list | tuple) else _stack(name, value)
        if given.dtype.kind not in "fiu":
            raise InputError(f"{name} must be real numbers, got {given.dtype}")
        table = torch.tensor(given.astype(np.float64))
    allowed = len(shape) == table.ndim and all(
        want in (None, got) for want, got in zip(shape, table.shape, strict=True)
    )
    if not allowed:
        words = ", ".join("n" if want is None else str(want) for want in shape)
        comma = "," if len(shape) == 1 else ""
        raise InputError(f"{name} must have shape ({words}{comma}), got {tuple(table.shape)}")
    finite = table.isfinite()
    if not bool(finite.all()):
        place = tuple((~finite).nonzero()[0].tolist())
        raise InputError(f"{name} must be finite, got {table[place].item()} at index {place}")
    return table


def spread_out(name: str, value: Numbers, n: int) -> Tensor:
    """Return n numbers, `(n,)`, from one number for all rows or from `(n,)` numbers."""
    scalar = value.ndim == 0 if isinstance(value, Tensor) else np.ndim(value) == 0
    return numbers(name, value, () if scalar else (n,)).expand(n)


def _stack(name: str, value: Sequence[Any]) -> NDArray[Any]:
    """Return nested lists as an array. Raises `InputError` if they are ragged."""
    try:
        return np.array(value)
    except ValueError as problem:
        raise InputError(f"{name} must be a table of numbers: {problem}") from None


def noise_levels(sigma: Numbers, n: int, *, positive: bool) -> Levels:
    """Return noise levels, `(n,)`, from one number or `(n,)` numbers, >= 0 or, if `positive`, > 0."""
    level = spread_out("sigma", sigma, n)
    wrong = level <= 0 if positive else level < 0
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        raise InputError(
            f"sigma must be {'>' if positive else '>='} 0, got {level[place].item()} (row {place})"
        )
    return level


def indices(label: Numbers | None, n: int, num_classes: int | None) -> Labels | None:
    """Return class indices, `(n,)` int64, from one integer or `(n,)` integers; None for None.

    Raises `InputError` for indices outside 0..num_classes-1; with `num_classes` None there is no upper bound.
    """
    if label is None:
        return None
    index = label.cpu() if isinstance(label, Tensor) else torch.from_numpy(np.array(label))
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise InputError(f"label must be integers or None, got {index.dtype}")
    if tuple(index.shape) not in ((), (n,)):
        raise InputError(f"label must be one integer or have shape ({n},), got {tuple(index.shape)}")
    index = index.to(torch.int64).expand(n)
    wrong = (index < 0) | (index >= (num_classes or torch.iinfo(torch.int64).max))
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        most = "" if num_classes is None else f" and <= {num_classes - 1}"
        raise InputError(f"label must be >= 0{most}, got {index[place].item()} (row {place})")
    return index


def rows_of(x: Numbers, dim: int) -> Points:
    """Return points as a tensor, `(n, dim)`."""
    return numbers("x", x, (None, dim))
