"""The life of one tenure on its connections: registered, at work, drained or lost."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from relay.decide.floor_lag import FloorLag, lowest_floor
from relay.errors import PostgresLostError, RelayError, connection_lost
from relay.run.pipeline import Pipeline
from relay.run.restarts import WORKED_AFTER
from relay.stages.tenure import LeaseLostError, TenureLostError

if TYPE_CHECKING:
    from uuid import UUID

    from relay.decide.snapshot import Snapshot
    from relay.run.connections import Connections
    from relay.run.health import Health
    from relay.run.lasting import Lasting
    from relay.run.restarts import Restarts
    from relay.settings import Settings
    from relay.stages.claim.former import FormerTenure
    from relay.telemetry import Telemetry

REPORT_INTERVAL = 0.5
"""Seconds between reports to health and to the gauges; while there is nothing in hand, twice as many."""

LEAVE_TIMEOUT = 1.0
"""Seconds that leaving may take when there is no time left to drain."""

FLIGHT_WAIT = 2.0
"""Seconds to wait, after a reconnect, for batches that were in Kafka's hands: each that lands and is settled before
scanning begins is one not published twice. Within them, also for Kafka itself, which is mostly there at once."""


class Drained(Exception):  # noqa: N818 no error: how a drained session leaves its task group
    """Everything is settled and released."""


class Session:
    """Runs the stages of one tenure, and drops its connections in the end."""

    def __init__(
        self,
        *,
        connections: Connections,
        lasting: Lasting,
        restarts: Restarts,
        health: Health,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._connections = connections
        self._lasting = lasting
        self._pipeline = Pipeline(lasting=lasting, connections=connections, settings=settings, telemetry=telemetry)
        self.tenure = self._pipeline.tenure
        self._restarts = restarts
        self._health = health
        self._telemetry = telemetry
        self._hears_writers = settings.scan.wake_up
        self._progressed_at = time.monotonic()
        self._floor_lag = FloorLag()
        self._floor_of: Snapshot | None = None
        self._floor_seen_at = 0.0

    async def run(self, former: FormerTenure | None) -> Exception | None:
        """Run until drained (returns None) or until the tenure is lost (returns why).

        The lanes of `former`, this process's last tenure, are free once this one is registered.
        """
        reason: Exception | None = None
        must_leave = True
        try:
            async with asyncio.TaskGroup() as stages:
                stages.create_task(self._pipeline.settle.run(), name="settle")
                stages.create_task(self._begin(former, stages), name="start")
        except* Drained:
            must_leave = False
        except* (PostgresLostError, TenureLostError) as lost:
            must_leave = False
            reason = _first(lost)
        # Whatever it is, only this tenure is over: the process knows what is in Kafka's hands, the next one would not.
        except* Exception as unforeseen:  # noqa: BLE001
            must_leave = False
            if reason is None:
                reason = _first(unforeseen)
                await self._settle_and_leave()
        finally:
            self._lasting.publish.forget(self.tenure)
            if must_leave:
                await self._leave()
            self._connections.drop()
        return reason

    async def _begin(self, former: FormerTenure | None, stages: asyncio.TaskGroup) -> None:
        """Record first what Kafka had of former tenures; then register, and start the stages."""
        pipeline, publish = self._pipeline, self._lasting.publish
        try:
            async with asyncio.timeout(FLIGHT_WAIT):
                await self._lasting.wait_recorded()
                await publish.ready()
        except TimeoutError:
            pass
        await pipeline.claim.register(await self._replaceable(former))
        self._restarts.registered()
        if former is not None:
            former.replaced()
        pipeline.open()
        # Before the first look at the lanes: what is said after that must be heard.
        await self._listen()
        lease = stages.create_task(self._watch_lease(), name="lease")
        stages.create_task(self._claim_and_leave(lease), name="claim")
        stages.create_task(self._tell_ready(), name="ready")
        stages.create_task(pipeline.scan.run(), name="scan")
        stages.create_task(pipeline.sweep.run(), name="sweep")
        stages.create_task(pipeline.resume.run(), name="resume")
        stages.create_task(pipeline.republish.run(), name="republish")
        stages.create_task(pipeline.reconcile.run(), name="reconcile")
        if self._lasting.notes is not None and self._connections.notes is not None:
            stages.create_task(self._lasting.notes.run(self._connections.notes, self.tenure.replica), name="notes")
        stages.create_task(pipeline.timers.run(), name="timers")
        stages.create_task(pipeline.housekeeping.run(), name="housekeeping")
        stages.create_task(self._report(), name="report")
        stages.create_task(publish.raise_faults(), name="publish")

    async def _replaceable(self, former: FormerTenure | None) -> UUID | None:
        """Return the former registration if its lanes may be free at once, because nothing of it is in doubt.

        Else others find out what it has published, or this process does, as another one.
        """
        if former is None:
            return None
        notes, port = self._lasting.notes, self._connections.notes
        if notes is not None and port is not None and self._lasting.may_be_in_kafka():
            await port.expire(former.replica)
            notes.renew("whether Kafka has its last batches is not known", sends_more=not self.tenure.draining)
            return None
        return former.replica

    async def _tell_ready(self) -> None:
        """Have the claim stage take its share once Kafka is reached."""
        await self._lasting.publish.ready()
        self.tenure.lanes_may_be_free()

    async def _listen(self) -> None:
        """Hear hints, if it can be had: everything that they tell is also looked for now and then."""
        try:
            await self._connections.control.listen(
                self._woken_up, self.tenure.replay_may_be_open, self.tenure.lanes_may_be_free
            )
        except RelayError as error:
            if connection_lost(error):
                raise
            self._telemetry.emit("hint.failed", error=error)

    async def _leave(self) -> None:
        """Leave a drain that was cut short, so that nobody waits for the lease to end.

        What is still in Kafka's hands the others find out, before they take the lanes. If nothing is noted for them, it
        may land after their next owner has published it: a repeat, in order.
        """
        port = self._connections.notes
        with suppress(Exception):
            async with asyncio.timeout(LEAVE_TIMEOUT):
                if port is not None and self._lasting.may_be_in_kafka():
                    await self._pipeline.claim.leave_to_others(port.expire)
                else:
                    await self._pipeline.claim.leave()

    async def _settle_and_leave(self) -> None:
        """Record what Kafka has and free the lanes, so that whoever gets them next, or gets further, repeats nothing.

        If that does not work either the lease is left to run out, for what is unsettled.
        """
        self._lasting.publish.forget(self.tenure)
        with suppress(Exception):
            async with asyncio.timeout(FLIGHT_WAIT + LEAVE_TIMEOUT), asyncio.TaskGroup() as last:
                settling = last.create_task(self._pipeline.settle.run(), name="settle")
                await self._lasting.wait_recorded()
                settling.cancel()
                await self._pipeline.claim.leave()

    def _woken_up(self) -> None:
        """Look at once: a writer committed something, or a person marked failures."""
        if self._hears_writers:
            self._pipeline.reads.look_at_once()
        self.tenure.failure_may_be_due()

    async def _claim_and_leave(self, lease: asyncio.Task[None]) -> None:
        await self._pipeline.claim.run()
        lease.cancel()
        # What a former tenure left in Kafka's hands needs its receipts, too.
        await self._lasting.wait_recorded()
        raise Drained

    async def _watch_lease(self) -> None:
        """End the tenure with its lease, in case the heartbeat hangs: others may own the lanes from then on."""
        await self.tenure.wait_lease_over()
        raise LeaseLostError("the lease ran out before the heartbeat got through")

    async def _report(self) -> None:
        """Tell health whether there is progress, and the gauges what is under way."""
        tenure = self.tenure
        settled_before = -1
        began = time.monotonic()
        while True:
            now = time.monotonic()
            if now - began >= WORKED_AFTER:
                self._restarts.worked()
            aside = len(self._lasting.outcomes.aside)
            self._health.unrecorded(aside, self._pipeline.settle.unrecorded.error)
            if tenure.room.settled != settled_before or tenure.room.events <= aside:
                settled_before = tenure.room.settled
                self._progressed_at = now
            stalled = now - self._progressed_at
            if tenure.lanes and not tenure.draining:
                stalled = max(stalled, self._pipeline.reads.since_look() if not tenure.room.events else 0.0)
            self._health.progress(now, stalled if stalled > REPORT_INTERVAL * 2 else None)
            self._telemetry.gauge("loop_tasks", len(asyncio.all_tasks()))
            self._telemetry.gauge("buffer_events", tenure.room.events)
            self._telemetry.gauge("buffer_bytes", tenure.room.bytes)
            self._tell_floor(now)
            self._telemetry.gauge("lag_seconds", self._lasting.publish.topics.oldest_age(time.time()))
            await asyncio.sleep(REPORT_INTERVAL if tenure.room.events else 2 * REPORT_INTERVAL)

    def _tell_floor(self, now: float) -> None:
        """Tell how far the scan's certainty is behind."""
        tenure = self.tenure
        if tenure.snapshot is None:
            return
        if tenure.snapshot is not self._floor_of:
            self._floor_of, self._floor_seen_at = tenure.snapshot, now
        # An idle relay looks, too, and sees the same snapshot.
        looked_at = max(self._floor_seen_at, now - self._pipeline.reads.since_look())
        floor = lowest_floor(tenure.ladder, tenure.snapshot)
        lag = self._floor_lag.note(floor, tenure.sequence_value, now, looked_at)
        self._telemetry.gauge("floor_lag_ids", lag.ids)
        self._telemetry.gauge("floor_lag_seconds", lag.seconds)


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
