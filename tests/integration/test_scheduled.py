"""Scheduled events: when and in which order they enter the outbox, who may move them, and what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from relay.postgres import connect
from relay.postgres.admin.migrate import make_roles
from relay.postgres.connect import open_connection
from relay.postgres.flow.timers import TimersConnection
from tests.support.postgres.outbox import connected, migrated
from tests.support.relay.stages import lane_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.stages.timers.ports import Moved

OWNER = UUID(int=7)


@pytest.fixture
async def connection(database: str, with_outbox: None) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with an outbox, all of whose lanes OWNER has at epoch 1."""
    async with migrated(database) as connection:
        await connection.execute("UPDATE outbox.lane SET owner = $1, epoch = 1, claimed_at = now()", OWNER)
        yield connection


@pytest.fixture
async def port(database: str, connection: asyncpg.Connection) -> AsyncIterator[TimersConnection]:
    """The relay's own connection for timers."""
    opened, _ = await connect.open_first(database, 10.0, "outbox-relay timers")
    try:
        yield TimersConnection(opened, "outbox")
    finally:
        connect.drop(opened)


async def schedule(connection: asyncpg.Connection, seconds: float, key: str | None = "k", **columns: Any) -> UUID:
    """Schedule an event, due in so many seconds; its payload is its due time."""
    given = {
        "event_id": uuid4(),
        "topic": "orders",
        "key": None if key is None else key.encode(),
        "payload": str(seconds).encode(),
        **columns,
    }
    names = ", ".join(given)
    places = ", ".join(f"${n}" for n in range(2, len(given) + 2))
    await connection.execute(
        f"INSERT INTO outbox.scheduled (deliver_at, {names}) VALUES (now() + make_interval(secs => $1), {places})",
        float(seconds),
        *given.values(),
    )
    event_id: UUID = given["event_id"]
    return event_id


async def move(port: TimersConnection, *, at_most: int = 500, **options: Any) -> Moved:
    """Move what is due in all lanes."""
    return await port.move_due(OWNER, [(lane, 1) for lane in range(16)], at_most=at_most, **options)


async def payloads(connection: asyncpg.Connection) -> list[str]:
    """The payloads of the events of the outbox, in the order of their ids."""
    return [row[0].decode() for row in await connection.fetch("SELECT payload FROM outbox.event ORDER BY id")]


async def left(connection: asyncpg.Connection) -> int:
    """How many events are still to come."""
    number: int = await connection.fetchval("SELECT count(*) FROM outbox.scheduled")
    return number


class TestMoving:
    async def test_what_is_due_is_moved_in_the_order_in_which_it_is_due(
        self, connection: asyncpg.Connection, port: TimersConnection
    ) -> None:
        for seconds in (-1, -5, 60, -3, -4, 30, -2):
            await schedule(connection, seconds)
        moved = await move(port)
        assert moved.events == 5
        assert moved.waiting == 0
        assert moved.next_in == pytest.approx(30, abs=5)
        assert await payloads(connection) == ["-5", "-4", "-3", "-2", "-1"]
        assert await left(connection) == 2

    async def test_of_those_due_at_the_same_time_the_first_that_was_written_goes_first(
        self, connection: asyncpg.Connection, port: TimersConnection
    ) -> None:
        await connection.execute(
            "INSERT INTO outbox.scheduled (deliver_at, topic, key, payload)"
            " SELECT '2020-01-01', 'orders', 'k', n::text::bytea FROM generate_series(1, 2000) AS n"
        )
        while (await move(port, at_most=700)).events:
            pass
        assert await payloads(connection) == [str(n) for n in range(1, 2001)]

    async def test_an_event_keeps_all_that_it_has_and_gets_a_new_time(
        self, connection: asyncpg.Connection, port: TimersConnection
    ) -> None:
        event_id = await schedule(
            connection, -3600, payload=bytes(700_000), headers='{"a": "b"}', type="order.due", timer="t"
        )
        (row,) = await connection.fetch("SELECT lane, topic, key, payload, headers, type FROM outbox.scheduled")
        scheduled = dict(row)
        assert (await move(port)).events == 1
        (event,) = await connection.fetch("SELECT *, now() - created_at < '10 s' AS new FROM outbox.event")
        assert event["event_id"] == event_id
        assert event["new"]
        assert {name: event[name] for name in scheduled} == scheduled

    async def test_nothing_due_writes_nothing(self, connection: asyncpg.Connection, port: TimersConnection) -> None:
        await schedule(connection, 60)
        await connection.execute("INSERT INTO outbox.scheduled (delay, topic) VALUES ('2 h', 'orders')")
        before = await connection.fetchval("SELECT pg_current_snapshot()::text")
        moved = await move(port)
        assert (moved.events, moved.waiting) == (0, 0)
        assert await connection.fetchval("SELECT pg_current_snapshot()::text") == before

    async def test_of_large_events_few_are_moved_at_once(
        self, connection: asyncpg.Connection, port: TimersConnection
    ) -> None:
        for seconds in range(-12, 0):
            await schedule(connection, seconds, payload=bytes(999_000))
        moved = [(await move(port)).events for _ in range(4)]
        assert moved == [5, 5, 2, 0]

    async def test_a_replica_moves_nothing_of_a_lane_that_it_lost(
        self, connection: asyncpg.Connection, port: TimersConnection
    ) -> None:
        await schedule(connection, -1, "k")
        lane = lane_of("k")
        await connection.execute("UPDATE outbox.lane SET epoch = 2 WHERE lane = $1", lane)
        assert (await move(port)).events == 0
        await connection.execute("UPDATE outbox.lane SET epoch = 1, owner = $1 WHERE lane = $2", uuid4(), lane)
        assert (await move(port)).events == 0
        await connection.execute("UPDATE outbox.lane SET owner = $1 WHERE lane = $2", OWNER, lane)
        assert (await move(port)).events == 1

    async def test_nobody_claims_a_lane_while_its_events_are_moved(
        self, database: str, connection: asyncpg.Connection
    ) -> None:
        await schedule(connection, -1, "k")
        async with connected(database) as other, connection.transaction():
            await connection.execute("SELECT outbox.move_due($1, $2, $3, 500, '{}')", OWNER, list(range(16)), [1] * 16)
            free = await other.fetch("SELECT lane FROM outbox.lane FOR UPDATE SKIP LOCKED")
        assert {row["lane"] for row in free} == set(range(16)) - {lane_of("k")}

    async def test_a_move_is_all_or_nothing(self, connection: asyncpg.Connection) -> None:
        await schedule(connection, -1)
        moving = connection.transaction()
        await moving.start()
        await connection.execute("SELECT outbox.move_due($1, $2, $3, 500, '{}')", OWNER, list(range(16)), [1] * 16)
        assert (await left(connection), await payloads(connection)) == (0, ["-1"])
        await moving.rollback()
        assert (await left(connection), await payloads(connection)) == (1, [])

    async def test_later_events_of_a_key_wait_for_one_that_is_being_cancelled(
        self, database: str, connection: asyncpg.Connection, port: TimersConnection
    ) -> None:
        first = await schedule(connection, -5, "k")
        await schedule(connection, -4, "k")
        other_key = next(key for key in map(str, range(1000)) if lane_of(key) == lane_of("k"))
        await schedule(connection, -3, other_key)
        async with connected(database) as other:
            cancelling = other.transaction()
            await cancelling.start()
            assert await other.fetchval("SELECT outbox.cancel_scheduled($1)", first)
            moved = await move(port)
            assert (moved.events, moved.waiting) == (1, 2)
            assert await payloads(connection) == ["-3"]
            await cancelling.rollback()
        assert (await move(port)).events == 2
        assert await payloads(connection) == ["-3", "-5", "-4"]

    async def test_an_event_that_the_outbox_does_not_take_holds_back_its_key_alone(
        self, connection: asyncpg.Connection, port: TimersConnection
    ) -> None:
        await connection.execute("ALTER TABLE outbox.event ADD CONSTRAINT of_the_shop CHECK (topic <> 'forbidden')")
        await schedule(connection, -5, "k", topic="forbidden")
        await schedule(connection, -4, "k")
        await schedule(connection, -3, None)
        first = await port.first_due(lane_of("k"), ())
        assert first is not None
        assert first.topic == "forbidden"
        moved = await move(port, put_off=[first.id])
        assert moved.events == 1
        assert await payloads(connection) == ["-3"]

    async def test_an_event_of_the_move_has_its_xid_before_its_id(
        self, connection: asyncpg.Connection, database: str, port: TimersConnection
    ) -> None:
        """As of any writer: the ladder's floors rest on it (SCAN.md)."""
        await schedule(connection, -1)
        async with connected(database) as other, other.transaction():
            xid = await other.fetchval("SELECT pg_current_xact_id()::text::bigint")
            assert (await move(port)).events == 1
            await other.execute("INSERT INTO outbox.event (topic) VALUES ('orders')")
            rows = await other.fetch("SELECT xmin::text::bigint AS xid FROM outbox.event ORDER BY id")
        assert [row["xid"] > xid for row in rows] == [True, False]


class TestWriting:
    @pytest.mark.parametrize(
        ("columns", "constraint"),
        [
            ({"topic": "a b"}, "event_topic"),
            ({"headers": '{"outbox-id": "7"}'}, "event_headers"),
            ({"payload": bytes(1_000_001)}, "event_size"),
            ({"timer": ""}, "scheduled_timer_length"),
            ({"timer": "x" * 201}, "scheduled_timer_length"),
        ],
    )
    async def test_what_the_outbox_would_not_take_is_refused_when_it_is_written(
        self, connection: asyncpg.Connection, columns: dict[str, Any], constraint: str
    ) -> None:
        with pytest.raises(asyncpg.CheckViolationError, match=f'"{constraint}"'):
            await schedule(connection, 60, **columns)

    async def test_it_has_every_limit_that_the_outbox_has(self, connection: asyncpg.Connection) -> None:
        found = await connection.fetch(
            "SELECT conrelid::regclass::text AS name, conname, pg_get_expr(conbin, conrelid) AS text"
            " FROM pg_constraint WHERE contype = 'c'"
            " AND conrelid IN ('outbox.event'::regclass, 'outbox.scheduled'::regclass)"
        )
        limits = {(row["conname"], row["text"]) for row in found if row["name"] == "outbox.event"}
        assert len(limits) >= 5
        assert limits < {(row["conname"], row["text"]) for row in found if row["name"] == "outbox.scheduled"}

    @pytest.mark.parametrize(
        ("columns", "values", "message"),
        [
            ("topic", "'a'", "needs deliver_at or delay"),
            ("topic, deliver_at, delay", "'a', now(), '1 s'", "not both"),
            ("topic, deliver_at", "'a', now() + '100 years 1 day'", "in 100 years at most"),
            ("topic, delay", "'a', '101 years'", "in 100 years at most"),
            ("topic, deliver_at", "'a', 'infinity'", "in 100 years at most"),
            ("topic, deliver_at", "'a', '-infinity'", "scheduled_deliver_at"),
            ("topic, delay", "'a', '300000 years'", "out of range"),
        ],
    )
    async def test_a_time_that_makes_no_sense_is_refused(
        self, connection: asyncpg.Connection, columns: str, values: str, message: str
    ) -> None:
        with pytest.raises(Exception, match=message):
            await connection.execute(f"INSERT INTO outbox.scheduled ({columns}) VALUES ({values})")

    async def test_by_the_functions(self, connection: asyncpg.Connection, port: TimersConnection) -> None:
        made = [
            await connection.fetchval(f"SELECT outbox.{call}")
            for call in (
                "enqueue_at(now(), 'orders', 'ä', 'at')",
                "enqueue_at('2020-01-01 00:00:00+00', 'orders', 'ä', '{\"at\": 1}'::jsonb, '{}', 't', 'one')",
                "enqueue_in('0 s', 'orders', 'ä', 'in')",
                "enqueue_in('-1 h', 'orders', 'ä', '{}'::jsonb, type => 'order.due', timer => 'two')",
                "enqueue_in('1 h', 'orders', NULL, NULL::text, NULL)",
            )
        ]
        assert (await move(port)).events == 4
        rows = await connection.fetch("SELECT event_id, key FROM outbox.event ORDER BY id")
        assert [row["event_id"] for row in rows] == [made[1], made[3], made[0], made[2]]
        assert {row["key"] for row in rows} == {"ä".encode()}
        assert await payloads(connection) == ['{"at": 1}', "{}", "at", "in"]

    async def test_they_have_the_trace_of_the_session_that_schedules_them(self, connection: asyncpg.Connection) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        async with connection.transaction():
            await connection.execute(f"SET LOCAL outbox.traceparent = '{trace}'")
            await connection.execute("SELECT outbox.enqueue_at(now(), 'orders', 'k', 'x', '{\"a\": \"b\"}')")
            await connection.execute("SELECT outbox.enqueue_in('1 s', 'orders', 'k', 'x')")
            await connection.execute("INSERT INTO outbox.scheduled (topic, delay) VALUES ('orders', '1 s')")
        found = await connection.fetch("SELECT headers FROM outbox.scheduled ORDER BY id")
        own = {"traceparent": trace}
        assert [json.loads(row["headers"]) for row in found] == [own | {"a": "b"}, own, own]

    async def test_a_timers_name_is_that_of_one_event_at_a_time(
        self, connection: asyncpg.Connection, port: TimersConnection
    ) -> None:
        await schedule(connection, -1, timer="t")
        with pytest.raises(asyncpg.UniqueViolationError, match="scheduled_timer"):
            await schedule(connection, 60, timer="t")
        assert (await move(port)).events == 1
        await schedule(connection, 60, timer="t")

    async def test_cancel_and_reschedule_say_whether_the_event_was_still_to_come(
        self, connection: asyncpg.Connection, port: TimersConnection
    ) -> None:
        first, second = [await schedule(connection, 60, timer=timer) for timer in ("a", "b")]

        async def call(text: str, *arguments: Any) -> bool:
            found: bool = await connection.fetchval(f"SELECT outbox.{text}", *arguments)
            return found

        assert await call("reschedule(event_id => $1, delay => '2 h')", first)
        assert await call("reschedule(timer => 'b', deliver_at => now())")
        moved = await move(port)
        assert moved.events == 1
        assert moved.next_in == pytest.approx(7200, abs=10)
        assert not await call("reschedule(timer => 'b', delay => '1 s')")
        assert not await call("cancel_scheduled(event_id => $1)", second)
        assert await call("cancel_scheduled(timer => 'a')")
        assert not await call("cancel_scheduled(timer => 'a')")
        assert await left(connection) == 0

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            ("cancel_scheduled()", "by its event_id or by its timer"),
            ("cancel_scheduled(gen_random_uuid(), 't')", "by its event_id or by its timer"),
            ("reschedule(delay => '1 s')", "by its event_id or by its timer"),
            ("reschedule(timer => 't')", "deliver_at or delay"),
            ("reschedule(timer => 't', deliver_at => now(), delay => '1 s')", "deliver_at or delay"),
            ("reschedule(timer => 't', delay => '200 years')", "in 100 years at most"),
        ],
    )
    async def test_a_call_that_makes_no_sense_is_refused(
        self, connection: asyncpg.Connection, call: str, message: str
    ) -> None:
        await schedule(connection, 60, timer="t")
        with pytest.raises(Exception, match=message):
            await connection.execute(f"SELECT outbox.{call}")

    async def test_the_limit_of_bytes_is_that_of_both_tables(
        self, connection: asyncpg.Connection, port: TimersConnection
    ) -> None:
        await schedule(connection, -1, payload=bytes(5000))
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="larger than 4000 bytes: 1 of them"):
            await connection.execute("SELECT outbox.set_max_event_bytes(4000)")
        await connection.execute("SELECT outbox.set_max_event_bytes(6000)")
        with pytest.raises(asyncpg.CheckViolationError, match="event_size"):
            await schedule(connection, -1, payload=bytes(6000))
        assert (await move(port)).events == 1
        await connection.execute("SELECT outbox.set_max_event_bytes(4000)")
        await connection.execute("SELECT outbox.set_max_event_bytes(2000000)")
        await schedule(connection, -1, payload=bytes(1_500_000))
        assert (await move(port)).events == 1


class TestRoles:
    @pytest.fixture(autouse=True)
    async def roles(self, connection: asyncpg.Connection) -> None:
        await make_roles(connection)
        await schedule(connection, -1, timer="t")

    async def test_a_writer_may_schedule_cancel_and_reschedule(self, connection: asyncpg.Connection) -> None:
        await connection.execute("SET ROLE outbox_writer")
        await connection.execute(
            "INSERT INTO outbox.scheduled (event_id, topic, key, payload, headers, type, deliver_at, timer)"
            " VALUES (gen_random_uuid(), 'a', 'k', 'x', '{}', 't', now(), 'u')"
        )
        for call in (
            "enqueue_at(now(), 'a', 'k', 'x')",
            "enqueue_at(now(), 'a', 'k', '{}'::jsonb)",
            "enqueue_in('1 s', 'a', 'k', 'x')",
            "enqueue_in('1 s', 'a', 'k', '{}'::jsonb)",
        ):
            assert await connection.fetchval(f"SELECT outbox.{call}")
        assert await connection.fetchval("SELECT outbox.reschedule(timer => 't', delay => '1 h')")
        assert await connection.fetchval("SELECT outbox.cancel_scheduled(timer => 't')")

    @pytest.mark.parametrize(
        ("role", "forbidden"),
        [
            ("outbox_writer", "SELECT topic FROM outbox.scheduled"),
            ("outbox_writer", "DELETE FROM outbox.scheduled"),
            ("outbox_writer", "UPDATE outbox.scheduled SET deliver_at = now()"),
            (
                "outbox_writer",
                "INSERT INTO outbox.scheduled (topic, deliver_at, created_at) VALUES ('a', now(), now())",
            ),
            ("outbox_writer", "SELECT outbox.move_due(gen_random_uuid(), '{}', '{}', 1, '{}')"),
            ("outbox_relay", "INSERT INTO outbox.scheduled (topic, deliver_at) VALUES ('a', now())"),
            ("outbox_relay", "DELETE FROM outbox.scheduled"),
            ("outbox_relay", "UPDATE outbox.scheduled SET deliver_at = now()"),
            ("outbox_relay", "SELECT outbox.cancel_scheduled(timer => 't')"),
            ("outbox_relay", "SELECT outbox.reschedule(timer => 't', delay => '1 s')"),
            ("outbox_relay", "INSERT INTO outbox.event (topic) VALUES ('a')"),
            ("outbox_admin", "INSERT INTO outbox.scheduled (topic, deliver_at) VALUES ('a', now())"),
            ("outbox_admin", "DELETE FROM outbox.scheduled"),
            ("outbox_admin", "SELECT outbox.reschedule(timer => 't', delay => '1 s')"),
            ("outbox_admin", "SELECT outbox.move_due(gen_random_uuid(), '{}', '{}', 1, '{}')"),
        ],
    )
    async def test_nobody_may_do_what_is_anothers(
        self, connection: asyncpg.Connection, role: str, forbidden: str
    ) -> None:
        await connection.execute(f"SET ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(forbidden)

    async def test_the_relay_moves_and_counts(self, connection: asyncpg.Connection, port: TimersConnection) -> None:
        await port._connection.execute("SET ROLE outbox_relay")
        assert await port.count_scheduled(range(16)) == 1
        assert (await move(port)).events == 1
        assert await port.count_scheduled(range(16)) == 0

    async def test_an_admin_looks_and_cancels(self, connection: asyncpg.Connection) -> None:
        await connection.execute("SET ROLE outbox_admin")
        assert len(await connection.fetch("SELECT * FROM outbox.scheduled")) == 1
        assert await connection.fetchval("SELECT outbox.cancel_scheduled(timer => 't')")


async def test_two_replicas_move_each_events_of_its_lanes_and_none_twice(
    database: str, connection: asyncpg.Connection
) -> None:
    other = UUID(int=8)
    await connection.execute("UPDATE outbox.lane SET owner = $1 WHERE lane >= 8", other)
    await connection.execute(
        "INSERT INTO outbox.scheduled (deliver_at, topic, key, payload)"
        " SELECT now() - make_interval(secs => random()), 'orders', (n % 97)::text::bytea, ''"
        " FROM generate_series(1, 3000) AS n"
    )
    expected = await connection.fetch("SELECT key, event_id FROM outbox.scheduled ORDER BY deliver_at, id")

    async def run(owner: UUID) -> int:
        opened = await open_connection(database, 10.0, "mover")
        try:
            port, total = TimersConnection(opened, "outbox"), 0
            while moved := (await port.move_due(owner, [(lane, 1) for lane in range(16)], at_most=100)).events:
                total += moved
            return total
        finally:
            connect.drop(opened)

    assert sum(await asyncio.gather(run(OWNER), run(OWNER), run(other))) == 3000
    found = await connection.fetch("SELECT key, event_id FROM outbox.event ORDER BY id")

    def by_key(rows: list[asyncpg.Record]) -> dict[bytes, list[UUID]]:
        keys: dict[bytes, list[UUID]] = {}
        for row in rows:
            keys.setdefault(row["key"], []).append(row["event_id"])
        return keys

    assert by_key(found) == by_key(expected)
