"""The class of all figures of this package. This module imports matplotlib, so it is itself imported late."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

from toydiffusion.figures.style import PNG

_SHARPNESS = 1.5
"""Pixels of the image for each pixel on the page, along each side."""


class NotebookFigure(Figure):
    """A matplotlib `Figure` that shows itself in notebooks, without pyplot and without `%matplotlib`."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Return the PNG, and the size at which it is shown."""
        buffer = BytesIO()
        self.savefig(buffer, **PNG)
        data = buffer.getvalue()
        # The header of a PNG holds width and height in bytes 16 to 23.
        width, height = (int.from_bytes(data[first : first + 4], "big") for first in (16, 20))
        return data, {"width": round(width / _SHARPNESS), "height": round(height / _SHARPNESS)}
