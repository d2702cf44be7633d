"""Docstrings are in Markdown, autodoc reads reStructuredText: translate the little that differs.

Indented lines after a blank line are formulas, shown as they are. `Code` in backticks is code; where it is a
name of the package, and not that of a parameter, it links to the name. All other text loses its special
characters.
"""

import inspect
import re
from collections.abc import Collection, Iterator
from typing import Any

from sphinx.application import Sphinx

_BULLET = re.compile(r"\s*(?:[-*]|\d+\.) ")
_CODE = re.compile(r"(`[^`]+`)")
_NAME = re.compile(r"[A-Za-z_][\w.]*")


def translated(lines: list[str], parameters: Collection[str] = ()) -> Iterator[str]:
    """Yield the lines of a docstring in reStructuredText."""
    text = 0  # the indent of the paragraph or bullet that a line belongs to
    kind = "blank"
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            # A formula may have blank lines inside; an example ends at one.
            kind = "blank" if kind != "formula" else kind
        elif kind != "example":
            if line.lstrip().startswith(">>>"):
                kind = "example"
            elif kind == "blank" and indent >= text + 4:
                kind = "formula"
                yield from (" " * text + "::", "")
            elif kind != "formula" or indent < text + 4:
                bullet = _BULLET.match(line)
                text = len(bullet.group()) if bullet else min(text, indent) if kind != "text" else text
                kind = "text"
        yield _inline(line, parameters) if kind == "text" else line


def _inline(line: str, parameters: Collection[str]) -> str:
    bullet = _BULLET.match(line)
    start = bullet.group() if bullet else ""
    parts = _CODE.split(line.removeprefix(start))
    return start + "".join(
        _code(part[1:-1], parameters) if i % 2 else re.sub(r"([*|_\\])", r"\\\1", part)
        for i, part in enumerate(parts)
    )


def _code(text: str, parameters: Collection[str]) -> str:
    linked = _NAME.fullmatch(text) and text not in parameters
    return f":py:obj:`{text}`" if linked else f"``{text}``"


def _translate(app: Sphinx, what: str, name: str, value: object, options: Any, lines: list[str]) -> None:
    try:
        parameters = inspect.signature(value).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):  # not everything has a signature
        parameters = {}
    lines[:] = translated(lines, parameters)


def setup(app: Sphinx) -> dict[str, bool]:
    """Translate every docstring that autodoc reads."""
    app.connect("autodoc-process-docstring", _translate)
    return {"parallel_read_safe": True}
