"""Figures of noise and of denoisers: noised densities, scores, denoised means, trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from toydiffusion.distributions import Distribution
from toydiffusion.figures.style import COLOURS, Floats, Outline, canvas, plane
from toydiffusion.types import Denoiser

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


RARE = 3.5
"""Only one noisy point in 500 is farther than this from its clean point, in units of sigma."""


@torch.no_grad()
def denoised(denoiser: Denoiser, z: Floats, sigma: float) -> Floats:
    """Return the denoised means of points, `(n, 2)`, at one noise level."""
    points = torch.from_numpy(np.ascontiguousarray(z, dtype=np.float64))
    return denoiser(points, torch.full((len(points),), sigma, dtype=torch.float64), None).double().numpy()


def lattice(half_width: float, n: int) -> Floats:
    """Return an n x n lattice over `[-half_width, half_width]^2`, in rows, `(n * n, 2)`."""
    side = np.linspace(-half_width, half_width, n)
    return np.stack(np.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)


def _arrows(ax: Axes, denoiser: Denoiser, sigma: float, half_width: float, colour: str) -> None:
    """Show `(D - z) / sigma` as arrows on a lattice."""
    z = lattice(half_width * 0.94, 17)
    arrow = (denoised(denoiser, z, sigma) - z) / sigma
    # Far outside, at low noise, arrows are long: shorten them, and keep their direction.
    length = np.linalg.norm(arrow, axis=1, keepdims=True)
    arrow = arrow * np.minimum(1, 2 / np.maximum(length, 1e-12))
    ax.quiver(
        z[:, 0], z[:, 1], arrow[:, 0], arrow[:, 1], color=colour, angles="xy", scale_units="xy",
        scale=2.2 * 8 / half_width, width=0.0055, headwidth=3.2, headlength=3.6, headaxislength=3.2,
        minlength=0.6,
    )  # fmt: skip


def _means(ax: Axes, denoiser: Denoiser, sigma: float, half_width: float, colour: str) -> None:
    """Show the denoised means of the lines of a square grid."""
    lines, points = 17, 161
    along, across = np.linspace(-half_width, half_width, points), np.linspace(-half_width, half_width, lines)
    grid = np.stack(np.meshgrid(along, across, indexing="xy"), -1).reshape(-1, 2)
    for line in (grid, grid[:, ::-1]):
        bent = denoised(denoiser, line, sigma).reshape(lines, points, 2)
        ax.plot(bent[:, :, 0].T, bent[:, :, 1].T, color=colour, linewidth=0.6, alpha=0.8)


def _reach(outline: Outline) -> float:
    """Return the half width of a panel that shows the outline and little more."""
    return max(float(np.abs(line).max()) for line in outline) * 1.12


def noised_law(
    law: Distribution, *, sigmas: Sequence[float], outline: Outline, half_width: float = 2.5
) -> Figure:
    """Return what noise makes of an exact law: densities, arrows and denoised means for each noise level.

    - `law`: the law, in two dimensions.
    - `sigmas`: the noise levels, a column for each.
    - `outline`: closed lines around the point set.
    - `half_width`: densities and arrows cover `[-half_width, half_width]^2`, default 2.5.

    Each density is shown from 0 to its own maximum. The arrows are `sigma * score = (D - z) / sigma`. The
    last row shows the denoised means of a square grid.
    """
    side = 160
    fine, reach = lattice(half_width, side), _reach(outline)
    box = (-half_width, half_width, -half_width, half_width)
    with canvas(2.45 * len(sigmas) + 0.3, 7.7, 3, len(sigmas)) as (figure, axes):
        for j, sigma in enumerate(sigmas):
            density = np.exp(law.log_prob(fine, sigma)).reshape(side, side)
            axes[0, j].imshow(
                density, origin="lower", extent=box, cmap="Blues", vmin=0, interpolation="bilinear"
            )
            axes[0, j].set_title(f"σ = {sigma:g}")
            _arrows(axes[1, j], law.denoise, sigma, half_width, COLOURS["truth"])
            _means(axes[2, j], law.denoise, sigma, half_width, COLOURS["truth"])
            for ax, width in zip(axes[:, j], (half_width, half_width, reach), strict=True):
                plane(ax, outline, width)
        for ax, name in zip(axes[:, 0], ("density", "arrows to the mean", "denoised grid"), strict=True):
            ax.set_ylabel(name)
    return figure


def score_fields(
    learned: Denoiser, exact: Denoiser, *, sigmas: Sequence[float], outline: Outline, half_width: float = 3.0
) -> Figure:
    """Return the learned score, the exact score and their difference, with a column for each noise level.

    - `learned`, `exact`: the denoisers.
    - `sigmas`: the noise levels.
    - `outline`: closed lines around the point set.
    - `half_width`: the panels show `[-half_width, half_width]^2`, default 3.

    The arrows are `sigma * score = (D - z) / sigma`, whose length is of order 1 at every noise level. The
    difference is `|D_learned - D_exact| / sigma`. It is blank where the exact arrow is longer than `RARE`,
    because noisy points are almost never there.
    """
    fine = lattice(half_width, 150)
    with canvas(2.45 * len(sigmas) + 0.6, 7.6, 3, len(sigmas)) as (figure, axes):
        for j, sigma in enumerate(sigmas):
            for i, (denoiser, colour) in enumerate(((learned, "model"), (exact, "truth"))):
                ax = axes[i, j]
                plane(ax, outline, half_width)
                _arrows(ax, denoiser, sigma, half_width, COLOURS[colour])
            mean = denoised(exact, fine, sigma)
            gap = np.linalg.norm(denoised(learned, fine, sigma) - mean, axis=1) / sigma
            gap[np.linalg.norm(mean - fine, axis=1) > RARE * sigma] = np.nan
            plane(axes[2, j], outline, half_width)
            image = axes[2, j].imshow(
                gap.reshape(150, 150), origin="lower", cmap="magma_r", vmin=0, vmax=1,
                extent=(-half_width, half_width, -half_width, half_width), interpolation="nearest",
            )  # fmt: skip
            axes[0, j].set_title(f"σ = {sigma:g}")
        for i, name in enumerate(("learned score", "exact score", "difference")):
            axes[i, 0].set_ylabel(name)
        figure.colorbar(image, ax=axes[2, :], shrink=0.85, aspect=14, extend="max", label="in units of 1/σ")
    return figure


def denoised_grids(
    learned: Denoiser, exact: Denoiser, *, sigmas: Sequence[float], outline: Outline, half_width: float = 3.0
) -> Figure:
    """Return the denoised means of a regular grid, learned above exact, with a column for each noise level.

    - `learned`, `exact`: the denoisers.
    - `sigmas`: the noise levels.
    - `outline`: closed lines around the point set.
    - `half_width`: the grid covers `[-half_width, half_width]^2`, default 3.
    """
    reach = _reach(outline)
    with canvas(2.45 * len(sigmas) + 0.3, 5.3, 2, len(sigmas)) as (figure, axes):
        for j, sigma in enumerate(sigmas):
            for i, (denoiser, colour) in enumerate(((learned, "model"), (exact, "truth"))):
                ax = axes[i, j]
                plane(ax, outline, reach)
                _means(ax, denoiser, sigma, half_width, COLOURS[colour])
            axes[0, j].set_title(f"σ = {sigma:g}")
        axes[0, 0].set_ylabel("learned means")
        axes[1, 0].set_ylabel("exact means")
    return figure


def trajectories(
    panels: Sequence[tuple[str, str, Floats]], *, outline: Outline, half_width: float = 3.0
) -> Figure:
    """Return the trajectories of points, with their starts and ends marked.

    - `panels`: (title, colour, trajectory `(levels, n, 2)`) for each panel, from left to right.
    - `outline`: closed lines around the point set.
    - `half_width`: the panels show `[-half_width, half_width]^2`, default 3.
    """
    with canvas(4.6 * len(panels), 4.9, 1, len(panels)) as (figure, axes):
        for ax, (title, colour, points) in zip(axes[0], panels, strict=True):
            plane(ax, outline, half_width)
            ax.plot(points[:, :, 0], points[:, :, 1], color=COLOURS[colour], linewidth=0.7, alpha=0.5)
            ax.plot(
                points[0, :, 0], points[0, :, 1], "o", color="white", markeredgecolor=COLOURS[colour],
                markersize=3.4, markeredgewidth=0.8,
            )  # fmt: skip
            ax.plot(points[-1, :, 0], points[-1, :, 1], "o", color=COLOURS[colour], markersize=3.2, zorder=4)
            ax.set_title(title)
    return figure
