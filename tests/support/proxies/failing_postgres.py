"""Between a relay and a real PostgreSQL: raises an error that no table knows for the statements that a test names.

It reads the frontend's messages, knows each prepared statement by its text in `sql/queries`, and answers for the server
where it is told to, before the server has seen anything.
"""

from __future__ import annotations

import ast
import asyncio
import struct
from pathlib import Path

import relay
from relay.postgres.sql import _queries, query
from tests.support.proxies.links import Links

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


class FailingPostgres(Links):
    """Passes connections on to a server on 127.0.0.1, but for the statement that fails at the moment."""

    def __init__(self, server_port: int) -> None:
        super().__init__(server_port)
        self.failing: str | None = None
        """The name of the statement."""
        self.failed = 0
        """How often it did."""

    def fail(self, statement: str | None) -> None:
        """From now on this statement fails, and no other."""
        self.failing, self.failed = statement, 0

    def _is_failing(self, text: bytes) -> bool:
        fails = self.failing is not None and text == query(self.failing).encode()
        self.failed += fails
        return fails

    async def pass_between(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Pass the start of the conversation on as it is, and then message by message."""
        code = 0
        while code != _START:
            size = await client[0].readexactly(4)
            rest = await client[0].readexactly(struct.unpack("!i", size)[0] - 4)
            (code,) = struct.unpack("!i", rest[:4])
            server[1].write(size + rest)
            if code == _SSL_REQUEST:
                client[1].write(await server[0].readexactly(1))
        async with asyncio.TaskGroup() as directions:
            directions.create_task(self._to_server(client[0], server[1], client[1]))
            directions.create_task(self._to_client(server[0], client[1]))

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
