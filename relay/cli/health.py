"""`relay health`: asks a relay on this machine how it is, for probes in images without a shell or other tools.

Such a probe runs every few seconds beside a relay that may have a fifth of a core: so the common case loads neither the
settings nor an HTTP client of many parts.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
from typing import TYPE_CHECKING, NoReturn

import click

from relay.cli.options import span
from relay.cli.show.lines import say
from relay.text import clip, one_line, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT = "8080"
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 addresses to ask for those to listen on
_MOST_OF_AN_ANSWER = 1_000_000
_MOST_OF_A_REASON = 500


@click.command(name="health")
@click.option("--live", is_flag=True, help="Ask whether the process is alive, not whether it is ready.")
@click.option(
    "--timeout",
    default="4s",
    show_default=True,
    metavar="TIME",
    callback=span("0.1", "1m"),
    help="Give up after this time.",
)
def command(live: bool, timeout: float) -> None:
    """Ask the relay on this machine whether it is ready.

    For probes of containers: it asks the port RELAY_HTTP_PORT, and needs no other setting, no shell and no server. A
    relay that waits for PostgreSQL or Kafka is alive, and ready again by itself: restart it only when --live fails.

    \b
    Exit codes:
      0  ready, or with --live alive
      1  not ready or not alive, or no relay answers
      2  the command is wrong
    """
    host, port = _address(os.environ)
    path = "/livez" if live else "/readyz"
    status, answer = _ask(host, port, path, timeout)
    if ("alive" if live else "ready") not in answer:
        _fail(f"{path} at {host} port {port} was answered by another program (status {status}); check RELAY_HTTP_PORT")
    if status == http.HTTPStatus.OK:
        say("alive" if live else "ready")
        return
    if live:
        _fail("not alive: the event loop hangs")
    reasons = answer.get("reasons")
    shown = [clip(one_line(str(reason)), _MOST_OF_A_REASON) for reason in reasons] if isinstance(reasons, list) else []
    _fail(f"not ready: {'; '.join(shown) or 'no reason is given'}")


def _ask(host: str, port: int, path: str, timeout: float) -> tuple[int, dict[str, object]]:
    try:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    except http.client.InvalidURL:
        _fail_host(host)
    deadline = _Deadline(connection, timeout)
    try:
        connection.connect()
        deadline.start()
        connection.request("GET", path)
        response = connection.getresponse()
        answer = json.loads(response.read(_MOST_OF_AN_ANSWER))
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        if deadline.is_over or isinstance(error, TimeoutError):
            _fail(f"{path} at {host} port {port} was not answered within {timeout:g} s")
        if isinstance(error, UnicodeError) and not isinstance(error, UnicodeDecodeError):
            _fail_host(host)
        if isinstance(error, OSError):
            _fail(
                f"no relay answers at {host} port {port} ({error.strerror or type(error).__name__}); "
                "if it runs, check RELAY_HTTP_PORT and RELAY_HTTP_HOST"
            )
        _fail(f"{path} at {host} port {port} was answered by another program; check RELAY_HTTP_PORT")
    finally:
        deadline.cancel()
        connection.close()
    return response.status, answer if isinstance(answer, dict) else {}


class _Deadline(threading.Timer):
    """Cuts off a server that answers byte by byte: it would be within the time-out of each byte."""

    def __init__(self, connection: http.client.HTTPConnection, timeout: float) -> None:
        super().__init__(timeout, self._cut)
        self.daemon = True
        self.is_over = False
        self._connection = connection
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Begin to count; the connection forgets its socket before the answer is read."""
        self._socket = self._connection.sock
        super().start()

    def _cut(self) -> None:
        self.is_over = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _fail_host(host: str) -> NoReturn:
    _fail(f"RELAY_HTTP_HOST is {plain(host)}, which cannot be asked; set an address of this machine")


def _address(env: Mapping[str, str]) -> tuple[str, int]:
    """Return where the relay of this environment listens; other settings may be wrong or missing."""
    names = ("RELAY_HTTP_HOST", "RELAY_HTTP_PORT")
    host, port = (env.get(name, "") for name in names)
    if env.get("RELAY_CONFIG_FILE"):
        from relay.settings import Settings  # takes a quarter of a second of CPU, so only where it is needed
        from relay.settings.load import find, variables

        found = find(variables(Settings), env, prefix="RELAY_HTTP_")
        if found.problems:
            _fail(found.problems[0])
        host, port = (found.values[name].text if name in found.values else "" for name in names)
    elif port.startswith(("tcp://", "udp://", "sctp://")):
        port = ""  # what Kubernetes sets for a Service named relay-http
    port = port or DEFAULT_PORT
    if not port.isdecimal() or int(port) > 65_535:
        _fail(f"RELAY_HTTP_PORT is {port!r}, which is not a port")
    if int(port) == 0:
        _fail("RELAY_HTTP_PORT is 0, so the relay has no port that could be asked; set one")
    return _EVERYWHERE.get(host, host), int(port)


def _fail(text: str) -> NoReturn:
    say(f"relay: {one_line(text)}", err=True)
    raise SystemExit(1)
