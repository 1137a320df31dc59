"""`outbox.capture()`: what a table's changes become, whatever is in it and whoever makes them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from relay.postgres.admin.migrate import make_roles
from tests.support.documents import blocks, page
from tests.support.postgres.outbox import connected, migrated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TABLE = "CREATE TABLE customer (id bigint PRIMARY KEY, name text, photo bytea, seen timestamptz, extra json)"
TRIGGER = (
    "CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON customer"
    " FOR EACH ROW EXECUTE FUNCTION outbox.capture({})"
)
VIRTUAL = 18
"""The first version of PostgreSQL that has virtual columns."""
KEYED_BY_ID = TRIGGER.format("'customers', 'id'")


def replaced(arguments: str) -> str:
    """Another trigger in the place of the one that is there."""
    return f"DROP TRIGGER capture ON customer; {TRIGGER.format(arguments)}"


@pytest.fixture
async def shop(database: str, with_outbox: None) -> AsyncIterator[asyncpg.Connection]:
    """A database with a table of customers, whose changes are events."""
    async with migrated(database) as connection:
        await connection.execute(f"{TABLE}; {KEYED_BY_ID}")
        yield connection


async def events(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
    """Topic, key, payload and type of all events, and none any more."""
    rows = await connection.fetch("SELECT topic, key, payload, type FROM outbox.event ORDER BY id")
    await connection.execute("TRUNCATE outbox.event")
    return [(row[0], row[1], None if row[2] is None else json.loads(row[2]), row[3]) for row in rows]


def customer(id_: int, **values: Any) -> dict[str, Any]:
    """A row as it is in a payload."""
    return {"id": id_, "name": None, "photo": None, "seen": None, "extra": None, **values}


async def test_each_change_is_an_event_with_the_row_as_it_is_afterwards(shop: asyncpg.Connection) -> None:
    await shop.execute("INSERT INTO customer (id, name) VALUES (1, 'Grün'), (2, 'Rot')")
    await shop.execute("UPDATE customer SET name = name || '!'")
    await shop.execute("DELETE FROM customer WHERE id = 1")
    assert await events(shop) == [
        ("customers", b"1", customer(1, name="Grün"), "insert"),
        ("customers", b"2", customer(2, name="Rot"), "insert"),
        ("customers", b"1", customer(1, name="Grün!"), "update"),
        ("customers", b"2", customer(2, name="Rot!"), "update"),
        ("customers", b"1", None, "delete"),
    ]


async def test_an_event_exists_only_if_its_change_is_committed(shop: asyncpg.Connection) -> None:
    transaction = shop.transaction()
    await transaction.start()
    await shop.execute("INSERT INTO customer VALUES (1)")
    await transaction.rollback()
    async with shop.transaction():
        await shop.execute(
            "INSERT INTO customer VALUES (2); SAVEPOINT s; INSERT INTO customer VALUES (3); ROLLBACK TO s"
        )
    assert [key for _, key, *_ in await events(shop)] == [b"2"]


async def test_a_row_that_changes_its_key_is_gone_for_the_old_one(shop: asyncpg.Connection) -> None:
    await shop.execute("INSERT INTO customer (id) VALUES (1)")
    await events(shop)
    await shop.execute("UPDATE customer SET id = 2")
    assert await events(shop) == [("customers", b"1", None, "delete"), ("customers", b"2", customer(2), "insert")]


async def test_a_key_of_several_columns_is_a_json_array_and_one_that_is_null_has_no_order(
    shop: asyncpg.Connection,
) -> None:
    await shop.execute(replaced("'customers', 'name', 'id'"))
    await shop.execute("INSERT INTO customer (id, name) VALUES (1, 'a, \"b'), (2, NULL)")
    await shop.execute("UPDATE customer SET photo = '' WHERE id = 1")
    await shop.execute("DELETE FROM customer WHERE id = 2")
    assert [(key, kind) for _, key, _, kind in await events(shop)] == [
        (b'["a, \\"b", 1]', "insert"),
        (b"[null, 2]", "insert"),
        (b'["a, \\"b", 1]', "update"),
        (b"[null, 2]", "delete"),
    ]
    await shop.execute(replaced("'customers', 'name'"))
    await shop.execute("INSERT INTO customer (id) VALUES (3)")
    assert [key for _, key, *_ in await events(shop)] == [None]


async def test_values_look_alike_whatever_the_session_is_set_to(shop: asyncpg.Connection) -> None:
    await shop.execute("ALTER TABLE customer ADD span interval, ADD share float8, ADD day date")
    insert = (
        (
            "INSERT INTO customer VALUES (1, E'\\t\"', '\\x00ff5c', '2026-07-01 12:00+02', '{{ \"a\":\"\\u0000\"}}',"
            " '1 day 2 hours', 0.1::float8 + 0.2::float8, '2026-07-01')"
        )
        .replace("{{", "{")
        .replace("}}", "}")
    )
    await shop.execute(insert)
    await shop.execute("DELETE FROM customer")
    await shop.execute(
        "SET bytea_output = escape; SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY';"
        " SET intervalstyle = sql_standard; SET extra_float_digits = -10; SET search_path = pg_temp"
    )
    await shop.execute(insert.replace("customer", "public.customer"))
    rows = await shop.fetch("SELECT payload FROM outbox.event WHERE type = 'insert'")
    plain, odd = (json.loads(row["payload"]) for row in rows)
    assert plain == odd
    assert plain == {
        **customer(1, name='\t"', photo="\\x00ff5c", seen="2026-07-01T10:00:00+00:00", extra={"a": "\0"}),
        "span": "P1DT2H",
        "share": 0.30000000000000004,
        "day": "2026-07-01",
    }
    assert await shop.fetchval("SHOW search_path") == "pg_temp"


@pytest.fixture
async def computed(database: str, with_outbox: None) -> AsyncIterator[asyncpg.Connection]:
    """A database with a table in which two columns are computed when they are read."""
    async with migrated(database) as connection:
        if connection.get_server_version().major < VIRTUAL:
            pytest.skip(f"virtual columns need PostgreSQL {VIRTUAL}")
        await connection.execute(
            "CREATE TABLE customer (gone int, id bigint PRIMARY KEY, twice bigint GENERATED ALWAYS AS (id * 2) VIRTUAL,"
            ' "odd "" name" text, thrice bigint GENERATED ALWAYS AS (id * 3) STORED,'
            ' loud text GENERATED ALWAYS AS (upper("odd "" name")) VIRTUAL, extra json);'
            f"ALTER TABLE customer DROP gone; {KEYED_BY_ID}"
        )
        yield connection


async def test_a_column_that_is_computed_when_it_is_read_is_left_out(computed: asyncpg.Connection) -> None:
    await computed.execute("""INSERT INTO customer VALUES (1, DEFAULT, 'a', DEFAULT, DEFAULT, '{ "a":"\\u0000"}')""")
    await computed.execute("""UPDATE customer SET id = 2, "odd "" name" = NULL""")
    await computed.execute("UPDATE customer SET extra = '[1,  2]'")
    await computed.execute("DELETE FROM customer")
    (text,) = (row[0] for row in await computed.fetch("SELECT payload FROM outbox.event WHERE id = 3"))
    assert text == b'{"id":2,"odd \\" name":null,"thrice":6,"extra":{ "a":"\\u0000"}}', "as without virtual columns"
    assert await events(computed) == [
        ("customers", b"1", {"id": 1, 'odd " name': "a", "thrice": 3, "extra": {"a": "\0"}}, "insert"),
        ("customers", b"1", None, "delete"),
        ("customers", b"2", {"id": 2, 'odd " name': None, "thrice": 6, "extra": {"a": "\0"}}, "insert"),
        ("customers", b"2", {"id": 2, 'odd " name': None, "thrice": 6, "extra": [1, 2]}, "update"),
        ("customers", b"2", None, "delete"),
    ]


async def test_a_column_that_is_computed_when_it_is_read_is_no_key(computed: asyncpg.Connection) -> None:
    await computed.execute(replaced("'customers', 'id', 'twice'"))
    for extra in ("null", '["\\u0000"]'):
        with pytest.raises(asyncpg.TriggerProtocolViolatedError, match="takes the virtual column twice for the key"):
            await computed.execute("INSERT INTO customer (id, extra) VALUES (1, $1)", extra)
    await computed.execute(replaced("'customers', 'id'"))
    await computed.execute("INSERT INTO customer (id) VALUES (1)")
    assert [key for _, key, *_ in await events(computed)] == [b"1"]


async def test_a_partition_has_virtual_columns_of_its_own_place(computed: asyncpg.Connection) -> None:
    await computed.execute(
        "CREATE TABLE part (id bigint, at date, twice bigint GENERATED ALWAYS AS (id * 2) VIRTUAL)"
        " PARTITION BY LIST (at);"
        "CREATE TABLE part_1 (twice bigint GENERATED ALWAYS AS (id * 2) VIRTUAL, at date, id bigint);"
        "ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES IN ('2026-07-01');"
        "CREATE TRIGGER capture AFTER INSERT ON part FOR EACH ROW EXECUTE FUNCTION outbox.capture('parts', 'id')"
    )
    await computed.execute("INSERT INTO part VALUES (1, '2026-07-01')")
    assert await events(computed) == [("parts", b"1", {"at": "2026-07-01", "id": 1}, "insert")]


async def test_an_event_that_the_outbox_refuses_undoes_its_change(shop: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="event_size"):
        await shop.execute("INSERT INTO customer (id, name) VALUES (1, repeat('x', 1000000))")
    assert await shop.fetchval("SELECT count(*) FROM customer") == 0


@pytest.mark.parametrize("arguments", ["", "'customers'", "'customers', 'Id'", "'customers', 'id', 'nothing'"])
async def test_a_trigger_with_wrong_arguments_lets_no_change_happen(shop: asyncpg.Connection, arguments: str) -> None:
    await shop.execute(replaced(arguments))
    with pytest.raises((asyncpg.TriggerProtocolViolatedError, asyncpg.UndefinedColumnError), match="capture"):
        await shop.execute("INSERT INTO customer (id) VALUES (1)")


@pytest.mark.parametrize(
    "trigger",
    [
        "BEFORE INSERT ON customer FOR EACH ROW",
        "AFTER INSERT ON customer FOR EACH STATEMENT",
        "AFTER TRUNCATE ON customer FOR EACH STATEMENT",
    ],
)
async def test_a_trigger_of_another_kind_is_refused_with_the_right_one(shop: asyncpg.Connection, trigger: str) -> None:
    await shop.execute(f"CREATE TRIGGER other {trigger} EXECUTE FUNCTION outbox.capture('customers', 'id')")
    with pytest.raises(asyncpg.TriggerProtocolViolatedError) as refused:
        await shop.execute("INSERT INTO customer (id) VALUES (1); TRUNCATE customer")
    assert "FOR EACH ROW EXECUTE FUNCTION outbox.capture(" in str(refused.value.as_dict()["hint"])


async def test_events_of_a_key_have_the_order_of_the_commits(shop: asyncpg.Connection, database: str) -> None:
    await shop.execute("INSERT INTO customer (id) VALUES (1)")
    async with connected(database) as first, connected(database) as second:
        await first.execute("BEGIN; UPDATE customer SET name = 'first'")
        await second.execute("SET lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await second.execute("UPDATE customer SET name = 'second'")
        await first.execute("COMMIT")
        await second.execute("UPDATE customer SET name = 'second'")
    assert [payload["name"] for _, _, payload, _ in await events(shop)] == [None, "first", "second"]


async def test_a_trigger_adds_the_trace_of_its_transaction(shop: asyncpg.Connection) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with shop.transaction():
        await shop.execute(f"SET LOCAL outbox.traceparent = '{trace}'; INSERT INTO customer (id) VALUES (1)")
    assert json.loads(await shop.fetchval("SELECT headers FROM outbox.event")) == {"traceparent": trace}


async def test_who_makes_a_change_needs_the_right_to_enqueue(shop: asyncpg.Connection, database: str) -> None:
    role = f"shop_{uuid4().hex[:8]}"
    await make_roles(shop)
    await shop.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT INSERT ON customer TO {role}")
    parts = urlsplit(database)
    async with connected(urlunsplit(parts._replace(netloc=f"{role}:x@{parts.hostname}:{parts.port}"))) as writer:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await writer.execute("INSERT INTO customer (id) VALUES (1)")
        await shop.execute(f"GRANT outbox_writer TO {role}")
        await writer.execute("INSERT INTO customer (id) VALUES (1)")
    assert len(await events(shop)) == 1
    await shop.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_the_trigger_of_the_page_captures_the_table_that_it_is_on(database: str) -> None:
    section = re.split(r"^## ", page("relay/enqueue/README.md"), flags=re.MULTILINE)
    (text,) = (each for each in section if each.startswith("From a table, by a trigger"))
    async with migrated(database) as connection:
        await connection.execute("CREATE TABLE orders (id bigint PRIMARY KEY, state text)")
        for statement in blocks(text, "sql"):
            await connection.execute(statement)
        await connection.execute("INSERT INTO orders VALUES (42, 'placed')")
        await connection.execute("UPDATE orders SET state = 'placed'")
        await connection.execute("UPDATE orders SET state = 'paid'")
        assert await events(connection) == [
            ("orders", b"42", {"id": 42, "state": "placed"}, "insert"),
            ("orders", b"42", {"id": 42, "state": "paid"}, "update"),
        ]
