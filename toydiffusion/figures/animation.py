"""The reverse process as an animation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toydiffusion.figures.style import COLOURS, Floats, Outline, canvas, plane
from toydiffusion.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def animation_frames(
    panels: Sequence[tuple[str, str, Floats]], sigmas: Floats, *, outline: Outline, half_width: float = 2.0
) -> list[NDArray[np.uint8]]:
    """Return the reverse process as images, `(height, width, 3)`, one for each noise level.

    - `panels`: (title, colour, trajectory `(levels, n, 2)`) for each panel, from left to right.
    - `sigmas` `(levels,)`: the noise levels, which are shown below.
    - `outline`: closed lines around the point set.
    - `half_width`: the panels show `[-half_width, half_width]^2`, default 2.
    """
    images = []
    with canvas(3.3 * len(panels), 3.8, 1, len(panels)) as (figure, axes):
        dots = []
        for ax, (title, colour, trajectory) in zip(axes[0], panels, strict=True):
            plane(ax, outline, half_width)
            start = trajectory[0]
            dots.append(ax.plot(start[:, 0], start[:, 1], ".", color=COLOURS[colour], markersize=2.6)[0])
            ax.set_title(title)
        caption = figure.supxlabel("σ = 00.000", fontsize=11)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        figure.set_dpi(100)
        for i, sigma in enumerate(sigmas):
            for dot, (_, _, trajectory) in zip(dots, panels, strict=True):
                dot.set_data(trajectory[i, :, 0], trajectory[i, :, 1])
            caption.set_text(f"σ = {sigma:.3f}" if sigma else "denoised")
            images.append(pixels(figure))
    return images


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """Return the figure as an image, `(height, width, 3)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    rendered = FigureCanvasAgg(figure)
    rendered.draw()  # type: ignore[no-untyped-call]
    return np.array(rendered.buffer_rgba())[:, :, :3]  # type: ignore[no-untyped-call]


def save_gif(
    images: Sequence[NDArray[np.uint8]],
    path: str | os.PathLike[str],
    *,
    seconds: float = 0.1,
    rest: float = 2.0,
) -> None:
    """Write images to a looping GIF file, complete or not at all.

    - `images`: `(height, width, 3)` each.
    - `path`: the file.
    - `seconds`: how long each image is shown, default 0.1.
    - `rest`: how long the last image is shown, in seconds, default 2.

    All images share 32 colours, taken from the first and the last image. That is enough for a figure.
    """
    from PIL import Image

    ends = Image.fromarray(np.concatenate([images[0], images[-1]]))
    palette = ends.quantize(32)
    frames = [Image.fromarray(image).quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    times = [round(1000 * seconds)] * (len(frames) - 1) + [round(1000 * rest)]
    with replacing(path) as part:
        frames[0].save(
            part, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True
        )
