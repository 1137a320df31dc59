"""What must be true of a database before the relay works with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.errors import PostgresLostError, SchemaError, SettingsError
from relay.postgres.errors import translated
from relay.postgres.sql import DEFAULT_SCHEMA, Migration, migrations, query

if TYPE_CHECKING:
    import asyncpg

OLDEST_SERVER = 130_000
"""PostgreSQL 13, the first with pg_current_xact_id()."""


async def check_primary(connection: asyncpg.Connection) -> None:
    """Raise PostgresLostError if the server is in recovery, that is, takes no writes."""
    with translated():
        in_recovery = await connection.fetchval(query("in_recovery"))
    if in_recovery:
        raise PostgresLostError(
            "the server is in recovery (a standby?) and takes no writes; waiting until it is the primary, "
            "if that is another server change RELAY_POSTGRES_DSN"
        )


async def check_schema(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> None:
    """Raise SchemaError, which says what to do, unless the outbox is exactly of this program's version."""
    pending = await pending_migrations(connection, schema)
    known = migrations(schema)
    if len(pending) == len(known):
        raise SchemaError(
            f"there is no outbox in the schema {schema} of this database; run `relay migrate`, "
            "or set RELAY_POSTGRES_SCHEMA if it has another name"
        )
    if pending:
        raise SchemaError(
            f"the outbox in the schema {schema} is at version {pending[0].version - 1} and this program needs "
            f"version {known[-1].version}; run `relay migrate`"
        )


async def pending_migrations(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> tuple[Migration, ...]:
    """The migrations that are still to be applied, in order.

    Raises SchemaError if the server is too old, the schema is newer than this program, or what was applied is not
    what this program knows under that number.
    """
    known = migrations(schema)
    with translated():
        has_migrations, usable_name, server = await connection.fetchrow(query("schema_exists", schema))
        if server < OLDEST_SERVER:
            raise SchemaError(f"the server is PostgreSQL {server // 10_000}; the outbox needs 13 or later")
        if not usable_name:
            raise SettingsError(
                f"the schema name {schema!r} is a word of SQL; choose another for RELAY_POSTGRES_SCHEMA"
            )
        rows = await connection.fetch(query("applied_migrations", schema)) if has_migrations else []
    applied = {row["version"]: row for row in rows}
    newest = max(applied, default=0)
    if newest > known[-1].version:
        raise SchemaError(
            f"the outbox in the schema {schema} is at version {newest}, newer than this program, which knows "
            f"version {known[-1].version}; install a newer outbox-relay"
        )
    for migration in known[:newest]:
        _check_applied(migration, applied.get(migration.version))
    return known[newest:]


def _check_applied(migration: Migration, row: asyncpg.Record | None) -> None:
    label = f"{migration.version:04} {migration.name}"
    if row is None:
        raise SchemaError(
            f"migration {label} is missing from the list of what was applied, though a later one is there; "
            "restore the table `migration` of the outbox"
        )
    if row["checksum"] != migration.checksum:
        raise SchemaError(
            f"migration {label} was applied with another text than this program has (checksum "
            f"{row['checksum'][:12]}, not {migration.checksum[:12]}); use the release the outbox was made with, "
            "or compare the two and correct by hand"
        )


async def check_sequence(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> None:
    """Raise SchemaError if the ids could come out of order or again: the scan would lose or reorder events.

    That is: a sequence that caches, counts otherwise than by one, or cycles; or that is behind an id or a position
    that is already there, as after a restore of only some tables.
    """
    with translated():
        state = await connection.fetchrow(query("sequence_state", schema))
    name = f"{schema}.event_id"
    if (state["cache"], state["increment"], state["cycle"]) != (1, 1, False):
        raise SchemaError(
            f"the sequence {name} has CACHE {state['cache']}, INCREMENT {state['increment']}, "
            f"{'CYCLE' if state['cycle'] else 'NO CYCLE'}, with which ids come out of order; "
            f"run ALTER SEQUENCE {name} INCREMENT BY 1 CACHE 1 NO CYCLE"
        )
    highest = max(state["highest_id"], state["highest_position"])
    if state["reached"] < highest:
        raise SchemaError(
            f"the sequence {name} is at {state['reached']}, behind id {highest} that was already used; "
            f"stop the writers and run SELECT setval('{name}', {highest})"
        )
