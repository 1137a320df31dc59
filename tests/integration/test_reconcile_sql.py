"""What a replica notes of itself, and what the others do about one that ended without handing over its lanes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from relay.decide.shares import Entry
from relay.keys import LANES
from relay.postgres import connect
from relay.postgres.admin.lanes import read_ownership
from relay.postgres.flow.claim import ControlConnection
from relay.postgres.flow.reconcile import NotesConnection, ReconcileConnection
from relay.postgres.sql import query
from relay.stages.claim.ports import Report
from relay.stages.reconcile.ports import Found, FoundEvent, Place, ProcessNotes
from tests.support.postgres.outbox import add_event, migrated
from tests.support.postgres.receipts import DELIVERIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

LEASE = 60.0
US = UUID(int=1)


class Ports:
    """Those of one replica, on one connection."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.notes = NotesConnection(connection, "outbox")
        self.reconcile = ReconcileConnection(connection, "outbox")
        self.claim = ControlConnection(connection, "outbox")
        self.sql = connection

    async def register(
        self, former: UUID | None = None, process: UUID | None = None, producers: dict[str, int] | None = None
    ) -> tuple[UUID, UUID]:
        """A new registration: its id, and the process that it is."""
        entry = Entry(uuid4(), "test", "0", LEASE, None)
        notes = ProcessNotes(process or uuid4(), producers or {}, uuid4())
        _, process = await self.notes.register_noting(entry, former, notes)
        return entry.replica, process

    async def claim_all(self, replica: UUID) -> int:
        """Claim what is free; how many lanes that are."""
        return len(await self.claim.claim(replica, [row for row in await self.claim.lanes() if row.free]))

    async def free(self) -> int:
        return sum(row.free for row in await self.claim.lanes())


@pytest.fixture
async def ports(database: str) -> AsyncIterator[Ports]:
    async with migrated(database), opened(database) as connection:
        yield Ports(connection)


@asynccontextmanager
async def opened(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect.open_connection(database, 10.0, "outbox-relay test")
    try:
        yield connection
    finally:
        connect.drop(connection)


class TestLanes:
    async def test_lanes_of_a_replica_that_notes_are_free_when_its_row_is_gone_and_not_with_its_lease(
        self, ports: Ports
    ) -> None:
        replica, _ = await ports.register()
        assert await ports.claim_all(replica) == LANES
        await ports.notes.expire(replica)
        assert await ports.free() == 0
        assert await ports.reconcile.dead() == [replica]
        assert await ports.reconcile.end(replica, US) is not None
        assert await ports.free() == 0
        await ports.reconcile.forget(replica)
        assert await ports.free() == LANES
        assert await ports.reconcile.dead() == []

    async def test_lanes_of_one_that_notes_nothing_are_free_with_its_lease(self, ports: Ports) -> None:
        replica = uuid4()
        await ports.claim.register(replica, "old", "0", LEASE, None, None)
        assert await ports.claim_all(replica) == LANES
        await ports.notes.expire(replica)
        assert await ports.free() == LANES
        assert await ports.reconcile.dead() == []

    async def test_one_that_was_gone_for_long_is_forgotten_but_not_while_lanes_wait_for_it(self, ports: Ports) -> None:
        waiting, _ = await ports.register()
        await ports.claim_all(waiting)
        gone, process = await ports.register()
        await ports.notes.note_topics(gone, {"orders": [1]})
        await ports.sql.execute("INSERT INTO outbox.tail VALUES (gen_random_uuid(), 'orders', '{1}')")
        await ports.notes.note_topics(waiting, {"orders": [1]})
        await ports.sql.execute("UPDATE outbox.replica SET lease_expires_at = now() - interval '2 hours'")
        await ports.sql.execute(query("forget_replicas"))
        assert [row["id"] for row in await ports.sql.fetch("SELECT id FROM outbox.replica")] == [waiting]
        assert await ports.sql.fetchval("SELECT count(*) FROM outbox.tail WHERE process = $1", process) == 0
        assert await ports.sql.fetchval("SELECT count(*) FROM outbox.tail") == 1, (
            "those of a replica that is waited for"
        )


class TestEnding:
    async def test_a_replica_that_was_ended_can_note_nothing_and_renew_nothing(self, ports: Ports) -> None:
        replica, process = await ports.register()
        await ports.claim_all(replica)
        assert await ports.notes.enlist(replica, {"a": 7})
        assert await ports.notes.note_topics(replica, {"orders": [5, 6], "bills": [0]})
        await ports.notes.raise_tails(process, {"orders": [8, 6]})
        await ports.notes.expire(replica)

        dead = await ports.reconcile.end(replica, US)

        assert dead is not None
        assert (dead.process, dead.name) == (process, "test")
        assert dead.producers == {"a": 7}
        assert dead.tails == {"orders": [8, 6], "bills": [0]}
        assert not await ports.notes.enlist(replica, {"b": 8})
        assert not await ports.notes.note_topics(replica, {"more": [1]})
        # Its clock goes back.
        await ports.sql.execute("UPDATE outbox.replica SET lease_expires_at = now() + interval '1 hour'")
        assert await ports.claim.renew(replica, LEASE, Report([], 0, 0, {})) is None

    async def test_one_works_at_a_time_until_it_lets_go_dies_or_falls_silent(self, ports: Ports) -> None:
        replica, _ = await ports.register()
        await ports.claim_all(replica)
        one, _ = await ports.register()
        other, _ = await ports.register()
        assert await ports.reconcile.end(replica, one) is None, "its lease runs"
        await ports.notes.expire(replica)
        assert await ports.reconcile.end(replica, one) is not None
        assert await ports.reconcile.end(replica, one) is not None, "again"
        assert await ports.reconcile.end(replica, other) is None
        assert await ports.reconcile.dead() == []
        assert await ports.reconcile.still_at_work(replica, one, None)
        await ports.reconcile.let_go(replica, one, None)
        assert await ports.reconcile.dead() == [replica]
        assert await ports.reconcile.end(replica, other) is not None
        assert not await ports.reconcile.still_at_work(replica, one, None)
        await ports.sql.execute(
            "UPDATE outbox.replica SET ended_at = now() - interval '31 s' WHERE ended_at IS NOT NULL"
        )
        assert await ports.reconcile.end(replica, one) is not None, "the other one is silent"
        assert await ports.reconcile.dead() == []
        await ports.notes.expire(one)
        assert await ports.reconcile.dead() == [replica]
        assert await ports.reconcile.end(replica, other) is not None, "the one is dead"

    async def test_why_its_lanes_wait_is_shown_to_people_until_they_are_free(self, ports: Ports) -> None:
        replica, _ = await ports.register()
        await ports.claim_all(replica)
        one, _ = await ports.register()
        await ports.notes.expire(replica)
        assert await ports.reconcile.end(replica, one) is not None

        async def shown() -> str | None:
            replicas, _ = await read_ownership(ports.sql)
            (its,) = (each for each in replicas if each.id == replica)
            return its.waits_for

        assert await shown() is None
        assert await ports.reconcile.still_at_work(replica, one, "no leader")
        assert await shown() == "no leader"
        assert await ports.reconcile.still_at_work(replica, one, None)
        assert await shown() == "no leader", "it was not tried again since"
        await ports.reconcile.let_go(replica, one, "Kafka is away")
        assert await shown() == "Kafka is away"
        await ports.reconcile.let_go(replica, one, None)
        assert await shown() == "Kafka is away", "it is somebody else's now"

    async def test_a_replica_that_lives_is_not_forgotten(self, ports: Ports) -> None:
        replica, _ = await ports.register()
        await ports.claim_all(replica)
        await ports.reconcile.forget(replica)
        assert await ports.free() == 0


class TestRegisteringAgain:
    async def test_it_is_the_same_process_with_what_it_noted(self, ports: Ports) -> None:
        former, process = await ports.register(producers={"a": 7})
        await ports.claim_all(former)
        await ports.notes.note_topics(former, {"orders": [5]})
        replica, now = await ports.register(former, process, {"a": 7, "b": 8})
        assert now == process
        assert await ports.free() == LANES
        assert await ports.claim_all(replica) == LANES
        await ports.notes.expire(replica)
        dead = await ports.reconcile.end(replica, US)
        assert dead is not None
        assert (dead.producers, dead.tails) == ({"a": 7, "b": 8}, {"orders": [5]})

    @pytest.mark.parametrize("forgotten", [False, True])
    async def test_it_is_another_process_if_others_have_ended_it(self, ports: Ports, forgotten: bool) -> None:
        former, process = await ports.register(producers={"a": 7})
        await ports.claim_all(former)
        await ports.notes.expire(former)
        await ports.reconcile.end(former, US)
        if forgotten:
            await ports.reconcile.forget(former)
        replica, now = await ports.register(former, process, {"a": 7})
        assert now != process
        assert await ports.free() == (LANES if forgotten else 0)
        assert await ports.sql.fetchval("SELECT producers::text FROM outbox.replica WHERE id = $1", replica) == "{}"

    async def test_leaving_takes_along_what_was_noted(self, ports: Ports) -> None:
        replica, _ = await ports.register()
        await ports.notes.note_topics(replica, {"orders": [5]})
        await ports.notes.forget_topics(uuid4(), ["orders"])
        await ports.claim.unregister(replica)
        assert await ports.sql.fetchval("SELECT count(*) FROM outbox.tail") == 0


class TestReceipts:
    async def test_found_events_get_the_receipts_of_their_publisher_and_lose_failure_and_held_row(
        self, ports: Ports
    ) -> None:
        events = [await add_event(ports.sql, topic="orders", key=b"k%d" % number) for number in range(5)]
        rows = await ports.sql.fetch("SELECT lane, id, event_id, key FROM outbox.event ORDER BY id")
        assert len(events) == len(rows)
        await ports.sql.execute(
            "INSERT INTO outbox.held SELECT lane, id, topic, key FROM outbox.event WHERE id = $1", rows[1]["id"]
        )
        found = [_found(rows[0:3], 100), _found(rows[2:5], 200)]
        assert await ports.reconcile.settle_found(US, "orders", found) == 5
        assert await ports.reconcile.settle_found(US, "orders", found) == 0
        placed = await ports.sql.fetch(f"SELECT id, kafka_offset FROM {DELIVERIES} ORDER BY id")
        assert [row["kafka_offset"] for row in placed] == [100, 101, 102, 201, 202], "the first place counts"
        assert await ports.sql.fetchval("SELECT count(*) FROM outbox.held") == 0
        assert (
            await ports.sql.fetchval("SELECT count(DISTINCT replica) FROM outbox.receipt WHERE replica = $1", US) == 1
        )

    async def test_a_record_that_is_not_the_events_writes_nothing(self, ports: Ports) -> None:
        await add_event(ports.sql, topic="orders", key=b"k")
        (row,) = await ports.sql.fetch("SELECT lane, id, event_id, key FROM outbox.event")
        place = Place("orders", 0)
        event = FoundEvent(row["id"], row["event_id"], row["key"])
        for topic, wrong in (
            ("orders.dead-letter", event),
            ("orders", event._replace(event_id=uuid4())),
            ("orders", event._replace(id=event.id + 1)),
            ("orders", event._replace(key=b"of another lane")),
            ("orders", None),
        ):
            assert await ports.reconcile.settle_found(US, topic, [Found(place, 7, [wrong])]) == 0
        assert await ports.sql.fetchval("SELECT count(*) FROM outbox.receipt") == 0
        assert await ports.reconcile.settle_found(US, "orders", [Found(place, 7, [None, event])]) == 1
        assert await ports.sql.fetchval(f"SELECT kafka_offset FROM {DELIVERIES}") == 8

    async def test_events_whose_receipts_were_written_in_another_way_are_not_counted_again(self, ports: Ports) -> None:
        for _ in range(4):
            await add_event(ports.sql, topic="orders", key=b"k")
        rows = await ports.sql.fetch("SELECT lane, id, event_id, key FROM outbox.event ORDER BY id")
        assert await ports.reconcile.settle_found(US, "orders", [_found(rows[2:4], 12)]) == 2
        assert await ports.reconcile.settle_found(US, "orders", [_found(rows, 10)]) == 2
        placed = await ports.sql.fetch(f"SELECT id, kafka_offset FROM {DELIVERIES} ORDER BY id")
        assert [row["kafka_offset"] for row in placed] == [10, 11, 12, 13]


def _found(rows: list[asyncpg.Record], base: int) -> Found:
    return Found(Place("orders", 3), base, [FoundEvent(row["id"], row["event_id"], row["key"]) for row in rows])
