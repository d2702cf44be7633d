"""Views of a result: a table of text, an HTML table for notebooks, and a pandas data frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pandas import DataFrame


def text_table(rows: Sequence[tuple[str, str]]) -> str:
    """Return lines of a heading and a text each, with the texts below each other.

    >>> print(text_table([("one", "1"), ("three", "3")]))
    one    1
    three  3
    """
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def html_table(
    caption: str,
    rows: Sequence[Sequence[str]],
    heads: Sequence[str] = (),
    *,
    align: Literal["left", "right"] = "left",
) -> str:
    """Return an HTML table of texts. It names no colour, so it is legible on light and dark pages.

    - `caption`: the line above.
    - `rows`: the texts of each row. The first one is its heading, in bold.
    - `heads`: the headings of the columns, default none.
    - `align`: the side of all cells but the headings of the rows, which are on the left. Default "left"; use
      "right" for numbers.

    >>> html_table("a < b", [["one", "1"]]).count("&lt;")
    1
    """
    # Jupyter sets cells to the right and without line breaks. Spaces at the start of a heading indent it.
    left, side = "text-align:left;white-space:pre-wrap", f"text-align:{align};white-space:pre-wrap"
    head = "".join(f"<th style='{side}'>{escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr><th style='{left}'>{escape(first)}</th>"
        + "".join(f"<td style='{side}'>{escape(text)}</td>" for text in rest)
        + "</tr>"
        for first, *rest in rows
    )
    top = f"<thead><tr>{head}</tr></thead>" if heads else ""
    return (
        f"<table><caption style='text-align:left'><b>{escape(caption)}</b></caption>"
        f"{top}<tbody>{body}</tbody></table>"
    )


def data_frame(
    columns: Mapping[str, Any], *, index: Sequence[Any] | None = None, name: str = ""
) -> DataFrame:
    """Return a pandas data frame.

    - `columns`: for each name the values, `(n,)`.
    - `index` `(n,)`: the names of the rows; None (default) numbers them from 0.
    - `name`: what the index is called, default nothing.

    Raises `ImportError` without pandas.
    """
    pandas = import_pandas("to_pandas")
    rows = None if index is None else pandas.Index(index, name=name or None)
    frame: DataFrame = pandas.DataFrame(dict(columns), index=rows)
    return frame


def import_pandas(what: str) -> Any:
    """Return the module pandas; without it raise an `ImportError` that says what needs it.

    - `what`: a method or an argument.
    """
    try:
        import pandas
    except ImportError:
        raise ImportError(f"{what} needs pandas: pip install pandas") from None
    return pandas
