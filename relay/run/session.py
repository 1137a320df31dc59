"""One tenure with its connections: opens them, runs the stages on them, drops them."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from relay.decide.chores import CHECK
from relay.decide.room import Room
from relay.errors import PostgresLostError, RelayError, connection_lost
from relay.postgres import checks, connect
from relay.postgres.flow.claim import ControlConnection
from relay.postgres.flow.hold import ResumeConnection
from relay.postgres.flow.housekeeping import HousekeepingConnection
from relay.postgres.flow.republish import RepublishConnection
from relay.postgres.flow.scan import ScanConnection
from relay.postgres.flow.settle import SettleConnection
from relay.retry import Backoff
from relay.run.restarts import WORKED_AFTER
from relay.stages.claim.claim import Claim
from relay.stages.hold.resume import Resume
from relay.stages.housekeeping.housekeeping import Chore, Housekeeping
from relay.stages.republish.republish import Republish
from relay.stages.scan.reads import LaneReads
from relay.stages.scan.scan import Scan
from relay.stages.scan.sweep import Sweep
from relay.stages.scan.unreadable import Unreadable
from relay.stages.settle.settle import Settle
from relay.stages.tenure import LeaseLostError, Tenure, TenureLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from relay.run.health import Health
    from relay.run.restarts import Restarts
    from relay.settings import Settings
    from relay.stages.claim.former import FormerTenure
    from relay.stages.claim.totals import Totals
    from relay.stages.hold.failures import Failures
    from relay.stages.hold.gate import Gate
    from relay.stages.housekeeping.check import Check
    from relay.stages.publish.publish import Publish
    from relay.stages.republish.origin import Republished
    from relay.stages.settle.outcomes import Outcomes
    from relay.telemetry import Telemetry

CONNECTIONS = ("scan", "sweep", "settle", "control", "resume", "housekeeping")
"""The connections of one replica, by what they are for; each is used by one stage. The stage that replays delivered
events opens one more while it has something to do."""

REPORT_INTERVAL = 0.5
"""Seconds between reports to health and to the gauges; while there is nothing in hand, twice as many."""

LEAVE_TIMEOUT = 1.0
"""Seconds that leaving may take when there is no time left to drain."""

FLIGHT_WAIT = 2.0
"""Seconds to wait, after a reconnect, for batches that were in Kafka's hands: each that lands and is settled before
scanning begins is one not published twice. Within them, also for Kafka itself: from the registration on, others give
lanes back for us, which nobody publishes until we can."""


class Drained(Exception):  # noqa: N818 no error: how a drained session leaves its task group
    """Everything is settled and released."""


class Session:
    """The stages of one tenure."""

    def __init__(
        self,
        connections: dict[str, asyncpg.Connection],
        settings: Settings,
        publish: Publish,
        gate: Gate,
        failures: Failures,
        outcomes: Outcomes,
        republished: Republished,
        restarts: Restarts,
        check: Check,
        totals: Totals,
        health: Health,
        telemetry: Telemetry,
    ) -> None:
        schema = settings.postgres.schema_name
        self._connections = connections
        self._publish = publish
        self._gate = gate
        self._outcomes = outcomes
        self._restarts = restarts
        self._health = health
        self._telemetry = telemetry
        self._progressed_at = time.monotonic()
        self.tenure = tenure = Tenure(Room(settings.buffer.max_events, settings.buffer.max_bytes))
        scan_port = ScanConnection(connections["scan"], schema)
        sweep_port = ScanConnection(connections["sweep"], schema)
        self._control = ControlConnection(connections["control"], schema)
        self._hears_writers = settings.scan.wake_up
        self._reads = LaneReads(tenure, gate.take)
        self._scan = Scan(
            port=scan_port,
            reads=self._reads,
            settings=settings.scan,
            telemetry=telemetry,
            unreadable=Unreadable(scan_port, tenure, failures.fail_unread),
        )
        self._sweep = Sweep(
            port=sweep_port,
            reads=self._reads,
            settings=settings.scan,
            telemetry=telemetry,
            unreadable=Unreadable(sweep_port, tenure, failures.fail_unread),
        )
        settle_port = SettleConnection(connections["settle"], schema)
        self._settle = Settle(
            port=settle_port, outcomes=outcomes, tenure=tenure, settings=settings.settle, telemetry=telemetry
        )
        resume_port = ResumeConnection(connections["resume"], schema)
        housekeeping_port = HousekeepingConnection(connections["housekeeping"], schema)
        self._housekeeping = Housekeeping(
            port=housekeeping_port,
            replica=tenure.replica,
            settings=settings.segment,
            telemetry=telemetry,
            more=[Chore(CHECK, partial(check.look, housekeeping_port), settings.segment.check_interval)],
        )
        self._resume = Resume(
            port=resume_port,
            tenure=tenure,
            outcomes=outcomes,
            hand_in=publish.hand_in,
            try_anew=publish.forget_limits,
            settings=settings.scan,
            replays_may_be_over=self._housekeeping.finish_replays_soon,
        )
        self._replay = Republish(
            connect=partial(RepublishConnection.open, settings.postgres),
            tenure=tenure,
            republished=republished,
            hand_in=publish.hand_in_with_origins,
            withdraw=publish.topics.withdraw,
            buffer=settings.buffer,
            publish=settings.publish,
            backoff=Backoff(random.random, first=1.0, most=30.0),
            telemetry=telemetry,
        )
        self._claim = Claim(
            port=self._control,
            tenure=tenure,
            on_claimed=self._reads.lane_needs_sweep,
            settings=settings.replica,
            totals=totals,
            telemetry=telemetry,
        )

    @classmethod
    async def open(
        cls,
        settings: Settings,
        publish: Publish,
        gate: Gate,
        failures: Failures,
        outcomes: Outcomes,
        republished: Republished,
        restarts: Restarts,
        check: Check,
        totals: Totals,
        health: Health,
        telemetry: Telemetry,
        on_failure: Callable[[PostgresLostError], None],
    ) -> Session:
        """Wait for PostgreSQL, check server and schema, and connect.

        Raises SchemaError for a schema that does not fit, and UnreachableError when it takes a person.
        """
        connections = await connect.wait_for(partial(_connect_all, settings), on_failure)
        version = connections["control"].get_server_version()
        telemetry.emit(
            "postgres.connected",
            version=f"{version.major}.{version.micro}",  # asyncpg's words for 18.4
            connections=len(connections),
        )
        return cls(
            connections,
            settings,
            publish,
            gate,
            failures,
            outcomes,
            republished,
            restarts,
            check,
            totals,
            health,
            telemetry,
        )

    async def run(self, former: FormerTenure | None) -> Exception | None:
        """Run until drained (returns None) or until the tenure is lost (returns why).

        The lanes of `former`, this process's last tenure, are free once this one is registered.
        """
        reason: Exception | None = None
        must_leave = True
        try:
            async with asyncio.TaskGroup() as stages:
                stages.create_task(self._settle.run(), name="settle")
                stages.create_task(self._settle_flights_first(former, stages), name="start")
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
            self._publish.forget(self.tenure)
            if must_leave:
                await self._leave()
            for connection in self._connections.values():
                connect.drop(connection)
        return reason

    async def _settle_flights_first(self, former: FormerTenure | None, stages: asyncio.TaskGroup) -> None:
        try:
            async with asyncio.timeout(FLIGHT_WAIT):
                await self._publish.wait_landed()
                await self._outcomes.wait_idle()
                await self._publish.ready()
        except TimeoutError:
            pass
        await self._claim.register(former.replica if former else None)
        self._restarts.registered()
        if former is not None:
            former.replaced()
        self._gate.serve(self.tenure, self._publish.hand_in)
        self._publish.serve(self.tenure)
        # Before the first look at the lanes: what is said after that must be heard.
        await self._listen()
        lease = stages.create_task(self._watch_lease(), name="lease")
        stages.create_task(self._claim_and_leave(lease), name="claim")
        stages.create_task(self._scan.run(), name="scan")
        stages.create_task(self._sweep.run(), name="sweep")
        stages.create_task(self._resume.run(), name="resume")
        stages.create_task(self._replay.run(), name="replay")
        stages.create_task(self._housekeeping.run(), name="housekeeping")
        stages.create_task(self._report(), name="report")
        stages.create_task(self._publish.raise_faults(), name="publish")

    async def _listen(self) -> None:
        """Hear hints, if it can be had: everything that they tell is also looked for now and then."""
        try:
            await self._control.listen(self._woken_up, self.tenure.replay_may_be_open, self.tenure.lanes_may_be_free)
        except RelayError as error:
            if connection_lost(error):
                raise
            self._telemetry.emit("hint.failed", error=error)

    async def _leave(self) -> None:
        """Free the lanes of a drain that was cut short, so that nobody waits for the lease to end.

        What is still in Kafka's hands may land after their next owner has published it: a repeat, in order.
        """
        with suppress(Exception):
            async with asyncio.timeout(LEAVE_TIMEOUT):
                await self._claim.leave()

    async def _settle_and_leave(self) -> None:
        """Record what Kafka has and free the lanes, so that whoever gets them next, or gets further, repeats nothing.

        If that does not work either the lease is left to run out, for what is unsettled.
        """
        self._publish.forget(self.tenure)
        with suppress(Exception):
            async with asyncio.timeout(FLIGHT_WAIT + LEAVE_TIMEOUT), asyncio.TaskGroup() as last:
                settling = last.create_task(self._settle.run(), name="settle")
                await self._publish.wait_landed()
                await self._outcomes.wait_idle()
                settling.cancel()
                await self._claim.leave()

    def _woken_up(self) -> None:
        """A writer committed something, or a person marked failures."""
        if self._hears_writers:
            self._reads.look_at_once()
        self.tenure.failure_may_be_due()

    async def _claim_and_leave(self, lease: asyncio.Task[None]) -> None:
        await self._claim.run()
        lease.cancel()
        # What a former tenure left in Kafka's hands needs its receipts, too.
        await self._publish.wait_landed()
        await self._outcomes.wait_idle()
        raise Drained

    async def _watch_lease(self) -> None:
        """In case the heartbeat hangs: another replica may own the lanes from then on."""
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
            aside = len(self._outcomes.aside)
            self._health.unrecorded(aside, self._settle.unrecorded.error)
            if tenure.room.settled != settled_before or tenure.room.events <= aside:
                settled_before = tenure.room.settled
                self._progressed_at = now
            stalled = now - self._progressed_at
            if tenure.lanes and not tenure.draining:
                stalled = max(stalled, self._reads.since_look() if not tenure.room.events else 0.0)
            self._health.progress(now, stalled if stalled > REPORT_INTERVAL * 2 else None)
            self._telemetry.gauge("loop_tasks", len(asyncio.all_tasks()))
            self._telemetry.gauge("buffer_events", tenure.room.events)
            self._telemetry.gauge("buffer_bytes", tenure.room.bytes)
            self._telemetry.gauge("lag_seconds", self._publish.topics.oldest_age(time.time()))
            await asyncio.sleep(REPORT_INTERVAL if tenure.room.events else 2 * REPORT_INTERVAL)


async def _connect_all(settings: Settings) -> dict[str, asyncpg.Connection]:
    dsn = connect.dsn_of(settings.postgres)
    connections: dict[str, asyncpg.Connection] = {}
    try:
        for purpose in CONNECTIONS:
            # All to the server that the first one found.
            connections[purpose], dsn = await connect.open_first(
                dsn, settings.postgres.connect_timeout, f"outbox-relay {purpose}"
            )
            if purpose == CONNECTIONS[0]:
                await checks.check_primary(connections[purpose])
                await checks.check_schema(connections[purpose], settings.postgres.schema_name)
                await checks.check_row_security(connections[purpose], settings.postgres.schema_name)
                await checks.check_sequence(connections[purpose], settings.postgres.schema_name)
        await checks.check_sessions(connections.values())
        await connect.set_for_sweeps(connections["sweep"], settings.postgres.connect_timeout)
    except BaseException:
        for connection in connections.values():
            connect.drop(connection)
        raise
    return connections


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
