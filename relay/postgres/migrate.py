"""Applies the migrations in `sql/migrations`, one transaction each, one program at a time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from asyncpg.exceptions import LockNotAvailableError

from relay.postgres.checks import schema_state
from relay.postgres.errors import translated
from relay.postgres.locks import held_up, holders, tables_of
from relay.postgres.sessions import as_text, secure_transaction
from relay.postgres.sql import DEFAULT_SCHEMA, query, roles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import TypeVar

    import asyncpg

    from relay.postgres.sql import Migration

    Result = TypeVar("Result")

LOCK_ATTEMPTS = 60
LOCK_PAUSE = 0.5
"""Seconds between attempts to lock the events' table, for the writers that were kept waiting to get on."""


async def migrate(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> list[Migration]:
    """Apply what is pending and return it. Safe to run again, and by several programs at once.

    Nothing is pending in a newer schema that this program can work with. Raises SchemaError if it cannot, or if what
    was applied is not what it knows (see `schema_state`).
    """
    applied: list[Migration] = []
    what = f"a migration of the schema {schema}"
    while (
        migration := await _patiently(partial(_apply_next, connection, schema), what, connection, schema)
    ) is not None:
        applied.append(migration)
    return applied


async def _patiently(
    work: Callable[[], Awaitable[Result]], what: str, connection: asyncpg.Connection, schema: str
) -> Result:
    """Do what gives up when it has waited for a lock for 50 ms, so that writers do not queue up behind it.

    Tried for half a minute; then HeldUpError names who held the lock.
    """
    for attempt in range(LOCK_ATTEMPTS):
        if attempt:
            await asyncio.sleep(LOCK_PAUSE)
        with suppress(LockNotAvailableError):
            return await work()
    with translated():
        raise held_up(what, await holders(connection, tables_of(schema)))


async def _apply_next(connection: asyncpg.Connection, schema: str) -> Migration | None:
    """Apply the first pending migration, with everything that decides it read under the lock.

    The lock belongs to the transaction and not to the session, so that a pooler in between does no harm.
    """
    with translated():
        async with connection.transaction(isolation="read_committed"):
            await secure_transaction(connection)
            await connection.execute(query("migration_lock", schema))
            for migration in (await schema_state(connection, schema)).pending:
                await connection.execute(migration.sql)
                await connection.execute(
                    query("record_migration", schema),
                    migration.version,
                    migration.name,
                    migration.checksum,
                    migration.compatible_from,
                )
                return migration
    return None


async def make_roles(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> None:
    """Create the roles for writers, relay and people if they are missing, and grant them what they need."""
    with translated():
        async with connection.transaction(isolation="read_committed"):
            await secure_transaction(connection)
            await connection.execute(roles(schema))


async def max_event_bytes(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> int:
    """The limit on an event's size: bytes of key, payload, headers and type together."""
    with translated():
        return int(await connection.fetchval(query("max_event_bytes", schema)))


async def set_max_event_bytes(connection: asyncpg.Connection, limit: int, schema: str = DEFAULT_SCHEMA) -> bool:
    """Change the limit for new events; returns whether it was another one before.

    The tables are locked for an instant. Raises HeldUpError when that did not work out for half a minute.
    """
    if limit == await max_event_bytes(connection, schema):
        return False

    async def change() -> None:
        with translated():
            await connection.execute(query("set_max_event_bytes", schema), limit)

    await _patiently(change, "the change of the event size limit", connection, schema)
    return True


def script(migrations: Iterable[Migration], schema: str = DEFAULT_SCHEMA) -> str:
    """The migrations as SQL text for another tool to run, each with the statement that records it."""
    return "\n".join(
        f"BEGIN;\n{as_text()}\n{migration.sql}\n{_record(migration, schema)}\nCOMMIT;\n" for migration in migrations
    )


def _record(migration: Migration, schema: str) -> str:
    _, _, text = query("record_migration", schema).partition("\n")
    # Names and checksums are our own and have no quotes in them.
    values = (
        str(migration.version),
        f"'{migration.name}'",
        f"'{migration.checksum}'",
        str(migration.compatible_from),
    )
    for number, value in enumerate(values, start=1):
        text = text.replace(f"${number}", value)
    return text
