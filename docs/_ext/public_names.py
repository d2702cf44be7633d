"""The directives `public` and `public-summary`: the documentation of every public name of a folder.

A name has one home: `toydiffusion` if users find it there, else the first of the listed folders that has it.
"""

import contextlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator

from docstrings import translated
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError, PycodeError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

import toydiffusion


class Summary(SphinxDirective):
    """List the public names of a module, with the first sentence of each."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        (module,) = self.arguments
        found = importlib.import_module(module)
        lines = [".. list-table::", "   :widths: 30 70", ""]
        for name in found.__all__:
            value = getattr(found, name)
            text = (
                "\n".join(_comment(module, name)) if _kind(value) == "data" else inspect.getdoc(value) or ""
            )
            paragraph = " ".join(text.partition("\n\n")[0].split())
            sentence = re.split(r"(?<=\.)\s", paragraph)[0]
            lines += [f"   * - :py:obj:`{name} <{module}.{name}>`", f"     - {next(translated([sentence]))}"]
        return _parsed(self, lines)


class Public(SphinxDirective):
    """Document the names in the `__all__` of a module, or those that are given."""

    required_arguments = 1
    optional_arguments = 100

    def run(self) -> list[nodes.Node]:
        """Return the descriptions of the names."""
        module, *names = self.arguments
        found = importlib.import_module(module)
        lines = [] if names else [f".. py:module:: {module}", ""]
        lines += [line for name in names or _order(found) for line in _described(module, name, found)]
        return _parsed(self, lines)


def _parsed(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    """Return the nodes of lines of reStructuredText in a Markdown page."""
    text = "\n".join(["```{eval-rst}", *lines, "```"])
    return directive.parse_text_to_nodes(text, allow_section_headings=False)


def _order(module: object) -> list[str]:
    """Return the public names: classes, then functions, then values, each in the order of `__all__`."""
    return sorted(module.__all__, key=lambda name: _kind(getattr(module, name)))  # type: ignore[attr-defined]


def _kind(value: object) -> str:
    if inspect.isclass(value):
        return "autoclass"
    return "module" if inspect.ismodule(value) else "autofunction" if callable(value) else "data"


def _described(module: str, name: str, found: object) -> Iterator[str]:
    value = getattr(found, name)
    home = "toydiffusion" if getattr(toydiffusion, name, None) is value else module
    kind = _kind(value)
    if kind == "data":
        yield from (f".. py:data:: {home}.{name}", "")
        yield from ("   " + line for line in translated(_comment(module, name)))
    elif kind != "module":
        yield from (f".. {kind}:: {home}.{name}", "")


def _comment(module: str, name: str) -> list[str]:
    """Return the docstring below the assignment of a value, somewhere in the package of its home."""
    for inside in sorted(sys.modules):
        if inside.startswith(module):
            with contextlib.suppress(PycodeError):
                comments = ModuleAnalyzer.for_module(inside).find_attr_docs()
                if ("", name) in comments:
                    return comments["", name]
    raise ExtensionError(f"{module}.{name} has no docstring")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives."""
    app.add_directive("public", Public)
    app.add_directive("public-summary", Summary)
    return {"parallel_read_safe": True}
