"""Labels: int64, bool or str, and how each is written in a file."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toydiffusion.errors import InputError, shown
from toydiffusion.tables.columns import Source, decoded, first_null, number
from toydiffusion.tables.names import is_utf8
from toydiffusion.types import LabelArray

if TYPE_CHECKING:
    import pyarrow as pa

ALLOWED = "labels are whole numbers of 64 bits, booleans or text"
FALSE_TRUE = ("false", "true")
"""How `Writer` writes false and true in CSV."""
_FALSE_TRUE = (FALSE_TRUE, ("False", "True"), ("FALSE", "TRUE"))
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""How a missing number is written in CSV. Other words in the place of a number are errors."""


def label_words(classes: object) -> dict[str, Any]:
    """Return the values of the classes by the text that `Writer` writes for each of them in CSV.

    - `classes`: `(K,)`, int, bool or str. The classes.

    The text of an integer is its digits, that of a boolean is "true" or "false", and that of a str is the
    str itself. CSV does not tell the str "1" from the number 1: a column of either is read as integers.
    So compare the labels of a file by text, `Table.label_texts`, where their kind is not that of the classes.

    Raises `InputError` for classes that are no labels.

    >>> label_words([3, 10]), label_words([False, True]), label_words(["01", " a"])
    ({'3': 3, '10': 10}, {'false': False, 'true': True}, {'01': '01', ' a': ' a'})
    """
    values = labels_of(np.array(classes, dtype=object), None, Source("the classes"))
    return dict(zip(texts_of(values).tolist(), values.tolist(), strict=True))


def texts_of(labels: LabelArray, false_true: tuple[str, str] = FALSE_TRUE) -> LabelArray:
    """Return labels as text, `(n,)` str objects; `false_true` is how booleans are written."""
    if labels.dtype == bool:
        texts = [false_true[label] for label in labels.tolist()]
    else:
        texts = [str(label) for label in labels.tolist()]
    return np.array(texts, dtype=object)


def column_labels(column: pa.ChunkedArray, name: str | None, source: Source) -> LabelArray:
    """Return an Arrow column as labels."""
    column = decoded(column)
    if column.null_count:
        source.fail(name, first_null(column), "the label is missing")
    return labels_of(column.to_numpy(), name, source)


def text_labels(column: pa.ChunkedArray, name: str, source: Source) -> tuple[LabelArray, tuple[str, str]]:
    """Return a column of CSV text as labels, and how false and true are written in it.

    It is read as integers or booleans only if these, written back, give the same text in every row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        numbers = column.cast(pa.int64())
        if numbers.cast(column.type).equals(column):
            return numbers.to_numpy().astype(np.int64), FALSE_TRUE
    except pa.ArrowInvalid:
        pass
    words = set(pc.unique(column).to_pylist())
    for pair in _FALSE_TRUE:
        if words <= set(pair):
            return pc.equal(column, pair[1]).to_numpy().astype(bool), pair
    if any(word in MISSING for word in words) and any(_is_finite(word) for word in words):
        _check_no_missing_number(column.to_pylist(), name, source)
    return labels_of(column.to_numpy(), name, source), FALSE_TRUE


def _is_finite(word: str) -> bool:
    value = number(word)
    return value is not None and math.isfinite(value)


def _check_no_missing_number(texts: list[str], name: str, source: Source) -> None:
    """Raise InputError for "nan" and the like where every other label is a number: it is not a class."""
    missing = [row for row, text in enumerate(texts) if text in MISSING]
    if all(text in MISSING or _is_finite(text) for text in texts):
        source.fail(name, missing[0], f"found {shown(texts[missing[0]])} among numbers: the label is missing")


def labels_of(values: NDArray[Any], name: str | None, source: Source) -> LabelArray:
    """Return labels as int64, bool or str objects.

    - `values`: `(n,)`. Floats must be whole numbers.
    - `name`: str. The label column in messages, or None.
    - `source`: where the labels come from.

    Raises `InputError` for a label that is missing, blank or of another kind.

    >>> labels_of(np.array([3.0, 1.0]), None, Source("y"))
    array([3, 1])
    """
    kind = values.dtype.kind
    if kind == "b":
        return values.copy()
    if kind == "f":
        if values.dtype.itemsize < 8:  # the largest float16 is below 2**63
            values = values.astype(np.float64)
        good = (values == np.floor(values)) & (np.abs(values) < 2.0**63)
        if not good.all():
            row = int(np.argmin(good))
            nan = bool(np.isnan(values[row]))
            source.fail(
                name, row, "the label is missing" if nan else f"found {float(values[row])}; {ALLOWED}"
            )
    if kind == "u" and (wide := values > np.iinfo(np.int64).max).any():
        row = int(np.argmax(wide))
        source.fail(name, row, f"found {values[row]}; {ALLOWED}")
    if kind in "iuf":
        return values.astype(np.int64)
    if kind not in "UO":
        raise InputError(f"{source.name}: the labels are of type {values.dtype}; {ALLOWED}")
    return _object_labels(values.astype(object), name, source)


def _object_labels(values: NDArray[Any], name: str | None, source: Source) -> LabelArray:
    types = set(map(type, values))
    if all(issubclass(t, str) for t in types):
        return _str_labels([str(value) for value in values], name, source)
    for row, value in enumerate(values):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            source.fail(name, row, "the label is missing")
    if all(issubclass(t, bool | np.bool_) for t in types):
        return values.astype(bool)
    if any(issubclass(t, bool | np.bool_) or not issubclass(t, Real) for t in types):
        first = type(values[0])
        row = next((i for i, value in enumerate(values) if type(value) is not first), 0)
        kinds = f"{first.__name__} before it" if row else f"a {first.__name__}"
        source.fail(name, row, f"found {shown(values[row])}, {kinds}; {ALLOWED}, all of one kind")
    whole = all(issubclass(t, int | np.integer) for t in types)
    try:
        return labels_of(values.astype(np.int64 if whole else np.float64), name, source)
    except OverflowError:
        row = next(i for i, value in enumerate(values) if not -(2**63) <= value < 2**63)
        source.fail(name, row, f"found {shown(values[row])}; {ALLOWED}")


def _str_labels(texts: list[str], name: str | None, source: Source) -> LabelArray:
    words = set(texts)  # few words, many rows
    if blank := {word for word in words if not word.strip()}:
        source.fail(name, next(i for i, text in enumerate(texts) if text in blank), "the label is missing")
    if broken := {word for word in words if not is_utf8(word)}:
        row = next(i for i, text in enumerate(texts) if text in broken)
        source.fail(name, row, f"the label {shown(texts[row])} is not valid Unicode")
    return np.array(texts, dtype=object)
