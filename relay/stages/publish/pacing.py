"""An optional limit on the rate towards Kafka, so that a catch-up does not flatten consumers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from relay.event import size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.event import PendingEvent
    from relay.settings import PublishSettings

BURST = 0.1
"""Seconds by which sending may be ahead of the rate: several partitions send at once."""


class Pacing:
    """A virtual clock per limit (GCRA): each batch moves it on by what it costs; who is ahead of time waits."""

    def __init__(self, settings: PublishSettings) -> None:
        self._events_per_second = settings.events_per_second
        self._bytes_per_second = settings.bytes_per_second
        self._due = 0.0

    async def had_to_wait(self) -> bool:
        """Wait until something may be sent; whether that took time, in which much may have changed."""
        wait = self._due - time.monotonic()
        if wait <= BURST:
            return False
        await asyncio.sleep(wait)
        return True

    def charge(self, events: Sequence[PendingEvent]) -> None:
        """These are being sent."""
        cost = 0.0
        if self._events_per_second:
            cost = len(events) / self._events_per_second
        if self._bytes_per_second:
            cost = max(cost, sum(map(size_of, events)) / self._bytes_per_second)
        if cost:
            self._due = max(time.monotonic(), self._due) + cost
