"""The HTTP server among clients that are slow, mute, malformed or many, over real sockets."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from relay.run import front
from relay.run.health import Health
from relay.run.http import serving
from relay.settings import HealthSettings, HttpSettings, LogSettings
from relay.telemetry import Telemetry
from relay.telemetry.logs import configure
from tests.support.hostile import unseen
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GARBAGE = {
    "noise": b"\x1b[31m\x00\xff\xfe\r\n\r\n",
    "a TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(range(200)),
    "no such version": b"GET /livez HTTP/x\r\n\r\n",
    "a method with an escape sequence": b"GET\x1b[2J /livez HTTP/1.1\r\n\r\n",
    "a header with an escape sequence": b"GET /livez HTTP/1.1\r\nHost: x\r\nA\x1b[2J: b\r\n\r\n",
    "two lengths": b"POST /livez HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "a long line": b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
    "a long header": b"GET /livez HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    "many headers": b"GET /livez HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(5_000)) + b"\r\n",
}


class Server:
    """A server, what it logged and counted."""

    def __init__(self, port: int, telemetry: Telemetry, log: io.StringIO) -> None:
        self.port, self.telemetry, self._log = port, telemetry, log

    def told(self, happening: str) -> list[dict[str, Any]]:
        """The lines of a happening."""
        return [line for line in map(json.loads, self.text().splitlines()) if line.get("happening") == happening]

    def text(self) -> str:
        """All that was logged."""
        return self._log.getvalue()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of one's own."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, request: bytes) -> bytes:
        """What comes back until the server closes the connection."""
        reader, writer = await self.connect()
        writer.write(request)
        try:
            return await asyncio.wait_for(reader.read(), 20)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def lives(self) -> bool:
        """Whether a probe is answered in the time that a probe has."""
        async with asyncio.timeout(5):
            return b" 200 OK" in await self.ask(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch, *, most: int = 8, lifetime: float = 60.0) -> AsyncIterator[Server]:
    """A server that logs as the relay does."""
    monkeypatch.setattr(front, "LIFETIME", lifetime)
    monkeypatch.setattr(front, "most_connections", lambda: most)
    with socket.create_server(("127.0.0.1", 0)) as free:
        settings = HttpSettings(host="127.0.0.1", port=free.getsockname()[1])
    root, log = logging.getLogger(), io.StringIO()
    before = root.level, root.handlers[:]
    telemetry = Telemetry(configure(LogSettings.model_validate({"format": "json"}), log))
    try:
        async with serving(settings, Health(HealthSettings(), 0.0), telemetry, lambda: 1.0):
            yield Server(settings.port, telemetry, log)
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_costs_its_sender_the_connection_and_us_one_line(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async with running(monkeypatch) as server:
        for _ in range(20):
            answer = await server.ask(GARBAGE[kind])
            assert answer == b"" or b" 40" in answer.split(b"\r\n")[0] or b" 43" in answer.split(b"\r\n")[0]
        assert await server.lives()
        (line,) = server.told("http.refused")
        assert (line["level"], line["peer"], line["requests"]) == ("warning", "127.0.0.1", 1)
        assert server.telemetry.value("http_refused_total") == 20
        assert "Traceback" not in server.text()
        assert not unseen(server.text().replace("\n", ""))
        assert len(json.dumps(line)) < 1_000


async def test_a_request_that_never_ends_is_cut_however_busily_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, lifetime=1.0) as server:
        reader, writer = await server.connect()
        writer.write(b"GET /livez HTTP/1.1\r\n")
        began = asyncio.get_running_loop().time()
        while not reader.at_eof():
            writer.write(b"x: y\r\n")
            try:
                await asyncio.wait_for(reader.read(1), 0.05)
            except TimeoutError:
                assert await server.lives()
            except ConnectionError:
                break
            assert asyncio.get_running_loop().time() - began < 20
        writer.close()
        assert server.telemetry.value("http_cut_total") == 1
        assert server.told("http.cut")[0]["reason"] == "the connection had not ended after 1 s"


async def test_an_answer_that_nobody_reads_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    listen = front.listen

    async def with_small_buffers(host: str, port: int) -> list[socket.socket]:
        """Connections inherit them: what does not fit has to be kept by the server."""
        listeners = await listen(host, port)
        for each in listeners:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        return listeners

    monkeypatch.setattr(front, "listen", with_small_buffers)
    async with running(monkeypatch, lifetime=1.0) as server:
        for n in range(500):
            server.telemetry.emit("publish.refused", topic=f"topic-{n:0200}", partition=0, events=1, error="")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", server.port))
            await asyncio.get_running_loop().sock_sendall(client, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            await until("it is cut", lambda: _true(server.telemetry.value("http_cut_total") == 1), 30)
        assert await server.lives()


async def test_the_oldest_makes_room_for_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, most=4) as server:
        mute = [await server.connect() for _ in range(40)]
        assert await server.lives()
        gone = 0
        for reader, _ in mute[:36]:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 10)
            gone += 1
        assert gone == 36
        cut = server.telemetry.value("http_cut_total")
        assert cut is not None
        assert cut >= 36
        assert len(server.told("http.cut")) == 1
        for _, writer in mute:
            writer.close()


async def test_each_connection_ends_with_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as server:
        for path, status in (("/livez", b"200"), ("/readyz", b"503"), ("/metrics", b"200"), ("/\x1b[2J", b"4")):
            answer = await server.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 2)
            assert answer.split(b" ")[1].startswith(status)
            assert answer.count(b"Content-Length:") == 1
            assert b"\x1b" not in answer
        assert server.telemetry.value("http_cut_total") == 0


async def test_a_body_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as server:
        began = asyncio.get_running_loop().time()
        answer = await server.ask(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\nx")
        assert b" 405 " in answer.split(b"\r\n")[0] + b" "
        assert asyncio.get_running_loop().time() - began < 10


async def test_open_connections_do_not_hold_up_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as server:
        mute = [await server.connect() for _ in range(5)]
        assert await server.lives()
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 5
    for reader, writer in mute:
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
async def test_every_address_of_a_name_is_listened_on(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listeners = await front.listen(host, port)
    assert port in {listener.getsockname()[1] for listener in listeners}
    with pytest.raises(OSError, match="in use"):
        await front.listen(host, port)
    for listener in listeners:
        listener.close()


def test_http_gets_a_small_part_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for soft, most in ((1_048_576, 64), (1_024, 64), (256, 32), (8, 2), (resource.RLIM_INFINITY, 64)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert front.most_connections() == most


async def _true(value: bool) -> bool:
    return value
