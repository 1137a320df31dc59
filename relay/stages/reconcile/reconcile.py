"""Finds out what a replica had published that ended without handing over its lanes, and then frees them.

Its lanes are not free while it is on the list. One of the others *ends* it, so that it can begin nothing new; *fences*
its producers, so that nothing of them can arrive any more; *reads* what they left at the end of their partitions; and
writes the receipts. Then the replica goes from the list, and its lanes are claimed and scanned as always. RECONCILE.md
says why that is right.

Beside everything else, on a connection to PostgreSQL and a client of Kafka of its own. Any step may be repeated, by
this replica or another one: receipts that are there already are no-ops, and a fence that is set anew replaces the
former.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from relay.decide.reconciling import Mode, Reason
from relay.errors import RelayError, describe
from relay.stages.reconcile.search import Search

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from relay.retry import Backoff
    from relay.stages.reconcile.ports import DeadReplica, KafkaReconcilePort, ReconcilePort
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry

AT_WORK_INTERVAL = 10.0
"""Seconds between signs that this replica is still at work: after 30 s without one another may begin, too."""

WAIT_SECONDS = 30.0
"""Seconds for which the lanes wait for partitions that cannot be fenced or read, before they go on without."""


class Reconcile:
    """The loop: waits until claim sees a replica that ended, and takes up one after the other."""

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[ReconcilePort]],
        kafka: KafkaReconcilePort,
        tenure: Tenure,
        mode: Mode,
        most_bytes: int,
        request_timeout: float,
        can_publish: Callable[[], bool],
        backoff: Backoff,
        telemetry: Telemetry,
    ) -> None:
        """`most_bytes` of each partition are read; `can_publish` says whether Kafka has ever been reached."""
        self._connect = connect
        self._kafka = kafka
        self._tenure = tenure
        self._mode = mode
        self._most_bytes = most_bytes
        self._request_timeout = request_timeout
        self._can_publish = can_publish
        self._backoff = backoff
        self._since: dict[UUID, float] = {}
        """When a replica was first taken up (monotonic seconds)."""
        self._telemetry = telemetry

    async def run(self) -> None:
        """Reconcile until cancelled."""
        try:
            await self._run()
        finally:
            # Whether lanes wait is others' to say from now on.
            self._telemetry.emit("reconcile.works")

    async def _run(self) -> None:
        while True:
            await self._tenure.reconcile_wake_up.wait()
            self._tenure.reconcile_wake_up.clear()
            if self._mode is not Mode.OFF and not self._can_publish():
                # Another one can, or nobody. Claim says again that there is something to do.
                continue
            try:
                await self.once()
                self._telemetry.emit("reconcile.works")
                self._backoff.reset()
            except Exception as error:  # noqa: BLE001 whatever it is, the lanes that are owned go on
                # A connection of its own: that it is lost says nothing of the tenure's.
                self._telemetry.emit("reconcile.waiting", error=describe(error))
                await asyncio.sleep(self._backoff.next_delay())
                self._tenure.reconcile_may_be_due()

    async def once(self) -> None:
        """Reconcile all replicas that ended. Raises RelayError or UnfenceableError for what does not work now."""
        port = await self._connect()
        try:
            for replica in await port.dead():
                dead = await port.end(replica, self._tenure.replica)
                if dead is not None:
                    await self._one(port, dead)
        finally:
            port.close()

    async def _one(self, port: ReconcilePort, dead: DeadReplica) -> None:
        """Reconcile one replica, and free its lanes."""
        began = self._since.setdefault(dead.replica, time.monotonic())
        search = Search(
            port=port,
            kafka=self._kafka,
            dead=dead,
            mode=self._mode,
            most_bytes=self._most_bytes,
            request_timeout=self._request_timeout,
            out_of_patience=lambda: time.monotonic() - began > WAIT_SECONDS and self._mode is not Mode.REQUIRE,
            telemetry=self._telemetry,
        )
        if self._mode is not Mode.OFF and dead.tails and dead.producers:
            self._telemetry.emit("reconcile.started", replica=dead.name, partitions=search.partitions)
            at_work = asyncio.create_task(self._stay_at_work(port, dead.replica))
            try:
                await self._until_found(port, dead, search, began + WAIT_SECONDS)
            except BaseException as error:
                await self._let_go(port, dead.replica, describe(error) if isinstance(error, Exception) else None)
                raise
            finally:
                at_work.cancel()
                await asyncio.wait([at_work])
        await port.forget(dead.replica)
        self._since.pop(dead.replica, None)
        await port.wake_others()
        self._telemetry.emit(
            "reconcile.done",
            replica=dead.name,
            partitions=search.partitions,
            found=search.found,
            bytes=search.bytes,
            seconds=round(time.monotonic() - began, 3),
        )

    async def _until_found(self, port: ReconcilePort, dead: DeadReplica, search: Search, until: float) -> None:
        """Search until nothing is left; what is left at `until` (monotonic seconds) is given up."""
        told = ""
        while search.left:
            await search.once()
            if not search.left:
                return
            if time.monotonic() >= until and self._mode is not Mode.REQUIRE:
                search.give_up(Reason.WAITED)
                return
            if search.waits_for != told:
                told = search.waits_for
                self._telemetry.emit("reconcile.held_up", replica=dead.name, error=told)
                await port.still_at_work(dead.replica, self._tenure.replica, told)
            await asyncio.sleep(min(self._backoff.next_delay(), 2.0))

    async def _stay_at_work(self, port: ReconcilePort, replica: UUID) -> None:
        while True:
            await asyncio.sleep(AT_WORK_INTERVAL)
            # That the connection is lost is noticed by whoever works.
            with suppress(RelayError):
                await port.still_at_work(replica, self._tenure.replica, None)

    async def _let_go(self, port: ReconcilePort, replica: UUID, waits_for: str | None) -> None:
        # If that cannot be said, they may try in a while.
        with suppress(RelayError):
            await port.let_go(replica, self._tenure.replica, waits_for)
