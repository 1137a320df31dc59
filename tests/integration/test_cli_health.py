"""`relay health` beside the HTTP server of a relay: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from relay.cli.health import DEFAULT_PORT
from relay.run.health import Health
from relay.run.http import serving
from relay.settings import HealthSettings, HttpSettings
from relay.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def ask(*arguments: str, **variables: object) -> tuple[int, str]:
    """Run the command with nothing but these variables; return the exit code and all it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    env |= {f"RELAY_{name}": str(value) for name, value in variables.items()}
    command = [sys.executable, "-m", "relay", "health", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, (done.stdout + done.stderr).strip()


async def test_a_relay_is_ready_or_says_why_not_and_is_alive_all_the_while(port: int) -> None:
    clock = Clock()
    health = Health(HealthSettings(), clock())
    async with serving(HttpSettings(host="127.0.0.1", port=port), health, Telemetry(), clock):
        code, printed = await asyncio.to_thread(ask, HTTP_PORT=port)
        assert code == 1
        assert printed.startswith("relay: not ready: PostgreSQL has not been reached yet")
        assert "; Kafka has not been reached yet" in printed

        health.postgres_ok()
        health.kafka_ok()
        assert await asyncio.to_thread(ask, HTTP_PORT=port) == (0, "ready")

        health.kafka_lost(clock(), "\x1b[31mrefused\nby all")
        clock.now += 61
        assert await asyncio.to_thread(ask, HTTP_PORT=port) == (
            1,
            r"relay: not ready: Kafka has been away for 61 s: \x1b[31mrefused by all",
        )
        # Nothing has told it for these 61 s that the loop turns.
        assert await asyncio.to_thread(ask, "--live", HTTP_PORT=port) == (1, "relay: not alive: the event loop hangs")


async def test_a_relay_whose_loop_turns_is_alive_before_it_is_ready(port: int) -> None:
    clock = Clock()
    async with serving(HttpSettings(host="127.0.0.1", port=port), Health(HealthSettings(), 100.0), Telemetry(), clock):
        assert await asyncio.to_thread(ask, "--live", HTTP_PORT=port) == (0, "alive")


async def test_the_port_of_the_settings_file_is_asked_whatever_else_is_in_it(port: int, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(f"[http]\nport = {port}\n[kafka]\nno_such_thing = 1\n")
    health = Health(HealthSettings(), 100.0)
    health.postgres_ok()
    health.kafka_ok()
    async with serving(HttpSettings(host="127.0.0.1", port=port), health, Telemetry(), Clock()):
        assert await asyncio.to_thread(ask, CONFIG_FILE=file) == (0, "ready")


def test_where_no_relay_listens_it_says_so_and_what_to_check(port: int) -> None:
    code, printed = ask(HTTP_PORT=port)
    assert code == 1
    assert printed == (
        f"relay: no relay answers at 127.0.0.1 port {port} (Connection refused); "
        "if it runs, check RELAY_HTTP_PORT and RELAY_HTTP_HOST"
    )


@pytest.mark.parametrize(
    ("port", "told"),
    [
        ("0", "RELAY_HTTP_PORT is 0, so the relay has no port that could be asked; set one"),
        ("eighty", "RELAY_HTTP_PORT is 'eighty', which is not a port"),
        ("65536", "RELAY_HTTP_PORT is '65536', which is not a port"),
    ],
)
def test_a_port_that_cannot_be_asked_is_named(port: str, told: str) -> None:
    assert ask(HTTP_PORT=port) == (1, f"relay: {told}")


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        assert ask("--timeout", "0.5", HTTP_PORT=port) == (
            1,
            f"relay: /readyz at 127.0.0.1 port {port} was not answered within 0.5 s",
        )


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"])
def test_a_server_that_answers_by_the_byte_is_given_up_in_time(begin: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as slow:
        port = slow.getsockname()[1]
        over = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                peer, _ = slow.accept()
                with peer:
                    peer.sendall(begin)
                    while not over.wait(0.05):
                        peer.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            asked = ask("--timeout", "0.5", HTTP_PORT=port)
        finally:
            over.set()
            slow.close()
            dripping.join()
    assert asked == (1, f"relay: /readyz at 127.0.0.1 port {port} was not answered within 0.5 s")


@pytest.mark.parametrize("host", ["a b", "\u00fc" * 70, "relay\x01"])
def test_a_host_that_cannot_be_one_is_named(host: str) -> None:
    code, printed = ask(HTTP_HOST=host, HTTP_PORT=1)
    assert code == 1
    assert printed.startswith("relay: RELAY_HTTP_HOST is ")
    assert "which cannot be asked" in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>"), (200, b"[]"), (404, b"{}"), (200, b"[" * 100_000), (200, b"\xff\xfe")]
)
def test_an_answer_of_another_program_is_not_taken_for_the_relays(status: int, body: bytes) -> None:
    with stranger(status, body) as port:
        code, printed = ask(HTTP_PORT=port)
    assert code == 1
    assert "was answered by another program" in printed


def test_without_settings_it_asks_where_a_relay_without_settings_listens() -> None:
    assert int(DEFAULT_PORT) == HttpSettings().port


@contextlib.contextmanager
def stranger(status: int, body: bytes) -> Iterator[int]:
    """A web server that is no relay, on the port that is returned."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
