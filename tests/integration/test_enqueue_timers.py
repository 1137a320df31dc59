"""What scheduling promises, on every client with a real PostgreSQL."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from relay.enqueue import EnqueueError, Event, NotInTransactionError, SchemaError
from tests.integration.test_enqueue_contract import OFTEN, one, one_by_copy
from tests.support.enqueue.clients import CLIENTS, Client
from tests.support.enqueue.outbox import shared_outbox
from tests.support.postgres.outbox import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import asyncpg

    from tests.support.servers import shared as servers

SOON = datetime(2030, 7, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))

both = pytest.mark.parametrize("by", [one, one_by_copy])


@pytest.fixture(scope="module")
def outbox(postgres: servers.Postgres) -> Iterator[str]:
    """The DSN of a database with an outbox, which all tests here have in common."""
    with shared_outbox(postgres) as dsn:
        yield dsn


@pytest.fixture
async def observer(outbox: str) -> AsyncIterator[asyncpg.Connection]:
    """Another connection, to an empty outbox."""
    async with connected(outbox) as connection:
        await connection.execute("TRUNCATE outbox.event; TRUNCATE outbox.scheduled")
        yield connection


@pytest.fixture(params=[name if name in OFTEN else pytest.param(name, marks=pytest.mark.proof) for name in CLIENTS])
async def client(request: pytest.FixtureRequest, outbox: str, observer: asyncpg.Connection) -> AsyncIterator[Client]:
    """A connection of each client, under settings that change how times are read and written."""
    client = CLIENTS[request.param]()
    async with client.opened(outbox):
        for setting in ("DateStyle = 'SQL, DMY'", "IntervalStyle = 'sql_standard'", "TimeZone = 'Asia/Kolkata'"):
            await client.execute(f"SET {setting}")
        yield client


async def scheduled(observer: asyncpg.Connection) -> list[asyncpg.Record]:
    """All events that are to come, in the order in which they were written."""
    rows: list[asyncpg.Record] = await observer.fetch(
        "SELECT *, extract(epoch FROM deliver_at - created_at)::float8 AS after FROM outbox.scheduled ORDER BY id"
    )
    return rows


@both
async def test_an_event_is_stored_with_all_that_it_has_and_its_time(
    client: Client, observer: asyncpg.Connection, by: Any
) -> None:
    event_id = uuid4()
    given = {"key": "grün", "payload": bytes(range(256)), "headers": {"a": "ü€"}, "type": "t ' %s", "timer": "ü %s $1"}
    async with client.transaction():
        assert await by(client)(event_id=event_id, deliver_at=SOON, **given) == event_id
    (row,) = await scheduled(observer)
    assert row["event_id"] == event_id
    assert row["deliver_at"] == SOON
    assert {**row, "headers": json.loads(row["headers"])}.items() >= {
        "key": "grün".encode(),
        "payload": bytes(range(256)),
        "headers": {"a": "ü€"},
        "type": "t ' %s",
        "timer": "ü %s $1",
        "delay": None,
        "topic": "orders",
    }.items()
    assert await observer.fetchval("SELECT count(*) FROM outbox.event") == 0


@both
@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        (90, 90.0),
        (0.000001, 0.000001),
        (timedelta(days=400, microseconds=7), 34_560_000.000007),
        (0, 0.0),
        (-5, 0.0),
        (timedelta(days=-1), 0.0),
        (3.1e9, 3.1e9),
    ],
)
async def test_a_delay_is_counted_by_the_databases_clock(
    client: Client, observer: asyncpg.Connection, by: Any, delay: Any, seconds: float
) -> None:
    async with client.transaction():
        await by(client)(delay=delay)
    (row,) = await scheduled(observer)
    assert row["after"] == pytest.approx(seconds, abs=1e-6)


@both
async def test_what_is_past_is_due_at_once(client: Client, observer: asyncpg.Connection, by: Any) -> None:
    async with client.transaction():
        before_utc = datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))
        for past in (datetime(1, 1, 1, tzinfo=UTC), before_utc, datetime.now(UTC) - timedelta(seconds=1)):
            await by(client)(deliver_at=past)
    rows = await scheduled(observer)
    assert len(rows) == 3
    assert all(row["after"] < 0 for row in rows)


async def test_those_among_many_that_are_scheduled_go_apart_and_all_keep_their_order(
    client: Client, observer: asyncpg.Connection
) -> None:
    events = [
        Event(
            "orders", key=str(n % 7), payload=str(n), delay=60 if n % 3 else None, timer=f"t{n}" if n % 3 == 1 else None
        )
        for n in range(300)
    ]
    async with client.transaction():
        assert await client.enqueue_many(events) == [event.event_id for event in events]
    at_once = await observer.fetch("SELECT event_id FROM outbox.event ORDER BY id")
    assert [row["event_id"] for row in at_once] == [event.event_id for event in events[::3]]
    later = await scheduled(observer)
    assert [row["event_id"] for row in later] == [event.event_id for n, event in enumerate(events) if n % 3]
    assert [row["timer"] for row in later] == [event.timer for n, event in enumerate(events) if n % 3]


async def test_an_event_that_is_given_as_a_whole_can_be_scheduled(client: Client, observer: asyncpg.Connection) -> None:
    event = Event("orders", key="k", payload="x")
    async with client.transaction():
        assert await client.enqueue(event, delay=60, timer="t") == event.event_id
    (row,) = await scheduled(observer)
    assert (row["event_id"], row["timer"], round(row["after"])) == (event.event_id, "t", 60)


@both
async def test_it_exists_only_if_its_transaction_commits(client: Client, observer: asyncpg.Connection, by: Any) -> None:
    with suppress(ZeroDivisionError):
        async with client.transaction():
            await by(client)(delay=60, timer="t")
            raise ZeroDivisionError
    assert await scheduled(observer) == []
    async with client.transaction():
        await by(client)(delay=60, timer="t")
        assert await scheduled(observer) == []
    assert len(await scheduled(observer)) == 1


async def test_cancel_and_reschedule_by_name_or_id_say_whether_the_event_was_to_come(
    client: Client, observer: asyncpg.Connection
) -> None:
    async with client.transaction():
        first = await client.enqueue(delay=60, timer="a ' %s")
        second = await client.enqueue(delay=60)
    async with client.transaction():
        assert await client.reschedule(timer="a ' %s", deliver_at=SOON) is True
        assert await client.reschedule(event_id=second, delay=timedelta(hours=1)) is True
        assert await client.reschedule(timer="b", delay=1) is False
    rows = await scheduled(observer)
    assert [row["event_id"] for row in rows] == [first, second]
    assert rows[0]["deliver_at"] == SOON
    assert rows[1]["after"] == pytest.approx(3600, abs=30)
    async with client.transaction():
        assert await client.cancel(timer="a ' %s") is True
        assert await client.cancel(timer="a ' %s") is False
        assert await client.cancel(event_id=second) is True
        assert await client.cancel(event_id=uuid4()) is False
    assert await scheduled(observer) == []


async def test_a_cancellation_is_rolled_back_with_its_savepoint(client: Client, observer: asyncpg.Connection) -> None:
    async with client.transaction():
        await client.enqueue(delay=60, timer="t")
        with suppress(ZeroDivisionError):
            async with client.transaction():
                assert await client.cancel(timer="t")
                raise ZeroDivisionError
    assert len(await scheduled(observer)) == 1


async def test_outside_a_transaction_cancel_and_reschedule_refuse(client: Client, observer: asyncpg.Connection) -> None:
    async with client.transaction():
        await client.enqueue(delay=60, timer="t")
    for call in (partial(client.cancel, timer="t"), partial(client.reschedule, timer="t", delay=1)):
        with pytest.raises(NotInTransactionError, match="this connection is not in a transaction"):
            await call()
    assert len(await scheduled(observer)) == 1


@both
async def test_a_name_that_is_taken_is_said(client: Client, observer: asyncpg.Connection, by: Any) -> None:
    async with client.transaction():
        await by(client)(delay=60, timer="t")
    with pytest.raises(EnqueueError, match=r"the event has the timer 't', and an event with this timer is scheduled"):
        async with client.transaction():
            await by(client)(delay=60, timer="t")
    assert len(await scheduled(observer)) == 1


async def test_the_one_among_many_whose_name_is_taken_is_named(client: Client, observer: asyncpg.Connection) -> None:
    events = [Event("orders", key="k", payload="x", delay=60 if n > 3 else None) for n in range(7)]
    event_id = uuid4()
    twice = [Event("orders", key="k", payload="x", delay=60, timer="t", event_id=event_id) for _ in range(2)]
    with pytest.raises(EnqueueError, match=r"events\[8\] has the (timer 't'|event_id [-0-9a-f]+), and an event with"):
        async with client.transaction():
            await client.enqueue_many(events + twice)
    assert await observer.fetchval("SELECT count(*) FROM outbox.event") == 0


@both
async def test_a_scheduled_event_over_the_limit_is_refused(
    client: Client, observer: asyncpg.Connection, by: Any
) -> None:
    with pytest.raises(EnqueueError, match=r"the event for topic orders has 1,000,003 bytes .* --max-event-bytes N`"):
        async with client.transaction():
            await by(client)(key="k", payload=bytes(1_000_000), delay=60)
    assert await scheduled(observer) == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"deliver_at": datetime(2030, 1, 1)}, "deliver_at 2030-01-01T00:00:00 has no time zone"),  # noqa: DTZ001
    ({"deliver_at": "2030-01-01"}, "deliver_at must be a datetime with a time zone, not str"),
    ({"deliver_at": datetime(2230, 1, 1, tzinfo=UTC)}, "at most 100 years ahead"),
    ({"deliver_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))}, "at most 100 years ahead"),
    ({"delay": timedelta(days=40_000)}, "at most 100 years ahead"),
    ({"delay": 1e300}, "at most 100 years ahead"),
    ({"delay": float("inf")}, "at most 100 years ahead"),
    ({"delay": 10**400}, "at most 100 years ahead"),
    ({"delay": float("nan")}, "delay is NaN"),
    ({"delay": "1 min"}, "delay must be a timedelta or a number of seconds, not str"),
    ({"delay": True}, "delay must be a timedelta or a number of seconds, not bool"),
    ({"delay": 1, "deliver_at": SOON}, "deliver_at or delay, not both"),
    ({"timer": "t"}, "timer names an event that is delivered later; give deliver_at or delay"),
    ({"delay": 1, "timer": ""}, "timer has 0 bytes"),
    ({"delay": 1, "timer": "ü" * 101}, "timer has 202 bytes"),
    ({"delay": 1, "timer": 7}, "timer must be a str, not int"),
    ({"delay": 1, "timer": "a\0"}, "timer contains a NUL"),
    ({"delay": 1, "timer": "\ud800"}, "timer contains a lone surrogate"),
    ({"delay": 1, "topic": "a b"}, "topic 'a b' is not a topic name"),
]

WRONG_CALLS: list[tuple[dict[str, Any], str]] = [
    ({}, "give timer or event_id"),
    ({"timer": "t", "event_id": UUID(int=1)}, "give timer or event_id"),
    ({"event_id": "1"}, r"event_id must be a uuid\.UUID, not str"),
    ({"timer": 7}, "timer must be a str, not int"),
    ({"timer": "t", "schema": "a b"}, "not a valid schema name"),
]


async def test_a_wrong_argument_is_refused_and_the_transaction_goes_on(
    client: Client, observer: asyncpg.Connection
) -> None:
    async with client.transaction():
        for wrong, message in WRONG:
            for by in (one, one_by_copy):
                with pytest.raises(EnqueueError, match=message):
                    await by(client)(**wrong)
        for wrong, message in WRONG_CALLS:
            with pytest.raises(EnqueueError, match=message):
                await client.cancel(**wrong)
            with pytest.raises(EnqueueError, match=message):
                await client.reschedule(**wrong, delay=1)
        for due in ({}, {"delay": 1, "deliver_at": SOON}):
            with pytest.raises(EnqueueError, match="give deliver_at or delay, and not both"):
                await client.reschedule(timer="t", **due)
        with pytest.raises(EnqueueError, match="has no time zone"):
            await client.reschedule(timer="t", deliver_at=datetime(2030, 1, 1))  # noqa: DTZ001
        await client.enqueue(delay=1)
    assert len(await scheduled(observer)) == 1


async def test_of_many_that_the_clients_encoding_has_no_characters_for_none_is_written(
    client: Client, observer: asyncpg.Connection
) -> None:
    """Those that are scheduled go in a COPY of their own, after the others."""
    events = [Event("orders", key="k", payload="x"), Event("orders", key="k", payload="x", type="5 €", delay=60)]
    async with client.transaction():
        await client.execute("SET LOCAL client_encoding = 'LATIN1'")
        with pytest.raises(EnqueueError, match="client_encoding is"):
            await client.enqueue_many(events)
    assert await scheduled(observer) == []
    assert await observer.fetchval("SELECT count(*) FROM outbox.event") == 0


async def test_a_name_is_found_or_refused_whatever_the_clients_encoding_is(
    client: Client, observer: asyncpg.Connection
) -> None:
    async with client.transaction():
        await client.enqueue(delay=60, timer="grün")
    async with client.transaction():
        await client.execute("SET LOCAL client_encoding = 'LATIN1'")
        try:
            assert await client.reschedule(timer="grün", delay=90)
            assert await client.cancel(timer="grün")
        except EnqueueError as refused:
            assert "client_encoding is" in str(refused)  # noqa: PT017 both ways are right
        try:
            await client.enqueue(delay=60, timer="größer")
        except EnqueueError as refused:
            assert "client_encoding is" in str(refused)  # noqa: PT017 the same
    assert {row["timer"] for row in await scheduled(observer)} in ({"größer"}, {"grün"})


@both
async def test_in_an_outbox_from_before_timers_it_says_what_to_run(client: Client, by: Any) -> None:
    with pytest.raises(SchemaError, match="run `relay migrate`"):  # noqa: PT012
        async with client.transaction():
            await client.execute("ALTER TABLE outbox.scheduled RENAME TO elsewhere")
            await by(client)(delay=1)
    for call in (partial(client.cancel, timer="t"), partial(client.reschedule, timer="t", delay=1)):
        with pytest.raises(SchemaError, match="run `relay migrate`"):  # noqa: PT012
            async with client.transaction():
                await client.execute("ALTER FUNCTION outbox.cancel_scheduled RENAME TO elsewhere")
                await client.execute("ALTER FUNCTION outbox.reschedule RENAME TO elsewhere_too")
                await call()


@both
async def test_a_role_that_may_only_write_can_schedule_and_cancel(
    client: Client, observer: asyncpg.Connection, by: Any
) -> None:
    async with client.transaction():
        await client.execute("SET LOCAL ROLE outbox_writer")
        await by(client)(delay=60, timer="t")
        assert await client.reschedule(timer="t", delay=90)
        await by(client)(delay=60, timer="u")
        assert await client.cancel(timer="t")
    assert [row["timer"] for row in await scheduled(observer)] == ["u"]
