"""A stub of a schema registry."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stub(ThreadingHTTPServer):
    """A registry that gives the ids 300, 301, ... and knows what was registered."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, dict[str, str], str | None]] = []
        self.ids: dict[tuple[str, str], int] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, asked, self.headers["Authorization"]))
        subject, ids = self.path.split("/")[2], self.server.ids
        if self.path.endswith("/versions"):
            ids.setdefault((subject, asked["schema"]), 300 + len(ids))
        found = ids.get((subject, asked["schema"]))
        status, answer = (200, {"id": found}) if found else (404, {"error_code": 40403, "message": "Schema not found"})
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def running_stub() -> Iterator[Stub]:
    """A registry that runs meanwhile."""
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
