"""Segments always go: what is still needed of one stays, in a small one in its place."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import exceptions as pg

from relay.errors import SchemaError
from relay.postgres.flow.retiring import retire_segment
from relay.stages.housekeeping.ports import DueSegment
from tests.support.postgres.outbox import add_event, add_failure, connected, migrated
from tests.support.postgres.receipts import DELIVERIES, add_receipt
from tests.support.postgres.segments import prune_all
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SEGMENT = 1_000
"""Ids in each of the segments of these tests."""

SEGMENTS = 4

NOW = "clock_timestamp()"


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with an outbox whose segments are small."""
    async with migrated(database) as connection:
        await connection.execute("DROP TABLE outbox.event_1, outbox.receipt_1")
        for number in range(SEGMENTS):
            await connection.fetchval("SELECT outbox.add_segment($1, $2)", *bounds(number))
        yield connection


def bounds(number: int) -> tuple[int, int]:
    return 1 + number * SEGMENT, 1 + (number + 1) * SEGMENT


async def fill(connection: asyncpg.Connection, number: int, events: int = 20) -> list[asyncpg.Record]:
    """Write events of as many keys into a segment; returns lane and id of each."""
    await connection.execute("SELECT setval('outbox.event_id', $1, false)", bounds(number)[0])
    return [await add_event(connection, key=str(n)) for n in range(events)]


async def hold(connection: asyncpg.Connection, event: asyncpg.Record) -> None:
    await connection.execute("INSERT INTO outbox.held (lane, id, topic) VALUES ($1, $2, 'orders')", *event)


async def pass_by(connection: asyncpg.Connection) -> None:
    """Deliver all of which nothing else is noted, and let every position be beyond all segments."""
    for row in await connection.fetch(
        f"SELECT e.id FROM outbox.event AS e WHERE e.id NOT IN (SELECT id FROM {DELIVERIES})"
        " AND e.id NOT IN (SELECT id FROM outbox.failure) AND e.id NOT IN (SELECT id FROM outbox.held)"
    ):
        await add_receipt(connection, row["id"], offset=row["id"])
    await connection.execute("UPDATE outbox.lane SET position = $1", bounds(SEGMENTS)[0])
    await connection.execute("SELECT setval('outbox.event_id', $1)", bounds(SEGMENTS)[0])


async def retire(
    connection: asyncpg.Connection, number: int, delivered: str = NOW, discarded: str = NOW, most: float = 0.5
) -> tuple[int | None, int | None]:
    """(kept, undecided) of retiring a segment by the function itself."""
    row = await connection.fetchrow(
        f"SELECT kept, undecided FROM outbox.retire_segment($1, {delivered}, {discarded}, $2)", bounds(number)[0], most
    )
    return row["kept"], row["undecided"]


async def segments(connection: asyncpg.Connection) -> list[tuple[int, int, bool]]:
    rows = await connection.fetch("SELECT lower_id, upper_id, kept FROM outbox.segment ORDER BY lower_id")
    return [tuple(row) for row in rows]


async def ids(connection: asyncpg.Connection, table: str = "event") -> list[int]:
    return [row[0] for row in await connection.fetch(f"SELECT id FROM outbox.{table} ORDER BY id")]


async def tables(connection: asyncpg.Connection) -> set[str]:
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'i', 'p')"
    )
    return {row[0] for row in rows}


class TestWhatStays:
    """What is needed, as it was; the rest is gone."""

    async def test_a_failed_event_stays_where_it_was(self, connection: asyncpg.Connection) -> None:
        events = await fill(connection, 0)
        await add_failure(connection, events[3])
        before = await connection.fetchrow("SELECT * FROM outbox.event WHERE id = $1", events[3]["id"])
        await pass_by(connection)
        assert await retire(connection, 0) == (1, None)
        assert (await segments(connection))[:2] == [(1, 1001, True), (1001, 2001, False)]
        assert await connection.fetch("SELECT * FROM outbox.event") == [before]
        assert await connection.fetchval("SELECT count(*) FROM outbox.receipt") == 0
        assert await connection.fetchval("SELECT tableoid::regclass::text FROM outbox.event") == "outbox.event_1"

    @pytest.mark.parametrize("state", ["failed", "retrying", "replaying"])
    async def test_so_does_one_in_any_state_that_is_not_decided(
        self, connection: asyncpg.Connection, state: str
    ) -> None:
        events = await fill(connection, 0)
        await add_failure(connection, events[0])
        due = "clock_timestamp()" if state == "retrying" else "NULL"
        await connection.execute(f"UPDATE outbox.failure SET state = $1, next_attempt_at = {due}", state)
        await pass_by(connection)
        assert await retire(connection, 0) == (1, None)
        assert await ids(connection) == [1]

    async def test_held_events_stay(self, connection: asyncpg.Connection) -> None:
        events = await fill(connection, 0)
        for event in events[5:9]:
            await hold(connection, event)
        await pass_by(connection)
        assert await retire(connection, 0) == (4, None)
        assert await ids(connection) == [6, 7, 8, 9]

    async def test_what_was_discarded_stays_for_its_time_and_then_goes_with_its_failure(
        self, connection: asyncpg.Connection
    ) -> None:
        events = await fill(connection, 0)
        action = await connection.fetchval(
            "INSERT INTO outbox.action (kind, filter, finished_at) VALUES ('discard', '{}', now()) RETURNING id"
        )
        for event in events[:2]:
            await add_failure(connection, event, "discarded")
        await connection.execute("UPDATE outbox.failure SET action = $1 WHERE id = 1", action)
        await connection.execute("UPDATE outbox.failure SET failed_at = now() - interval '3 days'")
        await pass_by(connection)
        assert await retire(connection, 0, discarded="now() - interval '1 day'") == (1, None)
        assert await ids(connection) == await ids(connection, "failure") == [1], "failed long ago, discarded today"
        assert await retire(connection, 0) == (0, None)
        assert await ids(connection, "failure") == []
        assert (await segments(connection))[0] == (1001, 2001, False)

    async def test_what_was_delivered_lately_stays_with_its_receipt(self, connection: asyncpg.Connection) -> None:
        await fill(connection, 0)
        await pass_by(connection)
        await connection.execute("UPDATE outbox.receipt SET delivered_at = now() - interval '2 h' WHERE max_id <> 7")
        assert await retire(connection, 0, delivered="now() - interval '1 h'") == (1, None)
        (found,) = await connection.fetch("SELECT id, kafka_offset FROM outbox.delivered")
        assert tuple(found) == (7, 7)

    async def test_a_delivered_event_that_has_a_failure_all_the_same_stays_with_its_receipt(
        self, connection: asyncpg.Connection
    ) -> None:
        events = await fill(connection, 0)
        await pass_by(connection)
        await add_failure(connection, events[4])
        assert await retire(connection, 0) == (1, None)
        (found,) = await connection.fetch("SELECT id, kafka_offset FROM outbox.delivered")
        assert tuple(found) == (5, 5)

    async def test_a_row_that_a_constraint_would_not_take_today_stays_as_it_is(
        self, connection: asyncpg.Connection
    ) -> None:
        await fill(connection, 0)
        await connection.execute(
            "ALTER TABLE outbox.event DROP CONSTRAINT event_created_at;"
            "INSERT INTO outbox.event (topic, created_at) VALUES ('orders', 'infinity');"
            "ALTER TABLE outbox.event ADD CONSTRAINT event_created_at CHECK (created_at < '10000-01-01') NOT VALID"
        )
        odd = await connection.fetchrow("SELECT lane, id FROM outbox.event ORDER BY id DESC LIMIT 1")
        await add_failure(connection, odd)
        await pass_by(connection)
        assert await retire(connection, 0) == (1, None)
        assert await ids(connection) == [odd["id"]]

    async def test_a_failure_whose_event_is_nowhere_keeps_nothing(self, connection: asyncpg.Connection) -> None:
        await fill(connection, 0)
        await pass_by(connection)
        await connection.execute(
            "INSERT INTO outbox.failure (lane, id, topic, state, attempts, error, policy)"
            " VALUES (3, 500, 'orders', 'failed', 1, 'e', 'block')"
        )
        await connection.execute("INSERT INTO outbox.held (lane, id, topic) VALUES (3, 501, 'orders')")
        assert await retire(connection, 0) == (0, None)
        assert await ids(connection, "failure") == [500], "it is a person's to discard"

    async def test_more_than_half_of_a_segment_is_not_copied(self, connection: asyncpg.Connection) -> None:
        events = await fill(connection, 0, 10)
        for event in events[:6]:
            await add_failure(connection, event)
        await pass_by(connection)
        before = await tables(connection)
        assert await retire(connection, 0) == (None, None)
        assert await tables(connection) == before
        assert len(await ids(connection)) == 10

    async def test_an_older_program_drops_no_segment_of_which_anything_is_needed(
        self, connection: asyncpg.Connection
    ) -> None:
        events = await fill(connection, 0)
        await add_failure(connection, events[0])
        await add_failure(connection, (await fill(connection, 1))[0], "discarded")
        await pass_by(connection)
        for _ in range(2):
            assert await connection.fetchval("SELECT outbox.drop_segment(1)") is False
            # Kept, it is no other to such a program.
            await retire(connection, 0)
        assert await connection.fetchval("SELECT outbox.drop_segment(1001)") is True
        assert await ids(connection) == [1]
        await connection.execute("UPDATE outbox.failure SET state = 'discarded'")
        assert await connection.fetchval("SELECT outbox.drop_segment(1)") is True
        assert await ids(connection, "failure") == []


class TestSmallOnes:
    """There are never many of them, and they go as well."""

    async def test_those_beside_each_other_become_one(self, connection: asyncpg.Connection) -> None:
        for number in (0, 1, 3):
            await add_failure(connection, (await fill(connection, number))[number])
        await fill(connection, 2)
        await pass_by(connection)
        assert [await retire(connection, number) for number in range(4)] == [(1, None), (2, None), (0, None), (3, None)]
        assert await segments(connection) == [(1, 4001, True)]
        assert await ids(connection) == [1, 1002, 3004]

    async def test_but_not_beyond_one_that_is_not_small(self, connection: asyncpg.Connection) -> None:
        for number in (0, 2):
            await add_failure(connection, (await fill(connection, number))[0])
        await fill(connection, 1)
        await pass_by(connection)
        assert await retire(connection, 0) == (1, None)
        assert await retire(connection, 2) == (1, None)
        assert [kept for *_, kept in await segments(connection)] == [True, False, True, False]

    async def test_one_goes_when_all_of_it_is_decided(self, connection: asyncpg.Connection) -> None:
        for number in (0, 1):
            await add_failure(connection, (await fill(connection, number))[0])
        await pass_by(connection)
        await retire(connection, 0)
        await retire(connection, 1)
        await add_receipt(connection, 1)
        await connection.execute("DELETE FROM outbox.failure WHERE id = 1")
        assert await retire(connection, 0) == (1, None), "half of it"
        assert await ids(connection) == [1001]
        assert await retire(connection, 0) == (None, None), "nothing to gain"
        await connection.execute("UPDATE outbox.failure SET state = 'discarded'")
        assert await retire(connection, 0) == (0, None)
        assert [kept for *_, kept in await segments(connection)] == [False, False]

    async def test_one_with_an_event_that_was_passed_is_left_alone_and_told(
        self, connection: asyncpg.Connection
    ) -> None:
        for number in (0, 1):
            await add_failure(connection, (await fill(connection, number))[0])
        await pass_by(connection)
        await retire(connection, 0)
        await connection.execute("DELETE FROM outbox.failure WHERE id = 1")
        assert await retire(connection, 1) == (1, None)
        assert (await segments(connection))[:2] == [(1, 1001, True), (1001, 2001, True)]
        with pytest.raises(SchemaError, match="event_1 is kept: its event 1 has no receipt and was not discarded"):
            await prune_all(connection, 0)

    async def test_an_id_among_those_that_are_gone_lands_in_it(self, connection: asyncpg.Connection) -> None:
        await add_failure(connection, (await fill(connection, 0))[0])
        await pass_by(connection)
        await retire(connection, 0)
        await connection.execute("INSERT INTO outbox.event (id, topic) VALUES (77, 'orders')")
        assert await ids(connection) == [1, 77]
        assert await connection.fetchval("SELECT count(*) FROM outbox.event_default") == 0

    async def test_what_is_in_the_default_partitions_puts_it_off(self, connection: asyncpg.Connection) -> None:
        await add_failure(connection, (await fill(connection, 1))[0])
        await fill(connection, 0)
        await pass_by(connection)
        assert await retire(connection, 0) == (0, None)
        await retire(connection, 1)
        await connection.execute("DELETE FROM outbox.failure")
        await connection.execute("INSERT INTO outbox.event (id, topic) VALUES (5, 'orders')")
        assert await connection.fetchval("SELECT count(*) FROM outbox.event_default") == 1
        # In a gap, not in the range of the one that is attached.
        assert await connection.fetchval("SELECT outbox.drop_segment(2001)") is True


class TestReceipts:
    """A receipt goes when no event that it names is there any more."""

    async def test_one_of_a_later_segment_is_written_anew_for_what_is_kept(
        self, connection: asyncpg.Connection
    ) -> None:
        await add_failure(connection, (await fill(connection, 0))[4])
        await fill(connection, 1)
        await fill(connection, 2)
        await connection.execute(
            "INSERT INTO outbox.receipt (max_id, min_id, base_offset, kafka_partition, replica, ids)"
            " SELECT 1020, 5, 100, 0, $1, string_agg(int4send(id - 5), '' ORDER BY id)"
            " FROM unnest('{5,1001,1002,1003,1020}'::int[]) AS id",
            uuid4(),
        )
        await pass_by(connection)
        assert await retire(connection, 0) == (1, None)
        await connection.execute("DELETE FROM outbox.failure")
        assert await retire(connection, 1) == (0, None)
        assert await retire(connection, 2) == (0, None)
        (found,) = await connection.fetch("SELECT id, kafka_offset FROM outbox.delivered WHERE id < 3001")
        assert tuple(found) == (5, 100)
        (row,) = await connection.fetch("SELECT tableoid::regclass::text, octet_length(ids) FROM outbox.receipt")
        assert row[0] == "outbox.receipt_1"
        assert await connection.fetchval("SELECT count(*) FROM outbox.receipt_default") == 0

    async def test_none_is_left_without_a_segment_by_one_that_is_dropped_between(
        self, connection: asyncpg.Connection
    ) -> None:
        """It names events of the segment before, which is gone; but one further below is there."""
        await add_failure(connection, (await fill(connection, 0))[4])
        await fill(connection, 1)
        await fill(connection, 2)
        await connection.execute(
            "INSERT INTO outbox.receipt (max_id, min_id, base_offset, kafka_partition, replica, ids)"
            " VALUES (2001, 1020, 9, 0, $1, int4send(0) || int4send(981))",
            uuid4(),
        )
        await pass_by(connection)
        assert [await retire(connection, number) for number in range(3)] == [(1, None), (0, None), (0, None)]
        assert await connection.fetchval("SELECT count(*) FROM outbox.receipt") == 0


class TestMeanwhile:
    """What happens while a segment is being retired."""

    @pytest.fixture
    async def event(self, connection: asyncpg.Connection) -> asyncpg.Record:
        """A failed event of the first segment, which is due."""
        events = await fill(connection, 0)
        await add_failure(connection, events[0])
        await add_failure(connection, events[1], "discarded")
        await pass_by(connection)
        return events[0]

    async def test_an_event_that_is_delivered_while_it_is_copied_stays_with_its_receipt(
        self, connection: asyncpg.Connection, event: asyncpg.Record, database: str
    ) -> None:
        async with connected(database) as relay:
            async with relay.transaction():
                await relay.execute("DELETE FROM outbox.failure WHERE id = $1", event["id"])
                await add_receipt(relay, event["id"], offset=77)
                retiring = asyncio.create_task(retire(connection, 0))
                await until_it_waits(relay, connection)
            assert await retiring == (1, None)
        (found,) = await connection.fetch("SELECT id, kafka_offset FROM outbox.delivered")
        assert tuple(found) == (event["id"], 77)

    async def test_an_event_that_is_held_back_after_it_was_left_out_keeps_the_segment_as_it_was(
        self, connection: asyncpg.Connection, event: asyncpg.Record, database: str
    ) -> None:
        before = await tables(connection)
        async with connected(database) as relay:
            async with relay.transaction():
                await relay.execute("INSERT INTO outbox.held SELECT lane, id, topic FROM outbox.event WHERE id = 9")
                retiring = asyncio.create_task(retire(connection, 0))
                await until_it_waits(relay, connection)
            assert await retiring == (None, None)
        assert await tables(connection) == before
        assert await ids(connection, "failure") == [1, 2], "the discarded one too"
        assert len(await ids(connection)) == 20

    async def test_a_crash_in_the_middle_changes_nothing(
        self, connection: asyncpg.Connection, event: asyncpg.Record, database: str
    ) -> None:
        before = await tables(connection)
        async with connected(database) as other, connected(database) as relay:
            async with other.transaction():
                await other.execute("INSERT INTO outbox.held (lane, id, topic) VALUES (0, 4000, 'orders')")
                retiring = asyncio.create_task(retire(relay, 0))
                await until_it_waits(other, relay)
                await other.fetchval("SELECT pg_terminate_backend($1)", relay.get_server_pid())
                with pytest.raises((pg.PostgresError, OSError)):
                    await retiring
            await until("the session is gone", partial(is_gone, other, relay.get_server_pid()), 20)
        assert await tables(connection) == before
        assert await ids(connection, "failure") == [1, 2]
        assert await retire(connection, 0) == (1, None)

    async def test_a_lock_that_is_not_had_is_asked_for_again_and_none_is_held_meanwhile(
        self, connection: asyncpg.Connection, event: asyncpg.Record, database: str
    ) -> None:
        async with connected(database) as writer, connected(database) as relay:
            async with writer.transaction():
                await add_event(writer)
                retiring = asyncio.create_task(retire(connection, 0))
                await until_it_waits(writer, connection)
                await asyncio.wait_for(hold(relay, (await fill(relay, 3, 1))[0]), 5)
                assert not retiring.done()
            assert await retiring == (1, None)

    async def test_a_new_replay_that_would_read_it_keeps_it(
        self, connection: asyncpg.Connection, event: asyncpg.Record
    ) -> None:
        await connection.execute(
            "INSERT INTO outbox.action (kind, filter, progress) VALUES ('replay-delivered', '{}',"
            ' \'{"last_id": 3000, "lanes": {"0": 5}}\')'
        )
        assert await retire(connection, 0) == (None, None)
        await connection.execute("UPDATE outbox.action SET finished_at = now()")
        assert await retire(connection, 0) == (1, None)

    async def test_two_replicas_at_once_retire_it_once(
        self, connection: asyncpg.Connection, event: asyncpg.Record, database: str
    ) -> None:
        segment = DueSegment("event_1", 1, 1001, kept=False)
        async with connected(database) as other:
            for each in (connection, other):
                await each.execute("SET application_name = 'outbox-relay housekeeping'")
            found = await asyncio.gather(
                *(retire_segment(each, segment, 0, 0) for each in (connection, other)), return_exceptions=True
            )
        assert sorted(found, key=str) in ([1, None], [1, 1]), found
        assert await ids(connection) == [1]


async def until_it_waits(observer: asyncpg.Connection, connection: asyncpg.Connection) -> None:
    """Return when the session waits for a lock, or for a while until it asks again."""
    sql = (
        "SELECT cardinality(pg_blocking_pids(a.pid)) > 0 OR a.wait_event = 'PgSleep'"
        " FROM pg_stat_activity AS a WHERE a.pid = $1"
    )
    await until("it waits", partial(observer.fetchval, sql, connection.get_server_pid()), 20, interval=0.002)


async def is_gone(observer: asyncpg.Connection, pid: int) -> bool:
    return not await observer.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid)


class TestWhatIsDue:
    """Which segments are retired when."""

    async def test_single_events_that_are_delivered_late_do_not_keep_their_segment_for_ever(
        self, connection: asyncpg.Connection
    ) -> None:
        await fill(connection, 0)
        await pass_by(connection)
        await connection.execute("UPDATE outbox.receipt SET delivered_at = now() - interval '1 h' WHERE max_id <> 3")
        await connection.execute("UPDATE outbox.event SET created_at = now() - interval '15 min'")
        assert "event_1" not in await prune_all(connection, 600)
        await connection.execute("UPDATE outbox.event SET created_at = now() - interval '25 min'")
        assert (await prune_all(connection, 600))["event_1"] == 1
        assert [tuple(row) for row in await connection.fetch("SELECT id, kafka_offset FROM outbox.delivered")] == [
            (3, 3)
        ]

    async def test_what_is_held_as_a_whole_is_counted_and_not_copied(self, connection: asyncpg.Connection) -> None:
        events = await fill(connection, 0, 600)
        for event in events:
            await hold(connection, event)
        await pass_by(connection)
        written = await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
        assert await retire_segment(connection, DueSegment("event_1", 1, 1001, kept=False), 0, 0) is None
        assert await connection.fetchval("SELECT pg_current_wal_insert_lsn() - $1", written) < 50_000

    async def test_nor_is_what_was_delivered_lately_as_a_whole(self, connection: asyncpg.Connection) -> None:
        """After an outage that was longer than the retention: it goes without a copy when its time is over."""
        await fill(connection, 0, 600)
        await pass_by(connection)
        await connection.execute("UPDATE outbox.event SET created_at = now() - interval '25 min'")
        written = await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
        assert await retire_segment(connection, DueSegment("event_1", 1, 1001, kept=False), 600, 0) is None
        assert await connection.fetchval("SELECT pg_current_wal_insert_lsn() - $1", written) < 50_000

    async def test_what_was_discarded_long_ago_is_not_counted_as_needed(self, connection: asyncpg.Connection) -> None:
        for event in await fill(connection, 0, 600):
            await add_failure(connection, event, "discarded")
        await pass_by(connection)
        assert await retire_segment(connection, DueSegment("event_1", 1, 1001, kept=False), 600, 3600) is None
        assert await retire_segment(connection, DueSegment("event_1", 1, 1001, kept=False), 600, 0) == 0

    async def test_actions_are_forgotten_after_their_time_unless_something_refers_to_them(
        self, connection: asyncpg.Connection
    ) -> None:
        event = (await fill(connection, 0, 1))[0]
        actions = [
            await connection.fetchval(
                "INSERT INTO outbox.action (kind, filter, finished_at)"
                " VALUES ('discard', '{}', clock_timestamp() - make_interval(days => $1)) RETURNING id",
                days,
            )
            for days in (5, 5, 3, 0)
        ]
        await connection.execute("INSERT INTO outbox.action (kind, filter) VALUES ('replay', '{}')")
        await add_failure(connection, event, "discarded")
        await connection.execute("UPDATE outbox.failure SET action = $1", actions[0])
        assert await connection.fetchval("SELECT outbox.forget_actions(345600, 10)") == 1
        assert await ids(connection, "action") == [actions[0], *actions[2:], actions[3] + 1]
        assert await connection.fetchval("SELECT outbox.forget_actions(0, 10)") == 1, "not those of the last day"
        assert await ids(connection, "action") == [actions[0], actions[3], actions[3] + 1]
