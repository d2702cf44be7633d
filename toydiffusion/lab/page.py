"""The page with a model inside, as one text."""

from __future__ import annotations

import base64
import html
import os
from importlib.resources import files
from pathlib import Path

from toydiffusion.errors import InputError, shown
from toydiffusion.files import replacing
from toydiffusion.model import load

_PLACE = '<script type="application/octet-stream" id="model"></script>'
"""Where the page looks for a model. The browser does not run a script of this type."""


def page(model: str | os.PathLike[str] | None = None) -> str:
    """Return the page as HTML: one text without references to other files.

    - `model`: the file of a model to open in it; None (default): the page starts with the square.

    Raises `InputError` for a file that is not a model, for a model for tables, and for one of other than two
    columns.

    >>> "<title>Toy-Diffusion lab</title>" in page()
    True
    """
    text = (files("toydiffusion.lab") / "page" / "index.html").read_text(encoding="utf-8")
    if model is None:
        return text
    fitted = load(model).fitted
    if fitted.experts is not None:
        raise InputError(
            f"the page runs a single network, and {shown(str(model))} is a model for tables; "
            "fit one with --preset default"
        )
    if (dim := fitted.dim) != 2:
        raise InputError(
            f"the page shows models of two columns, and {shown(str(model))} has {dim}; "
            "fit a model on two columns, with --columns"
        )
    before, after = text.split(_PLACE)
    name = html.escape(Path(model).name)
    content = base64.b64encode(Path(model).read_bytes()).decode()
    return f'{before}{_PLACE[: -len("></script>")]} data-name="{name}">{content}</script>{after}'


def export(model: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write the page with a model inside to an `.html` file, whole or not at all. It needs no network.

    - `model`: the file of a model of two columns.
    - `path`: the file to write.

    Raises `InputError` for another suffix, and as `page` does.
    """
    if not str(path).endswith(".html"):
        raise InputError(f"a page ends in '.html', got {shown(str(path))}")
    text = page(model)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
