"""What `compare` compares: each with a table of its own kind, in a database of its own, on the same servers."""

from __future__ import annotations

import sys
import tempfile
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from relay.local.errors import MissingPartError
from tests.bench import connect, debezium, naive
from tests.bench.place import KEYS, sql_key
from tests.bench.process import ROOT, Tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import asyncpg

    from tests.bench.committing import Insert
    from tests.bench.place import Place

PAYLOAD = "rpad(i::text, 500, 'x')"


@dataclass(frozen=True)
class Scene:
    """A database, a topic, and who moves events from one to the other; `tool` starts it."""

    connection: asyncpg.Connection
    dsn: str
    topic: str
    fill: Callable[[int], Awaitable[None]]
    insert: Insert
    tool: Tool
    in_transactions: bool = False
    """Whether it delivers in Kafka's transactions, of which each has a marker per partition in the topic."""


@asynccontextmanager
async def this_relay(place: Place) -> AsyncIterator[Scene]:
    """This relay with default settings."""
    async with place.outbox() as outbox:
        yield Scene(outbox.connection, outbox.dsn, outbox.topic, outbox.fill, outbox.insert, place.relay(outbox))


@asynccontextmanager
async def naive_relay(place: Place) -> AsyncIterator[Scene]:
    """The naive relay."""
    topic = await place.topic()
    insert = "INSERT INTO outbox_event (topic, key, payload)"

    async def fill(events: int) -> None:
        await connection.execute(
            f"{insert} SELECT $1, convert_to({sql_key('$3::bigint')}, 'UTF8'), convert_to({PAYLOAD}, 'UTF8')"
            " FROM generate_series(1, $2::bigint) AS i",
            topic,
            events,
            KEYS,
        )
        await connection.execute("VACUUM ANALYZE outbox_event")
        await connection.execute("CHECKPOINT")

    def insert_one(key: str, payload: str) -> str:
        return f"{insert} VALUES ('{topic}', convert_to({key}, 'UTF8'), convert_to({payload}, 'UTF8'))"

    async with place.database() as (connection, dsn):
        await connection.execute(naive.TABLE)
        command = [sys.executable, "-m", "tests.bench.naive", dsn, place.kafka.bootstrap_servers]
        yield Scene(connection, dsn, topic, fill, insert_one, Tool(command, folder=ROOT))


@asynccontextmanager
async def debezium_server(place: Place) -> AsyncIterator[Scene]:
    """Debezium Server."""

    def server(folder: Path, dsn: str) -> Tool:
        return debezium.DebeziumServer(folder, dsn, place.kafka.bootstrap_servers)

    async with _streamed(place, server) as scene:
        yield scene


@asynccontextmanager
async def kafka_connect(place: Place, *, exactly_once: bool = False) -> AsyncIterator[Scene]:
    """Kafka Connect with Debezium's connector."""

    def worker(folder: Path, dsn: str) -> Tool:
        return connect.KafkaConnect(folder, dsn, place.kafka.bootstrap_servers, exactly_once=exactly_once)

    async with _streamed(place, worker) as scene:
        yield replace(scene, in_transactions=exactly_once)


@asynccontextmanager
async def _streamed(place: Place, tool: Callable[[Path, str], Tool]) -> AsyncIterator[Scene]:
    """Debezium of some kind; its slot is there before the backlog is, and it streams that."""
    topic = await place.topic()
    insert = "INSERT INTO outbox_event (aggregatetype, aggregateid, payload)"

    async def fill(events: int) -> None:
        # In transactions as services have them: one of a million rows would have to be spilled to disk.
        await connection.execute(
            "CREATE PROCEDURE fill(topic text, events bigint, keys bigint) LANGUAGE plpgsql AS $$ BEGIN"
            " FOR begins IN 1..events BY 1000 LOOP"
            f" {insert} SELECT topic, {sql_key('keys')}, {PAYLOAD}"
            " FROM generate_series(begins, least(begins + 999, events)) AS i;"
            " COMMIT; END LOOP; END $$"
        )
        await connection.execute("SET synchronous_commit = off")
        await connection.execute(f"CALL fill('{topic}', {events}, {KEYS})")
        await connection.execute("RESET synchronous_commit")
        # Or autovacuum does it during the drain: 700 bytes of WAL an event, and twice PostgreSQL's CPU.
        await connection.execute("VACUUM ANALYZE outbox_event")
        await connection.execute("CHECKPOINT")

    def insert_one(key: str, payload: str) -> str:
        return f"{insert} VALUES ('{topic}', {key}, {payload})"

    async with place.database() as (connection, dsn):
        await debezium.create_outbox(connection)
        try:
            with tempfile.TemporaryDirectory(prefix="bench-debezium-") as folder:
                yield Scene(connection, dsn, topic, fill, insert_one, tool(Path(folder), dsn))
        finally:
            # A database with a slot cannot be dropped.
            await debezium.drop_slot(connection)


CONTENDERS: dict[str, Callable[[Place], AbstractAsyncContextManager[Scene]]] = {
    "this relay": this_relay,
    "naive relay": naive_relay,
    "Debezium Server": debezium_server,
    "Kafka Connect": kafka_connect,
    "Kafka Connect, exactly once": partial(kafka_connect, exactly_once=True),
}
STREAMING = ("Debezium Server", "Kafka Connect", "Kafka Connect, exactly once")
"""Those with Debezium in them."""


def what_is_missing(name: str, *, fetch: bool) -> str:
    """Why this one cannot run here, after fetching what can be fetched if that is wanted; empty if it can."""
    try:
        if name in STREAMING:
            debezium.java()
        if name == "Debezium Server":
            debezium.distribution(fetch=fetch)
        elif name in STREAMING:
            connect.plugin(fetch=fetch)
    except MissingPartError as missing:
        return str(missing)
    return ""
