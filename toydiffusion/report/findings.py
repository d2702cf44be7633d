"""Conclusions from the measured numbers, as sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom. Beyond 9 the last is used."""


@dataclass(frozen=True)
class Verdict:
    """Which name has the best mean over the seeds, and its paired differences from the others.

    - `best`: the name with the best mean.
    - `means`: the mean of each name.
    - `difference`: for each other name, how much better `best` is on average.
    - `margin`: the half width of the 95 % confidence interval of each difference.
    - `clear`: whether that interval excludes zero.
    """

    best: str
    means: dict[str, float]
    difference: dict[str, float]
    margin: dict[str, float]
    clear: dict[str, bool]


def verdict(values: Mapping[str, Sequence[float]], *, lower_is_better: bool = True) -> Verdict:
    """Return which name has the best mean.

    - `values`: for each name the values of the same seeds.
    - `lower_is_better`: whether low values are good, default True.

    >>> verdict({"a": [1.0, 1.1, 0.9], "b": [2.0, 2.1, 1.8]}).clear
    {'b': True}
    """
    sign = 1.0 if lower_is_better else -1.0
    means = {name: float(np.mean(measured)) for name, measured in values.items()}
    best = min(means, key=lambda name: sign * means[name])
    difference, margin, clear = {}, {}, {}
    for name, measured in values.items():
        if name == best:
            continue
        paired = sign * (np.asarray(measured) - np.asarray(values[best]))
        n = len(paired)
        student = _STUDENT[min(n - 2, len(_STUDENT) - 1)] if n > 1 else math.inf
        difference[name] = float(paired.mean())
        margin[name] = student * float(paired.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
        clear[name] = difference[name] > margin[name]
    return Verdict(best, means, difference, margin, clear)


def ranking(found: Verdict, what: str, *, digits: int = 3) -> str:
    """Return a sentence that says which name is best by a measure, and which differences are clear."""
    shown = {name: f"{value:.{digits}f}" for name, value in found.means.items()}
    others = ", ".join(f"{name} {shown[name]}" for name in shown if name != found.best)
    start = f"By {what}, {found.best} is best on average ({shown[found.best]}; {others})"
    if all(found.clear.values()):
        return f"{start}, and clearly so: the 95 % confidence interval of each difference excludes zero."
    if not any(found.clear.values()):
        return f"{start}, but not clearly: the 95 % confidence interval of each difference includes zero."
    won = " and ".join(name for name, clear in found.clear.items() if clear)
    tied = " and ".join(name for name, clear in found.clear.items() if not clear)
    return f"{start}. It is clearly better than {won}, but not clearly better than {tied}."


def claim(verdicts: Mapping[str, Verdict], name: str) -> str:
    """Return a sentence that says whether `name` is best by every measure, by some, or by none."""
    start = f"The original's finding that {name} is best"
    won = [what for what, found in verdicts.items() if found.best == name]
    clear = [what for what in won if all(verdicts[what].clear.values())]
    beaten = [
        f"{found.best} (by {what})"
        for what, found in verdicts.items()
        if what not in won and found.clear[name]
    ]
    if len(clear) == len(verdicts):
        return f"{start} is confirmed: it is clearly best by every measure."
    if not won:
        return f"{start} is not confirmed: it is best by no measure" + (
            f", and clearly beaten by {_list(beaten)}." if beaten else ", but never clearly beaten."
        )
    if beaten:
        return (
            f"{start} depends on the measure: it is best by {_list(won)}, but clearly beaten by "
            f"{_list(beaten)}."
        )
    rest = [what for what in verdicts if what not in clear]
    if clear:
        return f"{start} clearly holds by {_list(clear)}. By {_list(rest)} it is not clearly best."
    return f"{start} is not shown by these seeds: it is best by {_list(won)}, but never clearly."


def settled(steps: Sequence[int], distance: Sequence[float], *, change: float = 0.02) -> int:
    """Return the fewest steps from which on every distance differs from the last by at most `change`.

    >>> settled([1, 10, 100], [0.9, 0.21, 0.2])
    10
    """
    first = len(steps) - 1
    while first > 0 and abs(distance[first - 1] - distance[-1]) <= change:
        first -= 1
    return steps[first]


def solver_or_network(name: str, steps: int, *, learned: float, exact: float, floor: float) -> str:
    """Return a sentence that attributes a distance from the truth to the solver or to the network.

    - `steps`: the number of steps.
    - `name`: what was sampled.
    - `learned`: the total variation with the network.
    - `exact`: the total variation with the exact denoiser.
    - `floor`: the total variation of as many true points.
    """
    solver, network = exact - floor, learned - exact
    start = (
        f"In {steps:,} steps, {name} has TV {learned:.3f}, the exact denoiser {exact:.3f}, and true points "
        f"{floor:.3f}"
    )
    if max(solver, network) < 0.02:
        return f"{start}. What remains is chance."
    if solver > 2 * network:
        return f"{start}. Most of the excess is due to the solver."
    if network > 2 * solver:
        return f"{start}. Most of the excess is due to the network."
    return f"{start}. Solver and network both cause the excess."


def spaces(overall: float, std_error: float) -> str:
    """Return a sentence that says whether there are empty spaces between the classes."""
    start = (
        f"Near the borders there are {overall:.2f} times as many points as under the truth "
        f"(standard error {std_error:.2f})"
    )
    if overall < 1 - 2 * std_error:
        return f"{start}. The security spaces are real: {1 - overall:.0%} of the points there are missing."
    if overall > 1 + 2 * std_error:
        return f"{start}. There are no security spaces: the borders have too many points."
    return f"{start}. Security spaces cannot be distinguished from chance."


def _list(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
