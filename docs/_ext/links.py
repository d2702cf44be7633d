"""Every link inside the site leads somewhere, and nothing on it is loaded from elsewhere."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.errors import SphinxError


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append((tag, value))


def broken(folder: Path) -> list[str]:
    """Return a line for each link in the HTML files of a folder that leads nowhere."""
    pages = {path: _Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        where = path.relative_to(folder)
        for tag, link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if tag != "a" and parts.scheme != "data":
                    found.append(f"{where}: loads {link} from another host")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{where}: no file {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where}: no place {link}")
    return found


def _check(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html" and (lines := broken(Path(app.outdir).resolve())):
        raise SphinxError("broken links:\n" + "\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Check the links of the site when it is built."""
    app.connect("build-finished", _check, priority=900)
    return {"parallel_read_safe": True}
