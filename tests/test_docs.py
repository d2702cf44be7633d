"""The documentation site: what builds it, and that it leaves nothing out."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from pathlib import Path

import pytest

import toydiffusion as td

DOCS = Path(__file__).parent.parent / "docs"
sys.path.append(str(DOCS / "_ext"))
import docstrings  # noqa: E402
import links  # noqa: E402

DIRECTIVE = re.compile(r"^```\{public\} (\S+)(.*)$", re.MULTILINE)


def test_the_reference_holds_every_public_name() -> None:
    described: set[int] = set()
    for page in (DOCS / "reference").glob("*.md"):
        for module, names in DIRECTIVE.findall(page.read_text()):
            found = importlib.import_module(module)
            described |= {id(getattr(found, name)) for name in names.split() or found.__all__}
    missing = [
        name
        for name in td.__all__
        if id(getattr(td, name)) not in described
        and not hasattr(getattr(td, name), "__path__")
        # A module is described by its own names.
        and not isinstance(getattr(td, name), type(td))
    ]
    assert missing == []


def test_every_folder_is_in_the_reference_but_the_programs_own() -> None:
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    listed = {module.removeprefix("toydiffusion.") for module, _ in DIRECTIVE.findall(text)}
    folders = {module.name for module in pkgutil.iter_modules(td.__path__) if module.ispkg}
    # `model` is described by the names of the package itself.
    assert folders - listed == {"cli", "files", "model"}


def test_a_docstring_becomes_restructured_text() -> None:
    text = """Return `x * y` of *both*, by `LogDensity.value`.

    p(x) = |x|

- `n`: a number, as in

      n = a_b

  and `more`.

>>> 2 * 3
6
"""
    found = "\n".join(docstrings.translated(text.splitlines(), ["n"]))
    assert (
        found
        == r"""Return ``x * y`` of \*both\*, by :py:obj:`LogDensity.value`.

::

    p(x) = |x|

- ``n``: a number, as in

  ::

      n = a_b

  and :py:obj:`more`.

>>> 2 * 3
6"""
    )


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ('<a href="other.html#here">', None),
        ('<a href="#there">', "no place #there"),
        ('<a href="missing.html">', "no file missing.html"),
        ('<a href="other.html#there">', "no place other.html#there"),
        ('<img src="https://example.org/a.png">', "loads https://example.org/a.png from another host"),
        ('<a href="https://example.org/">', None),
    ],
)
def test_a_broken_link_is_found(tmp_path, body: str, complaint: str | None) -> None:
    (tmp_path / "other.html").write_text('<p id="here">')
    (tmp_path / "page.html").write_text(body)
    assert links.broken(tmp_path) == ([] if complaint is None else [f"page.html: {complaint}"])
