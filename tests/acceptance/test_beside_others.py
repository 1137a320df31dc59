"""What people do to a database that holds an outbox: maintenance, locks, dumps, transactions beyond all measure."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest

from relay.local.parts import postgres_programs
from relay.postgres.admin.migrate import make_roles, set_max_event_bytes
from tests.acceptance.conftest import place
from tests.support.postgres.failures import add
from tests.support.postgres.outbox import connected
from tests.support.postgres.receipts import DELIVERIES
from tests.support.postgres.writers import Writers, fill
from tests.support.relay.process import relay_run
from tests.support.servers import shared as servers
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from relay.local import PostgresServer
    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic

TABLES = ("event_1", "receipt_1", "event_default", "receipt_default", "failure", "held", "lane", "replica", "action")

MAINTENANCE = (
    *(f"VACUUM (FULL) outbox.{name}" for name in TABLES),
    "VACUUM (FREEZE) outbox.event",
    "ANALYZE",
    "REINDEX TABLE CONCURRENTLY outbox.event_1",
    "REINDEX TABLE CONCURRENTLY outbox.receipt_1",
    "ALTER TABLE outbox.event ADD COLUMN tenant text",
    "ALTER TABLE outbox.event ADD COLUMN region text NOT NULL DEFAULT 'eu'",
    "ALTER TABLE outbox.receipt ADD COLUMN note text",
    "CREATE INDEX my_own ON outbox.event (topic, created_at)",
    "ALTER TABLE outbox.event REPLICA IDENTITY FULL",
    "ALTER TABLE outbox.held SET UNLOGGED",
    "ALTER TABLE outbox.held SET LOGGED",
    "ALTER TABLE outbox.event DISABLE TRIGGER ALL",
)
"""Each of them locks what the relay works on, or makes plans and row types that it knows invalid."""


async def test_maintenance_by_hand_under_load_costs_no_event(here: Place) -> None:
    async with Writers(here.dsn, here.topic) as writers, here.relay() as relay:
        await here.receipts_reach(50, 90)
        for statement in MAINTENANCE:
            await here.connection.execute(statement)
            await writers.commit(10)
        await writers.end()
        await here.settled(120)
        assert not relay.ended
        assert not relay.happened("lease.lost")
        await relay.stop()
        assert not relay.texts()
    assert not await here.check_everything()


@pytest.mark.slow
@pytest.mark.parametrize("table", ["event", "replica"])
async def test_a_table_that_is_locked_for_longer_than_the_lease_is_waited_for(here: Place, table: str) -> None:
    async with Writers(here.dsn, here.topic) as writers, here.relay(replica_lease=10.5) as relay:
        await here.receipts_reach(50, 90)
        transaction = here.connection.transaction()
        await transaction.start()
        await here.connection.execute(f"LOCK TABLE outbox.{table} IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(12)  # What is tried is that time passes.
        await transaction.rollback()
        await writers.commit(50)
        await writers.end()
        await here.settled(120)
        assert not relay.ended
        # Nobody can extend a lease in a table that is locked; the lock on the events costs none.
        assert table == "replica" or not relay.happened("lease.lost")
        await relay.stop()
        assert not relay.texts()
    await here.check_everything()


async def test_thousands_of_savepoints_beside_idle_transactions_are_delivered_in_order(here: Place) -> None:
    async with AsyncExitStack() as others:
        for _ in range(40):
            idle = await others.enter_async_context(connected(here.dsn))
            await idle.execute("BEGIN")
            await idle.execute("SELECT pg_current_xact_id()")
        async with here.relay() as relay:
            await fill(here.connection, here.topic, 50)
            await here.settled(120)
            async with here.connection.transaction():
                for first in range(0, 4_000, 200):
                    await here.connection.execute(
                        "".join(
                            "SAVEPOINT s; INSERT INTO outbox.event (topic, key, payload)"
                            f" VALUES ('{here.topic}', 'deep-{n % 50}', '{n // 50 + 1} of it'); RELEASE s;"
                            for n in range(first, first + 200)
                        )
                    )
            await here.settled(120)
            assert not relay.happened("lease.lost")
            await relay.stop()
    assert not await here.check_everything()


async def test_events_larger_than_the_whole_buffer_go_through_one_by_one(here: Place, make_topic: MakeTopic) -> None:
    here.topic = make_topic(1, **{"max.message.bytes": 5_000_000})
    await set_max_event_bytes(here.connection, 4_000_000, "outbox")
    for n in range(3):
        await add(here.connection, b"big", here.topic, f"{n + 1} ".encode() + b"x" * 3_000_000)
    await fill(here.connection, here.topic, 50)
    async with here.relay(buffer_max_bytes=1_048_576) as relay:
        await here.settled(120)
        assert not relay.happened("lease.lost")
        await relay.stop()
    assert not await here.check_everything()


async def test_events_whose_ids_are_near_the_end_of_what_there_is_are_delivered(here: Place) -> None:
    await here.connection.execute("SELECT setval('outbox.event_id', 9223372036854775807 - 200)")
    await fill(here.connection, here.topic, 100)
    async with here.relay() as relay:
        await here.settled(120)
        await relay.stop()
        assert not relay.texts()
    assert not await here.check_everything()


async def test_a_role_that_may_have_too_few_connections_for_a_while_is_waited_for(here: Place) -> None:
    role = f"few_{secrets.token_hex(4)}"
    await make_roles(here.connection)
    await here.connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x' IN ROLE outbox_relay")
    parts = urlsplit(here.dsn)
    limited = urlunsplit(parts._replace(netloc=f"{role}:x@{parts.netloc.rpartition('@')[2]}"))
    try:
        async with Writers(here.dsn, here.topic) as writers, relay_run(limited, here.bootstrap_servers) as relay:
            await here.receipts_reach(50, 90)
            await here.connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT 3")
            await here.connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role
            )
            await relay.logged("postgres.lost", 1, 90)
            await writers.commit(50)
            assert not relay.ended
            await here.connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
            await relay.logged("postgres.connected", 2, 90)
            await writers.end()
            await here.settled(120)
            await relay.stop()
            assert not relay.texts()
        await here.check_everything()
    finally:
        await here.connection.execute(f"DROP ROLE {role}")


async def test_a_database_that_takes_no_connections_for_a_while_is_waited_for(
    here: Place, postgres: servers.Postgres
) -> None:
    name = urlsplit(here.dsn).path.lstrip("/")
    async with connected(postgres.dsn) as elsewhere, here.relay() as relay:
        await fill(here.connection, here.topic, 50)
        await here.settled(120)
        # As before a rename, or before it is restored.
        await elsewhere.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await elsewhere.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        await relay.logged("postgres.lost", 1, 90)
        await relay.logged("postgres.waiting", 1, 90)
        assert not relay.ended
        await elsewhere.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await relay.logged("postgres.connected", 2, 90)
        await here.reconnect()
        await add(here.connection, b"late", here.topic, b"1 ")
        await here.settled(120)
        await relay.stop()
        assert not relay.texts()
    await here.check_everything()


@pytest.mark.slow
async def test_a_synchronous_standby_that_is_gone_for_longer_than_the_lease_loses_nothing(
    own_postgres: PostgresServer, kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    async with place(own_postgres.dsn, kafka.bootstrap_servers, make_topic(2)) as here:
        await here.connection.execute("SET synchronous_commit = local")
        async with Writers(here.dsn, here.topic) as writers, here.relay(replica_lease=10.5) as relay:
            await here.receipts_reach(50, 90)
            await here.connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
            await here.connection.execute("SELECT pg_reload_conf()")

            async def lease_is_over() -> bool:
                return bool(
                    await here.connection.fetchval("SELECT bool_and(lease_expires_at < now()) FROM outbox.replica")
                )

            await until("no commit has extended the lease", lease_is_over, 60)
            assert not relay.ended
            await here.connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await here.connection.execute("SELECT pg_reload_conf()")
            await writers.commit(50)
            await writers.end()
            await here.settled(120)
            await relay.stop()
            assert not relay.texts()
        await here.check_everything()


@pytest.mark.slow
@pytest.mark.skipif(
    bool(os.environ.get("RELAY_TEST_POSTGRES_DSN") or os.environ.get("RELAY_TEST_POSTGRES_VERSION")),
    reason="pg_dump of this version comes with no other server",
)
async def test_a_dump_that_is_restored_elsewhere_goes_on_where_it_was(
    here: Place, postgres: servers.Postgres, make_topic: MakeTopic
) -> None:
    here.topic = make_topic(2, **{"max.message.bytes": 5_000})
    await fill(here.connection, here.topic, 100)
    too_large = await add(here.connection, b"k", here.topic, b"1 " + b"x" * 9_000)
    for n in (2, 3):
        await add(here.connection, b"k", here.topic, f"{n} ".encode())
    async with here.relay() as relay:
        await here.receipts_reach(100, 90)
        await relay.logged("event.failed")

        async def held() -> bool:
            return bool(await here.connection.fetchval("SELECT count(*) = 2 FROM outbox.held"))

        await until("two are held back", held, 90)
        await relay.stop()
    await here.connection.execute(
        "INSERT INTO outbox.event (topic, key, payload)"
        " SELECT $1, convert_to('late-' || n, 'UTF8'), '1 ' FROM generate_series(1, 20) AS n",
        here.topic,
    )

    programs, name = postgres_programs(), servers.create_database(postgres)
    elsewhere = servers.dsn_of(postgres, name)
    dump = await asyncio.to_thread(_run, [programs / "pg_dump", "--no-owner", here.dsn])
    await asyncio.to_thread(_run, [programs / "psql", "-q", "-v", "ON_ERROR_STOP=1", elsewhere], dump)
    async with connected(elsewhere) as there, relay_run(elsewhere, here.bootstrap_servers) as relay:

        async def delivered() -> bool:
            return bool(await there.fetchval(f"SELECT count(*) = 120 FROM {DELIVERIES}"))

        await until("what was pending is delivered", delivered, 90)
        state = await there.fetchval("SELECT state FROM outbox.failure WHERE id = $1", too_large.id)
        assert (state, await there.fetchval("SELECT count(*) FROM outbox.held")) == ("failed", 2)
        await relay.stop()
        assert not relay.texts()
    servers.drop_database(postgres, name)


def _run(command: list[str | Path], given: bytes = b"") -> bytes:
    return subprocess.run(command, input=given, capture_output=True, check=True).stdout
