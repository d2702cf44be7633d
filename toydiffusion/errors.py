"""Errors about what the user gave, and the checks of single values that raise them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real


class InputError(ValueError):
    """The user gave something that cannot be used.

    The message is one line. It says what was given and what is allowed. The command line prints it and exits
    with code 2. In Python it is an ordinary `ValueError`.
    """


def whole_number(name: str, value: object, least: int, most: int | None = None, *, hint: str = "") -> int:
    """Return `value` as an int if it is a whole number from `least` to `most`.

    Python's and NumPy's integers are whole numbers; booleans and floats are not. `hint` ends the message.
    Raises `InputError` that names the value.

    >>> whole_number("steps", 2.5, 1)
    Traceback (most recent call last):
    toydiffusion.errors.InputError: steps must be a whole number >= 1, got 2.5
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        allowed = f">= {least}" + ("" if most is None else f" and <= {most:,}")
        raise InputError(f"{name} must be a whole number {allowed}{hint}, got {shown(value)}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def seed_number(value: object, name: str = "seed") -> int:
    """Return `value` as an int if it can be a seed: a whole number from 0 to 2**63 - 1.

    >>> seed_number(-1)
    Traceback (most recent call last):
    toydiffusion.errors.InputError: seed must be a whole number >= 0 and below 2**63, got -1
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not 0 <= value < 2**63:  # type: ignore[operator]
        raise InputError(f"{name} must be a whole number >= 0 and below 2**63, got {shown(value)}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def finite_number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    unit: str = "",
) -> float:
    """Return `value` as a float if it is a finite real number within the bounds given.

    `least` is allowed itself; `above` and `below` are not. `unit` follows the word "number" in the message.

    >>> finite_number("tolerance", 0, above=0, unit="of nats")
    Traceback (most recent call last):
    toydiffusion.errors.InputError: tolerance must be a finite number of nats > 0, got 0
    """
    bounds = [(">=", least), (">", above), ("<", below)]
    allowed = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
    real = isinstance(value, Real) and not isinstance(value, bool)
    try:
        found = float(value) if real else math.nan  # type: ignore[arg-type]
    except OverflowError:
        found = math.inf
    good = (
        math.isfinite(found)
        and (least is None or found >= least)
        and (above is None or found > above)
        and (below is None or found < below)
    )
    if not good:
        words = " ".join(word for word in ("a finite number", unit, allowed) if word)
        raise InputError(f"{name} must be {words}, got {shown(value)}")
    return found


def choice(kind: str, value: object, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of the `allowed` words.

    >>> choice("solver", "hein", ["euler", "heun"])
    Traceback (most recent call last):
    toydiffusion.errors.InputError: unknown solver 'hein': did you mean 'heun'? Allowed: 'euler', 'heun'
    """
    words = list(allowed)
    if not isinstance(value, str) or value not in words:
        raise InputError(f"unknown {kind} {shown(value)}: {nearest(str(value), words)}")
    return value


def store(value: object, field: str, checked: object) -> None:
    """Put a checked value into a field of a frozen dataclass, in its `__post_init__`."""
    object.__setattr__(value, field, checked)


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return the end of an error message: the allowed word closest to `word`, then all of them.

    A long list is cut after 20 words.

    >>> nearest("hein", ["euler", "heun"])
    "did you mean 'heun'? Allowed: 'euler', 'heun'"
    """
    from difflib import get_close_matches

    words = list(allowed)
    close = get_close_matches(word[:100], words, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    more = f" and {len(words) - 20:,} more" if len(words) > 20 else ""
    return f"{hint}Allowed: {', '.join(shown(one) for one in words[:20])}{more}"


def shown(value: object) -> str:
    """Return `value` as Python writes it, control characters escaped, cut to 80 characters.

    >>> shown("a\\x1b[2J")
    "'a\\\\x1b[2J'"
    """
    text = repr(value)
    text = " ".join(text.split()) if not isinstance(value, str) else text
    return text if len(text) <= 80 else f"{text[:60]}...{text[-15:]}"


def printable(text: str) -> str:
    r"""Return `text` with control characters escaped, for names from files that go to a terminal.

    >>> printable("size \x1b[2J")
    'size \\x1b[2J'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def plain(text: object) -> str:
    """Return the first line of a text without its final period, control characters escaped.

    >>> plain("bad \\x1b[2J cell.\\nmore")
    'bad \\\\x1b[2J cell'
    """
    line = str(text).partition("\n")[0].rstrip(". ")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
