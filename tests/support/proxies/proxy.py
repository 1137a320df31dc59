"""A TCP proxy on the loopback that delays, goes silent, cuts and refuses: the network between a client and a server."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import uvloop

from relay.local.ports import HOST, free_port

if TYPE_CHECKING:
    from types import TracebackType

READ_BYTES = 1 << 18
QUEUED_READS = 64
"""Per direction; beyond it the sender waits, as it does on a full line."""


class Proxy:
    """Passes connections to `port` on to a server on 127.0.0.1, each byte `delay` seconds later, both ways."""

    def __init__(self, server_port: int, delay: float = 0.0, port: int | None = None) -> None:
        self.port = port or free_port()
        self.delay = delay
        self._server_port = server_port
        self._passing = asyncio.Event()
        self._passing.set()
        self._links: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()

    def hang(self) -> None:
        """Pass nothing on: what is sent is swallowed by a line that says nothing. New connections hang as well."""
        self._passing.clear()

    def pass_on(self) -> None:
        """Undo `hang`; what was sent meanwhile arrives now."""
        self._passing.set()

    async def cut(self) -> None:
        """Reset all connections; new ones are accepted."""
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def refuse(self) -> None:
        """Reset all connections and refuse new ones."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        await self.cut()

    async def accept(self) -> None:
        """Take connections, at first or again."""
        if self._listening is None:
            self._listening = await asyncio.start_server(self._connected, HOST, self.port)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        writers = [writer]
        try:
            await self._passing.wait()
            server_reader, server_writer = await asyncio.open_connection(HOST, self._server_port)
            writers.append(server_writer)
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._pass(reader, server_writer))
                directions.create_task(self._pass(server_reader, writer))
        except (asyncio.CancelledError, ExceptionGroup, OSError):
            # Nobody waits for this task: cut, or one side went away.
            pass
        finally:
            self._links.discard(link)
            for each in writers:
                each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction. Its end ends the other one too: OSError."""
        loop = asyncio.get_running_loop()
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_READS)

        async def arrive() -> None:
            while True:
                due, data = await line.get()
                if (wait := due - loop.time()) > 0:
                    await asyncio.sleep(wait)
                await self._passing.wait()
                if not data:
                    raise ConnectionResetError("the other side closed")
                writer.write(data)
                await writer.drain()

        arriving = asyncio.create_task(arrive())
        try:
            data = b"-"
            while data:
                data = await reader.read(READ_BYTES)
                await line.put((loop.time() + self.delay, data))
            await arriving
        finally:
            arriving.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await arriving


async def _serve(server_port: int, delay: float, port: int) -> None:
    async with Proxy(server_port, delay, port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    # For benchmarks: in a process of its own, and not slower than it has to be.
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
