"""The report: results and figures as one self-contained page."""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toydiffusion.figures import COLOURS
from toydiffusion.files import replacing


def page(
    template: str, results: Mapping[str, Any], images: Mapping[str, Path], sections: Mapping[str, str]
) -> str:
    """Return a report as HTML.

    - `template`: the file of its text, in this folder.
    - `results`: the numbers, which the template calls `r`.
    - `images`: the PNG and GIF files by name. They are embedded.
    - `sections`: the titles of the sections by anchor, in order.

    Every computed number is a `<data value="...">` element: the value is the number in `results`, and the
    text is the same number, rounded.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def number(value: float, form: str = ".3f") -> Markup:
        """Return an element with the rounded number as its text and the full number as its value."""
        return Markup('<data value="{}">{}</data>').format(repr(value), format(value, form))

    def embedded(name: str) -> str:
        """Return an image as a data URL."""
        path = images[name]
        kind = path.suffix.removeprefix(".")
        return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

    environment = Environment(
        loader=PackageLoader("toydiffusion", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["n"] = number
    text = environment.get_template(template)
    return text.render(r=results, embedded=embedded, sections=sections.items(), colours=COLOURS)


def write(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    """Return the versions of what makes a report."""
    import matplotlib
    import numpy
    import torch

    import toydiffusion

    return {
        "toydiffusion": toydiffusion.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "matplotlib": matplotlib.__version__,
    }
