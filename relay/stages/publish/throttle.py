"""Keeps topics to the limits that the settings give them, and their backlog out of the way of others.

Publish asks before it sends a batch (`had_to_wait`) and tells what it sends (`sent`). What it is handed for a limited
topic beyond what may wait in memory is held back, as for a paused topic (`admit`), and goes on when there is room. The
backlog of the slow topic would otherwise fill the buffer, and all others would go at its pace. Without limits, none of
this costs anything.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from relay.event import size_of
from relay.stages.publish.line import withdrawn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.event import PendingEvent
    from relay.stages.hold.gate import Gate
    from relay.stages.publish.queues import Topics
    from relay.stages.publish.topic import Topic
    from relay.telemetry import Telemetry

LOOK_INTERVAL = 0.1
"""Seconds between looks whether a limited topic has room again: what waited for it need not have left to Kafka."""


class Throttle:
    """Acts on the paces of limited topics. Outlives tenures."""

    def __init__(
        self, *, topics: Topics, gate: Gate, telemetry: Telemetry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._topics = topics
        self._gate = gate
        self._telemetry = telemetry
        self._clock = clock

    async def had_to_wait(self, topic: Topic) -> bool:
        """Wait until something of the topic may be sent; returns whether that took time, in which much may change."""
        if topic.pace is None or not (delay := topic.pace.delay(self._clock())):
            return False
        await asyncio.sleep(delay)
        return True

    def sent(self, topic: Topic, events: Sequence[PendingEvent]) -> None:
        """Take note that these events of the topic are being sent."""
        if topic.pace is not None:
            topic.pace.charge(len(events), sum(map(size_of, events)), self._clock())
            self._look(topic.name)

    def admit(self, topic: Topic, events: list[PendingEvent]) -> list[PendingEvent]:
        """Return the first of these events, which may wait in memory, and have the others held back."""
        if topic.pace is None:
            return events
        fit = topic.pace.fitting(list(map(size_of, events)), *topic.waiting())
        if fit < len(events):
            self._gate.throttle(topic.name, withdrawn(events[fit:]))
            self._telemetry.emit("topic.limited", topic=topic.name, events=len(events) - fit, limit=topic.pace.rate)
        return events[:fit]

    async def run(self) -> None:
        """Let held events of limited topics go on when there is room, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            tenure = self._topics.tenure
            for name in sorted(tenure.throttled) if tenure is not None else ():
                self._look(name)

    def _look(self, name: str) -> None:
        tenure, topic = self._topics.tenure, self._topics.get(name)
        if tenure is None or name not in tenure.throttled:
            return
        if topic is None or topic.pace is None or topic.pace.has_room_again(*topic.waiting()):
            self._gate.unthrottle(name)
