"""`relay run`: owns all tasks, from start to stop."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import relay
from relay.errors import UnreachableError
from relay.kafka.connect import wait_for_producer
from relay.kafka.connection import open_connections
from relay.kafka.options import Security
from relay.kafka.partitioner import murmur2_of_many
from relay.kafka.reconcile.reconcile import KafkaReconcile
from relay.postgres.connect import wait_for
from relay.run.certificates import watch_certificates
from relay.run.connections import Connections
from relay.run.health import Health
from relay.run.http import serving
from relay.run.lasting import Lasting
from relay.run.restarts import Restarts, is_unforeseen
from relay.run.session import Session
from relay.run.tracing import tracing
from relay.run.watchdog import watch_loop
from relay.stages.claim.former import FormerTenure
from relay.stages.tenure import LanesCededError

if TYPE_CHECKING:
    from relay.settings import Settings
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry

MOST_AT_A_STOP = 1.0
"""Seconds between tenures that fail while the relay stops: its time is short."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Service:
    """One replica. `run` returns when it was told to stop and has drained, or has given up draining."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._health = Health(settings.health, time.monotonic())
        self._health.listen_to(telemetry)
        security = Security(settings.kafka)
        self._kafka = KafkaReconcile(settings.kafka, security)
        self._tracing = tracing(settings, telemetry)
        self._lasting = Lasting(
            connect=partial(
                wait_for_producer,
                settings.kafka,
                settings.topic,
                security=security,
                cloud_events=settings.cloud_events(),
            ),
            hash_keys=murmur2_of_many,
            kafka=self._kafka,
            settings=settings,
            telemetry=telemetry,
            on_landed=self._tracing.landed if self._tracing is not None else None,
        )
        self._publish = self._lasting.publish
        self._restarts = Restarts(random.random, self._health, telemetry)
        self._session: Session | None = None
        self._former: FormerTenure | None = None
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def run(self) -> None:
        """Relay until a signal or `stop`.

        Raises SchemaError or UnreachableError at start for what waiting cannot mend.
        """
        self._listen_to_signals()
        self._telemetry.emit("service.started", version=relay.__version__, replica=self._settings.replica.name)
        async with serving(self._settings.http, self._health, self._telemetry), asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._publish.run(), name="publish"),
                tasks.create_task(watch_loop(self._health, self._telemetry, self._busy, self._tell), name="watchdog"),
                tasks.create_task(watch_certificates(self._settings, self._telemetry), name="certificates"),
            ]
            sessions = tasks.create_task(self._sessions(), name="sessions")
            await self._until_stopped(sessions)
            for task in background:
                task.cancel()
            await self._kafka.close()
        if self._tracing is not None:
            await self._tracing.close()
        self._telemetry.emit("service.stopped", abandoned_events=self._unsettled())

    def stop(self, reason: str) -> None:
        """Drain and end; called a second time, end at once."""
        if self._stop.is_set():
            self._stop_now.set()
            return
        self._telemetry.emit("service.stopping", reason=reason)
        self._stop.set()
        if not self._health.kafka_was_reached:
            # Nothing was handed to Kafka: what was taken is as it was, and waiting for a first answer serves nobody.
            self._stop_now.set()
        if self._session is not None:
            self._session.tenure.begin_drain()

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.stop, number.name)

    async def _sessions(self) -> None:
        """One tenure after the other, until one of them has drained, or a stop finds nothing to drain."""
        try:
            while (reason := await self._one_tenure()) is not None:
                if not self._restarts.waits_for(reason):
                    raise reason
                await self._pause(self._restarts.ended(reason))
        finally:
            if self._former is not None:
                self._former.forget()

    async def _one_tenure(self) -> Exception | None:
        """Returns why it ended or could not begin; None when it has drained, or there was nothing to drain."""
        try:
            session = self._session = await self._open_session()
        # Neither a table that is missing now nor a bug ends a process that may be of use later.
        except Exception as error:  # noqa: BLE001
            if isinstance(error, UnreachableError) and self._restarts.waits_for(error):
                self._waiting(error)
            return error
        if session is None:
            return None
        if self._stop.is_set():
            session.tenure.begin_drain()
        reason = await session.run(self._former)
        if reason is None:
            return None
        self._session = None
        # One that was lost before it was registered has replaced nothing.
        if session.tenure.has_left:
            self._former = None
            if self._lasting.notes is not None:
                self._lasting.notes.left()
        elif session.tenure.registered:
            self._former = FormerTenure(session.tenure, reason, self._lease_lost)
        if not is_unforeseen(reason) and not isinstance(reason, LanesCededError):
            self._telemetry.emit("postgres.lost", error=reason)
        return reason

    async def _pause(self, seconds: float) -> None:
        """Wait before the next tenure; a stop ends it, there may be something to settle."""
        try:
            async with asyncio.timeout(min(seconds, MOST_AT_A_STOP) if self._stop.is_set() else seconds):
                if self._stop.is_set():
                    await self._stop_now.wait()
                await self._stop.wait()
        except TimeoutError:
            return

    def _lease_lost(self, tenure: Tenure, why: str) -> None:
        self._publish.discard_in_flight(tenure, "the lease was lost")
        self._telemetry.emit("lease.lost", reason=why)

    async def _open_session(self) -> Session | None:
        """Wait for PostgreSQL; None when told to stop and Kafka holds nothing that could still need a receipt."""
        opening = asyncio.ensure_future(self._connected())
        nothing_to_drain = asyncio.ensure_future(self._stopped_with_nothing_unsettled())
        try:
            await asyncio.wait([opening, nothing_to_drain], return_when=asyncio.FIRST_COMPLETED)
            return await opening if opening.done() else None
        finally:
            opening.cancel()
            nothing_to_drain.cancel()
            await asyncio.wait([opening, nothing_to_drain])

    async def _connected(self) -> Session:
        """A session on new connections, once PostgreSQL is there. Raises what waiting does not mend."""
        connections = await wait_for(
            partial(Connections.open, self._settings.postgres, notes=self._lasting.notes is not None), self._waiting
        )
        self._telemetry.emit("postgres.connected", version=connections.server_version, connections=len(connections))
        return Session(
            connections=connections,
            lasting=self._lasting,
            restarts=self._restarts,
            health=self._health,
            settings=self._settings,
            telemetry=self._telemetry,
        )

    async def _stopped_with_nothing_unsettled(self) -> None:
        await self._stop.wait()
        await self._lasting.wait_recorded()

    def _waiting(self, error: UnreachableError) -> None:
        self._telemetry.emit("postgres.waiting", error=error)

    async def _until_stopped(self, sessions: asyncio.Task[None]) -> None:
        """Wait until the sessions have drained; cut the drain short at the end of the grace period."""
        stop = asyncio.ensure_future(self._stop.wait())
        stop_now = asyncio.ensure_future(self._stop_now.wait())
        try:
            await asyncio.wait([sessions, stop], return_when=asyncio.FIRST_COMPLETED)
            started = time.monotonic()
            await asyncio.wait(
                [sessions, stop_now], timeout=self._settings.stop.grace, return_when=asyncio.FIRST_COMPLETED
            )
            if sessions.done():
                if not sessions.cancelled() and sessions.exception() is None:
                    self._telemetry.emit("drain.done", seconds=round(time.monotonic() - started, 3))
            else:
                sessions.cancel()
                await asyncio.wait([sessions])
        finally:
            stop.cancel()
            stop_now.cancel()

    def _tell(self) -> None:
        """Tell what nobody tells when it changes."""
        self._telemetry.tell_what_lasts()
        self._telemetry.gauge("kafka_connections", float(open_connections()))

    def _busy(self) -> bool:
        """Whether events are under way."""
        return self._session is not None and self._session.tenure.room.events > 0

    def _unsettled(self) -> int:
        """Events that may be in Kafka and have no receipt: redelivered by whoever claims their lanes next."""
        if not self._health.kafka_was_reached:
            return 0
        return self._lasting.unsettled(self._session.tenure if self._session is not None else None)
