"""What every proxy here does: takes connections on the loopback, links each to the server, and cuts them when told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from relay.local.ports import HOST, free_port

if TYPE_CHECKING:
    from types import TracebackType


class Links:
    """Links clients on `port`, a free one by default, to the server on `server_port`. `pass_between` is the proxy."""

    read_limit = 1 << 16
    """Bytes that are read ahead of the server's answers: asyncio's own default."""

    def __init__(self, server_port: int, port: int | None = None) -> None:
        self.port = port or free_port()
        self._server_port = server_port
        self._links: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()

    async def accept(self) -> None:
        """Take connections, at first or again."""
        if self._listening is None:
            self._listening = await asyncio.start_server(self._connected, HOST, self.port)

    async def refuse(self) -> None:
        """Reset all connections and refuse new ones."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        await self.cut()

    async def cut(self) -> None:
        """Reset all connections; new ones are accepted."""
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def may_connect(self) -> None:
        """Return when a new client may be linked to the server."""

    async def pass_between(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Pass on what the two say until one of them is gone, which raises."""
        raise NotImplementedError

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        writers = [writer]
        try:
            await self.may_connect()
            server = await asyncio.open_connection(HOST, self._server_port, limit=self.read_limit)
            writers.append(server[1])
            await self.pass_between((reader, writer), server)
        except (asyncio.CancelledError, ExceptionGroup, asyncio.IncompleteReadError, OSError):
            # Nobody waits for this task: cut, or one side went away.
            pass
        finally:
            self._links.discard(link)
            for each in writers:
                each.transport.abort()
