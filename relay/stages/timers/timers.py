"""Moves scheduled events of the owned lanes into the outbox when they are due.

PostgreSQL moves them, by one function and in one transaction for each batch; its clock alone says what is due. Here is
when to ask it. The first due time is known from the last look, so that the wait for it is exact. What was scheduled
since the last look needs another one, and only the end of a transaction can have scheduled something: the scan's
snapshots show that, so that in an idle outbox nothing is asked but once in a while.

An event that outbox.event does not take, for a constraint that somebody added there, is put off alone and tried again;
later events of its key wait behind it.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from relay.decide.due_looks import DueLooks
from relay.errors import RelayError, StatementFailedError, connection_lost
from relay.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.settings import TimersSettings
    from relay.stages.tenure import Tenure
    from relay.stages.timers.ports import TimersPort
    from relay.telemetry import Telemetry

COUNT_INTERVAL = 15.0
"""Seconds between counts of the scheduled events, for the metric."""

COUNT_SHARE = 100
"""Counting may take a hundredth of the time."""

PUT_OFF = 30.0
"""Seconds until an event that is not taken is tried again."""

PARTS = 8
"""By how much fewer events are moved at once while one of them is not taken, and more afterwards."""

SCAN_LOOKS = 2.0
"""Seconds since the scan's last look from which on its snapshots say nothing: it has no room, or no lane to read."""


class Timers:
    """The loop. Each replica moves the events of its own lanes, so that one moves those of a key."""

    def __init__(
        self,
        *,
        port: TimersPort,
        tenure: Tenure,
        since_scan: Callable[[], float],
        on_moved: Callable[[], None],
        settings: TimersSettings,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`since_scan` returns how long ago the scan looked at all lanes; `on_moved` has it look for what was moved."""
        self._port = port
        self._tenure = tenure
        self._since_scan = since_scan
        self._on_moved = on_moved
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._looks = DueLooks(settings.interval, settings.batch_events)
        self._lanes: list[tuple[int, int]] = []
        self._seen: object = None
        """What a transaction's end would change: the scan's snapshot before the last look."""
        self._put_off: dict[int, float] = {}
        """Events that are not taken, and when each is tried again."""
        self._count_at = 0.0
        self._any = False
        self._backoff = Backoff(random.random, first=0.2, most=5.0)

    async def run(self) -> None:
        """Move what is due until cancelled, or until the tenure drains."""
        while not self._tenure.draining:
            await self.step()
            await asyncio.sleep(self.idle_for())

    def idle_for(self) -> float:
        """Return for how many seconds there is nothing to do."""
        return self._looks.wait(self._clock()) if self._lanes else self._settings.interval

    async def step(self) -> None:
        """Look if it is time to."""
        now = self._clock()
        lanes = self._own()
        if lanes != self._lanes:
            self._lanes = lanes
            self._looks.forget()
            self._count_at = 0.0
        if not lanes:
            self._tell(0, None)
            return
        snapshot = self._tenure.snapshot
        ended = snapshot != self._seen or self._since_scan() > SCAN_LOOKS
        if not self._looks.wanted(now, something_ended=ended):
            return
        self._seen = snapshot
        try:
            await self._look(now)
            await self._count()
        except RelayError as error:
            if connection_lost(error):
                raise
            # Most likely a lock that somebody holds. The flow goes on.
            self._telemetry.emit("timers.failing", error=error)
            self._looks.failed(self._clock(), self._backoff.next_delay())
        else:
            self._backoff.reset()
            self._telemetry.emit("timers.working")

    async def _look(self, started: float) -> None:
        self._put_off = {id_: at for id_, at in self._put_off.items() if at > started}
        try:
            moved = await self._port.move_due(
                self._tenure.replica,
                self._lanes,
                at_most=self._looks.at_most,
                put_off=self._put_off,
            )
        except StatementFailedError as error:
            if not error.about_data:
                raise
            await self._move_in_parts()
            return
        now = self._clock()
        self._looks.looked(
            started,
            now,
            moved=moved.events,
            waiting=moved.waiting,
            next_in=moved.next_in,
        )
        self._tell(moved.events, moved.next_in)

    async def _move_in_parts(self) -> None:
        """Find the events that are not taken: up to them a lane's go in ever smaller parts, and in larger ones after.

        One by one, hundreds of others would be late for each of them.
        """
        replica = self._tenure.replica
        for lane, epoch in self._lanes:
            part = left = self._looks.at_most
            while left > 0:
                try:
                    moved = await self._port.move_due(replica, [(lane, epoch)], at_most=part, put_off=self._put_off)
                except StatementFailedError as error:
                    if not error.about_data:
                        raise
                    if part > 1:
                        part = max(1, part // PARTS)
                        continue
                    first = await self._port.first_due(lane, self._put_off)
                    if first is None:
                        raise
                    self._put_off[first.id] = self._clock() + PUT_OFF
                    self._telemetry.emit("timers.put_off", id=first.id, topic=first.topic, error=error)
                    left -= 1
                    continue
                self._tell(moved.events, moved.next_in)
                if not moved.events:
                    break
                left -= moved.events
                part = min(PARTS * part, max(1, left))

    async def _count(self) -> None:
        started = self._clock()
        if started < self._count_at:
            return
        events = await self._port.count_scheduled([lane for lane, _ in self._lanes]) if self._any else 0
        self._telemetry.gauge("scheduled_events", events)
        now = self._clock()
        self._count_at = now + max(COUNT_INTERVAL, COUNT_SHARE * (now - started))

    def _tell(self, events: int, next_in: float | None) -> None:
        self._any = next_in is not None or bool(self._put_off)
        self._telemetry.gauge("scheduled_overdue_seconds", max(0.0, -next_in) if next_in is not None else 0.0)
        if not self._any:
            self._telemetry.gauge("scheduled_events", 0)
        if events:
            self._telemetry.emit("timers.moved", events=events)
            self._on_moved()

    def _own(self) -> list[tuple[int, int]]:
        return sorted((state.lane, state.epoch) for state in self._tenure.lanes.values() if not state.releasing)
