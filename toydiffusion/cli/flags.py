"""Flags: made from the fields and docstrings of the configurations, so that each setting is said once."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Annotated, Any, TypeAlias, get_type_hints

import typer

from toydiffusion.denoisers import PRECONDITIONINGS
from toydiffusion.schedules import SCHEDULES
from toydiffusion.solvers import SOLVERS, SampleConfig
from toydiffusion.training import TrainConfig

Command: TypeAlias = Callable[..., None]

_CHOICES: dict[str, Iterable[str]] = {
    "schedule": SCHEDULES,
    "solver": SOLVERS,
    "preconditioning": PRECONDITIONINGS,
}


def _reader(kind: type[int | float], needed: str) -> Callable[[str], float]:
    """Return a parser of numbers that names what it found, as typer's own does not."""

    def read(text: str) -> float:
        try:
            return kind(text)
        except ValueError:
            raise typer.BadParameter(f"found {text!r}, {needed} is needed") from None

    return read


_INT = {"parser": _reader(int, "a whole number"), "metavar": "<int>"}
_FLOAT = {"parser": _reader(float, "a number"), "metavar": "<float>"}
_NUMBERS: dict[Any, dict[str, Any]] = {
    int: _INT,
    int | None: _INT,
    float: _FLOAT,
    float | None: _FLOAT,
}


def flag(kind: Any, text: str, *names: str, panel: str | None = None, show_default: bool | str = True) -> Any:
    """Return an option that reads numbers in one way and explains itself."""
    extra = _NUMBERS.get(kind, {})
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=show_default, **extra)


def flags(config: type[TrainConfig | SampleConfig], panel: str) -> Callable[[Command], Command]:
    """Give a command a flag for each field of `config`; those used reach it as the dict `settings`."""
    hints, texts = get_type_hints(config), _field_texts(config)

    def parameter(name: str, default: object) -> inspect.Parameter:
        choices = f" One of: {', '.join(_CHOICES[name])}." if name in _CHOICES else ""
        option = flag(hints[name], texts.get(name, "") + choices, panel=panel, show_default=str(default))
        kind: Any = Annotated[hints[name] | None, option]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)

    added = [parameter(field.name, field.default) for field in fields(config)]

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "settings"]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            settings = {option.name: given.pop(option.name) for option in added}
            command(**given, settings={name: v for name, v in settings.items() if v is not None})

        run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
        return run

    return decorate


def _field_texts(config: type) -> dict[str, str]:
    """Return what the docstring of `config` says of each field, in items that read "- `name`: text"."""
    texts = {}
    for item in re.split(r"^- ", inspect.getdoc(config) or "", flags=re.MULTILINE)[1:]:
        head, _, text = " ".join(item.partition("\n\n")[0].split()).partition(": ")
        for name in re.findall(r"`(\w+)`", head):
            texts[name] = text[:1].upper() + text[1:].replace("`", "")
    return texts
