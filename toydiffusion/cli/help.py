"""How a command explains itself: plain text with a section for each group of flags."""

from __future__ import annotations

from typing import Any

import typer.core

# typer gives the classes of contexts and formatters no public name, so they are Any here.


class Command(typer.core.TyperCommand):
    """A command. The sections of its help are the panels of its flags."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after the command in the line of usage."""
        return ["[OPTIONS]", *(_names(one) for one in self.get_params(ctx) if _is_argument(one))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections."""
        _write_sections(self.get_params(ctx), formatter)


class Program(typer.core.TyperGroup):
    """The program: its flags, then its commands."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections."""
        _write_sections(self.get_params(ctx), formatter)
        shown = [(name, one) for name, one in self.commands.items() if not one.hidden]
        with formatter.section("Commands"):
            formatter.write_dl([(name, str(one.help).partition("\n")[0]) for name, one in shown])


def _write_sections(parameters: list[Any], formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        usual = "Arguments" if _is_argument(parameter) else "Options"
        title = getattr(parameter, "rich_help_panel", None) or usual
        sections.setdefault(title, []).append((_names(parameter), _text(parameter)))
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl(rows, col_max=24)


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _names(parameter: Any) -> str:
    """Return the names of a parameter and the word for its value."""
    if _is_argument(parameter):
        return str(parameter.metavar)
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return names if parameter.metavar is None else f"{names} {parameter.metavar}"


def _text(parameter: Any) -> str:
    """Return what a parameter is for, and its default: `show_default` if that is text."""
    words = isinstance(parameter.show_default, str)
    default = parameter.show_default if words else parameter.default
    if parameter.required:
        return f"{parameter.help} [required]"
    if default is None or default is False:
        return str(parameter.help)
    return f"{parameter.help} [default: {default}]"
