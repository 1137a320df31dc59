"""Writes receipts for what Kafka acknowledged, many per statement."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from uuid import UUID

    from relay.settings import SettleSettings
    from relay.stages.publish import Delivery
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry


class SettlePort(Protocol):
    """What settling needs of PostgreSQL. Each returns (new receipts, xid of the transaction)."""

    async def settle(
        self, lanes: list[int], ids: list[int], partitions: list[int], offsets: list[int]
    ) -> tuple[int, int]:
        """Write receipts."""

    async def settle_checked(
        self,
        lanes: list[int],
        ids: list[int],
        partitions: list[int],
        offsets: list[int],
        event_ids: list[UUID],
    ) -> tuple[int, int]:
        """Write receipts for events that are still the ones that were read."""

    async def count_duplicates(
        self, lanes: list[int], ids: list[int], partitions: list[int], offsets: list[int]
    ) -> int:
        """How many of these have a receipt for another place in Kafka."""


class Deliveries:
    """Acknowledged events that have no receipt yet. Outlives tenures, so that an acknowledgement is never lost."""

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._settling = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Number of events without a receipt."""
        return sum(len(delivery.events) for delivery in self._waiting) + self._settling

    def add(self, delivery: Delivery) -> None:
        """Events were acknowledged."""
        self._waiting.append(delivery)
        self._arrived.set()
        self._idle.clear()

    async def take(self, most: int) -> list[Delivery]:
        """Wait for deliveries and take those of one tenure, with about `most` events at the most."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        tenure = self._waiting[0].tenure
        taken = []
        while self._waiting and self._settling < most and self._waiting[0].tenure is tenure:
            taken.append(self._waiting.popleft())
            self._settling += len(taken[-1].events)
        return taken

    def put_back(self, deliveries: list[Delivery]) -> None:
        """Whether their receipts were committed is unknown: they are written again, which changes nothing then."""
        self._waiting.extendleft(reversed(deliveries))
        self._settling = 0

    def settled(self) -> None:
        """What was taken has its receipts."""
        self._settling = 0
        if not self._waiting:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until everything that was acknowledged is settled."""
        await self._idle.wait()


class Settle:
    """The loop: one statement at a time, with all that was acknowledged meanwhile."""

    def __init__(
        self,
        port: SettlePort,
        deliveries: Deliveries,
        tenure: Tenure,
        settings: SettleSettings,
        telemetry: Telemetry,
    ) -> None:
        self._port = port
        self._deliveries = deliveries
        self._tenure = tenure
        self._settings = settings
        self._telemetry = telemetry

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            taken = await self._deliveries.take(self._settings.batch_events)
            try:
                await self._settle(taken)
            except BaseException:
                self._deliveries.put_back(taken)
                raise
            self._deliveries.settled()

    async def _settle(self, deliveries: list[Delivery]) -> None:
        started = time.monotonic()
        lanes: list[int] = []
        ids: list[int] = []
        partitions: list[int] = []
        offsets: list[int] = []
        for _, events, partition, base in deliveries:
            lanes += [event[0] for event in events]
            ids += [event[1] for event in events]
            partitions += [partition] * len(events)
            offsets += range(base, base + len(events)) if base >= 0 else [-1] * len(events)
        tenure = self._tenure
        # Read before the transaction takes its xid: what a rung needs.
        value = tenure.sequence_value
        if deliveries[0].tenure is tenure:
            new, xid = await self._port.settle(lanes, ids, partitions, offsets)
            self._release(deliveries)
        else:
            event_ids = [event[2] for delivery in deliveries for event in delivery.events]
            new, xid = await self._port.settle_checked(lanes, ids, partitions, offsets, event_ids)
        tenure.ladder.add(xid, value)
        duplicates = 0
        if new < len(ids):
            duplicates = await self._port.count_duplicates(lanes, ids, partitions, offsets)
            if duplicates:
                self._telemetry.emit("settle.duplicates", events=duplicates)
        self._telemetry.emit("settle.done", events=new, duplicates=duplicates, seconds=time.monotonic() - started)

    def _release(self, deliveries: list[Delivery]) -> None:
        """The receipts are committed: the events may leave the lanes' taken sets and the buffer."""
        settled: dict[int, list[int]] = {}
        sizes: dict[int, int] = {}
        for delivery in deliveries:
            for event in delivery.events:
                lane = event[0]
                if lane in settled:
                    settled[lane].append(event[1])
                    sizes[lane] += event[9]
                else:
                    settled[lane] = [event[1]]
                    sizes[lane] = event[9]
        for lane, ids in settled.items():
            if (state := self._tenure.lanes.get(lane)) is not None:
                state.settle(ids)
        self._tenure.buffer.remove({lane: (len(ids), sizes[lane]) for lane, ids in settled.items()})
