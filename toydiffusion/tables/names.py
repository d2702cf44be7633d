"""Names of columns: checking them, finding them, and making one that is free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from toydiffusion.errors import InputError, nearest, shown, whole_number


def default_columns(dim: int) -> tuple[str, ...]:
    """Return names for columns that have none.

    - `dim`: int. The number of columns.

    Raises `InputError` if `dim` is not a whole number >= 0.

    >>> default_columns(2)
    ('x0', 'x1')
    """
    return tuple(f"x{j}" for j in range(whole_number("dim", dim, 0)))


def label_name(label_column: str | None, columns: Iterable[str]) -> str:
    """Return what a column of labels is called: its own name, or the first free of `label`, `label_1`, ...

    - `label_column`: str or None. Its own name.
    - `columns`: str each. The names of the other columns.

    >>> label_name("species", ["x"]), label_name(None, ["x"]), label_name(None, ["label", "label_1"])
    ('species', 'label', 'label_2')
    """
    if label_column:
        return label_column
    taken, found, count = set(columns), "label", 0
    while found in taken:
        count += 1
        found = f"label_{count}"
    return found


def name_of(name: object, what: str) -> str:
    """Return a column name as a plain str; NumPy's strings become one. Raise InputError for anything else."""
    if not isinstance(name, str):
        raise InputError(f"{what} must be text, got {shown(name)}")
    return str(name)


def names_of(names: object) -> tuple[str, ...]:
    """Return a list, tuple or array of column names as a tuple of plain str.

    Raises `InputError` for a single string, and for names that are not text.

    >>> names_of("x")
    Traceback (most recent call last):
    toydiffusion.errors.InputError: columns must be a list of names, got 'x'
    """
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise InputError(f"columns must be a list of names, got {shown(names)}")
    return tuple(name_of(name, "a column name") for name in names)


def check_names(names: Sequence[str], source: str) -> None:
    """Raise InputError if a name is blank, occurs twice or cannot be written as UTF-8."""
    seen = set()
    for j, name in enumerate(names):
        if not name.strip():
            raise InputError(f"{source}: column {j + 1} has no name (an index? leave it out of the file)")
        if name in seen:
            raise InputError(f"{source}: two columns are called {shown(name)}; each needs its own name")
        if not is_utf8(name):
            raise InputError(f"{source}: the column name {shown(name)} is not valid Unicode")
        seen.add(name)


def is_utf8(text: str) -> bool:
    """Return whether `text` can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_column(names: Sequence[str], name: str, source: str) -> int:
    """Return the position of a column; raise InputError with the nearest name if it is not there."""
    if name not in names:
        raise InputError(f"{source} has no column {shown(name)}; {nearest(name, names)}")
    return names.index(name)


def choose_columns(names: Sequence[str], wanted: Sequence[str], source: str) -> list[int]:
    """Return the positions of the `wanted` columns among `names`, by the rule of `Table.select`."""
    check_names(wanted, f"the columns chosen from {source}")
    unnamed = tuple(names) == default_columns(len(names))
    if unnamed and len(names) == len(wanted) and set(names).isdisjoint(wanted):
        return list(range(len(names)))
    return [find_column(names, name, source) for name in wanted]


def plan(
    names: Sequence[str],
    columns: Sequence[str] | None,
    label_column: str | None,
    source: str,
    index: Sequence[str] = (),
) -> tuple[tuple[str, ...], list[int], int | None]:
    """Return which columns of a file to read.

    - `names`: all columns of the file.
    - `columns`: the numeric columns that are wanted. None: all but the label column and the index.
    - `label_column`: the column of labels, or None.
    - `source`: what messages call the file.
    - `index`: the columns that are the index of a pandas frame. They are read only where they are named.

    Returns the names and positions of the numeric columns, and the position of the label column.
    """
    label = None if label_column is None else find_column(names, label_column, source)
    if columns is not None and label_column in columns:
        raise InputError(f"{source}: column {shown(label_column)} cannot be both the label and a coordinate")
    rest = [name for name in names if name != label_column]
    wanted = tuple([name for name in rest if name not in index] if columns is None else columns)
    if not rest or not wanted:
        raise InputError(f"{source}: there is no numeric column left to read")
    position = {name: j for j, name in enumerate(names)}
    chosen = [position[rest[j]] for j in choose_columns(rest, wanted, source)]
    return wanted, chosen, label
