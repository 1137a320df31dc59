"""The real stages on a real PostgreSQL, without Kafka, moved on by hand: what happens when is up to the test."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from relay.decide.room import Room
from relay.keys import lane_of_key
from relay.postgres import connect
from relay.postgres.flow.claim import ControlConnection
from relay.postgres.flow.scan import ScanConnection
from relay.postgres.flow.settle import SettleConnection
from relay.settings import ReplicaSettings, ScanSettings, SettleSettings
from relay.stages.claim.claim import Claim
from relay.stages.claim.totals import Totals
from relay.stages.scan.reads import LaneReads
from relay.stages.scan.scan import Scan
from relay.stages.scan.sweep import Sweep
from relay.stages.settle.outcomes import Delivered, Outcomes
from relay.stages.settle.settle import Settle
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.postgres.outbox import add_event, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from uuid import UUID

    import asyncpg

    from relay.decide.lane_scan import LaneScan
    from relay.event import PendingEvent
    from relay.stages.settle.outcomes import EventOutcome

MOST_ROUNDS = 200

PURPOSES = ("scan", "sweep", "settle", "control")


class HandRelay:
    """One replica; `taken` is everything its scans and sweeps handed on, in order."""

    def __init__(
        self,
        connections: dict[str, asyncpg.Connection],
        *,
        batch_events: int = 1000,
        sweep_step_ids: int = 50_000,
        max_events: int = 100_000,
        max_bytes: int = 1 << 30,
        lease: float = 60.0,
        name: str = "by hand",
        outcomes: Outcomes | None = None,
        hand_on: Callable[[list[PendingEvent]], None] | None = None,
    ) -> None:
        self.telemetry = Telemetry()
        totals = Totals()
        totals.listen_to(self.telemetry)
        self.tenure = Tenure(Room(max_events, max_bytes))
        self.taken: list[PendingEvent] = []
        self.outcomes = Outcomes() if outcomes is None else outcomes
        scan = ScanSettings(batch_events=batch_events, sweep_step_ids=sweep_step_ids)
        replica = ReplicaSettings(name=name, lease=lease)
        self.connections = connections
        self.scan_port = ScanConnection(connections["scan"], "outbox")
        self.sweep_port = ScanConnection(connections["sweep"], "outbox")
        self.settle_port = SettleConnection(connections["settle"], "outbox")
        self.control = ControlConnection(connections["control"], "outbox")
        self.reads = LaneReads(self.tenure, hand_on or self.hand_on)
        self.scan = Scan(port=self.scan_port, reads=self.reads, settings=scan, telemetry=self.telemetry)
        self.sweep = Sweep(port=self.sweep_port, reads=self.reads, settings=scan, telemetry=self.telemetry)
        self.settler = Settle(
            port=self.settle_port,
            outcomes=self.outcomes,
            tenure=self.tenure,
            settings=SettleSettings(),
            telemetry=self.telemetry,
        )
        totals = Totals()
        totals.listen_to(self.telemetry)
        self.claim = Claim(
            port=self.control,
            tenure=self.tenure,
            on_claimed=self.reads.lane_needs_sweep,
            settings=replica,
            totals=totals,
            telemetry=self.telemetry,
        )

    def hand_on(self, events: list[PendingEvent]) -> None:
        self.taken += events

    def lane(self, number: int) -> LaneScan:
        """What is remembered of a lane that is owned."""
        return self.tenure.lanes[number]

    async def start(self, former: UUID | None = None) -> None:
        """Register and claim the fair share."""
        await self.claim.register(former)
        await self.claim.beat()

    async def take(self) -> list[PendingEvent]:
        """One scan of every lane that has room and is not being swept; returns what it found."""
        before = len(self.taken)
        if requests := self.scan.requests():
            await self.scan.scan_once(requests)
        return self.taken[before:]

    async def step(self) -> list[PendingEvent]:
        """One step of every lane that is being swept; returns what it found."""
        before = len(self.taken)
        await self.sweep.step_all()
        return self.taken[before:]

    async def take_all(self) -> list[PendingEvent]:
        """Scans and sweeps, until a scan of all lanes finds nothing; returns what they found."""
        before = len(self.taken)
        for _ in range(MOST_ROUNDS):
            while self.is_sweeping():
                await self.step()
            if not await self.take():
                if not self.is_sweeping():
                    return self.taken[before:]
                # A long sweep takes a while, and heartbeats fall into it. Without their rungs the next scan would
                # find that it needs another one.
                await self.claim.beat()
        raise AssertionError(f"after {MOST_ROUNDS} scans there is still something to do: {self.tenure.lanes}")

    def is_sweeping(self) -> bool:
        """Whether any lane is in a long sweep."""
        return any(lane.sweep for lane in self.tenure.lanes.values())

    async def settle(self, events: Iterable[PendingEvent]) -> None:
        """Write the receipts of events: Kafka acknowledged them, at the offset that is their id.

        In reverse, so that each is in a row of its own: those that follow one another would be put together.
        """
        deliveries: list[EventOutcome] = [Delivered(self.tenure, [event], 0, event.id) for event in events]
        if deliveries:
            await self.settler.record(deliveries[::-1])

    async def look_at_locks(self, *, twice: bool = True) -> None:
        """Look for quiet transactions, and once more when those that are known by now are old enough."""
        await self.sweep.look_for_quiet_transactions(0.0)
        if twice:
            await self.sweep.look_for_quiet_transactions(2.0)

    def disconnect(self) -> None:
        """As a crash of this replica does."""
        for connection in self.connections.values():
            connection.terminate()


@asynccontextmanager
async def relay_connections(dsn: str) -> AsyncIterator[dict[str, asyncpg.Connection]]:
    """Connections as the service opens them."""
    connections: dict[str, asyncpg.Connection] = {}
    try:
        for purpose in PURPOSES:
            connections[purpose] = await connect.open_connection(dsn, 10, f"test {purpose}")
        yield connections
    finally:
        for connection in connections.values():
            connection.terminate()


@asynccontextmanager
async def hand_relay(dsn: str, **options: Any) -> AsyncIterator[HandRelay]:
    """A relay that has claimed its lanes, and whose take-over is done."""
    async with relay_connections(dsn) as connections:
        relay = HandRelay(connections, **options)
        await relay.start()
        yield relay


class Row(NamedTuple):
    """What a writer inserted."""

    lane: int
    id: int


class Writer:
    """One connection of a service, in a transaction of its own from the start."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def begin(self) -> int:
        """Open a transaction and take its xid, nothing else; returns the xid."""
        await self.connection.execute("BEGIN")
        return int(await self.connection.fetchval("SELECT pg_current_xact_id()::text"))

    async def enqueue(self, key: str | None = "k", topic: str = "orders", payload: str = "x") -> Row:
        return Row(*await add_event(self.connection, key, topic, payload))

    async def enqueue_many(self, number: int, key: str = "k") -> list[int]:
        return [(await self.enqueue(key)).id for _ in range(number)]

    async def commit(self) -> None:
        await self.connection.execute("COMMIT")

    async def roll_back(self) -> None:
        await self.connection.execute("ROLLBACK")


@asynccontextmanager
async def writer(dsn: str) -> AsyncIterator[Writer]:
    """A writer, whose transaction is rolled back at the end if it is still open."""
    async with connected(dsn) as connection:
        yield Writer(connection)


def lane_of(key: str) -> int:
    """The lane of a key, as the generated column computes it."""
    return lane_of_key(key.encode())


def same_lane(key: str, count: int) -> list[str]:
    """`count` more keys of the lane of `key`."""
    others = (f"{key}-{number}" for number in range(100_000))
    found: list[str] = []
    for other in others:
        if lane_of(other) == lane_of(key):
            found.append(other)
        if len(found) == count:
            break
    return found
