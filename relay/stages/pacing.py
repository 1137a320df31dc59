"""An optional limit on the rate towards Kafka, so that a catch-up does not flatten consumers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.event import PendingEvent
    from relay.settings import PublishSettings

BURST = 0.1
"""Seconds' worth of the rate that may go at once."""


class Pacing:
    """A virtual clock per limit (GCRA): each batch moves it on by what it costs; who is ahead of time waits."""

    def __init__(self, settings: PublishSettings) -> None:
        self._events_per_second = settings.events_per_second
        self._bytes_per_second = settings.bytes_per_second
        self._due = 0.0

    async def pace(self, events: Sequence[PendingEvent]) -> None:
        """Wait until these events may be sent; batches are let through in the order of the calls."""
        if not (self._events_per_second or self._bytes_per_second):
            return
        cost = 0.0
        if self._events_per_second:
            cost = len(events) / self._events_per_second
        if self._bytes_per_second:
            cost = max(cost, sum(event[9] for event in events) / self._bytes_per_second)
        now = time.monotonic()
        start = max(now, self._due)
        self._due = start + cost
        if start - now > BURST:
            await asyncio.sleep(start - now)
