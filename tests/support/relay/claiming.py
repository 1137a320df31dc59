"""Replicas whose claim stage runs and hears the others, and that do nothing else."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from relay.errors import PostgresLostError
from tests.support.relay.stages import HandRelay, lane_of, relay_connections
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONG = 600.0
"""Seconds of a lease so long that no beat falls into a test."""

KEYS = {lane_of(key): key for key in map(str, range(1000))}
"""A key of each lane."""


@asynccontextmanager
async def running(dsn: str, lease: float = LONG, name: str = "by hand") -> AsyncIterator[HandRelay]:
    """Such a replica. At the end it is gone without a word."""
    async with relay_connections(dsn) as connections:
        relay = HandRelay(connections, lease=lease, name=name)
        await relay.claim.register(None)
        await relay.control.listen(lambda: None, lambda: None, relay.tenure.lanes_may_be_free)
        claiming = asyncio.create_task(relay.claim.run())
        try:
            yield relay
        finally:
            claiming.cancel()
            await asyncio.wait([claiming])
            with suppress(PostgresLostError):
                if not claiming.cancelled():
                    claiming.result()


async def owns(relay: HandRelay, lanes: int) -> None:
    """Wait until a replica owns so many lanes."""

    async def look() -> bool:
        return len(relay.tenure.lanes) == lanes

    await until(f"{relay.tenure!r} owns {lanes} lanes", look, 20.0)
