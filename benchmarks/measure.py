"""What the benchmarks share: draws, the mixture, timings in turn, and how a measured number is printed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from toydiffusion.distributions import GaussianMixture

DRAWS = (0, 1, 2)
"""Draws of the training points and of the weights."""
MIXTURE = GaussianMixture(
    [[-1.5, 0.0], [1.0, 1.0], [0.8, -1.2]],
    [[[0.3, 0.15], [0.15, 0.2]], [[0.15, -0.1], [-0.1, 0.4]], [[0.25, 0.0], [0.0, 0.1]]],
    weights=[0.4, 0.35, 0.25],
)


@dataclass(frozen=True)
class Timing:
    """The seconds of one piece of work in each round, and its time over the first piece's, round by round."""

    seconds: tuple[float, ...]
    ratios: tuple[float, ...]

    def __str__(self) -> str:
        """Return the median seconds and the median ratio, each with its least and greatest."""
        return f"{_spread(self.seconds)} s, ratio {_spread(self.ratios)}"


def _spread(numbers: tuple[float, ...]) -> str:
    return f"{statistics.median(numbers):.3g} [{min(numbers):.3g} to {max(numbers):.3g}]"


def in_turn(work: Mapping[str, Callable[[], object]], *, rounds: int = 5) -> dict[str, Timing]:
    """Time pieces of work in turn, all of them in every round, after one round that does not count.

    On a shared machine the same work can take several times as long a minute later. Two pieces are therefore
    compared within each round: `ratios` are times over that of the first piece in the same round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, do in work.items():
            start = time.perf_counter()
            do()
            if number:
                seconds[name].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    return {
        name: Timing(tuple(own), tuple(a / b for a, b in zip(own, first, strict=True)))
        for name, own in seconds.items()
    }


REPORTED: list[tuple[str, str, str]] = []
"""The rows so far."""


def report(what: str, measured: str, target: str) -> None:
    """Print a row, and keep it: what was measured, and what must be reached."""
    REPORTED.append((what, measured, target))
    print(f"{what:66} {measured:40} (must reach {target})", flush=True)


def each(numbers: list[float], digits: int = 4) -> str:
    """Return the median, and each number in brackets."""
    return f"{statistics.median(numbers):.{digits}f}  [{', '.join(f'{v:.{digits}f}' for v in numbers)}]"
