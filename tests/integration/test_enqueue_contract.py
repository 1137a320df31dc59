"""What enqueueing promises, on every client with a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from relay.enqueue import EnqueueError, Event, NotInTransactionError, SchemaError
from tests.support.enqueue.clients import CLIENTS, Client
from tests.support.enqueue.outbox import shared_outbox
from tests.support.postgres.outbox import connected
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    import asyncpg

    from tests.support.servers import shared as servers

    Enqueue = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def outbox(postgres: servers.Postgres) -> Iterator[str]:
    """The DSN of a database with an outbox, which all tests here have in common."""
    with shared_outbox(
        postgres, "ALTER TABLE outbox.event ADD CONSTRAINT of_the_shop CHECK (topic <> 'forbidden')"
    ) as dsn:
        yield dsn


@pytest.fixture
async def observer(outbox: str) -> AsyncIterator[asyncpg.Connection]:
    """Another connection, to an empty outbox."""
    async with connected(outbox) as connection:
        await connection.execute("TRUNCATE outbox.event; TRUNCATE orders")
        yield connection


# One of each kind in a run of everything; the other drivers and modes of the same modules with the proofs.
OFTEN = {
    *("asyncpg", "psycopg", "psycopg-async", "psycopg2", "sqlalchemy-psycopg", "sqlalchemy-session-psycopg2"),
    *("sqlalchemy-async-psycopg", "sqlalchemy-async-session-asyncpg", "django"),
}


@pytest.fixture(params=[name if name in OFTEN else pytest.param(name, marks=pytest.mark.proof) for name in CLIENTS])
async def client(request: pytest.FixtureRequest, outbox: str, observer: asyncpg.Connection) -> AsyncIterator[Client]:
    """A connection of each client."""
    client = CLIENTS[request.param]()
    async with client.opened(outbox):
        yield client


def one(client: Client) -> Enqueue:
    """Enqueue one event with `enqueue`."""
    return client.enqueue


def one_by_copy(client: Client) -> Enqueue:
    """Enqueue one event with `enqueue_many`."""

    async def call(**fields: Any) -> UUID:
        schema = {"schema": fields.pop("schema")} if "schema" in fields else {}
        event = Event(fields.pop("topic", "orders"), **{"key": "k", "payload": "x", **fields})
        return (await client.enqueue_many([event], **schema))[0]

    return call


both = pytest.mark.parametrize("by", [one, one_by_copy])

STORED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"key": b"k", "payload": b"x", "headers": {}, "type": None}),
    ({"key": "grün", "payload": "ü€😀"}, {"key": "grün".encode(), "payload": "ü€😀".encode()}),
    ({"key": b"\xff\x00'\\", "payload": bytes(range(256))}, {"key": b"\xff\x00'\\", "payload": bytes(range(256))}),
    ({"key": None, "payload": None}, {"key": None, "payload": None}),
    ({"key": "", "payload": b""}, {"key": b"", "payload": b""}),
    (
        {"headers": {"a": "ü€😀\n\"'\\%s$1:b", "": ""}, "type": "order.päid %s :a ' \\"},
        {"headers": {"a": "ü€😀\n\"'\\%s$1:b", "": ""}, "type": "order.päid %s :a ' \\"},
    ),
    ({"payload": "%s %(a)s $1 :a '' \\"}, {"payload": rb"%s %(a)s $1 :a '' \\"[:-1]}),
    ({"topic": "a.b-c_d", "payload": bytes(999_000)}, {"topic": "a.b-c_d", "payload": bytes(999_000)}),
]


async def pending(observer: asyncpg.Connection) -> list[asyncpg.Record]:
    """All events in the order of their ids."""
    rows: list[asyncpg.Record] = await observer.fetch("SELECT * FROM outbox.pending ORDER BY id")
    return rows


async def ids(observer: asyncpg.Connection) -> list[UUID]:
    """The event_ids of all events in the order of their ids."""
    return [row["event_id"] for row in await pending(observer)]


@both
async def test_events_are_stored_as_given(client: Client, observer: asyncpg.Connection, by: Any) -> None:
    event_ids = [uuid4() for _ in STORED]
    async with client.transaction():
        for event_id, (given, _) in zip(event_ids, STORED, strict=True):
            assert await by(client)(event_id=event_id, **given) == event_id
    rows = await pending(observer)
    assert [row["event_id"] for row in rows] == event_ids
    for row, (_, stored) in zip(rows, STORED, strict=True):
        found = {**row, "headers": json.loads(row["headers"])}
        assert {name: found[name] for name in stored} == stored


async def test_an_event_can_be_given_as_a_whole(client: Client, observer: asyncpg.Connection) -> None:
    event = Event("orders", key="k", payload="x")
    async with client.transaction():
        assert await client.enqueue(event) == event.event_id
    assert await ids(observer) == [event.event_id]


async def test_an_event_exists_only_if_its_transaction_commits(client: Client, observer: asyncpg.Connection) -> None:
    with suppress(ZeroDivisionError):
        async with client.transaction():
            await client.execute("INSERT INTO orders VALUES (1, 'paid')")
            await client.enqueue()
            await one_by_copy(client)()
            raise ZeroDivisionError
    assert await ids(observer) == []
    async with client.transaction():
        await client.execute("INSERT INTO orders VALUES (2, 'paid')")
        committed = [await client.enqueue(), await one_by_copy(client)()]
        assert await ids(observer) == []
    assert await ids(observer) == committed
    assert await observer.fetchval("SELECT array_agg(id) FROM orders") == [2]


@both
async def test_a_savepoint_takes_its_events_with_it(client: Client, observer: asyncpg.Connection, by: Any) -> None:
    async with client.transaction():
        kept = [await by(client)()]
        with suppress(ZeroDivisionError):
            async with client.transaction():
                await by(client)()
                async with client.transaction():
                    await by(client)()
                raise ZeroDivisionError
        async with client.transaction():
            kept.append(await by(client)())
        kept.append(await by(client)())
    assert await ids(observer) == kept


@both
async def test_a_transaction_that_a_savepoint_saved_goes_on(
    client: Client, observer: asyncpg.Connection, by: Any
) -> None:
    async with client.transaction():
        with suppress(Exception):
            async with client.transaction():
                await client.execute("SELECT 1 / 0")
        saved = await by(client)()
    assert await ids(observer) == [saved]


async def test_many_keep_their_order_and_their_ids(client: Client, observer: asyncpg.Connection) -> None:
    events = [
        Event("orders", key=str(n % 7), payload=str(n) * (n % 500), headers={"n": str(n)} if n % 3 else None)
        for n in range(2000)
    ]
    async with client.transaction():
        assert await client.enqueue_many(iter([])) == []
        returned = await client.enqueue_many(iter(events))
    rows = await pending(observer)
    assert returned == [event.event_id for event in events] == [row["event_id"] for row in rows]
    assert [row["payload"] for row in rows] == [event.payload for event in events]


async def test_many_can_be_the_first_of_a_transaction(client: Client, observer: asyncpg.Connection) -> None:
    with suppress(ZeroDivisionError):
        async with client.transaction():
            await one_by_copy(client)()
            raise ZeroDivisionError
    assert await ids(observer) == []
    async with client.transaction():
        first = await one_by_copy(client)()
    assert await ids(observer) == [first]


@both
async def test_outside_a_transaction_it_refuses(client: Client, observer: asyncpg.Connection, by: Any) -> None:
    with pytest.raises(NotInTransactionError, match=r"this connection is not in a transaction; .* inside `"):
        await by(client)()
    async with client.transaction():
        committed = await by(client)()
    with pytest.raises(NotInTransactionError, match="this connection is not in a transaction"):
        await by(client)()
    assert await ids(observer) == [committed]


@both
async def test_inside_a_failed_transaction_it_says_so(client: Client, observer: asyncpg.Connection, by: Any) -> None:
    with pytest.raises(NotInTransactionError, match="an earlier statement of this transaction failed") as refused:  # noqa: PT012
        async with client.transaction():
            with suppress(Exception):
                await client.execute("SELECT 1 / 0")
            await by(client)()
    assert "begin again: leave the block `" in str(refused.value)
    async with client.transaction():
        committed = await by(client)()
    assert await ids(observer) == [committed]


@both
async def test_on_a_closed_connection_it_refuses(client: Client, observer: asyncpg.Connection, by: Any) -> None:
    await client.execute("SELECT")
    await client.close()
    with pytest.raises(NotInTransactionError):
        await by(client)()
    assert await ids(observer) == []


@both
async def test_on_a_connection_that_was_closed_in_its_transaction_it_refuses(
    client: Client, observer: asyncpg.Connection, by: Any
) -> None:
    raised: list[Exception] = []
    with suppress(Exception):  # The client's own, as the block cannot be ended.
        async with client.transaction():
            await client.execute("SELECT")
            await client.close()
            try:
                await by(client)()
            except Exception as error:  # noqa: BLE001 it is judged below
                raised.append(error)
    assert [type(error) for error in raised] == [NotInTransactionError]
    assert await ids(observer) == []


@both
async def test_an_event_over_the_limit_is_refused_and_says_what_to_do(
    client: Client, observer: asyncpg.Connection, by: Any
) -> None:
    given: dict[str, Any] = {"key": "grün", "headers": {"ä": 'b"', "c": "d\\"}, "type": "ö", "payload": "x" * 1_000_000}
    with pytest.raises(EnqueueError, match=r"the event for topic orders has 1,000,032 bytes .* --max-event-bytes N`"):
        async with client.transaction():
            await by(client)(**given)
    assert await ids(observer) == []


async def test_the_one_too_large_among_many_is_named_and_none_is_written(
    client: Client, observer: asyncpg.Connection
) -> None:
    events = [Event("orders", key="k", payload="x" * (1_000_000 if n == 77 else 10)) for n in range(100)]
    with pytest.raises(EnqueueError, match=r"events\[77\] for topic orders has 1,000,003 bytes"):
        async with client.transaction():
            await client.enqueue_many(events)
    assert await ids(observer) == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"topic": "a b"}, "topic 'a b' is not a topic name"),
    ({"topic": None}, "topic must be a str"),
    ({"key": 7}, "key must be bytes, str or None, not int"),
    ({"payload": {"a": 1}}, "payload must be bytes, str or None, not dict"),
    ({"headers": {"a": 1}}, "header 'a' must be a str"),
    ({"headers": {"outbox-id": "7"}}, "the relay's own"),
    ({"headers": {"ce_id": "7"}}, "attributes of CloudEvents"),
    ({"type": 7}, "type must be a str"),
    ({"event_id": "7"}, r"event_id must be a uuid\.UUID"),
    ({"schema": "outbox; DROP TABLE orders"}, "not a valid schema name"),
]


async def test_a_wrong_argument_is_refused_and_the_transaction_goes_on(
    client: Client, observer: asyncpg.Connection
) -> None:
    async with client.transaction():
        for wrong, message in WRONG:
            for by in (one, one_by_copy):
                with pytest.raises(EnqueueError, match=message):
                    await by(client)(**wrong)
        committed = await client.enqueue()
    assert await ids(observer) == [committed]


async def test_something_else_than_events_is_refused_before_anything_is_written(
    client: Client, observer: asyncpg.Connection
) -> None:
    events: list[Any] = [Event("orders", key="k", payload="x"), ("orders", "k", "x")]
    async with client.transaction():
        with pytest.raises(EnqueueError, match=r"events\[1\]: tuple is not an event"):
            await client.enqueue_many(events)
        with pytest.raises(EnqueueError, match="dict is not an event"):
            await client.enqueue({"order": 42})
        with pytest.raises(TypeError, match="payload"):
            await client.enqueue("orders", key="k")
        committed = await client.enqueue()
    assert await ids(observer) == [committed]


@both
async def test_without_an_outbox_it_says_what_to_run(client: Client, by: Any) -> None:
    with pytest.raises(SchemaError, match="run `relay migrate`"):
        async with client.transaction():
            await by(client)(schema="elsewhere")


@both
async def test_a_role_that_may_only_write_can_enqueue(client: Client, observer: asyncpg.Connection, by: Any) -> None:
    async with client.transaction():
        await client.execute("SET LOCAL ROLE outbox_writer")
        committed = await by(client)()
    assert await ids(observer) == [committed]


@both
async def test_the_clients_own_errors_stay_as_they_are(client: Client, by: Any) -> None:
    own = client.own_error if by is one else client.own_copy_error or client.own_error
    with pytest.raises(own, match="of_the_shop"):
        async with client.transaction():
            await by(client)(topic="forbidden")


@both
async def test_text_that_the_clients_encoding_has_no_characters_for_is_written_or_refused(
    client: Client, observer: asyncpg.Connection, by: Any
) -> None:
    given = {"headers": {"price": "5 €"}, "type": "büy €", "payload": "5 €"}
    async with client.transaction():
        await client.execute("SET LOCAL client_encoding = 'LATIN1'")
        try:
            written = [await by(client)(**given)]
        except EnqueueError as refused:
            assert "client_encoding is" in str(refused)  # noqa: PT017 both ways are right
            written = []
        written.append(await by(client)(payload="5 €"))
    rows = await pending(observer)
    assert [row["event_id"] for row in rows] == written
    assert all(row["payload"] == "5 €".encode() for row in rows)
    assert all(row["type"] == "büy €" and json.loads(row["headers"]) == {"price": "5 €"} for row in rows[:-1])


# Not pg_stat_activity, of which a transaction sees the same all the time.
WAITING = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'outbox.event'::regclass"


async def blocked(observer: asyncpg.Connection) -> None:
    """Wait until somebody waits for a lock."""

    async def waits() -> bool:
        found: bool = await observer.fetchval(f"SELECT EXISTS ({WAITING})")
        return found

    await until("a session to wait for a lock", waits)


@both
async def test_a_statement_that_is_cancelled_leaves_nothing_and_the_connection_works(
    client: Client, observer: asyncpg.Connection, by: Any
) -> None:
    """By the server for synchronous clients, by the task for the others."""

    async def change() -> None:
        async with client.transaction():
            await client.execute("INSERT INTO orders VALUES (1, 'paid')")
            await by(client)()

    async with observer.transaction():
        await observer.execute("LOCK TABLE outbox.event IN ACCESS EXCLUSIVE MODE")
        task = asyncio.create_task(change())
        await blocked(observer)
        if client.asynchronous:
            task.cancel()
        else:
            await observer.execute(f"SELECT pg_cancel_backend(pid) FROM ({WAITING}) AS waiting")
        with pytest.raises((asyncio.CancelledError, Exception), match=r"cancel|^$") as ended:
            await task
        assert not isinstance(ended.value, EnqueueError)
    async with client.transaction():
        committed = await by(client)()
    assert await ids(observer) == [committed]
    assert await observer.fetchval("SELECT count(*) FROM orders") == 0


@both
@pytest.mark.parametrize("times", [2, 3])
async def test_who_is_cancelled_again_while_the_statement_ends_leaves_nothing(
    client: Client, observer: asyncpg.Connection, by: Any, times: int
) -> None:
    """The connection works afterwards, or says that it is lost."""
    if not client.asynchronous:
        pytest.skip("a blocking call cannot be cancelled")

    async def change() -> None:
        async with client.transaction():
            await client.execute("INSERT INTO orders VALUES (1, 'paid')")
            await by(client)()

    async with observer.transaction():
        await observer.execute("LOCK TABLE outbox.event IN ACCESS EXCLUSIVE MODE")
        task = asyncio.create_task(change())
        await blocked(observer)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])
    committed = []
    with suppress(Exception):
        async with client.transaction():
            committed.append(await by(client)())
    assert await ids(observer) == committed
    assert await observer.fetchval("SELECT count(*) FROM orders") == 0


async def test_many_that_are_cancelled_in_the_middle_leave_nothing_and_the_connection_works(
    client: Client, observer: asyncpg.Connection
) -> None:
    if not client.asynchronous:
        pytest.skip("a blocking call cannot be cancelled")
    events = [Event("orders", key=str(n), payload=bytes(10_000)) for n in range(1000)]

    async def change(begun: asyncio.Event) -> None:
        async with client.transaction():
            begun.set()
            await client.enqueue_many(events)

    for turns in (1, 3, 10, 30):
        begun = asyncio.Event()
        task = asyncio.create_task(change(begun))
        await begun.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        async with client.transaction():
            await client.enqueue()
    # If a COPY and its commit came first, they did so as a whole.
    assert len(await ids(observer)) % len(events) == 4


@both
async def test_a_connection_that_is_lost_leaves_nothing(client: Client, observer: asyncpg.Connection, by: Any) -> None:
    with pytest.raises(Exception, match=r".") as lost:  # noqa: PT012
        async with client.transaction():
            await by(client)()
            await observer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await by(client)()
    assert not isinstance(lost.value, SchemaError)
    assert await ids(observer) == []


@both
async def test_two_tasks_on_one_connection_write_whole_events_or_none(
    client: Client, observer: asyncpg.Connection, by: Any
) -> None:
    written: list[UUID] = []
    with suppress(Exception):
        async with client.transaction():
            await client.execute("SELECT")
            found = await asyncio.gather(*(by(client)() for _ in range(5)), return_exceptions=True)
            written = [each for each in found if isinstance(each, UUID)]
            assert written
            for error in found:
                if not isinstance(error, UUID):
                    assert isinstance(error, EnqueueError), repr(error)
                    assert "belongs to one task or thread at a time" in str(error)
    assert set(await ids(observer)) == set(written)
    async with client.transaction():
        written.append(await by(client)())
    assert set(await ids(observer)) == set(written)
