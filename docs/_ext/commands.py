"""The directive `command`: run commands when the page is built, and show them with what they print.

All commands of a page run in one empty folder, from top to bottom. The option `exit` is the exit code that
the last of them must have, by default 0.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

# The commands are those of the environment that builds the site, and print for 80 columns.
_ENVIRONMENT = os.environ | {
    "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
    "PYTHONPATH": os.pathsep.join(sys.path),
    "COLUMNS": "80",
    "TERM": "dumb",
}


class Command(SphinxDirective):
    """Run each line of the content, and show it with its output."""

    has_content = True
    option_spec: ClassVar = {"exit": directives.nonnegative_int}

    def run(self) -> list[nodes.Node]:
        """Return a terminal session."""
        folders = self.env.temp_data
        if "command folder" not in folders:
            folders["command folder"] = tempfile.mkdtemp(prefix="page")
        shown = []
        for line in self.content:
            done = subprocess.run(
                line, shell=True, cwd=folders["command folder"], env=_ENVIRONMENT, text=True, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            expected = self.options.get("exit", 0) if line == self.content[-1] else 0
            if done.returncode != expected:
                raise ExtensionError(f"exit code {done.returncode}, not {expected}: {line}\n{done.stdout}")
            shown += [f"$ {line}", *(text.rstrip() for text in done.stdout.splitlines())]
        block = nodes.literal_block("\n".join(shown), "\n".join(shown), language="console")
        return [block]


def _remove_folder(app: Sphinx, doctree: nodes.document) -> None:
    if folder := app.env.temp_data.get("command folder"):
        shutil.rmtree(Path(folder))


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("command", Command)
    app.connect("doctree-read", _remove_folder)
    return {"parallel_read_safe": True}
