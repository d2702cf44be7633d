"""The report: results and figures as one self-contained page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toydiffusion.figures import COLOURS

SECTIONS = {
    "forward": "The data and the forward process",
    "training": "Training, and the least possible loss",
    "seeds": "Samples from different seeds",
    "steps": "The reverse process in few and many steps",
    "schedules": "sqrt, linear or exp?",
    "classes": "The conditional model and its borders",
    "densities": "How probable is a point?",
    "fields": "Inside the model",
    "made": "How this report was made",
}
"""The titles of the sections by anchor, in order."""


def page(results: Mapping[str, Any], images: Mapping[str, Path]) -> str:
    """Return the report as HTML.

    - `results`: the contents of `results.json`.
    - `images`: the PNG and GIF files by name. They are embedded.

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
    template = environment.get_template("report.html.j2")
    return template.render(r=results, embedded=embedded, sections=SECTIONS.items(), colours=COLOURS)
