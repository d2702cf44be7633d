"""The server of the page, for this machine only."""

from __future__ import annotations

import re
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOST = "127.0.0.1"


class Server:
    """Serves one text at `url` to browsers on this machine, and nothing else to anyone.

    It listens on the loopback address, at a port that was free. It reads no files and takes no data. Requests
    that name another host, as a page of another site would make them, are refused.

    - `text`: the page.

    >>> from urllib.request import urlopen
    >>> with Server("<p>hello</p>") as server:
    ...     import threading
    ...     threading.Thread(target=server.run, daemon=True).start()
    ...     urlopen(server.url).read()
    b'<p>hello</p>'
    """

    def __init__(self, text: str) -> None:
        class Handler(_Handler):
            content = text.encode()
            policy = _policy(text)

        self._server = ThreadingHTTPServer((_HOST, 0), Handler)
        self._server.daemon_threads = True
        port = self._server.server_port
        Handler.hosts = {f"{_HOST}:{port}", f"localhost:{port}"}
        self._running = False

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{_HOST}:{self._server.server_port}/"

    def run(self) -> None:
        """Serve until `KeyboardInterrupt`, or the end of the `with` block."""
        self._running = True
        try:
            self._server.serve_forever(poll_interval=0.2)
        finally:
            self._running = False


def _policy(text: str) -> str:
    """Return the Content-Security-Policy of the page, which a header states for frames too."""
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    rules = found[1] if found else "default-src 'none'"
    return f"{rules}; frame-ancestors 'none'"


class _Handler(BaseHTTPRequestHandler):
    content: bytes
    policy: str
    hosts: set[str]
    server_version = "toydiffusion"
    sys_version = ""
    timeout = 20
    """Seconds after which a browser that says nothing is let go."""

    def handle(self) -> None:
        """Answer, unless the browser leaves before the end."""
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Answer with the page."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Answer with the headers of the page."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in self.hosts or (
            origin and urlsplit(origin).netloc not in self.hosts
        ):
            self.send_error(403, "this page is for this machine only")
        elif urlsplit(self.path).path != "/":
            self.send_error(404, "there is only one page, at /")
        else:
            self.send_response(200)
            headers = {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(self.content)),
                "Content-Security-Policy": self.policy,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cross-Origin-Resource-Policy": "same-origin",
                "Cache-Control": "no-store",
            }
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Keep the terminal quiet."""
