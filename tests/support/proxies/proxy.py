"""A TCP proxy on the loopback that delays, goes silent, cuts and refuses: the network between a client and a server."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

import uvloop

from tests.support.proxies.links import Links

READ_BYTES = 1 << 18
QUEUED_READS = 64
"""Per direction; beyond it the sender waits, as it does on a full line."""


class Proxy(Links):
    """Passes connections to `port` on to a server on 127.0.0.1, each byte `delay` seconds later, both ways."""

    def __init__(self, server_port: int, delay: float = 0.0, port: int | None = None) -> None:
        super().__init__(server_port, port)
        self.delay = delay
        self._passing = asyncio.Event()
        self._passing.set()

    def hang(self) -> None:
        """Pass nothing on: what is sent is swallowed by a line that says nothing. New connections hang as well."""
        self._passing.clear()

    def pass_on(self) -> None:
        """Undo `hang`; what was sent meanwhile arrives now."""
        self._passing.set()

    async def may_connect(self) -> None:
        """Have new connections wait while the line says nothing."""
        await self._passing.wait()

    async def pass_between(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Pass each direction on, delayed."""
        async with asyncio.TaskGroup() as directions:
            directions.create_task(self._pass(client[0], server[1]))
            directions.create_task(self._pass(server[0], client[1]))

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
