"""An outbox to hold ports to: in PostgreSQL behind the real adapters, or simulated behind the shared fake.

Each contract test does what writers and people do through these verbs, and what the relay does through the ports.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import uuid4

from relay.decide.republishing import ReplayRequest
from relay.keys import LANES, lane_of_key
from relay.postgres import connect
from relay.postgres.admin.lanes import record_intent
from relay.postgres.admin.topics import ask_topics
from relay.postgres.flow.claim import ControlConnection
from relay.postgres.flow.hold import ResumeConnection
from relay.postgres.flow.housekeeping import HousekeepingConnection
from relay.postgres.flow.republish import RepublishConnection
from relay.postgres.flow.scan import ScanConnection
from relay.postgres.flow.settle import SettleConnection
from relay.stages.scan.ports import ScanPort, SweepPort, UnreadablePort
from tests.support.models.simulated_connection import SimulatedConnection
from tests.support.models.simulated_leases import Clock
from tests.support.models.simulated_postgres import Replay, SimulatedPostgres
from tests.support.postgres.outbox import add_event, connected, migrated
from tests.support.postgres.replays import insert_action

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    import asyncpg

    from relay.stages.claim.ports import ClaimPort
    from relay.stages.hold.ports import ResumePort
    from relay.stages.housekeeping.ports import CheckPort
    from relay.stages.republish.ports import RepublishPort
    from relay.stages.settle.ports import SettlePort
    from tests.support.models.simulated_postgres import Transaction

LEASE = 60.0


class Place(NamedTuple):
    """Where an event is."""

    lane: int
    id: int


class Failure(NamedTuple):
    """What is recorded of an event that failed."""

    state: str
    attempts: int
    error: str


class Writing(Protocol):
    """A writer's transaction."""

    xid: int

    async def enqueue(self, key: bytes = b"k", topic: str = "orders", payload: bytes = b"x") -> Place: ...

    async def commit(self) -> None: ...


class ReadingPort(ScanPort, SweepPort, UnreadablePort, Protocol):
    """What scans, sweeps and the search for an unreadable event need."""


class Outbox(Protocol):
    """One outbox, and a connection for each port."""

    claiming: ClaimPort
    reading: ReadingPort
    settling: SettlePort
    resuming: ResumePort
    republishing: RepublishPort
    checking: CheckPort

    async def begin(self) -> Writing:
        """Begin a writer's transaction, which has its xid and nothing else."""

    async def expire(self, replica: UUID) -> None:
        """Let a replica's lease run out."""

    async def ask(self, lane: int, replica: UUID | None, seconds: float) -> None:
        """Ask for a lane as `relay lanes` does: to be moved to a replica, or to be parked."""

    async def pause(self, topic: str, seconds: float) -> None:
        """Ask for a topic's events to be held back as `relay topics` does; 0 seconds end what was asked for before."""

    async def pass_to(self, lane: int, position: int) -> None:
        """Let a lane's position be too high, as nothing but a mistake or a restored backup makes it."""

    async def mark(self, place: Place, state: str) -> None:
        """Let a person replay or discard a failure."""

    async def receipts(self) -> dict[Place, tuple[int, int]]:
        """Partition and offset of each event that has a receipt."""

    async def failures(self) -> dict[Place, Failure]:
        """What failed."""

    async def held(self) -> set[Place]:
        """What is held."""

    async def renumber(self, place: Place) -> None:
        """Let another event have this one's id, as after a fail-over that took the first one back."""

    async def ask_for_replay(self, topic: str, last_id: int) -> int:
        """Ask for everything of a topic to be published again; returns the number of the request."""

    async def replay_receipts(self, action: int) -> dict[Place, str | None]:
        """Kafka's error of each event that has a receipt of a replay."""


async def enqueue(outbox: Outbox, key: bytes = b"k", topic: str = "orders", payload: bytes = b"x") -> Place:
    """Enqueue an event in a transaction of its own."""
    writing = await outbox.begin()
    place = await writing.enqueue(key, topic, payload)
    await writing.commit()
    return place


# In PostgreSQL


class RealWriting:
    """A transaction of a connection."""

    def __init__(self, connection: asyncpg.Connection, xid: int) -> None:
        self._connection = connection
        self.xid = xid

    async def enqueue(self, key: bytes = b"k", topic: str = "orders", payload: bytes = b"x") -> Place:
        return Place(*await add_event(self._connection, key, topic, payload))

    async def commit(self) -> None:
        await self._connection.execute("COMMIT")


class RealOutbox:
    """In a database, behind the adapters."""

    def __init__(self, dsn: str, people: asyncpg.Connection, stack: AsyncExitStack) -> None:
        self._dsn = dsn
        self._people = people
        self._stack = stack

    async def connect(self) -> None:
        """Open a connection for each port, as the service does."""

        async def opened(purpose: str) -> asyncpg.Connection:
            connection = await connect.open_connection(self._dsn, 10, f"test {purpose}")
            self._stack.callback(connection.terminate)
            return connection

        self.claiming: ClaimPort = ControlConnection(await opened("control"), "outbox")
        self.reading: ReadingPort = ScanConnection(await opened("scan"), "outbox")
        self.settling: SettlePort = SettleConnection(await opened("settle"), "outbox")
        self.resuming: ResumePort = ResumeConnection(await opened("resume"), "outbox")
        self.republishing: RepublishPort = RepublishConnection(await opened("replay"), "outbox")
        self.checking: CheckPort = HousekeepingConnection(await opened("housekeeping"), "outbox")

    async def begin(self) -> RealWriting:
        connection = await self._stack.enter_async_context(connected(self._dsn))
        await connection.execute("BEGIN")
        return RealWriting(connection, int(await connection.fetchval("SELECT pg_current_xact_id()::text")))

    async def expire(self, replica: UUID) -> None:
        await self._people.execute(
            "UPDATE outbox.replica SET lease_expires_at = clock_timestamp() - interval '1 ms' WHERE id = $1", replica
        )

    async def ask(self, lane: int, replica: UUID | None, seconds: float) -> None:
        await record_intent(
            self._people, "outbox", [lane], replica=replica, seconds=seconds, reason="a test", requested_by="me@here"
        )

    async def pause(self, topic: str, seconds: float) -> None:
        await ask_topics(self._people, "outbox", [topic], seconds=seconds, reason="a test", requested_by="me@here")

    async def pass_to(self, lane: int, position: int) -> None:
        await self._people.execute("UPDATE outbox.lane SET position = $2 WHERE lane = $1", lane, position)

    async def mark(self, place: Place, state: str) -> None:
        await self._people.execute(
            "UPDATE outbox.failure SET state = $3, next_attempt_at = NULL WHERE lane = $1 AND id = $2", *place, state
        )

    async def receipts(self) -> dict[Place, tuple[int, int]]:
        rows = await self._people.fetch("SELECT lane, id, kafka_partition, kafka_offset FROM outbox.delivered")
        return {Place(lane, id_): (partition, offset) for lane, id_, partition, offset in rows}

    async def failures(self) -> dict[Place, Failure]:
        rows = await self._people.fetch("SELECT lane, id, state, attempts, error FROM outbox.failure")
        return {Place(lane, id_): Failure(*rest) for lane, id_, *rest in rows}

    async def held(self) -> set[Place]:
        return {Place(*row) for row in await self._people.fetch("SELECT lane, id FROM outbox.held")}

    async def renumber(self, place: Place) -> None:
        await self._people.execute(
            "UPDATE outbox.event SET event_id = gen_random_uuid() WHERE lane = $1 AND id = $2", *place
        )

    async def ask_for_replay(self, topic: str, last_id: int) -> int:
        now = datetime.now(UTC)
        filter_ = {"topic": topic, "since": (now - timedelta(days=1)).isoformat(), "until": now.isoformat()}
        progress = {"last_id": last_id, "lanes": dict.fromkeys(map(str, range(LANES)), 0)}
        return await insert_action(self._people, filter_, progress)

    async def replay_receipts(self, action: int) -> dict[Place, str | None]:
        rows = await self._people.fetch("SELECT lane, id, error FROM outbox.replay_receipt WHERE action = $1", action)
        return {Place(lane, id_): error for lane, id_, error in rows}


@asynccontextmanager
async def real_outbox(dsn: str) -> AsyncIterator[RealOutbox]:
    """An outbox in an empty database."""
    async with AsyncExitStack() as stack:
        outbox = RealOutbox(dsn, await stack.enter_async_context(migrated(dsn)), stack)
        await outbox.connect()
        yield outbox


# Simulated


class SimulatedWriting:
    """A transaction of a simulated PostgreSQL."""

    def __init__(self, postgres: SimulatedPostgres) -> None:
        self._postgres = postgres
        self._transaction: Transaction = postgres.begin()
        self.xid = self._transaction.xid

    async def enqueue(self, key: bytes = b"k", topic: str = "orders", payload: bytes = b"x") -> Place:
        size = len(key) + len(payload)
        event = self._postgres.insert_event(self._transaction, lane_of_key(key), topic, key, payload, size)
        return Place(event.lane, event.id)

    async def commit(self) -> None:
        self._postgres.commit(self._transaction)


class SimulatedOutbox:
    """In a simulated PostgreSQL, behind the shared fake of all ports."""

    def __init__(self) -> None:
        self._postgres = SimulatedPostgres(LANES, Clock())
        connection = SimulatedConnection(self._postgres)
        self.claiming: ClaimPort = connection
        self.reading: ReadingPort = connection
        self.settling: SettlePort = connection
        self.resuming: ResumePort = connection
        self.republishing: RepublishPort = connection
        self.checking: CheckPort = connection

    async def begin(self) -> SimulatedWriting:
        return SimulatedWriting(self._postgres)

    async def expire(self, replica: UUID) -> None:
        self._postgres.replicas[replica].lease_ends = self._postgres.leases.now - 0.001

    async def ask(self, lane: int, replica: UUID | None, seconds: float) -> None:
        self._postgres.leases.ask(lane, replica, seconds)

    async def pause(self, topic: str, seconds: float) -> None:
        self._postgres.leases.pause(topic, seconds)

    async def pass_to(self, lane: int, position: int) -> None:
        self._postgres.lanes[lane].position = position

    async def mark(self, place: Place, state: str) -> None:
        self._postgres.failures[place].state = state

    async def receipts(self) -> dict[Place, tuple[int, int]]:
        return {Place(*place): row[:2] for place, row in self._postgres.receipts.items()}

    async def failures(self) -> dict[Place, Failure]:
        rows = self._postgres.failures.items()
        return {Place(*place): Failure(row.state, row.attempts, row.error) for place, row in rows}

    async def held(self) -> set[Place]:
        return {Place(*place) for place in self._postgres.held}

    async def renumber(self, place: Place) -> None:
        self._postgres.visible = [
            event._replace(event_id=uuid4()) if (event.lane, event.id) == place else event  # type: ignore[attr-defined]
            for event in self._postgres.visible
        ]

    async def ask_for_replay(self, topic: str, last_id: int) -> int:
        now = datetime.fromtimestamp(self._postgres.leases.now, UTC)
        action = len(self._postgres.replays) + 1
        positions = dict.fromkeys(range(LANES), 0)
        request = ReplayRequest(action, topic, None, now - timedelta(days=1), now, 0.0, last_id, positions)
        self._postgres.replays[action] = Replay(request)
        return action

    async def replay_receipts(self, action: int) -> dict[Place, str | None]:
        return {Place(*place): error for place, error in self._postgres.replays[action].settled.items()}
