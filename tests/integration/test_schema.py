"""What the schema promises whoever writes to it, in any language, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import secrets
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from relay.enqueue import enqueue
from relay.postgres.admin.migrate import make_roles, migrate
from relay.postgres.flow.segments import ensure_segments
from tests.support.postgres.outbox import add_event, add_failure, connected, migrated
from tests.support.postgres.receipts import add_receipt, add_receipts
from tests.support.postgres.segments import prune

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


RECEIPT = (
    "INSERT INTO outbox.receipt (max_id, min_id, base_offset, kafka_partition, ids, replica)"
    " VALUES ({}, gen_random_uuid())"
)


@pytest.fixture
async def connection(database: str, with_outbox: None) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with an outbox."""
    async with migrated(database) as connection:
        yield connection


async def xid_after_a_refused_insert(connection: asyncpg.Connection) -> object:
    """Insert a row that is refused after its default id was taken; returns the transaction's xid, if it has one."""
    # nextval writes WAL, and takes a xid for that, only once in 32 calls.
    await connection.execute("SELECT nextval('outbox.event_id') FROM generate_series(1, 2)")
    async with connection.transaction():
        with pytest.raises(asyncpg.CheckViolationError):
            async with connection.transaction():
                await connection.execute("INSERT INTO outbox.event (topic) VALUES ('')")
        return await connection.fetchval("SELECT pg_current_xact_id_if_assigned()::text")


async def test_a_transaction_has_its_xid_before_it_takes_an_id(connection: asyncpg.Connection) -> None:
    assert await xid_after_a_refused_insert(connection) is not None
    await connection.execute("ALTER TABLE outbox.event ALTER id SET DEFAULT nextval('outbox.event_id')")
    assert await xid_after_a_refused_insert(connection) is None, "this test would not notice a plain nextval"


@pytest.mark.parametrize("key", [b"", b"order-1", b"\xff\x00", None])
async def test_the_lane_can_be_computed_by_anyone(connection: asyncpg.Connection, key: bytes | None) -> None:
    event_id = uuid4()
    lane = await connection.fetchval(
        "INSERT INTO outbox.event (event_id, topic, key) VALUES ($1, 'a', $2) RETURNING lane", event_id, key
    )
    assert lane == hashlib.sha256(event_id.bytes if key is None else key).digest()[0] & 15


@pytest.mark.parametrize("topic", ["a", "orders.created-v2_x", "..a", "Z" * 249])
async def test_topics_that_kafka_takes_are_taken(connection: asyncpg.Connection, topic: str) -> None:
    await add_event(connection, topic=topic)


@pytest.mark.parametrize("topic", ["", ".", "..", "a b", "a/b", "ä", "a\n", "Z" * 250])
async def test_topics_that_kafka_refuses_are_refused(connection: asyncpg.Connection, topic: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="event_topic"):
        await add_event(connection, topic=topic)


@pytest.mark.parametrize("headers", ["[]", '"a"', "null", "1", '{"a": 1}', '{"a": null}', '{"a": ["b"]}', '{"a": {}}'])
async def test_headers_other_than_strings_are_refused(connection: asyncpg.Connection, headers: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="event_headers"):
        await connection.execute("INSERT INTO outbox.event (topic, headers) VALUES ('a', $1)", headers)


REFUSED_HEADERS = {
    "a name of the relay's": {"outbox-id": "7"},
    "one among others": {"a": "b", "outbox-anything": "", "z": "y"},
    "one with a quote in it": {'outbox-"': "x"},
    "too many": {f"h{n}": "v" for n in range(257)},
    "too large": {"h": "v" * 32_760},
    "too large only as JSON": {"h": "\x01" * 5_461},
}
TAKEN_HEADERS = {
    "a name of the relay's as a value": {"a": "outbox-id", "b": '"outbox-id": "', "c": 'x"outbox-id": '},
    "other spellings": {"Outbox-Id": "a", "x-outbox-id": "b", 'a"outbox-id': "c", "outbox": "d"},
    "as many as there may be": {f"h{n}": "v" for n in range(256)},
    "as large as they may be": {"h": "v" * 32_759},
    "no name": {"": "x"},
}


@pytest.mark.parametrize("headers", REFUSED_HEADERS.values(), ids=REFUSED_HEADERS)
async def test_headers_beyond_what_a_writer_may_set_are_refused(
    connection: asyncpg.Connection, headers: dict[str, str]
) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="event_headers"):
        await connection.execute("INSERT INTO outbox.event (topic, headers) VALUES ('a', $1)", json.dumps(headers))


@pytest.mark.parametrize("headers", TAKEN_HEADERS.values(), ids=TAKEN_HEADERS)
async def test_headers_that_a_writer_may_set_are_taken_by_schema_and_library(
    connection: asyncpg.Connection, headers: dict[str, str]
) -> None:
    await connection.execute("INSERT INTO outbox.event (topic, headers) VALUES ('a', $1)", json.dumps(headers))
    async with connection.transaction():
        await enqueue(connection, "a", key=None, payload=None, headers=headers)
    stored = await connection.fetch("SELECT headers FROM outbox.event")
    assert [json.loads(row[0]) for row in stored] == [headers, headers]


@pytest.mark.parametrize("created_at", ["infinity", "-infinity", "1969-12-31 23:59:59+00", "10000-01-01 00:00:00+00"])
async def test_a_time_that_is_no_date_is_refused(connection: asyncpg.Connection, created_at: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="event_created_at"):
        await connection.execute(f"INSERT INTO outbox.event (topic, created_at) VALUES ('a', '{created_at}')")


async def test_an_event_counts_with_key_payload_headers_and_type(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT outbox.set_max_event_bytes(100)")
    insert = "INSERT INTO outbox.event (topic, key, payload, headers, type) VALUES ('a', $1, $2, $3, $4)"
    headers = json.dumps({"a": "b"})
    exactly = (b"k" * 40, b"p" * 40, headers, "t" * (20 - len(headers)))
    await connection.execute(insert, *exactly)
    with pytest.raises(asyncpg.CheckViolationError, match="event_size"):
        await connection.execute(insert, *exactly[:3], exactly[3] + "t")


@pytest.mark.parametrize(
    "impossible",
    [
        "INSERT INTO outbox.event (id, topic) VALUES (0, 'a')",
        RECEIPT.format("1, 1, 0, -1, '\\x00000000'"),
        RECEIPT.format("1, 1, -2, 0, '\\x00000000'"),
        RECEIPT.format("1, 2, 0, 0, '\\x00000000'"),
        RECEIPT.format("0, 0, 0, 0, '\\x00000000'"),
        RECEIPT.format("131073, 1, 0, 0, '\\x0000000000020000'"),
        RECEIPT.format("1, 1, 0, 0, '\\x000000'"),
        RECEIPT.format("1, 1, 0, 0, ''"),
        "INSERT INTO outbox.lane (lane) VALUES (16)",
        "UPDATE outbox.lane SET owner = gen_random_uuid()",
        "UPDATE outbox.lane SET claimed_at = now()",
        "UPDATE outbox.lane SET position = -1",
        "INSERT INTO outbox.failure VALUES (0, 1, 'a', NULL, 'lost', 1, NULL, 'e', '', now(), 'block')",
        "INSERT INTO outbox.failure VALUES (0, 1, 'a', NULL, 'failed', 1, now(), 'e', '', now(), 'block')",
        "INSERT INTO outbox.failure VALUES (0, 1, 'a', NULL, 'retrying', 1, NULL, 'e', '', now(), 'block')",
        "INSERT INTO outbox.failure VALUES (0, 1, 'a', NULL, 'failed', 1, NULL, 'e', '', now(), 'ignore')",
        "INSERT INTO outbox.held VALUES (-1, 1, 'a', NULL)",
        "INSERT INTO outbox.action (kind, filter) VALUES ('shred', '{}')",
        "INSERT INTO outbox.action (kind, filter) VALUES ('replay', '[]')",
        "SELECT outbox.set_max_event_bytes(0)",
        "SELECT outbox.add_segment(10, 10)",
    ],
)
async def test_impossible_rows_and_calls_are_refused(connection: asyncpg.Connection, impossible: str) -> None:
    with pytest.raises((asyncpg.CheckViolationError, asyncpg.InvalidParameterValueError)):
        await connection.execute(impossible)


async def test_a_registration_writes_a_receipt_once(connection: asyncpg.Connection) -> None:
    replica = uuid4()
    await add_receipt(connection, 1, replica=replica)
    with pytest.raises(asyncpg.UniqueViolationError):
        await add_receipt(connection, 1, replica=replica, offset=1)
    await add_receipt(connection, 1, offset=1)


@pytest.mark.parametrize(
    ("call", "payload"),
    [
        ("outbox.enqueue('orders', 'k', 'plain')", b"plain"),
        ("outbox.enqueue('orders', 'k', 'grün'::text)", "grün".encode()),
        ("""outbox.enqueue('orders', 'k', '{"a":1}'::jsonb)""", b'{"a": 1}'),
        ("outbox.enqueue('orders', 'k', jsonb_build_object('a', 1))", b'{"a": 1}'),
        ("outbox.enqueue('orders', 'k', NULL)", None),
        ("outbox.enqueue('orders', 'k', NULL::jsonb)", None),
        ("outbox.enqueue('orders', 'k', payload => 'named', type => 'T')", b"named"),
    ],
)
async def test_enqueue_in_sql_takes_text_and_jsonb(
    connection: asyncpg.Connection, call: str, payload: bytes | None
) -> None:
    event_id = await connection.fetchval(f"SELECT {call}")
    row = await connection.fetchrow("SELECT * FROM outbox.pending WHERE event_id = $1", event_id)
    assert (row["topic"], row["key"], row["payload"], row["headers"]) == ("orders", b"k", payload, "{}")


async def test_enqueue_in_sql_takes_headers_and_type(connection: asyncpg.Connection) -> None:
    await connection.fetchval("""SELECT outbox.enqueue('orders', NULL, 'x', '{"h": "v"}', 'order.paid')""")
    row = await connection.fetchrow("SELECT key, headers, type FROM outbox.event")
    assert tuple(row) == (None, '{"h": "v"}', "order.paid")


async def test_enqueue_in_sql_treats_headers_of_null_as_none(connection: asyncpg.Connection) -> None:
    await connection.fetchval("SELECT outbox.enqueue('orders', NULL, 'x', NULL)")
    assert await connection.fetchval("SELECT headers FROM outbox.event") == "{}"


async def test_pending_and_delivered_show_what_became_of_an_event(connection: asyncpg.Connection) -> None:
    delivered = await add_event(connection)
    await add_receipts(connection)
    failed, held, pending = [await add_event(connection) for _ in range(3)]
    await add_failure(connection, failed)
    await connection.execute("INSERT INTO outbox.held VALUES ($1, $2, 'orders')", *held)
    assert [row["id"] for row in await connection.fetch("SELECT id FROM outbox.pending")] == [pending["id"]]
    row = await connection.fetchrow("SELECT id, kafka_partition, kafka_offset FROM outbox.delivered")
    assert tuple(row) == (delivered["id"], 0, delivered["id"])


async def test_heartbeats_do_not_bloat(connection: asyncpg.Connection) -> None:
    """Updates of leases and positions are HOT: they touch no index and are cleaned up in passing."""
    await connection.execute(
        "INSERT INTO outbox.replica (id, name, version, lease_expires_at)"
        " SELECT gen_random_uuid(), 'r' || i, '1', now() FROM generate_series(1, 16) AS i"
    )
    for table, beat in (("lane", "position = position + 1"), ("replica", "lease_expires_at = clock_timestamp()")):
        for _ in range(200):
            await connection.execute(f"UPDATE outbox.{table} SET {beat}")
        pages = await connection.fetchval(f"SELECT pg_relation_size('outbox.{table}') / 8192")
        assert pages <= 4
        counted = f"SELECT pg_stat_get_xact_tuples_hot_updated('outbox.{table}'::regclass)"
        async with connection.transaction():
            before = await connection.fetchval(counted)
            await connection.execute(f"UPDATE outbox.{table} SET {beat}")
            assert await connection.fetchval(counted) == before + 16


class TestRoles:
    """Each role can do its work and nothing else."""

    @pytest.fixture
    async def connection(self, connection: asyncpg.Connection) -> asyncpg.Connection:
        """An outbox with one event and the roles; making them twice does no harm."""
        await make_roles(connection)
        await make_roles(connection)
        await add_event(connection)
        return connection

    @pytest.mark.parametrize(
        "allowed",
        [
            "INSERT INTO outbox.event (topic, key, payload) VALUES ('a', 'k', 'x')",
            "INSERT INTO outbox.event (event_id, topic, headers, type) VALUES (gen_random_uuid(), 'a', '{}', 't')",
            "SELECT outbox.enqueue('a', 'k', 'x')",
            "SELECT outbox.enqueue('a', 'k', '{}'::jsonb)",
            "SELECT outbox.wake_up()",
        ],
    )
    async def test_a_writer_may_enqueue(self, connection: asyncpg.Connection, allowed: str) -> None:
        await connection.execute("SET ROLE outbox_writer")
        await connection.execute(allowed)

    @pytest.mark.parametrize(
        "forbidden",
        [
            "INSERT INTO outbox.event (id, topic) VALUES (99, 'a')",
            "INSERT INTO outbox.event (topic, created_at) VALUES ('a', now())",
            "SELECT topic FROM outbox.event",
            "SELECT * FROM outbox.pending",
            "UPDATE outbox.event SET topic = 'b'",
            "DELETE FROM outbox.event",
            "TRUNCATE outbox.event",
            "SELECT setval('outbox.event_id', 1)",
            RECEIPT.format("1, 1, 0, 0, '\\x00000000'"),
            "UPDATE outbox.lane SET position = 9",
            "SELECT outbox.add_segment(5000001, 6000001)",
            "SELECT outbox.drop_segment(1)",
            "SELECT outbox.set_max_event_bytes(5)",
        ],
    )
    async def test_a_writer_may_do_nothing_else(self, connection: asyncpg.Connection, forbidden: str) -> None:
        await connection.execute("SET ROLE outbox_writer")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(forbidden)

    async def test_the_relay_may_do_its_work(self, connection: asyncpg.Connection) -> None:
        await connection.execute("SET ROLE outbox_relay")
        await connection.execute(
            "INSERT INTO outbox.replica VALUES (gen_random_uuid(), 'r', '1', now(), now());"
            "UPDATE outbox.lane SET owner = gen_random_uuid(), claimed_at = now(), epoch = epoch + 1;"
            "SELECT FROM outbox.lane FOR UPDATE; SELECT FROM outbox.lane FOR SHARE;"
            "SELECT last_value FROM outbox.event_id"
        )
        await add_receipts(connection)
        (event,) = await connection.fetch("SELECT lane, id FROM outbox.event")
        await add_failure(connection, event)
        await connection.execute("DELETE FROM outbox.failure; DELETE FROM outbox.replica; LISTEN outbox")
        assert await ensure_segments(connection, 5_000_000, 2) == ["event_5000001", "event_10000001"]
        await connection.execute("UPDATE outbox.lane SET position = 5000001")
        assert await prune(connection, 0) == ["event_1"]

    @pytest.mark.parametrize(
        "forbidden",
        [
            "INSERT INTO outbox.event (topic) VALUES ('a')",
            "UPDATE outbox.event SET topic = 'b'",
            "DELETE FROM outbox.event",
            "DELETE FROM outbox.receipt",
            "UPDATE outbox.receipt SET base_offset = 1",
            "INSERT INTO outbox.former_delivery (lane, id, kafka_partition, kafka_offset) VALUES (0, 1, 0, 0)",
            "DELETE FROM outbox.lane",
            "UPDATE outbox.lane SET lane = 5 WHERE lane = 4",
            "UPDATE outbox.action SET requested_by = 'somebody'",
            "UPDATE outbox.action SET requested_at = now()",
            "UPDATE outbox.action SET reason = 'another'",
            "INSERT INTO outbox.action (kind, filter) VALUES ('discard', '{}')",
            "INSERT INTO outbox.lane_intent (lane, epoch, until) VALUES (1, 1, now())",
            "INSERT INTO outbox.topic_intent (topic, until) VALUES ('orders', now())",
            "INSERT INTO outbox.failure VALUES (0, 1, 'a', NULL, 'discarded', 1, NULL, 'e', '', now(), 'block')",
            "BEGIN; LOCK TABLE outbox.migration IN SHARE MODE",
            "INSERT INTO outbox.migration VALUES (99, 'a', repeat('0', 64))",
            "DROP TABLE outbox.event_1",
        ],
    )
    async def test_the_relay_cannot_change_events_or_receipts(
        self, connection: asyncpg.Connection, forbidden: str
    ) -> None:
        await connection.execute("SET ROLE outbox_relay")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(forbidden)

    async def test_an_admin_sees_everything_and_asks_for_actions(self, connection: asyncpg.Connection) -> None:
        await connection.execute("SET ROLE outbox_admin")
        for table in (
            "event",
            "receipt",
            "former_delivery",
            "failure",
            "held",
            "action",
            "lane",
            "replica",
            "pending",
            "delivered",
        ):
            await connection.execute(f"SELECT * FROM outbox.{table}")
        await connection.execute("INSERT INTO outbox.action (kind, filter, reason) VALUES ('replay', '{}', 'fixed')")
        for forbidden in (
            "UPDATE outbox.lane SET position = 9",
            "DELETE FROM outbox.event",
            "DELETE FROM outbox.action",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)

    async def test_the_relay_cannot_drop_an_event_that_nobody_has_decided_about(
        self, connection: asyncpg.Connection
    ) -> None:
        await connection.execute("SET ROLE outbox_relay")
        await connection.execute("UPDATE outbox.lane SET position = 5000001")
        await ensure_segments(connection, 5_000_000, 2)
        assert await connection.fetchval("SELECT outbox.drop_segment(1)") is False
        assert await connection.fetchval("SELECT count(*) FROM outbox.event") == 1

    async def test_a_writer_that_burns_ids_costs_a_segment_and_no_event(self, connection: asyncpg.Connection) -> None:
        """The default of id needs USAGE on the sequence; here is what else can be done with it."""
        await connection.execute("SET ROLE outbox_writer")
        await connection.execute("SELECT count(nextval('outbox.event_id')) FROM generate_series(1, 30000)")
        await connection.execute("SELECT outbox.enqueue('orders', 'k', 'x')")
        await connection.execute("RESET ROLE")
        assert len(await ensure_segments(connection, 1000, 2)) <= 3
        assert await connection.fetchval("SELECT count(*) FROM outbox.pending") == 2

    @pytest.mark.parametrize("role", ["outbox_admin", "outbox_relay"])
    async def test_no_role_asks_in_the_name_of_another(
        self, connection: asyncpg.Connection, database: str, role: str
    ) -> None:
        async with acting(connection, database, role) as (name, other):
            with suppress(asyncpg.InsufficientPrivilegeError):
                await other.execute(
                    "INSERT INTO outbox.action (kind, filter, requested_by) VALUES ('replay', '{}', 'boss (desk)')"
                )
            with suppress(asyncpg.InsufficientPrivilegeError):
                await other.execute(
                    "INSERT INTO outbox.lane_intent (lane, epoch, until, requested_by, requested_at)"
                    " VALUES (1, 1, now(), 'boss', '2000-01-01')"
                )
                await other.execute("UPDATE outbox.lane_intent SET requested_by = 'boss', requested_at = '2000-01-01'")
            with suppress(asyncpg.InsufficientPrivilegeError):
                await other.execute(
                    "INSERT INTO outbox.topic_intent (topic, until, requested_by) VALUES ('orders', now(), 'boss')"
                )
            for table in ("action", "lane_intent", "topic_intent"):
                for by, at in await connection.fetch(f"SELECT requested_by, requested_at FROM outbox.{table}"):
                    assert (by, at.year > 2000) == (name, True)

    @pytest.mark.parametrize("role", ["outbox_admin", "outbox_relay"])
    async def test_nobody_discards_in_the_name_of_another(
        self, connection: asyncpg.Connection, database: str, role: str
    ) -> None:
        (event,) = await connection.fetch("SELECT lane, id FROM outbox.event")
        await add_failure(connection, event)
        boss = await connection.fetchval(
            "INSERT INTO outbox.action (kind, filter, requested_by)"
            " VALUES ('discard', '{}', 'boss (desk)') RETURNING id"
        )
        async with acting(connection, database, role) as (name, other):
            for forged in (
                f"UPDATE outbox.failure SET state = 'discarded', action = {boss}",
                "UPDATE outbox.failure SET state = 'discarded'",
                f"UPDATE outbox.failure SET action = {boss}",
            ):
                with pytest.raises(
                    asyncpg.InsufficientPrivilegeError, match=r"transaction that records|permission denied"
                ):
                    await other.execute(forged)
            if role == "outbox_admin":
                await other.execute(
                    "WITH asked AS (INSERT INTO outbox.action (kind, filter) VALUES ('discard', '{}') RETURNING id)"
                    " UPDATE outbox.failure SET state = 'discarded', action = asked.id FROM asked"
                )
                by = await connection.fetchval(
                    "SELECT a.requested_by FROM outbox.failure AS f JOIN outbox.action AS a ON a.id = f.action"
                )
                assert by == name

    async def test_who_cancelled_is_who_cancelled(self, connection: asyncpg.Connection, database: str) -> None:
        await connection.execute("INSERT INTO outbox.action (kind, filter) VALUES ('replay-delivered', '{}')")
        async with acting(connection, database, "outbox_admin") as (name, other):
            await other.execute("""UPDATE outbox.action SET counts = '{"cancelled_by": "boss (desk)"}'""")
            by = "SELECT counts ->> 'cancelled_by' FROM outbox.action"
            assert await connection.fetchval(by) == name
            for later in ("{}", '{"cancelled_by": "boss"}'):
                await other.execute("UPDATE outbox.action SET counts = $1", later)
                assert await connection.fetchval(by) == name

    async def test_who_cancelled_and_when_a_request_ended_is_not_told_beforehand_or_afterwards(
        self, connection: asyncpg.Connection, database: str
    ) -> None:
        async with acting(connection, database, "outbox_admin") as (_, other):
            await other.execute(
                "INSERT INTO outbox.action (kind, filter, finished_at, counts) VALUES ('replay-delivered', '{}',"
                """ '2000-01-01', '{"events": 1, "cancelled": true, "cancelled_by": "boss (desk)"}')"""
            )
            await other.execute("INSERT INTO outbox.action (kind, filter) VALUES ('replay-delivered', '{}')")
        counts, first = await connection.fetchrow("SELECT counts, finished_at FROM outbox.action ORDER BY id LIMIT 1")
        assert json.loads(counts) == {"events": 1}
        assert first.year > 2000
        for role in ("outbox_admin", "outbox_relay"):
            async with acting(connection, database, role) as (_, other):
                for forged in ("'2000-01-01'", "NULL", "'infinity'"):
                    await other.execute(f"UPDATE outbox.action SET finished_at = {forged}")
                    ended = [row[0] for row in await connection.fetch("SELECT finished_at FROM outbox.action")]
                    assert first in ended
                    assert all(2000 < at.year < 9999 for at in ended)

    async def test_the_relay_gives_no_decision_about_an_event_to_another(
        self, connection: asyncpg.Connection, database: str
    ) -> None:
        (event,) = await connection.fetch("SELECT lane, id FROM outbox.event")
        boss = await connection.fetchval(
            "INSERT INTO outbox.action (kind, filter, requested_by)"
            " VALUES ('discard', '{}', 'boss (desk)') RETURNING id"
        )
        await connection.execute(
            "INSERT INTO outbox.failure (lane, id, topic, state, attempts, error, policy)"
            " VALUES (3, 4711, 'orders', 'discarded', 1, 'e', 'block')"
        )
        await connection.execute("UPDATE outbox.failure SET action = $1", boss)
        async with acting(connection, database, "outbox_relay") as (_, other):
            moved = "lane = {lane}, id = {id}".format(**event)
            for forged in (moved, "topic = 'x'", "key = ''", "action = NULL"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await other.execute(f"UPDATE outbox.failure SET {forged}")
            await other.execute("SELECT FROM outbox.failure FOR UPDATE")
            await other.execute(
                "UPDATE outbox.failure SET state = 'failed', attempts = 2, next_attempt_at = NULL, error = 'e',"
                " detail = 'd', policy = 'skip', failed_at = now(), history = '[]'"
            )

    async def test_people_decide_about_failures_and_do_not_say_what_became_of_them(
        self, connection: asyncpg.Connection, database: str
    ) -> None:
        (event,) = await connection.fetch("SELECT lane, id FROM outbox.event")
        await add_failure(connection, event)
        async with acting(connection, database, "outbox_admin") as (_, other):
            for unsigned in (
                "state = 'retrying', next_attempt_at = now()",
                "state = 'retrying', next_attempt_at = 'infinity'",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only the relay"):
                    await other.execute(f"UPDATE outbox.failure SET {unsigned}")
            await connection.execute("UPDATE outbox.failure SET state = 'retrying', next_attempt_at = now()")
            for unsigned in ("next_attempt_at = '2100-01-01'", "state = 'failed', next_attempt_at = NULL"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only the relay"):
                    await other.execute(f"UPDATE outbox.failure SET {unsigned}")

    async def test_a_lane_is_asked_for_until_a_time_that_is_a_date(
        self, connection: asyncpg.Connection, database: str
    ) -> None:
        async with acting(connection, database, "outbox_admin") as (_, other):
            with pytest.raises(asyncpg.CheckViolationError):
                await other.execute("INSERT INTO outbox.lane_intent (lane, epoch, until) VALUES (1, 1, 'infinity')")


@asynccontextmanager
async def acting(
    connection: asyncpg.Connection, database: str, role: str
) -> AsyncIterator[tuple[str, asyncpg.Connection]]:
    """The name and the connection of a user who logs in and has a role."""
    name = f"user_{secrets.token_hex(4)}"
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' IN ROLE {role}")
    parts = urlsplit(database)
    dsn = urlunsplit(parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}"))
    try:
        async with connected(dsn) as other:
            yield name, other
    finally:
        await connection.execute(f"DROP ROLE {name}")


async def test_the_roles_suffice_where_nothing_is_granted_by_default(database: str) -> None:
    """ALTER DEFAULT PRIVILEGES ... REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC is a usual hardening."""
    async with connected(database) as connection:
        await connection.execute(
            "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;"
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC"
        )
        await migrate(connection)
        await make_roles(connection)
        await add_event(connection)
        for role, statements in {
            "outbox_writer": [
                "SELECT outbox.enqueue('a', 'k', 'x')",
                "SELECT outbox.enqueue('a', 'k', '{}'::jsonb)",
                "SELECT outbox.wake_up()",
            ],
            "outbox_relay": [
                "SELECT outbox.drop_segment(1)",
                "SELECT outbox.add_segment(5000001, 5000002)",
                "SELECT outbox.replay_needs(1, 2), outbox.unsettled_event(1)",
            ],
            "outbox_admin": [
                "SELECT outbox.wake_up(), outbox.max_event_bytes()",
                "INSERT INTO outbox.action (kind, filter) VALUES ('discard', '{}')",
                "INSERT INTO outbox.lane_intent (lane, epoch, until) VALUES (1, 1, now())",
                "INSERT INTO outbox.topic_intent (topic, until) VALUES ('orders', now())",
            ],
        }.items():
            await connection.execute(f"SET ROLE {role}")
            for statement in statements:
                await connection.execute(statement)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("DELETE FROM outbox.event")
            await connection.execute("RESET ROLE")


async def test_headers_that_come_compressed_are_not_taken_for_small(connection: asyncpg.Connection) -> None:
    await connection.execute(
        """CREATE TEMP TABLE kept (headers jsonb);
        INSERT INTO kept SELECT jsonb_build_object('a', repeat('x', 150000));
        INSERT INTO kept SELECT jsonb_object_agg(repeat('k', 100) || n, '') FROM generate_series(1, 257) AS n"""
    )
    sizes = [row[0] for row in await connection.fetch("SELECT pg_column_size(headers) FROM kept")]
    assert sizes[0] < 2000
    for row in range(2):
        with pytest.raises(asyncpg.CheckViolationError, match="event_headers"):
            await connection.execute(
                f"INSERT INTO outbox.event (topic, headers) SELECT 'orders', headers FROM kept OFFSET {row} LIMIT 1"
            )
