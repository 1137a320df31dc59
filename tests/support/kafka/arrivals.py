"""A consumer that notes when records arrive: the delivery as those see it who wait for it."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from aiokafka import AIOKafkaConsumer

from relay.keys import LANES

if TYPE_CHECKING:
    from types import TracebackType


class Arrivals:
    """Reads a topic as it grows, and remembers of every lane when something of it arrived."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest", enable_auto_commit=False
        )
        self._at: dict[int, list[float]] = defaultdict(list)

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._consumer.stop()

    def longest_gap(self, since: float, until: float) -> float:
        """The longest time between two arrivals of the same lane, monotonic seconds; every lane must have some."""
        gaps = []
        for lane in range(LANES):
            at = [since, *(each for each in self._at[lane] if since < each < until), until]
            gaps.append(max(later - earlier for earlier, later in pairwise(at)))
        return max(gaps)

    async def _read(self) -> None:
        while True:
            arrived = await self._consumer.getmany(timeout_ms=1000)
            now = time.monotonic()
            for records in arrived.values():
                for key in {record.key for record in records}:
                    assert key is not None
                    at = self._at[sha256(key).digest()[0] % LANES]
                    if not at or at[-1] != now:
                        at.append(now)
