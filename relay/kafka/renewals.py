"""Replaces connections before the broker ends their sessions, so that no request meets a closed connection.

A broker with `connections.max.reauth.ms` closes a connection at the first request after its session has ended, and so
does any broker when the token has expired that the connection logged in with. The request was not carried out, so
nothing would be lost or repeated; but the answer to the one before it may be dropped, and what follows would wait for a
new login. A new connection, instead of a new login on the old one (KIP-368), takes up changed certificates as well, and
works with brokers that know no second login.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from aiokafka.conn import CloseReason
from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from relay.kafka.connection import Connection

EARLIEST, LATEST = 0.75, 0.85
"""Parts of a session's time after which its connection is replaced; between them, so that replicas that started
together do not ask for tokens together. Kafka's own clients take 0.85 to 0.95, and log in without a new connection."""

SHORTEST = 0.5
"""Least seconds between two logins: a session may end with a token that is nearly over."""

LAST_ANSWERS = 30.0
"""Seconds that the replaced connection is left open for answers that are still to come."""


class Renewals:
    """The connections of one AIOKafkaClient whose sessions end."""

    def __init__(self, client: Any, open_next: Callable[[Connection, dict[str, Any]], Awaitable[Connection]]) -> None:
        """`open_next` opens a connection to where the given one leads, with aiokafka's options."""
        self._client = client
        self._open_next = open_next
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, connection: Connection, options: dict[str, Any]) -> None:
        """Replace the connection in time, if its session ends."""
        if connection.session_ends is not None:
            task = asyncio.get_running_loop().create_task(self._renew(connection, options))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Replace no more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _renew(self, connection: Connection, options: dict[str, Any]) -> None:
        clock = asyncio.get_running_loop().time
        while connection.session_ends is not None and (left := connection.session_ends - clock()) > 0:
            await asyncio.sleep(max(SHORTEST, left * random.uniform(EARLIEST, LATEST)))  # noqa: S311 to spread them
            place = self._place(connection)
            if place is None:
                return
            try:
                new = await self._open_next(connection, options)
            except (OSError, KafkaError):
                # Noted by whoever opens. The connection is good for a while, and the next request says it otherwise.
                continue
            if self._place(connection) != place:
                await new.finish()
                return
            # From now on requests go through the new one. Order is kept: the producer sends a partition's next batch
            # when the last one is answered.
            self._client._conns[place] = new  # noqa: SLF001 there is no public way in
            await self._finish(connection)
            return

    def _place(self, connection: Connection) -> object:
        """Return where the client has the connection; None if it is closed or the client has given it up."""
        if not connection.connected():  # type: ignore[no-untyped-call]
            return None
        return next((place for place, each in self._client._conns.items() if each is connection), None)  # noqa: SLF001

    async def _finish(self, connection: Connection) -> None:
        """Close a connection that gets no more requests once the last one is answered."""
        await connection.wait_answered(LAST_ANSWERS)
        closed = connection.close(CloseReason.SHUTDOWN)
        if closed is not None:
            await asyncio.wait([closed], timeout=LAST_ANSWERS)
