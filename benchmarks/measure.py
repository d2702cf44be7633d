"""What the benchmarks share: the draws, the mixture, and how a measured number is printed."""

from __future__ import annotations

import statistics

from toydiffusion.distributions import GaussianMixture

DRAWS = (0, 1, 2)
"""Draws of the training points and of the weights."""
MIXTURE = GaussianMixture(
    [[-1.5, 0.0], [1.0, 1.0], [0.8, -1.2]],
    [[[0.3, 0.15], [0.15, 0.2]], [[0.15, -0.1], [-0.1, 0.4]], [[0.25, 0.0], [0.0, 0.1]]],
    weights=[0.4, 0.35, 0.25],
)


def report(what: str, measured: str, target: str) -> None:
    """Print a row: what was measured, and what must be reached."""
    print(f"{what:66} {measured:40} (must reach {target})", flush=True)


def each(numbers: list[float], digits: int = 4) -> str:
    """Return the median, and each number in brackets."""
    return f"{statistics.median(numbers):.{digits}f}  [{', '.join(f'{v:.{digits}f}' for v in numbers)}]"
