"""A web server of a folder for tests, with byte ranges or without."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(SimpleHTTPRequestHandler):
    """Python's server, which knows no ranges, with what a test asks for.

    Attributes:
        asked: Requests so far.
        cut: Whether to end after half of a file.
        ranges: Whether ``Range`` is understood.
        silent: Headers that are left out.
    """

    asked: list[str]
    cut = False
    ranges = False
    silent: tuple[str, ...] = ()

    def send_header(self, keyword: str, value: str) -> None:
        if keyword not in self.silent:
            super().send_header(keyword, value)

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not (self.ranges and match):
            return super().do_GET()
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = source.read()
        outputfile.write(data[: len(data) // 2] if self.cut else data)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, type[Handler]]]:
    """Serve a folder; yield its URL and the handler, whose attributes may be set."""
    handler = type("OwnHandler", (Handler,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()
