"""What the library for writers costs on each client, against the same written by hand."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
import timeit
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click

from relay.enqueue import Event, enqueue, enqueue_many
from relay.enqueue.contract import DOLLARS, FORMAT, insert
from relay.postgres.admin.migrate import migrate
from tests.bench.command import output, run
from tests.bench.figures import ratios
from tests.bench.report import Finding, Report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.bench.figures import Figures
    from tests.bench.place import Place
    from tests.support.enqueue.clients import Client

FIGURE, MANY_FIGURE = "transactions_per_second", "events_per_second"
MEASURED = (
    *("asyncpg", "psycopg", "psycopg-async", "psycopg2", "sqlalchemy-psycopg", "sqlalchemy-session-psycopg2"),
    *("sqlalchemy-async-asyncpg", "sqlalchemy-async-session-asyncpg", "django"),
)
PAYLOAD = "x" * 500
SLICE_SECONDS = 0.1
COLUMNS = ("event_id", "topic", "key", "payload", "headers", "type")
NAMED = insert("outbox", tuple(f"(:{name})" for name in COLUMNS))
UPDATE = "UPDATE account SET number = number + 1 WHERE key = 'a'"


def _values() -> tuple[Any, ...]:
    return str(uuid4()), "orders", b"order-42", PAYLOAD.encode(), "{}", "order.paid"


def _text() -> Any:
    # Here and below: the other benchmarks run where the clients are not installed.
    import sqlalchemy

    return sqlalchemy.text(NAMED)


def by_hand(name: str, client: Client) -> Callable[[], Any]:
    """The INSERT of one event as this client's users write it."""
    connection = client.connection
    if name == "asyncpg":
        return lambda: connection.execute(insert("outbox", DOLLARS), *_values())
    if name.startswith("sqlalchemy"):
        statement = _text()
        return lambda: connection.execute(statement, dict(zip(COLUMNS, _values(), strict=True)))
    if name in ("psycopg", "psycopg-async"):
        return lambda: connection.execute(insert("outbox", FORMAT), _values())

    def execute() -> None:
        with connection.cursor() as cursor:
            cursor.execute(insert("outbox", FORMAT), _values())

    return execute


def many_by_hand(name: str, client: Client, events: int) -> Callable[[], Any]:
    """A COPY or executemany as this client's users write it, and the making of its rows."""
    connection = client.connection
    into = f"outbox.event ({', '.join(COLUMNS)})"

    def rows() -> list[tuple[Any, ...]]:
        return [_values() for _ in range(events)]

    def psycopg_copy() -> None:
        with connection.cursor().copy(f"COPY {into} FROM STDIN") as copy:
            for row in rows():
                copy.write_row(row)

    async def psycopg_copy_async() -> None:
        async with connection.cursor().copy(f"COPY {into} FROM STDIN") as copy:
            for row in rows():
                await copy.write_row(row)

    def execute_many() -> None:
        from psycopg2.extras import execute_values

        with connection.cursor() as cursor:
            if name == "psycopg2":
                execute_values(cursor, f"INSERT INTO {into} VALUES %s", rows())
            else:
                cursor.executemany(insert("outbox", FORMAT), rows())

    if name == "asyncpg":
        return lambda: connection.copy_records_to_table("event", schema_name="outbox", columns=COLUMNS, records=rows())
    if name.startswith("sqlalchemy"):
        statement = _text()
        return lambda: connection.execute(statement, [dict(zip(COLUMNS, row, strict=True)) for row in rows()])
    return {"psycopg": psycopg_copy, "psycopg-async": psycopg_copy_async}.get(name, execute_many)


async def repeated(client: Client, work: Callable[[], Any], seconds: float) -> int:
    """The number of transactions, each with a change and this work, in so many seconds."""
    if not client.asynchronous:
        found: int = await client.call(partial(_repeated_blocking, client, work, seconds))
        return found
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        async with client.transaction():
            await client.execute(UPDATE)
            await work()
        count += 1
    return count


def _repeated_blocking(client: Any, work: Callable[[], Any], seconds: float) -> int:
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        with client.block():
            client.run(UPDATE)
            work()
        count += 1
    return count


async def round_of(place: Place, name: str, seconds: float, many: int) -> tuple[Figures, Figures]:
    """One round of a client on a fresh database, the library and by hand: single events, then many at once.

    The two take turns in slices of a fraction of a second, so that what else the machine does meets both.
    """
    from tests.support.enqueue.clients import CLIENTS

    async with place.database() as (connection, dsn):
        await migrate(connection)
        await connection.execute("CREATE TABLE account (key text PRIMARY KEY, number int)")
        await connection.execute("INSERT INTO account VALUES ('a', 0)")
        client = CLIENTS[name]()
        async with client.opened(dsn):
            opened = client.connection
            single = (
                partial(enqueue, opened, "orders", key="order-42", payload=PAYLOAD, type="order.paid"),
                by_hand(name, client),
            )
            several = partial(_enqueue_many, opened, many), many_by_hand(name, client, many)
            await in_turn(client, single, seconds / 5)
            ours, hand = await in_turn(client, single, seconds)
            ours_of_many, hand_of_many = await in_turn(client, several, seconds)
        return {FIGURE: ours, MANY_FIGURE: many * ours_of_many}, {FIGURE: hand, MANY_FIGURE: many * hand_of_many}


async def in_turn(client: Client, works: tuple[Callable[[], Any], Callable[[], Any]], seconds: float) -> list[float]:
    """The transactions per second of each of two works, in turn for so many seconds each."""
    counts, spent = [0, 0], [0.0, 0.0]
    which = 0
    while min(spent) < seconds:
        begun = time.perf_counter()
        counts[which] += await repeated(client, works[which], SLICE_SECONDS)
        spent[which] += time.perf_counter() - begun
        which = 1 - which
    return [count / span for count, span in zip(counts, spent, strict=True)]


def _enqueue_many(connection: Any, events: int) -> Any:
    return enqueue_many(
        connection, (Event("orders", key="order-42", payload=PAYLOAD, type="order.paid") for _ in range(events))
    )


def import_ms() -> float:
    """CPU time, in milliseconds, that `import relay.enqueue` takes beside Python's own start."""

    def spent(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return 1000 * (min(spent("import relay.enqueue") for _ in range(10)) - min(spent("pass") for _ in range(10)))


def validation_us() -> float:
    """CPU time, in microseconds, of the checks of an event with two headers; its id is given."""
    event_id, headers = uuid4(), {"source": "shop", "trace": "0af7651916cd43dd"}
    make = partial(Event, "orders", key="order-42", payload=PAYLOAD, headers=headers, type="t", event_id=event_id)
    return 1e6 * min(timeit.repeat(make, number=20_000, repeat=5, timer=time.process_time)) / 20_000


async def measure_enqueue(place: Place, seconds: float, many: int, rounds: int) -> Report:
    """Each client in turn with the library and by hand."""
    series: dict[str, list[Figures]] = {}
    for _ in range(rounds):
        for name in MEASURED:
            ours, hand = await round_of(place, name, seconds, many)
            series.setdefault(f"{name}, library", []).append(ours)
            series.setdefault(f"{name}, by hand", []).append(hand)
    findings = [
        Finding("import relay.enqueue, beside Python itself", [await asyncio.to_thread(import_ms)], "ms", at_most=30),
        Finding("Checks of an event", [validation_us()], "us", at_most=3),
    ]
    for name in MEASURED:
        both = series[f"{name}, library"], series[f"{name}, by hand"]
        findings += [
            Finding(f"{name}: enqueue against an INSERT by hand", ratios(*both, FIGURE), "", 0.95),
            Finding(f"{name}: {many:,} at once against COPY by hand", ratios(*both, MANY_FIGURE), "", 1 / 1.2),
        ]
    what = "transactions that update a row and enqueue, one client at a time; and many events in one transaction"
    parameters: dict[str, object] = {"seconds": seconds, "many": many}
    return Report("enqueue", what, parameters, series, findings, [], bars=(FIGURE, MANY_FIGURE), machine=place.machine)


@click.command
@click.option("--seconds", default=5.0, show_default=True, help="Of each round, for single events and for many.")
@click.option("--many", default=10_000, show_default=True, help="Events of one enqueue_many.")
@click.option("--rounds", default=3, show_default=True)
@output
def enqueue_command(seconds: float, many: int, rounds: int, json_file: Any, picture: Path | None) -> None:
    """Transactions per second of each client, with the library and with an INSERT by hand."""
    run(lambda place: measure_enqueue(place, seconds, many, rounds), json_file, picture)
