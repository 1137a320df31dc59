"""Receipts of record batches: what is read of them, and what becomes of events whose receipts somebody has damaged."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import pytest

from relay.decide.receipts import LEFT_OUT, SPAN
from relay.errors import SchemaError
from relay.postgres.admin.failures import Failures
from relay.postgres.checks import check_sequence
from relay.postgres.connect import open_connection
from relay.postgres.flow.segments import ensure_segments
from relay.postgres.flow.settle import SettleConnection
from relay.stages.settle.ports import Receipts
from tests.support.events import ids
from tests.support.postgres.outbox import add_event, add_failure, migrated
from tests.support.postgres.receipts import DELIVERIES, add_receipt
from tests.support.postgres.segments import prune
from tests.support.relay.stages import HandRelay, hand_relay, lane_of, relay_connections, writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    import asyncpg

LANE = lane_of("k")


class Outbox(NamedTuple):
    """An outbox, whoever looks at it, and the connection that settles."""

    connection: asyncpg.Connection
    port: SettleConnection

    async def events(self, first: int, last: int) -> None:
        """Have events with these ids."""
        await self.connection.execute(
            "INSERT INTO outbox.event (id, topic, key) SELECT i, 'orders', 'k' FROM generate_series($1::int, $2) AS i",
            first,
            last,
        )

    async def settle(self, told: Sequence[int], base: int, partition: int = 0, publisher: UUID | None = None) -> int:
        """Write the receipts of one record batch."""
        return await self.port.settle(
            Receipts(publisher or uuid4(), [], [LANE] * len(told), list(told), [1], [partition], [base])
        )

    async def receipted(self, above: int, up_to: int) -> list[int]:
        """What the sweep takes for delivered."""
        rows = await self.connection.fetch("SELECT r FROM outbox.receipted($1, $2) AS r ORDER BY r", above, up_to)
        return [row[0] for row in rows]


@pytest.fixture
async def outbox(database: str, with_outbox: None) -> AsyncIterator[Outbox]:
    async with migrated(database) as connection:
        settling = await open_connection(database, 10, "test")
        yield Outbox(connection, SettleConnection(settling, "outbox"))
        settling.terminate()


async def test_what_is_read_is_what_was_acknowledged_whatever_the_batches(outbox: Outbox) -> None:
    """Batches of many sizes whose ids are near each other and far apart, over three segments and beyond."""
    for lower in (5_000_001, 5_001_001):
        await outbox.connection.execute("SELECT outbox.add_segment($1, $2)", lower, lower + 1000)
    seeded = random.Random(7)
    unused = seeded.sample(range(4_999_000, 5_003_000), 2000) + seeded.sample(range(1, 2 * SPAN), 500)
    seeded.shuffle(unused)
    expected: dict[int, tuple[int, int]] = {}
    offsets = dict.fromkeys(range(4), 0)
    while unused:
        size = seeded.choice([1, 2, 30, 600])
        batch = [id_ if seeded.random() < 0.95 else LEFT_OUT for id_ in unused[:size]]
        del unused[:size]
        if seeded.random() < 0.5:
            batch.sort()
        partition = seeded.randrange(4)
        base = -1 if seeded.random() < 0.1 else offsets[partition]
        await outbox.settle(batch, base, partition)
        for index, id_ in enumerate(batch):
            if id_ != LEFT_OUT:
                expected[id_] = (partition, base + index if base >= 0 else -1)
        offsets[partition] += len(batch)
    rows = await outbox.connection.fetch(f"SELECT id, kafka_partition, kafka_offset FROM {DELIVERIES}")
    assert {row["id"]: (row["kafka_partition"], row["kafka_offset"]) for row in rows} == expected
    assert len(rows) == len(expected)
    for _ in range(50):
        above, up_to = sorted(seeded.sample(range(4_998_000, 5_004_000), 2))
        assert await outbox.receipted(above, up_to) == sorted(id_ for id_ in expected if above < id_ <= up_to)
    for id_ in seeded.sample(range(4_999_000, 5_003_000), 200):
        found = await outbox.connection.fetch("SELECT kafka_partition, kafka_offset FROM outbox.receipt_of($1)", id_)
        assert [tuple(row) for row in found] == ([expected[id_]] if id_ in expected else [])


async def test_an_id_whose_bytes_lie_across_two_places_is_not_taken_for_delivered(outbox: Outbox) -> None:
    await outbox.events(1, 1)
    await outbox.events(1 + 65_536, 1 + 65_536)
    # 00 00 01 00, 00 00 00 05: across the two, 00 01 00 00.
    await outbox.settle([1, 1 + 256, 1 + 5, 1 + 131_000], 10)
    assert await outbox.connection.fetch("SELECT * FROM outbox.receipt_of(65537)") == []
    assert [row["id"] for row in await outbox.connection.fetch("SELECT id FROM outbox.delivered")] == [1]
    assert [row["id"] for row in await outbox.connection.fetch("SELECT id FROM outbox.pending")] == [65_537]
    assert await outbox.receipted(0, 2 * SPAN) == [1, 6, 257, 131_001]


async def test_the_ends_of_what_ids_can_be(outbox: Outbox) -> None:
    last = 2**63 - 1
    await outbox.settle([last, last - 3], 5)
    assert await outbox.receipted(0, last) == [last - 3, last]
    assert await outbox.receipted(last - 1, last) == [last]
    (found,) = await outbox.connection.fetch("SELECT kafka_offset FROM outbox.receipt_of($1)", last)
    assert found["kafka_offset"] == 5


class TestWhatIsLookedUp:
    """One event is found at once, however much was delivered, and whatever the statistics say."""

    @pytest.fixture(autouse=True)
    async def _much(self, outbox: Outbox) -> None:
        await outbox.connection.execute("ANALYZE")
        await outbox.events(1, 40_000)
        for lower in range(1, 40_001, 400):
            told = list(range(lower, lower + 400))
            for partition in range(4):
                await outbox.settle(told[partition::4], lower, partition)

    async def pages(self, outbox: Outbox, statement: str, *arguments: object) -> int:
        """How many pages of receipts a statement reads."""
        count = "SELECT sum(pg_stat_get_xact_blocks_fetched(oid)) FROM pg_class WHERE relname LIKE 'receipt_%'"
        async with outbox.connection.transaction():
            # A session reports what it read now and then, and not with each transaction.
            before: int = await outbox.connection.fetchval(count)
            await outbox.connection.fetch(statement, *arguments)
            after: int = await outbox.connection.fetchval(count)
        return after - before

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT * FROM outbox.receipt_of(20000)",
            "SELECT * FROM outbox.delivered WHERE lane = $1 AND id = 20000",
            "SELECT * FROM outbox.pending WHERE lane = $1 AND id = 20000",
        ],
    )
    async def test_by_the_index_and_no_further_than_it_is(self, outbox: Outbox, statement: str) -> None:
        arguments = (LANE,) if "$1" in statement else ()
        assert await self.pages(outbox, statement, *arguments) < 30

    async def test_by_the_commands_for_people(self, outbox: Outbox) -> None:
        failures = Failures(outbox.connection, "outbox")
        found = await failures.event(20_000, 100)
        assert found is not None
        assert (found.kafka_partition, found.kafka_offset) == (3, 19_601 + 99)
        states = await failures.states([20_000, 50_000])
        assert [(state.kafka_partition, state.topic) for state in states] == [(3, "orders"), (None, None)]

    async def test_and_a_range_reads_only_what_can_name_its_ids(self, outbox: Outbox) -> None:
        all_pages = await self.pages(outbox, "SELECT FROM outbox.receipted(0, 40000)")
        assert await self.pages(outbox, "SELECT FROM outbox.receipted(39000, 40000)") < all_pages / 4


class TestDamagedByHand:
    """The events are published again, or reported: none is lost."""

    @pytest.mark.parametrize(
        "damage",
        [
            "DELETE FROM outbox.receipt",
            "UPDATE outbox.receipt SET ids = substring(ids FROM 1 FOR octet_length(ids) - 2)",
            "UPDATE outbox.receipt SET ids = substring(ids FROM 3)",
            "UPDATE outbox.receipt SET ids = ids || '\\x00'",
            "UPDATE outbox.receipt SET ids = ''",
        ],
    )
    async def test_above_the_position_they_are_published_again(self, database: str, damage: str) -> None:
        async with migrated(database) as connection, writer(database) as service:
            for _ in range(5):
                await service.enqueue()
            async with hand_relay(database) as former:
                taken = await former.take_all()
                await former.settle_port.settle(
                    Receipts(former.tenure.replica, [], [LANE] * 5, ids(taken), [1], [0], [0])
                )
            await connection.execute("ALTER TABLE outbox.receipt DROP CONSTRAINT receipt_ids")
            await connection.execute(damage)
            async with relay_connections(database) as connections:
                again = HandRelay(connections)
                await again.start(former=former.tenure.replica)
                assert ids(await again.take_all()) == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        ("damage", "seen"),
        [
            ("UPDATE outbox.receipt SET ids = substring(ids FROM 1 FOR 16)", [5]),
            ("UPDATE outbox.receipt SET ids = ids || '\\xffffffff'", []),
            ("UPDATE outbox.receipt SET ids = ids || ids", []),
            ("UPDATE outbox.receipt SET ids = substring(ids FROM 5)", [1]),
        ],
    )
    async def test_what_a_row_still_names_is_delivered(self, database: str, damage: str, seen: list[int]) -> None:
        async with migrated(database) as connection, hand_relay(database) as relay, writer(database) as service:
            for _ in range(5):
                await service.enqueue()
            taken = await relay.take_all()
            await relay.settle_port.settle(Receipts(relay.tenure.replica, [], [LANE] * 5, ids(taken), [1], [0], [0]))
            await connection.execute(damage)
            pending = await connection.fetch("SELECT id FROM outbox.pending ORDER BY id")
            assert [row["id"] for row in pending] == seen
            delivered = await connection.fetch("SELECT id FROM outbox.delivered ORDER BY id")
            assert [row["id"] for row in delivered] == [id_ for id_ in range(1, 6) if id_ not in seen]

    async def test_a_segment_is_not_dropped_for_a_receipt_that_names_nothing(self, outbox: Outbox) -> None:
        await outbox.connection.execute("SELECT setval('outbox.event_id', 5)")
        await outbox.events(1, 5)
        await outbox.settle([1, 2, 3, 4, 5], 0)
        await outbox.connection.execute("ALTER TABLE outbox.receipt DROP CONSTRAINT receipt_ids")
        await outbox.connection.execute("UPDATE outbox.receipt SET ids = substring(ids FROM 2)")
        await outbox.connection.execute("UPDATE outbox.lane SET position = 5000001")
        with pytest.raises(SchemaError, match="its event 1 has no receipt"):
            await prune(outbox.connection, 0)


async def test_a_sequence_behind_what_a_receipt_names_is_refused(outbox: Outbox) -> None:
    """After a restore of some tables only, the next event would get an id that counts as delivered."""
    await add_receipt(outbox.connection, 90)
    await outbox.connection.execute("SELECT setval('outbox.event_id', 89)")
    with pytest.raises(SchemaError, match=r"at 89, behind id 90, .* setval\('outbox.event_id', 90\)"):
        await check_sequence(outbox.connection)


class TestSegments:
    """A receipt lies in the segment of its highest id, and may name events of earlier ones."""

    @pytest.fixture
    async def segments(self, outbox: Outbox) -> Outbox:
        """Three segments of 100 ids; receipts go across their bounds."""
        await outbox.connection.execute("UPDATE outbox.lane SET position = 5000001; SELECT outbox.drop_segment(1)")
        for lower in (1, 101, 201, 301):
            await outbox.connection.execute("SELECT outbox.add_segment($1, $2)", lower, lower + 100)
        await outbox.connection.execute("SELECT setval('outbox.event_id', 320)")
        await outbox.events(1, 310)
        await outbox.settle(range(1, 91), 0)
        await outbox.settle([*range(200, 90, -1)], 90)
        await outbox.settle(range(201, 311), 200)
        await outbox.connection.execute("UPDATE outbox.lane SET position = 310")
        return outbox

    async def delivered(self, outbox: Outbox) -> dict[int, int]:
        rows = await outbox.connection.fetch("SELECT id, kafka_offset FROM outbox.delivered")
        return {row["id"]: row["kafka_offset"] for row in rows}

    async def test_what_is_dropped_in_order_takes_all_of_its_receipts_along(self, segments: Outbox) -> None:
        assert await prune(segments.connection, 0) == ["event_1", "event_101", "event_201"]
        assert await self.delivered(segments) == {id_: id_ - 1 for id_ in range(301, 311)}
        assert await segments.connection.fetchval("SELECT count(*) FROM outbox.receipt") == 1

    async def test_a_segment_that_is_kept_keeps_the_receipts_of_its_events(self, segments: Outbox) -> None:
        """They lie in the next one, which goes."""
        before = await self.delivered(segments)
        row = await segments.connection.fetchrow("SELECT lane, id FROM outbox.event WHERE id = 50")
        await add_failure(segments.connection, row)
        assert await prune(segments.connection, 0) == ["event_101", "event_201"]
        assert await self.delivered(segments) == {id_: before[id_] for id_ in [50, *range(301, 311)]}
        await segments.connection.execute("DELETE FROM outbox.failure")
        assert await prune(segments.connection, 0) == ["event_1"]
        assert await self.delivered(segments) == {id_: id_ - 1 for id_ in range(301, 311)}

    async def test_a_receipt_that_was_written_lately_keeps_the_segments_of_its_events(self, segments: Outbox) -> None:
        old = "SET delivered_at = now() - interval '1 day'"
        await segments.connection.execute(f"UPDATE outbox.receipt {old} WHERE max_id <> 200")
        await segments.connection.execute("UPDATE outbox.event SET created_at = now() - interval '1 day'")
        assert await prune(segments.connection, 3600) == ["event_201"]
        await segments.connection.execute(f"UPDATE outbox.receipt {old}")
        assert await prune(segments.connection, 3600) == ["event_1", "event_101"]

    async def test_receipts_without_a_segment_are_moved_into_the_next_one_that_is_made(self, outbox: Outbox) -> None:
        await outbox.connection.execute("SELECT setval('outbox.event_id', 5000100)")
        for _ in range(3):
            await add_event(outbox.connection)
        await outbox.settle([5_000_101, 5_000_102, 4_999_999], 7)
        assert await outbox.connection.fetchval("SELECT count(*) FROM outbox.receipt_default") == 1
        await ensure_segments(outbox.connection, 1000, 1)
        await outbox.connection.execute("SELECT setval('outbox.event_id', 5002000)")
        await ensure_segments(outbox.connection, 1000, 1)
        assert await outbox.connection.fetchval("SELECT count(*) FROM outbox.receipt_default") == 0
        (found,) = await outbox.connection.fetch("SELECT kafka_offset FROM outbox.receipt_of(5000102)")
        assert found["kafka_offset"] == 8
