"""Each tutorial can be downloaded, as a script and as a notebook. Both are written from its source."""

import os
from pathlib import Path

import jupytext
from sphinx.application import Sphinx

_LINKS = """
<p class="downloads">Run it yourself: <a href="{name}.ipynb" download>notebook</a> ·
<a href="{name}.py" download>script</a></p>
"""


def _is_tutorial(docname: str) -> bool:
    return docname.startswith("tutorials/") and not docname.endswith("/index")


def _link(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add the links below the title."""
    if _is_tutorial(docname):
        head, title, rest = source[0].partition("\n# ")
        name, _, body = rest.partition("\n")
        source[0] = f"{head}{title}{name}\n{_LINKS.format(name=Path(docname).name)}{body}"


def _write(app: Sphinx, error: Exception | None) -> None:
    """Write the files beside the pages."""
    if error is not None or app.builder.format != "html":
        return
    for docname in filter(_is_tutorial, app.env.found_docs):
        notebook = jupytext.read(os.fspath(app.env.doc2path(docname)))
        for suffix, form in ((".ipynb", "ipynb"), (".py", "py:percent")):
            jupytext.write(notebook, Path(app.outdir, docname + suffix), fmt=form)


def setup(app: Sphinx) -> dict[str, bool]:
    """Link and write the files of every tutorial."""
    app.connect("source-read", _link)
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True}
