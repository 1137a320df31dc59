"""Between a relay and a real PostgreSQL: raises an error that no table knows for the statements that a test names.

It reads the frontend's messages, knows each prepared statement by its text in `sql/queries`, and answers for the server
where it is told to, before the server has seen anything.
"""

from __future__ import annotations

import ast
import asyncio
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Self

import relay
from relay.local.ports import HOST, free_port
from relay.postgres.sql import _queries, query

if TYPE_CHECKING:
    from types import TracebackType

_SSL_REQUEST = 80877103
_START = 196608
_FIELDS = b"SERROR\0VERROR\0CZX001\0Mnot today\0\0"
_ERROR = b"E" + struct.pack("!i", len(_FIELDS) + 4) + _FIELDS


def statements_of_the_service() -> set[str]:
    """The names of all statements that `relay run` may send: whatever its modules name of `sql/queries`.

    `relay.postgres.admin` is for people's commands only, and so is what they ask about locks.
    """
    found: set[str] = set()
    for file in (Path(relay.__file__).parent / "postgres").rglob("*.py"):
        if file.parent.name != "admin" and file.stem != "locks":
            constants = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant))
            found |= {node.value for node in constants if isinstance(node.value, str)}
    return found & set(_queries())


class FailingPostgres:
    """Passes connections on to a server on 127.0.0.1, but for the statement that fails at the moment."""

    def __init__(self, server_port: int) -> None:
        self.port = free_port()
        self.failing: str | None = None
        """The name of the statement."""
        self.failed = 0
        """How often it did."""
        self._server_port = server_port
        self._listening: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._connected, HOST, self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listening is not None
        self._listening.close()
        self.cut()
        await asyncio.gather(*self._links, return_exceptions=True)

    def fail(self, statement: str | None) -> None:
        """From now on this statement fails, and no other."""
        self.failing, self.failed = statement, 0

    def cut(self) -> None:
        """Reset all connections."""
        for link in self._links:
            link.cancel()

    def _is_failing(self, text: bytes) -> bool:
        fails = self.failing is not None and text == query(self.failing).encode()
        self.failed += fails
        return fails

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        writers = [writer]
        try:
            server_reader, server_writer = await asyncio.open_connection(HOST, self._server_port)
            writers.append(server_writer)
            code = 0
            while code != _START:
                size = await reader.readexactly(4)
                rest = await reader.readexactly(struct.unpack("!i", size)[0] - 4)
                (code,) = struct.unpack("!i", rest[:4])
                server_writer.write(size + rest)
                if code == _SSL_REQUEST:
                    writer.write(await server_reader.readexactly(1))
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._to_server(reader, server_writer, writer))
                directions.create_task(self._to_client(server_reader, writer))
        except (asyncio.CancelledError, ExceptionGroup, asyncio.IncompleteReadError, OSError):
            # Nobody waits for this task: cut, or one side went away.
            pass
        finally:
            self._links.discard(link)
            for each in writers:
                each.transport.abort()

    async def _to_server(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        prepared: dict[bytes, bytes] = {}
        skipping = False
        while True:
            kind, body = await _message(reader)
            if kind == b"S":
                skipping = False
            if skipping:
                continue
            fails = False
            if kind == b"P":
                name, text, *_ = body.split(b"\0", 2)
                prepared[name] = text
                fails = self._is_failing(text)
            elif kind == b"B":
                name = body.split(b"\0", 2)[1]
                fails = self._is_failing(prepared.get(name, b""))
            elif kind == b"Q" and self._is_failing(body.rstrip(b"\0")):
                client.write(_ERROR + b"Z" + struct.pack("!i", 5) + b"I")
                continue
            if fails:
                client.write(_ERROR)
                skipping = True
                continue
            server.write(_packed(kind, body))
            await server.drain()

    async def _to_client(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while True:
            client.write(_packed(*await _message(reader)))
            await client.drain()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


def _packed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body
