"""The relay's sessions in PostgreSQL, directly and through a pooler."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from relay.cli import main
from relay.errors import PostgresLostError, SettingsError
from relay.postgres import connect
from relay.postgres.admin.connection import admin_connection
from relay.postgres.checks import check_sessions
from relay.settings import PostgresSettings
from tests.support.postgres.outbox import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.local import PostgresServer

UNDERSTOOD_BY_PGBOUNCER = {"user", "database", "client_encoding", "application_name"}
"""It refuses a connection that begins with any other setting (`ignore_startup_parameters` aside), in every mode."""


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect.open_connection(dsn, 10, "a test")
    try:
        yield connection
    finally:
        connect.drop(connection)


async def test_a_connection_begins_with_nothing_that_a_pooler_refuses() -> None:
    begun: list[dict[str, str]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4), "big")
        words = (await reader.readexactly(length - 4))[4:].decode().split("\0")
        begun.append(dict(zip(words[::2], words[1::2], strict=False)))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(PostgresLostError):
            await connect.open_connection(f"postgresql://relay@127.0.0.1:{port}/shop?sslmode=disable", 10, "a test")
    (settings,) = begun
    settings.pop("", None)
    assert settings["application_name"] == "a test"
    assert set(settings) <= UNDERSTOOD_BY_PGBOUNCER


async def test_every_session_has_the_relays_settings(database: str) -> None:
    async with session(database) as connection:
        settings = dict(await connection.fetch("SELECT name, setting FROM pg_settings WHERE source = 'session'"))
    assert settings["enable_seqscan"] == "off"
    assert settings["plan_cache_mode"] == "force_generic_plan"
    assert settings["statement_timeout"] == "60000"
    assert settings["default_transaction_isolation"] == "read committed"


HOSTILE = {
    "search_path": "''",
    "row_security": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "bytea_output": "escape",
    "DateStyle": "'German, DMY'",
    "IntervalStyle": "sql_standard",
    "TimeZone": "'Asia/Kathmandu'",
    "extra_float_digits": "-15",
    "work_mem": "'64kB'",
    "statement_timeout": "'2s'",
    "lock_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'2s'",
    "idle_session_timeout": "'2s'",
    "transaction_timeout": "'2s'",
    "restrict_nonsystem_relation_kind": "'view'",
    "enable_nestloop": "off",
    "enable_indexscan": "off",
    "jit": "on",
    "client_encoding": "LATIN1",
}
"""What a database may be set to; a server without a setting does without it."""


async def make_hostile(dsn: str) -> None:
    """Set all that for whoever connects from now on."""
    async with connected(dsn) as connection:
        known = {row[0] for row in await connection.fetch("SELECT name FROM pg_settings")}
        name = await connection.fetchval("SELECT quote_ident(current_database())")
        await connection.execute(
            "; ".join(f"ALTER DATABASE {name} SET {key} = {value}" for key, value in HOSTILE.items() if key in known)
        )


async def test_what_a_database_is_set_to_makes_no_difference(database: str) -> None:
    async with session(database) as connection:
        wanted = dict(await connection.fetch("SELECT name, setting FROM pg_settings WHERE source = 'session'"))
    await make_hostile(database)
    async with session(database) as connection:
        found = dict(await connection.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY ($1)", [*HOSTILE]))
    del found["client_encoding"]
    # Set while identifiers were still quoted.
    found["search_path"] = found["search_path"].replace('"', "")
    assert found.items() <= wanted.items()
    assert wanted["search_path"] == "pg_catalog, pg_temp"


async def test_people_can_do_their_work_whatever_a_database_is_set_to(database: str) -> None:
    await make_hostile(database)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, list(arguments), env={"RELAY_POSTGRES_DSN": database})
        assert result.exit_code == 0, (arguments, result.output)
        return result.output

    for command in (
        ("migrate", "--roles", "--max-event-bytes", "77"),
        ("migrate", "--check"),
        ("status",),
        ("lanes", "release", "3", "--reason", "x"),
        ("failed", "list"),
        ("failed", "actions"),
        ("replay", "list"),
    ):
        await asyncio.to_thread(run, *command)
    assert json.loads(await asyncio.to_thread(run, "migrate", "--json"))["max_event_bytes"] == 77
    segments = json.loads(await asyncio.to_thread(run, "status", "--json"))["segments"]
    assert [each["name"] for each in segments] == ["event_1"]


async def test_nothing_of_a_persons_command_stays_in_a_session(database: str) -> None:
    """Behind a pooler that gives each transaction another session, the next statement in it is somebody else's."""
    await make_hostile(database)
    async with admin_connection(PostgresSettings(dsn=SecretStr(database))) as connection:
        raw = partial(asyncpg.Connection.fetch, connection)
        settings = "SELECT name, setting FROM pg_catalog.pg_settings"
        before = await raw(settings)
        await connection.fetchval("SELECT 1")
        async with connection.transaction():
            assert (await connection.fetchval("SHOW search_path")).replace('"', "") == "pg_catalog, pg_temp"
            assert await connection.fetchval("SHOW transaction_read_only") == "off"
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with connection.transaction():
                    await connection.execute("SELECT 1 / 0")
            await connection.execute("CREATE TABLE public.made ()")
        async with connection.transaction(readonly=True):
            assert await connection.fetchval("SHOW transaction_read_only") == "on"
        assert await raw(settings) == before
        assert await connection.fetchval("SELECT to_regclass('public.made') IS NOT NULL")


async def test_connections_that_share_a_session_are_refused(database: str) -> None:
    """As behind a pooler in transaction mode; tried with PgBouncer 1.18."""
    async with session(database) as one, session(database) as other:
        await check_sessions([one, other])
        with pytest.raises(SettingsError, match="pool_mode = session"):
            await check_sessions([one, other, one])
        # It is the applications' session, too.
        left = await one.fetch("SELECT name FROM pg_settings WHERE source = 'session' AND name <> 'application_name'")
        assert left == []


async def test_connections_to_several_servers_are_refused(database: str, own_postgres: PostgresServer) -> None:
    """As during a fail-over behind a name: xids of one server say nothing about ids of the other."""
    async with session(database) as one, session(own_postgres.dsn) as other:
        with pytest.raises(PostgresLostError, match="different servers"):
            await check_sessions([one, other])
