"""Pages that are files of the repository's root: their text is read from there, with its links set right."""

import re
from pathlib import Path

from sphinx.application import Sphinx

PAGES = {
    "CHANGELOG.md": "contributors/changelog",
    "CONTRIBUTING.md": "contributors/index",
    "SECURITY.md": "contributors/security",
}


def _read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the text of the file before that of its page."""
    for name, page in PAGES.items():
        if page == docname:
            path = Path(app.srcdir).parent / name
            app.env.note_dependency(path)
            source[0] = re.sub(r"\]\(([^):#]+)", _link, path.read_text()) + source[0]


def _link(match: re.Match[str]) -> str:
    target = match[1]
    return f"](/{PAGES.get(target, target.removeprefix('docs/').removesuffix('.md'))}.md"


def setup(app: Sphinx) -> dict[str, bool]:
    """Read the pages from their files."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
