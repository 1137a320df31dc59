"""COPY on an AsyncConnection of psycopg 3, whose own leaves the connection unusable if it is cancelled."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from psycopg import AsyncCursor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import LiteralString

    from psycopg import AsyncConnection

PATIENCE = 5.0
"""Seconds that a server has to cancel a statement, as with psycopg itself."""


class CancellableCopy:
    """A COPY that can be cancelled at any moment, also more than once, after which the connection works or is closed.

    psycopg leaves the connection in the middle of the COPY if it is cancelled between the statement and the answer.
    """

    def __init__(self, connection: AsyncConnection[Any], statement: LiteralString, portions: Iterator[bytes]) -> None:
        self._connection = connection
        self._statement = statement
        self._portions = portions
        self._cancelled = False

    async def run(self) -> None:
        """Copy all portions, or raise."""
        copying = asyncio.ensure_future(self._copy())
        try:
            await asyncio.shield(copying)
        except asyncio.CancelledError:
            self._cancelled = True
            ending = asyncio.ensure_future(self._end(copying))
            while not ending.done():
                # Whoever is cancelled again meanwhile is cancelled as much as before.
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(ending)
            raise

    async def _end(self, copying: asyncio.Future[None]) -> None:
        """End the COPY, or the connection: what goes on could be committed with whatever comes next."""
        with suppress(Exception):
            # The server may wait for a lock, and then no portion is asked for.
            await self._connection.cancel_safe(timeout=PATIENCE)
            await asyncio.wait([copying], timeout=PATIENCE)
        if not copying.done():
            copying.cancel()
            await asyncio.wait([copying])
            self._connection.pgconn.finish()
        if not copying.cancelled():
            copying.exception()

    async def _copy(self) -> None:
        async with AsyncCursor(self._connection).copy(self._statement) as stream:
            for portion in self._portions:
                if self._cancelled:
                    raise asyncio.CancelledError
                await stream.write(portion)
