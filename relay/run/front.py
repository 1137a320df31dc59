"""Takes HTTP connections in, one after the other: few at once, none for long.

A web server gives whoever connects a descriptor for as long as he likes, and takes in as many as come. Probes and
scrapes need neither; PostgreSQL and Kafka need the descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LIFETIME = 10.0
"""Seconds from the first packet to the last, whatever happens: a scrape's default time-out, ten times a probe's."""

MOST = 64
"""Connections at once; a newcomer takes the place of the oldest. With one probe a second, one would do."""

_SHARE = 8
"""At most this part of the descriptors the process may have."""

_QUEUE = 1_024
"""Connections that the kernel keeps for us meanwhile: they cost no descriptor, and a probe behind them is not lost."""

_PAUSE = 0.2
"""Seconds to wait when there is no descriptor left at all."""

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def most_connections() -> int:
    """How many connections there may be at once."""
    if sys.platform == "win32":
        return MOST
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(2, min(MOST, soft // _SHARE))


async def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of the host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with contextlib.ExitStack() as stack:
        listeners: list[socket.socket] = []
        missing: OSError | None = None
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                listener = stack.enter_context(socket.socket(family, kind, protocol))
                listener.setblocking(False)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind(address)
                listener.listen(_QUEUE)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                # Names like localhost stand for addresses of a kind that this machine may not have.
                missing = error
            else:
                listeners.append(listener)
        if missing is not None and not listeners:
            raise missing
        stack.pop_all()
        return listeners


@contextlib.asynccontextmanager
async def taking_in(
    listeners: list[socket.socket],
    protocol: Callable[[], asyncio.Protocol],
    *,
    most: int,
    lifetime: float,
    cut: Callable[[str], None],
) -> AsyncIterator[None]:
    """Hand connections to protocols while the context is open; `cut` is told why one had to end before its time."""
    door = _Door(protocol, most, lifetime, cut)
    tasks = [asyncio.create_task(door.stand_at(listener)) for listener in listeners]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in listeners:
            listener.close()


class _Door:
    """Who is in, the oldest first."""

    def __init__(
        self, protocol: Callable[[], asyncio.Protocol], most: int, lifetime: float, cut: Callable[[str], None]
    ) -> None:
        self.lifetime = lifetime
        self.cut = cut
        self.inside: dict[_Visit, None] = {}
        self.somebody_left = asyncio.Event()
        self._protocol = protocol
        self._most = most

    async def stand_at(self, listener: socket.socket) -> None:
        """Let in who comes, for ever; at most one more than there is room for is here at a time."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                visitor, _ = await loop.sock_accept(listener)
            except OSError:
                # No descriptor left, or he is gone already.
                await asyncio.sleep(_PAUSE)
                continue
            while len(self.inside) >= self._most:
                self.somebody_left.clear()
                next(iter(self.inside)).end(f"{self._most} connections were open, and this was the oldest")
                await self.somebody_left.wait()
            try:
                await loop.connect_accepted_socket(lambda: _Visit(self, self._protocol()), visitor)
            except OSError:
                visitor.close()


class _Visit(asyncio.Protocol):
    """One connection: passes everything on to the web server's protocol, and ends in time."""

    def __init__(self, door: _Door, inner: asyncio.Protocol) -> None:
        self._door = door
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._end: asyncio.TimerHandle | None = None

    def end(self, why: str) -> None:
        """End it now; what is on its way is lost."""
        if self._transport is not None:
            self._door.cut(why)
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Of a stream socket; uvloop's is of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._door.inside[self] = None
        lifetime = self._door.lifetime
        why = f"the connection had not ended after {lifetime:g} s"
        self._end = asyncio.get_running_loop().call_later(lifetime, self.end, why)
        self._inner.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
        self._transport = None
        self._door.inside.pop(self, None)
        self._door.somebody_left.set()
        self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
