"""A stub of a schema registry."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from socketserver import BaseServer


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


class Raw(ThreadingTCPServer):
    """A server that answers each request with the same bytes, whatever these are, one after the other."""

    daemon_threads = True

    def __init__(self, answer: Iterable[bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _RawHandler)
        self.answer = answer
        self.asked: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _RawHandler(BaseRequestHandler):
    server: Raw

    def handle(self) -> None:
        self.server.asked.append(self.request.recv(65_536))
        with suppress(OSError):  # Who asked has heard enough.
            for portion in self.server.answer:
                self.request.sendall(portion)


@contextmanager
def _running(server: BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def running_raw(answer: Iterable[bytes]) -> Iterator[Raw]:
    """A server that runs meanwhile, and whose answer is no registry's."""
    with Raw(answer) as server, _running(server):
        yield server


@contextmanager
def running_stub() -> Iterator[Stub]:
    """A registry that runs meanwhile."""
    with Stub() as server, _running(server):
        yield server
