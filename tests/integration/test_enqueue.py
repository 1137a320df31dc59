"""Enqueueing with asyncpg on a real server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from relay.enqueue import Event, NotInTransactionError, enqueue, enqueue_many
from relay.errors import EnqueueError, SchemaError
from relay.postgres.admin.migrate import make_roles
from tests.support.postgres.outbox import migrated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    EnqueueOne = Callable[[object], Awaitable[object]]


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with an outbox."""
    async with migrated(database) as connection:
        yield connection


async def one(connection: object, **changes: Any) -> UUID:
    """Enqueue one event with `enqueue`."""
    return await enqueue(connection, changes.pop("topic", "orders"), **{"key": "k", "payload": "x", **changes})


async def one_by_copy(connection: object, **changes: Any) -> UUID:
    """Enqueue one event with `enqueue_many`."""
    schema = changes.pop("schema", "outbox")
    event = Event(changes.pop("topic", "orders"), **{"key": "k", "payload": "x", **changes})
    return (await enqueue_many(connection, [event], schema=schema))[0]


both = pytest.mark.parametrize("enqueue_one", [one, one_by_copy])


async def pending(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """All pending events in the order of their ids."""
    rows: list[asyncpg.Record] = await connection.fetch("SELECT * FROM outbox.pending ORDER BY id")
    return rows


@both
@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({}, {"key": b"k", "payload": b"x", "headers": {}, "type": None}),
        ({"key": "grün", "payload": "ü"}, {"key": "grün".encode(), "payload": "ü".encode()}),
        ({"key": b"\xff\x00", "payload": b"\x00"}, {"key": b"\xff\x00", "payload": b"\x00"}),
        ({"key": None, "payload": None}, {"key": None, "payload": None}),
        ({"key": "", "payload": b""}, {"key": b"", "payload": b""}),
        ({"headers": {"a": "ü\n\"'", "": ""}, "type": "order.paid"}, {"headers": {"a": "ü\n\"'", "": ""}}),
        ({"type": "order.paid", "topic": "a.b-c_d"}, {"type": "order.paid", "topic": "a.b-c_d"}),
    ],
)
async def test_an_event_is_stored_as_given(
    connection: asyncpg.Connection, enqueue_one: Any, given: dict[str, Any], stored: dict[str, Any]
) -> None:
    event_id = uuid4()
    async with connection.transaction():
        assert await enqueue_one(connection, event_id=event_id, **given) == event_id
    (row,) = await pending(connection)
    assert row["event_id"] == event_id
    found = {**row, "headers": json.loads(row["headers"])}
    assert {name: found[name] for name in stored} == stored


async def test_an_event_exists_only_if_its_transaction_commits(connection: asyncpg.Connection) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await one(connection)
    await one_by_copy(connection)
    await transaction.rollback()
    async with connection.transaction():
        committed = await one(connection)
    assert [row["event_id"] for row in await pending(connection)] == [committed]


async def test_a_savepoint_is_a_transaction_too(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        kept = await one(connection)
        savepoint = connection.transaction()
        await savepoint.start()
        await one(connection)
        await savepoint.rollback()
        also_kept = await one_by_copy(connection)
    assert [row["event_id"] for row in await pending(connection)] == [kept, also_kept]


async def test_many_keep_their_order_and_their_ids(connection: asyncpg.Connection) -> None:
    events = [
        Event("orders", key=str(n % 7), payload=str(n) * (n % 500), headers={"n": str(n)} if n % 3 else None)
        for n in range(5000)
    ]
    async with connection.transaction():
        returned = await enqueue_many(connection, iter(events))
    rows = await pending(connection)
    assert returned == [event.event_id for event in events] == [row["event_id"] for row in rows]
    assert [row["payload"] for row in rows] == [event.payload for event in events]


async def test_none_of_many_is_nothing_to_do(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        assert await enqueue_many(connection, []) == []


async def test_a_connection_of_a_pool_is_taken_and_a_pool_is_not(database: str) -> None:
    async with migrated(database) as connection, asyncpg.create_pool(database, min_size=1, max_size=1) as pool:
        async with pool.acquire() as acquired, acquired.transaction():
            await one(acquired)
            await one_by_copy(acquired)
        assert len(await pending(connection)) == 2
        with pytest.raises(EnqueueError, match="a pool is not a connection"):
            await one(pool)


@both
async def test_codecs_of_the_caller_make_no_difference(connection: asyncpg.Connection, enqueue_one: Any) -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    await connection.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=str)
    async with connection.transaction():
        await enqueue_one(connection, headers={"a": "b"})
    (row,) = await pending(connection)
    assert row["headers"] == {"a": "b"}


@both
async def test_outside_a_transaction_it_refuses(connection: asyncpg.Connection, enqueue_one: EnqueueOne) -> None:
    with pytest.raises(NotInTransactionError, match=r"connection\.transaction\(\)"):
        await enqueue_one(connection)
    assert await pending(connection) == []


@both
async def test_inside_a_failed_transaction_it_says_so(connection: asyncpg.Connection, enqueue_one: EnqueueOne) -> None:
    transaction = connection.transaction()
    await transaction.start()
    with pytest.raises(asyncpg.DivisionByZeroError):
        await connection.execute("SELECT 1 / 0")
    with pytest.raises(NotInTransactionError, match="an earlier statement of this transaction failed"):
        await enqueue_one(connection)
    await transaction.rollback()
    assert await pending(connection) == []


@pytest.mark.parametrize("connection_like", [None, object(), "postgresql://db", asyncpg])
async def test_what_is_no_connection_is_refused(connection_like: object) -> None:
    for enqueue_one in (one, one_by_copy):
        with pytest.raises(EnqueueError, match="pass the asyncpg connection of your transaction"):
            await enqueue_one(connection_like)


@both
async def test_an_event_over_the_limit_is_refused_and_says_what_to_do(
    connection: asyncpg.Connection, enqueue_one: Any
) -> None:
    await connection.execute("SELECT outbox.set_max_event_bytes(100)")
    # With the empty headers, {}.
    async with connection.transaction():
        await enqueue_one(connection, key="k", payload="x" * 97)
    with pytest.raises(EnqueueError, match=r"has 101 bytes .* \(`relay migrate --max-event-bytes N`\)"):
        async with connection.transaction():
            await enqueue_one(connection, key="k", payload="x" * 98)
    assert len(await pending(connection)) == 1


async def test_the_one_too_large_among_many_is_named_and_none_is_written(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT outbox.set_max_event_bytes(1000)")
    events = [Event("orders", key="k", payload="x" * (2000 if n == 777 else 10)) for n in range(1000)]
    with pytest.raises(EnqueueError, match=r"events\[777\] for topic orders has 2,003 bytes"):
        async with connection.transaction():
            await enqueue_many(connection, events)
    assert await pending(connection) == []


async def test_the_size_in_the_message_is_the_size_that_is_limited(connection: asyncpg.Connection) -> None:
    given = {"key": "grün", "payload": "ü" * 50, "headers": {"ä": 'b"', "c": "d\\"}, "type": "ö"}
    stored = await connection.fetchval(
        "SELECT octet_length($1::bytea) + octet_length($2::bytea)"
        " + octet_length($3::jsonb::text) + octet_length($4::text)",
        "grün".encode(),
        ("ü" * 50).encode(),
        json.dumps(given["headers"]),
        "ö",
    )
    await connection.execute("SELECT outbox.set_max_event_bytes(1)")
    with pytest.raises(EnqueueError, match=f"has {stored} bytes"):
        async with connection.transaction():
            await one(connection, **given)


async def test_something_else_than_events_among_many_is_refused_before_anything_is_written(
    connection: asyncpg.Connection,
) -> None:
    events: list[Any] = [Event("orders", key="k", payload="x"), ("orders", "k", "x")]
    async with connection.transaction():
        with pytest.raises(EnqueueError, match=r"events\[1\] is of type tuple"):
            await enqueue_many(connection, events)
        await one(connection)
    assert len(await pending(connection)) == 1


@both
async def test_without_an_outbox_it_says_what_to_run(connection: asyncpg.Connection, enqueue_one: Any) -> None:
    with pytest.raises(SchemaError, match="run `relay migrate`"):
        async with connection.transaction():
            await enqueue_one(connection, schema="elsewhere")


@both
async def test_an_impossible_schema_name_is_refused(connection: asyncpg.Connection, enqueue_one: Any) -> None:
    async with connection.transaction():
        with pytest.raises(EnqueueError, match="not a valid schema name"):
            await enqueue_one(connection, schema="outbox; DROP TABLE orders")


@both
async def test_the_schema_is_a_choice(database: str, enqueue_one: Any) -> None:
    async with migrated(database, "billing") as connection:
        async with connection.transaction():
            await enqueue_one(connection, schema="billing")
        assert await connection.fetchval("SELECT count(*) FROM billing.pending") == 1


@both
async def test_a_role_that_may_only_write_can_enqueue(connection: asyncpg.Connection, enqueue_one: EnqueueOne) -> None:
    await make_roles(connection)
    await connection.execute("SET ROLE outbox_writer")
    async with connection.transaction():
        await enqueue_one(connection)
    await connection.execute("RESET ROLE")
    assert len(await pending(connection)) == 1


@both
async def test_the_drivers_own_errors_stay_as_they_are(connection: asyncpg.Connection, enqueue_one: EnqueueOne) -> None:
    await connection.execute("ALTER TABLE outbox.event ADD CONSTRAINT of_the_shop CHECK (topic <> 'orders')")
    with pytest.raises(asyncpg.CheckViolationError, match="of_the_shop"):
        async with connection.transaction():
            await enqueue_one(connection)
