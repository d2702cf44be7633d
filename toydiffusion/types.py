"""Row 0: the shapes, the one protocol, and the one error that everything else shares.

Inside the core ranks are fixed: points `(n, d)`, noise levels `(n,)`, labels `(n,)` as class indices 0..K-1.
A noisy point is `z + sigma * eps`, whatever the schedule.
"""

from __future__ import annotations

from numbers import Integral
from typing import Protocol, TypeAlias

from torch import Tensor

Points: TypeAlias = Tensor
"""Points, `(n, d)`."""
Levels: TypeAlias = Tensor
"""Noise levels sigma, `(n,)`, all > 0."""
Labels: TypeAlias = Tensor
"""Class indices 0..K-1, `(n,)`, int64."""


class Denoiser(Protocol):
    """The posterior mean of the clean point given the noisy one.

    `D(z; sigma, label) = E[z0 | z0 + sigma eps = z]`, with z0 from the class `label`.

    Any callable of this shape is a denoiser: a trained network, the `denoise` method of an exact
    distribution, or a function that wraps another denoiser. With `label` None it answers for the
    mixture of all classes. It is all one needs: the score is `(D(z; sigma) - z) / sigma**2`
    (Tweedie's formula; Efron 2011).

    Shapes: `z` `(n, d)`, `sigma` `(n,)`, `label` `(n,)` or None; returns `(n, d)`. Row i of the answer
    depends on row i of the arguments only.
    """

    def __call__(self, z: Points, sigma: Levels, label: Labels | None = None, /) -> Points:
        """Return `E[z0 | z]`, `(n, d)`."""
        ...


class InputError(ValueError):
    """What the user gave cannot be used; the message says what was got and what is allowed.

    The command line turns it into one line and exit code 2; in Python it is an ordinary `ValueError`.
    """


def whole_number(name: str, value: object, least: int, more: str = "") -> int:
    """Return `value` if it is a whole number of at least `least`; raise InputError that names it if not.

    >>> whole_number("steps", 2.5, 1)
    Traceback (most recent call last):
    toydiffusion.types.InputError: steps must be a whole number >= 1, got 2.5
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name} must be a whole number >= {least}{more}, got {value!r}")
    return int(value)


def nearest(word: str, allowed: list[str]) -> str:
    """Return the end of an error message: the allowed words, the one closest to `word` first.

    >>> nearest("hein", ["euler", "heun"])
    "did you mean 'heun'? Allowed: 'euler', 'heun'"
    """
    from difflib import get_close_matches

    close = get_close_matches(word, allowed, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return hint + "Allowed: " + ", ".join(repr(a) for a in allowed)
