"""Accepts HTTP connections, a bounded number at the same time and for a bounded time.

A web server accepts every connection, and each may keep its file descriptor for as long as it likes. Probes and scrapes
need neither; PostgreSQL and Kafka need the descriptors.
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
"""Maximum seconds of a connection's life: a scrape's default time-out, ten times a probe's."""

MOST = 64
"""Maximum number of open connections; a new one replaces the oldest. With one probe a second, one would be enough."""

_SHARE = 8
"""HTTP connections take at most one in this many of the descriptors that the process may have."""

_QUEUE = 1_024
"""Maximum number of connections that wait in the kernel: they cost no descriptor, and no probe behind them is lost."""

_PAUSE = 0.2
"""Seconds to wait when the process has no descriptor left."""

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def most_connections() -> int:
    """Return the maximum number of connections that may be open at the same time."""
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
    """Hand connections to protocols while the context is open; `cut` hears why a connection was ended early."""
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
    """The open connections, the oldest first."""

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
        """Accept connections for ever; at most one more than there is room for is open at a time."""
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
        """End the connection now; data on its way are lost."""
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
