"""From a running Debezium to the relay: what was there, what is in flight and what comes arrives once more at most."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
from click.testing import CliRunner

from relay.cli import main
from relay.local import create_topic
from relay.local.errors import MissingPartError
from tests.bench.debezium import DebeziumServer, distribution
from tests.support.kafka.consumer import count_records, read_topic
from tests.support.postgres.connector import PUBLICATION, Connector, connector
from tests.support.postgres.outbox import connected, migrated
from tests.support.relay.process import relay_run
from tests.support.servers import shared as servers
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from relay.local import PostgresServer
    from tests.support.kafka.consumer import Record

KEYS = 5
TABLE = """
CREATE TABLE outboxevent (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregatetype varchar(255) NOT NULL,
    aggregateid varchar(255),
    type varchar(255) NOT NULL,
    payload jsonb
);
CREATE TABLE account (id int PRIMARY KEY, changes int NOT NULL DEFAULT 0);
INSERT INTO account SELECT generate_series(1, 5);
"""


@pytest.fixture
def logical(own_folder: Path) -> PostgresServer:
    """A PostgreSQL that Debezium can read from."""
    return servers.own_postgres_server(own_folder, {"wal_level": "logical"})


class Shop(NamedTuple):
    """An application with an outbox table of its own, on a server of its own, and the topic of its events."""

    dsn: str
    connection: asyncpg.Connection
    kafka: str
    kind: str

    @property
    def topic(self) -> str:
        """Debezium's name for it."""
        return f"outbox.event.{self.kind}"

    async def change(self, connection: asyncpg.Connection, key: int, *, delete: bool = False) -> None:
        """Change an account and say so in the outbox table, as the documentation of Debezium does; then delete it."""
        number = await connection.fetchval(
            "UPDATE account SET changes = changes + 1 WHERE id = $1 RETURNING changes", key
        )
        event_id = await connection.fetchval(
            "INSERT INTO outboxevent (aggregatetype, aggregateid, type, payload)"
            " VALUES ($1, $2, 'changed', $3) RETURNING id",
            self.kind,
            str(key),
            json.dumps({"number": number}),
        )
        if delete:
            await connection.execute("DELETE FROM outboxevent WHERE id = $1", event_id)

    async def changes(self, count: int) -> None:
        """Make changes to all accounts; some delete their row at once, as some applications do."""
        async with connected(self.dsn) as connection:
            for number in range(count):
                async with connection.transaction():
                    await self.change(connection, number % KEYS + 1, delete=number % 3 == 0)

    async def adopt(self) -> str:
        """Take the table over as the documentation says; returns up to where Debezium has to read."""
        environment = {"RELAY_POSTGRES_DSN": self.dsn}
        arguments = ["migrate", "--from-debezium", "public.outboxevent", "--apply"]
        done = await asyncio.to_thread(lambda: CliRunner().invoke(main, arguments, env=environment))
        assert done.exit_code == 0, done.output
        return done.output.split()[-1]

    async def relay_delivers(self) -> None:
        """Run the relay until nothing is left to publish."""

        async def delivered() -> bool:
            return bool(await self.connection.fetchval("SELECT count(*) = 0 FROM outbox.pending"))

        async with relay_run(self.dsn, self.kafka) as relay:
            await until("all events are delivered", delivered)
            await relay.stop()

    async def records(self) -> list[Record]:
        """Everything in the topic."""
        return await read_topic(self.kafka, self.topic)

    async def made(self) -> dict[bytes, int]:
        """How often each account was changed."""
        return {str(row["id"]).encode(): row["changes"] for row in await self.connection.fetch("TABLE account")}


@pytest.fixture
async def shop(logical: PostgresServer, kafka: servers.Kafka) -> AsyncIterator[Shop]:
    """The application, with an outbox of the relay's beside its own, and no relay yet."""
    kind = f"account-{secrets.token_hex(4)}"
    with logical:
        async with migrated(logical.dsn) as connection:
            await connection.execute(TABLE)
            await create_topic(kafka.bootstrap_servers, f"outbox.event.{kind}", partitions=3)
            yield Shop(logical.dsn, connection, kafka.bootstrap_servers, kind)


def first_of_each(records: list[Record]) -> tuple[dict[bytes, list[int]], list[Record]]:
    """The numbers of each key in the order of their first records, and the records that consumers drop by their id."""
    seen: set[str] = set()
    numbers: dict[bytes, list[int]] = defaultdict(list)
    repeats = []
    for record in records:
        if record.headers["id"] in seen:
            repeats.append(record)
            continue
        seen.add(record.headers["id"])
        assert record.key is not None
        assert record.value is not None
        numbers[record.key].append(json.loads(record.value)["number"])
    return numbers, repeats


@asynccontextmanager
async def an_open_transaction(shop: Shop, key: int) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that has inserted its row and is still to commit."""
    async with connected(shop.dsn) as late:
        await late.execute("BEGIN")
        await shop.change(late, key)
        yield late


async def waits_for_a_lock(shop: Shop) -> bool:
    """Whether the trigger is waited for."""
    return bool(
        await shop.connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'outboxevent'::regclass"
        )
    )


async def test_a_switch_over_loses_nothing_and_keeps_each_keys_order(shop: Shop) -> None:
    async with connector(shop.connection, shop.kafka, "outboxevent") as debezium:
        await shop.changes(23)
        assert await debezium.step()
        await shop.changes(20)  # Debezium is behind.
        async with an_open_transaction(shop, 1) as late:
            adopting = asyncio.create_task(shop.adopt())
            await until("the trigger waits for who is writing", lambda: waits_for_a_lock(shop))
            await late.execute("COMMIT")
        position = await adopting
        before = sum((await shop.made()).values())
        await shop.changes(30)
        # The connector dies with something published and not confirmed.
        await debezium.step(confirm=False)
        await until("Debezium has read what was before", lambda: step_until(debezium, position))
        after = debezium.published
        await shop.changes(10)
    await shop.relay_delivers()

    numbers, repeats = first_of_each(await shop.records())
    assert numbers == {key: list(range(1, count + 1)) for key, count in (await shop.made()).items()}
    by_the_relay = [record for record in await shop.records() if "outbox-id" in record.headers]
    assert len(by_the_relay) == sum((await shop.made()).values()) - before == 40
    assert len(repeats) == after + len(by_the_relay) - sum((await shop.made()).values())
    for record in by_the_relay:
        assert record.headers["outbox-event-id"] == record.headers["id"]
        assert record.headers["outbox-type"] == "changed"


async def step_until(debezium: Connector, position: str) -> bool:
    """Let Debezium read on."""
    await debezium.step()
    return await debezium.has_read(position)


async def test_a_table_that_leaves_the_publication_with_the_trigger_is_not_published_twice(shop: Shop) -> None:
    environment = {"RELAY_POSTGRES_DSN": shop.dsn}
    async with connector(shop.connection, shop.kafka, "outboxevent") as debezium:
        printed = await asyncio.to_thread(
            lambda: CliRunner().invoke(main, ["migrate", "--from-debezium", "public.outboxevent"], env=environment)
        )
        leaves = f"ALTER PUBLICATION {PUBLICATION} DROP TABLE public.outboxevent;\nCOMMIT;"
        script = printed.output.replace("COMMIT;", leaves)
        assert leaves in script
        await shop.changes(20)
        writing = asyncio.create_task(shop.changes(60))
        await until("writers write", lambda: has_changes(shop, 35))
        await shop.connection.execute(script)
        await writing
        while await debezium.step():
            pass
    await shop.relay_delivers()

    numbers, repeats = first_of_each(await shop.records())
    assert numbers == {key: list(range(1, count + 1)) for key, count in (await shop.made()).items()}
    assert repeats == []
    assert 35 <= debezium.published < 80


async def has_changes(shop: Shop, count: int) -> bool:
    """Whether so many changes have been made."""
    return sum((await shop.made()).values()) >= count


AS_TEXT = {
    "debezium.format.key": "simplestring",
    "debezium.format.value": "simplestring",
    "debezium.format.header.schemas.enable": "false",
}
AS_JSON = {
    "debezium.format.header.schemas.enable": "false",
    "debezium.format.key": "json",
    "debezium.format.value": "json",
    "debezium.format.key.schemas.enable": "false",
    "debezium.format.value.schemas.enable": "false",
}
ROWS = [
    ("1", '{"a": 1, "b": "grün €", "c": "\\" \\\\ /"}'),
    ("grün", '[1.50, true, {"x": null}]'),
    ("2", "  "),
    (None, '"text"'),
    ("3", None),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("payload", "options"),
    [
        ("jsonb", AS_TEXT),
        ("json", AS_JSON),
        ("text", AS_JSON | {"debezium.transforms.outbox.route.tombstone.on.empty.payload": "true"}),
        (
            "text",
            AS_TEXT
            | {
                "debezium.transforms.outbox.route.tombstone.on.empty.payload": "true",
                "debezium.transforms.outbox.table.fields.additional.placement": "type:header:kind,number:header",
            },
        ),
    ],
)
async def test_the_relay_writes_what_debezium_writes(
    shop: Shop, payload: str, options: dict[str, str], tmp_path: Path
) -> None:
    try:
        distribution(fetch=False)
    except MissingPartError as missing:
        pytest.skip(f"Debezium itself was not tried: {missing}; `python -m tests.bench` fetches it")
    await shop.connection.execute(
        f"ALTER TABLE outboxevent ALTER payload TYPE {payload} USING payload::text::{payload}, ADD number int"
    )
    await shop.connection.execute("CREATE PUBLICATION bench FOR TABLE outboxevent")
    await shop.connection.execute("SELECT pg_create_logical_replication_slot('bench', 'pgoutput')")
    config = {
        "debezium.transforms": "outbox",
        "debezium.transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "debezium.transforms.outbox.route.topic.replacement": "outbox.event.$1",
        **options,
    }
    file = tmp_path / "application.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in config.items()))
    arguments = ["migrate", "--from-debezium", "outboxevent", "--connector", str(file), "--apply"]
    environment = {"RELAY_POSTGRES_DSN": shop.dsn}
    done = await asyncio.to_thread(lambda: CliRunner().invoke(main, arguments, env=environment))
    assert done.exit_code == 0, done.output
    rows = [row for row in ROWS if payload == "text" or row[1] != "  "]
    for key, value in rows:
        await shop.connection.execute(
            "INSERT INTO outboxevent (aggregatetype, aggregateid, type, payload, number)"
            f" VALUES ($1, $2, 'changed', $3::text::{payload}, 7)",
            shop.kind,
            key,
            value,
        )
    included = {"debezium.source.table.include.list": "public.outboxevent"}
    async with DebeziumServer(tmp_path / "debezium", shop.dsn, shop.kafka, **included, **config) as debezium:

        async def published() -> bool:
            debezium.check()
            return await count_records(shop.kafka, shop.topic) >= len(rows)

        await until("Debezium has published", published, timeout=120)
    await shop.relay_delivers()

    by_id: dict[str, list[Record]] = defaultdict(list)
    for record in await shop.records():
        by_id[record.headers["id"].strip('"')].append(record)
    assert len(by_id) == len(rows)
    for both in by_id.values():
        theirs, ours = sorted(both, key=lambda record: "outbox-id" in record.headers)
        assert (ours.key, ours.value) == (theirs.key, theirs.value)
        assert ours.key is None or ours.partition == theirs.partition
        # Debezium Server writes headers as JSON, Kafka Connect as they are.
        assert {name: ours.headers[name] for name in theirs.headers} == {
            name: str(json.loads(value)) for name, value in theirs.headers.items()
        }
    await until("Debezium's slot is free", lambda: dropped(shop))


async def dropped(shop: Shop) -> bool:
    """Drop the slot as soon as nobody reads from it."""
    found = await shop.connection.fetch(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'bench' AND NOT active"
    )
    return len(found) == 1
