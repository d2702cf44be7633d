"""Flags: made from the fields and docstrings of the configurations, so that each setting is said once."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args, get_type_hints

import typer

from toydiffusion.denoisers import PRECONDITIONINGS
from toydiffusion.distillation import DistillConfig
from toydiffusion.schedules import SCHEDULES
from toydiffusion.solvers import SOLVERS, SampleConfig
from toydiffusion.training import TrainConfig

Command: TypeAlias = Callable[..., None]

_CHOICES: dict[str, Sequence[str]] = {
    "schedule": list(SCHEDULES),
    "solver": list(SOLVERS),
    "preconditioning": list(PRECONDITIONINGS),
}


def _reader(kind: type[int | float], needed: str) -> Callable[[str], float]:
    """Return a parser of numbers that names what it found, as typer's own does not."""

    def read(text: str) -> float:
        try:
            return kind(text)
        except ValueError:
            large = kind is int and re.fullmatch(r"[0-9]+(\.[0-9]+)?[eE][0-9]{1,2}", text)
            if large and float(text) % 1 == 0:  # such as 1e9
                return int(float(text))
            raise typer.BadParameter(f"found {text!r}, {needed} is needed") from None

    return read


_KINDS: dict[Any, dict[str, Any]] = {
    int: {"parser": _reader(int, "a whole number"), "metavar": "N"},
    float: {"parser": _reader(float, "a number"), "metavar": "NUMBER"},
    str: {"metavar": "NAME"},
    Path: {"metavar": "FILE"},
}


def flag(
    kind: type,
    text: str,
    *names: str,
    choices: Sequence[str] = (),
    panel: str | None = None,
    metavar: str | None = None,
    default: str | None = None,
) -> Any:
    """Return an option of a command.

    - `kind`: the type of its value.
    - `text`: what it is for.
    - `names`: its names; none: made from the name of the parameter.
    - `choices`: the words allowed. Help shows them and the shell completes them; the command checks them.
    - `panel`: the title of its section of the help.
    - `metavar`: the word for its value in the help; None: that of the kind.
    - `default`: how the help shows the default; None: as it is.
    """
    extra = dict(_KINDS.get(kind, {}))
    if metavar is not None:
        extra["metavar"] = metavar
    if choices:
        text += f" One of: {', '.join(choices)}."

    return typer.Option(
        *names,
        help=text,
        rich_help_panel=panel,
        show_default=True if default is None else default,
        autocompletion=(lambda: list(choices)) if choices else None,
        **extra,
    )


def flags(
    config: type[TrainConfig | SampleConfig | DistillConfig], panel: str = "Settings"
) -> Callable[[Command], Command]:
    """Give a command a flag for each field of `config`; those used reach it as the dict `settings`.

    The flags are in sections of the help, those of the docstring of `config`. `panel` is the title of those
    without a section.
    """
    hints, texts = get_type_hints(config), _field_texts(config)

    def parameter(name: str, default: object) -> inspect.Parameter:
        title, text = texts.get(name, ("", ""))
        kind = next(one for one in (get_args(hints[name]) or (hints[name],)) if one is not type(None))
        option = flag(
            kind, text, choices=_CHOICES.get(name, ()), panel=title or panel, default=_default(default)
        )
        annotation: Any = Annotated[hints[name] | None, option]
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

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


def _default(value: object) -> str | None:
    """Return a default as the help shows it. The docstring explains None."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else None if value is None else str(value)


def _field_texts(config: type) -> dict[str, tuple[str, str]]:
    """Return what the docstring of `config` says of each field: the title above it, and its text.

    Fields are items that read "- `name`: text". A title is a paragraph that ends with a colon. What is for
    Python alone is left out: "(None)" and "a name in `module.NAMES`".
    """
    texts, title = {}, ""
    for paragraph in (inspect.getdoc(config) or "").split("\n\n"):
        if paragraph.endswith(":"):
            title = " ".join(paragraph.removesuffix(":").split())
        for item in re.split(r"^- ", paragraph, flags=re.MULTILINE)[1:]:
            name, _, text = " ".join(item.split()).partition(": ")
            text = re.sub(r",? (\(None\)|a name in `[\w.]+`)", "", text).replace("`", "")
            texts[name.strip("`")] = (title, text[:1].upper() + text[1:])
    return texts


def in_flags(message: str, names: Collection[str]) -> str:
    """Return a message about settings with flags in the place of their names.

    Only the first word of the message and words with an underscore are replaced, and nothing in quotes.

    >>> in_flags("batch_size must be a whole number, and steps too", ["steps", "batch_size"])
    '--batch-size must be a whole number, and steps too'
    """

    def flag(found: re.Match[str]) -> str:
        word = found[0]
        named = word in names and (found.start() == 0 or "_" in word)
        return "--" + word.replace("_", "-") if named else word

    return re.sub(r"(?<!['\"\w./-])[a-z_]+(?!['\"\w./-])", flag, message)
