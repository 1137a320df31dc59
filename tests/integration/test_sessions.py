"""The relay's sessions in PostgreSQL, directly and through a pooler."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from relay.errors import PostgresLostError, SettingsError
from relay.postgres import connect
from relay.postgres.checks import check_sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

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


async def test_connections_that_share_a_session_are_refused(database: str) -> None:
    """As behind a pooler in transaction mode; tried with PgBouncer 1.18."""
    async with session(database) as one, session(database) as other:
        await check_sessions([one, other])
        with pytest.raises(SettingsError, match="pool_mode = session"):
            await check_sessions([one, other, one])


async def test_connections_to_several_servers_are_refused(database: str, own_postgres: PostgresServer) -> None:
    """As during a fail-over behind a name: xids of one server say nothing about ids of the other."""
    async with session(database) as one, session(own_postgres.dsn) as other:
        with pytest.raises(PostgresLostError, match="different servers"):
            await check_sessions([one, other])
