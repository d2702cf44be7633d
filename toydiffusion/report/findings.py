"""What follows from the measured numbers, as sentences: nothing here knows the answer beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % points of Student's t for 1 to 9 degrees of freedom; more use the last, which is wider."""


@dataclass(frozen=True)
class Verdict:
    """Which of several has the best mean, and whether the paired difference to each other one is clear.

    `difference[name]` is how much better `best` is than `name`, on the mean over seeds; `margin[name]` the
    half width of its 95 % interval; `clear[name]` whether the interval leaves out zero.
    """

    best: str
    means: dict[str, float]
    difference: dict[str, float]
    margin: dict[str, float]
    clear: dict[str, bool]


def verdict(values: Mapping[str, Sequence[float]], *, lower_is_better: bool = True) -> Verdict:
    """Return the best by mean of several measured with the same seeds, `values[name][seed]`.

    >>> verdict({"a": [1.0, 1.1, 0.9], "b": [2.0, 2.1, 1.8]}).clear
    {'b': True}
    """
    sign = 1.0 if lower_is_better else -1.0
    means = {name: float(np.mean(seen)) for name, seen in values.items()}
    best = min(means, key=lambda name: sign * means[name])
    difference, margin, clear = {}, {}, {}
    for name, seen in values.items():
        if name == best:
            continue
        paired = sign * (np.asarray(seen) - np.asarray(values[best]))
        n = len(paired)
        student = _STUDENT[min(n - 2, len(_STUDENT) - 1)] if n > 1 else math.inf
        difference[name] = float(paired.mean())
        margin[name] = student * float(paired.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
        clear[name] = difference[name] > margin[name]
    return Verdict(best, means, difference, margin, clear)


def ranking(found: Verdict, what: str, *, digits: int = 3) -> str:
    """Return a sentence: who is best by what, and over whom that is more than seeds and chance explain."""
    shown = {name: f"{value:.{digits}f}" for name, value in found.means.items()}
    others = ", ".join(f"{name} {shown[name]}" for name in shown if name != found.best)
    start = f"By {what}, {found.best} is best on average ({shown[found.best]}; {others})"
    if all(found.clear.values()):
        return f"{start}, and clearly so: the 95 % interval of each difference leaves out zero."
    if not any(found.clear.values()):
        return f"{start}, but not clearly: the 95 % interval of each difference includes zero."
    won = " and ".join(name for name, clear in found.clear.items() if clear)
    tied = " and ".join(name for name, clear in found.clear.items() if not clear)
    return f"{start}: clearly better than {won}, not clearly better than {tied}."


def claim(verdicts: Mapping[str, Verdict], name: str) -> str:
    """Return whether "`name` is best" holds: by every measure clearly, by some, or by none."""
    start = f"The original's finding that {name} is best"
    won = [what for what, found in verdicts.items() if found.best == name]
    clear = [what for what in won if all(verdicts[what].clear.values())]
    beaten = [
        f"{found.best} (by {what})"
        for what, found in verdicts.items()
        if what not in won and found.clear[name]
    ]
    if len(clear) == len(verdicts):
        return f"{start} is confirmed, clearly by every measure."
    if not won:
        return f"{start} is not confirmed: by no measure is it best" + (
            f", and it is clearly beaten by {_list(beaten)}."
            if beaten
            else ", though by none clearly beaten."
        )
    if beaten:
        return (
            f"{start} depends on the measure: it is best by {_list(won)}, clearly beaten by {_list(beaten)}."
        )
    rest = [what for what in verdicts if what not in clear]
    if clear:
        return f"{start} holds clearly by {_list(clear)}; by {_list(rest)} it is not clearly ahead."
    return f"{start} is not shown by these seeds: best by {_list(won)}, but never clearly."


def settled(steps: Sequence[int], distance: Sequence[float], *, within: float = 0.02) -> int:
    """Return the fewest steps from which on no distance is more than `within` from the last one.

    >>> settled([1, 10, 100], [0.9, 0.21, 0.2])
    10
    """
    first = len(steps) - 1
    while first > 0 and abs(distance[first - 1] - distance[-1]) <= within:
        first -= 1
    return steps[first]


def solver_or_network(name: str, steps: int, *, learned: float, exact: float, floor: float) -> str:
    """Return a sentence that shares out a distance at some number of steps between solver and network."""
    solver, network = exact - floor, learned - exact
    start = (
        f"At {steps:,} steps {name} is {learned:.3f} from the truth; the exact denoiser in the same steps "
        f"{exact:.3f}, true points {floor:.3f}"
    )
    if max(solver, network) < 0.02:
        return f"{start}: what is left is chance."
    if solver > 2 * network:
        return f"{start}: most of the excess is the solver's."
    if network > 2 * solver:
        return f"{start}: most of the excess is the network's."
    return f"{start}: solver and network share the excess."


def spaces(overall: float, std_error: float) -> str:
    """Return a sentence: are there empty spaces between the classes?"""
    start = (
        f"Near the borders there are {overall:.2f} times as many points as in truth "
        f"(standard error {std_error:.2f})"
    )
    if overall < 1 - 2 * std_error:
        return f"{start}: the security spaces are real, {1 - overall:.0%} of the border is left empty."
    if overall > 1 + 2 * std_error:
        return f"{start}: there are no security spaces, the borders are crowded."
    return f"{start}: no security spaces can be told from chance."


def _list(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
