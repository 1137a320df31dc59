"""The trace of writers without the library: settings of their session become headers, and never cost them an event."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import asyncpg
import pytest

from relay.enqueue import enqueue
from tests.support.postgres.outbox import migrated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Write = Callable[[asyncpg.Connection], Awaitable[object]]

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = TRACE.replace("0af7", "1bf8")
MALFORMED = [
    "",
    " ",
    "x",
    TRACE[:-1],
    f"{TRACE}0",
    f"{TRACE}-00",
    f" {TRACE[1:]}",
    TRACE.upper(),
    TRACE.replace("-", "_"),
    TRACE.replace("b7ad", "b-ad"),
    TRACE.replace("b7ad", "b7äd"),
    TRACE.replace("b7ad", "b7%d"),
    TRACE.replace("b7ad", "b\nad"),
    f"ff{TRACE[2:]}",
    f"00-{'0' * 32}-b7ad6b7169203331-01",
    f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
    '{"a": "b"}',
    "ä" * 55,
    "0" * 100_000,
]


@pytest.fixture
async def connection(database: str, with_outbox: None) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with an outbox."""
    async with migrated(database) as connection:
        yield connection


async def headers(connection: asyncpg.Connection) -> dict[str, str]:
    """The headers of the event that was written last."""
    found = await connection.fetchval("SELECT headers::text FROM outbox.event ORDER BY id DESC LIMIT 1")
    decoded: dict[str, str] = json.loads(found)
    return decoded


async def say(connection: asyncpg.Connection, *, local: bool = False, **settings: str) -> None:
    """Set `outbox.<name>` for the session, or for the transaction."""
    for name, value in settings.items():
        await connection.execute("SELECT set_config('outbox.' || $1, $2, $3)", name, value, local)


async def by_insert(connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO outbox.event (topic, key, payload) VALUES ('orders', 'k', 'x')")


async def by_copy(connection: asyncpg.Connection) -> None:
    await connection.copy_records_to_table(
        "event", schema_name="outbox", columns=["topic", "key", "payload"], records=[("orders", b"k", b"x")]
    )


async def by_function(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT outbox.enqueue('orders', 'k', 'x')")


async def by_function_of_json(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT outbox.enqueue('orders', 'k', '{}'::jsonb, NULL)")


async def by_own_headers(connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO outbox.event (topic, headers) VALUES ('orders', outbox.with_trace('{}'))")


every_way = pytest.mark.parametrize("write", [by_function, by_function_of_json, by_own_headers])


@every_way
async def test_an_event_has_the_trace_of_its_session(connection: asyncpg.Connection, write: Write) -> None:
    await write(connection)
    assert await headers(connection) == {}
    await say(connection, traceparent=TRACE)
    await write(connection)
    assert await headers(connection) == {"traceparent": TRACE}
    await say(connection, traceparent=OTHER, tracestate="a=1,b=2", baggage="tenant=%C3%A4")
    await write(connection)
    assert await headers(connection) == {"traceparent": OTHER, "tracestate": "a=1,b=2", "baggage": "tenant=%C3%A4"}


@every_way
async def test_a_trace_of_the_transaction_ends_with_it(connection: asyncpg.Connection, write: Write) -> None:
    async with connection.transaction():
        await say(connection, local=True, traceparent=TRACE)
        await write(connection)
        assert await headers(connection) == {"traceparent": TRACE}
    await write(connection)
    assert await headers(connection) == {}


@every_way
async def test_a_malformed_trace_costs_no_event(connection: asyncpg.Connection, write: Write) -> None:
    for malformed in MALFORMED:
        await say(connection, traceparent=malformed, tracestate="a=1", baggage="b=2")
        await write(connection)
        assert await headers(connection) == {}, malformed


@every_way
async def test_what_goes_with_a_trace_is_left_out_if_it_is_malformed_or_too_long(
    connection: asyncpg.Connection, write: Write
) -> None:
    await say(connection, traceparent=TRACE)
    for malformed in ("", "ä=1", "a=\n", "a\x7f", "x" * 513):
        await say(connection, tracestate=malformed, baggage="b=2")
        await write(connection)
        assert await headers(connection) == {"traceparent": TRACE, "baggage": "b=2"}, malformed
    for malformed in ("", "ä=1", "a=\n", "a\x7f", "x" * 8193):
        await say(connection, tracestate="a=1", baggage=malformed)
        await write(connection)
        assert await headers(connection) == {"traceparent": TRACE, "tracestate": "a=1"}, malformed
    longest = {"tracestate": '"' * 512, "baggage": "\\" * 8192}
    await say(connection, tracestate=longest["tracestate"], baggage=longest["baggage"])
    await write(connection)
    assert await headers(connection) == {"traceparent": TRACE, **longest}


async def enqueued_with(connection: asyncpg.Connection, given: object) -> dict[str, str]:
    await connection.execute("SELECT outbox.enqueue('orders', 'k', 'x', $1)", json.dumps(given))
    found = await headers(connection)
    await connection.execute(
        "INSERT INTO outbox.event (topic, headers) VALUES ('orders', outbox.with_trace($1))", json.dumps(given)
    )
    assert await headers(connection) == found
    return found


async def test_headers_of_the_writers_own_stay_and_those_of_a_trace_win(connection: asyncpg.Connection) -> None:
    await say(connection, traceparent=TRACE, tracestate="a=1")
    assert await enqueued_with(connection, {"source": "shop"}) == {
        "source": "shop",
        "traceparent": TRACE,
        "tracestate": "a=1",
    }
    for name in ("traceparent", "tracestate", "baggage"):
        assert await enqueued_with(connection, {name: "mine"}) == {name: "mine"}


async def test_a_trace_never_makes_the_headers_too_large(connection: asyncpg.Connection) -> None:
    await say(connection, traceparent=TRACE)
    for largest in ({f"h{n}": "" for n in range(256)}, {"h": "x" * (32_768 - len('{"h": ""}'))}):
        assert await enqueued_with(connection, largest) == largest
    assert "traceparent" in await enqueued_with(connection, {f"h{n}": "" for n in range(255)})


@pytest.mark.parametrize("given", ["[1]", '"a"', "7", "null", '{"a": 1}', '{"outbox-id": "1"}'])
async def test_headers_that_are_none_are_refused_as_without_a_trace(connection: asyncpg.Connection, given: str) -> None:
    await say(connection, traceparent=TRACE)
    for statement in (
        "SELECT outbox.enqueue('orders', 'k', 'x', $1)",
        "INSERT INTO outbox.event (topic, headers) VALUES ('orders', outbox.with_trace($1))",
    ):
        with pytest.raises(asyncpg.CheckViolationError, match="event_headers"):
            await connection.execute(statement, given)


async def test_a_trigger_passes_the_trace_on(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "CREATE TABLE orders (id int);"
        " CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        "  PERFORM outbox.enqueue('orders', NEW.id::text, to_jsonb(NEW)); RETURN NEW; END $$;"
        " CREATE TRIGGER tell AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tell()"
    )
    await say(connection, traceparent=TRACE)
    await connection.execute("INSERT INTO orders VALUES (1)")
    assert await headers(connection) == {"traceparent": TRACE}


async def test_what_the_library_writes_has_the_headers_that_it_says(connection: asyncpg.Connection) -> None:
    await say(connection, traceparent=TRACE)
    async with connection.transaction():
        await enqueue(connection, "orders", key="k", payload="x")
    assert await headers(connection) == {}


async def test_another_outbox_has_settings_of_its_own_name(database: str) -> None:
    async with migrated(database, "billing") as connection:
        await say(connection, traceparent=TRACE)
        await connection.execute("SELECT billing.enqueue('orders', 'k', 'x')")
        assert await connection.fetchval("SELECT headers::text FROM billing.event") == "{}"
        await connection.execute("SELECT set_config('billing.traceparent', $1, false)", TRACE)
        await connection.execute("SELECT billing.enqueue('orders', 'k', 'x')")
        traced = await connection.fetchval("SELECT headers::text FROM billing.event ORDER BY id DESC LIMIT 1")
        assert json.loads(traced) == {"traceparent": TRACE}


@pytest.mark.parametrize("write", [by_insert, by_copy])
async def test_a_plain_insert_has_the_headers_that_it_says(connection: asyncpg.Connection, write: Write) -> None:
    await say(connection, traceparent=TRACE)
    await write(connection)
    assert await headers(connection) == {}
