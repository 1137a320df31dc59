"""What must be true of a database before the relay works with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay.errors import PostgresLostError, SchemaError, SettingsError
from relay.postgres.errors import shared_sessions, translated
from relay.postgres.owners import check_owners, refused_to_use
from relay.postgres.sessions import forget_settings
from relay.postgres.sql import DEFAULT_SCHEMA, Migration, migrations, query

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

OLDEST_SERVER = 130_000
"""PostgreSQL 13, the first with pg_current_xact_id()."""


async def check_primary(connection: asyncpg.Connection) -> None:
    """Raise PostgresLostError if the server is in recovery, that is, takes no writes."""
    with translated():
        in_recovery = await connection.fetchval(query("in_recovery"))
    if in_recovery:
        raise PostgresLostError(
            "the server is in recovery (a standby?) and does not take writes; waiting until it is the primary; "
            "if another server is the primary, change RELAY_POSTGRES_DSN"
        )


async def check_sessions(connections: Iterable[asyncpg.Connection]) -> None:
    """Check that connections are what they seem: sessions of their own, of one server.

    Raises SettingsError if some share a session, as behind a pooler in transaction mode: their settings would get lost
    there, and LISTEN would hear nothing. Raises PostgresLostError if they lead to several servers, as during a
    fail-over behind a name: what the scan concludes from xids and ids of several connections would be wrong.
    """
    connections = list(connections)
    with translated():
        sessions = [await connection.fetchrow(query("server_process")) for connection in connections]
    if len({(row["server"], row["in_recovery"]) for row in sessions}) > 1:
        raise PostgresLostError(
            "connections to the same address reached different servers; waiting until all of them reach the primary; "
            "if this is not a fail-over, name the primary itself in RELAY_POSTGRES_DSN"
        )
    if len({row["process"] for row in sessions}) < len(sessions):
        # What was set for ours is set for the sessions that applications use.
        with translated():
            await forget_settings(connections)
        raise shared_sessions()


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What was applied to an outbox, and what is still to be."""

    version: int
    """Of the newest migration in the database, known to this program or not; 0 when there is no outbox."""
    pending: tuple[Migration, ...]
    """In order."""


async def check_schema(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> None:
    """Raise SchemaError, which says what to do, unless this program can work with the outbox."""
    state = await schema_state(connection, schema)
    if not state.version:
        raise SchemaError(
            f"there is no outbox in the schema {schema} of this database; run `relay migrate`, "
            "or set RELAY_POSTGRES_SCHEMA if it has another name"
        )
    if state.pending:
        raise SchemaError(
            f"the outbox in the schema {schema} is at version {state.version} and this program needs "
            f"version {state.pending[-1].version}; run `relay migrate`"
        )


async def schema_state(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> SchemaState:
    """What was applied and what is pending.

    A schema that is newer than this program is fine if every migration that it does not know declares that programs
    of its version still work: in a rolling upgrade the old replicas run on the new schema. Raises SchemaError if one
    does not, if the server is too old, or if what was applied is not what this program knows under that number.
    """
    known = migrations(schema)
    with translated():
        usable_name, server = await connection.fetchrow(query("usable_name", schema))
        if server < OLDEST_SERVER:
            raise SchemaError(f"the server is PostgreSQL {server // 10_000}; the outbox needs 13 or later")
        if not usable_name:
            raise SettingsError(
                f"the schema name {schema!r} is a reserved word of SQL; choose another for RELAY_POSTGRES_SCHEMA"
            )
    # Before anything in the schema is read: a view would run its owner's functions with our rights.
    found = await check_owners(connection, schema, refused_to_use)
    listed = any(each.name == f"{schema}.migration" for each in found)
    with translated():
        rows = await connection.fetch(query("applied_migrations", schema)) if listed else []
    applied = {row["version"]: row for row in rows}
    newest = max(applied, default=0)
    ours = known[-1].version
    needed = max((row["compatible_from"] for row in rows if row["version"] > ours), default=0)
    if needed > ours:
        raise SchemaError(
            f"the outbox in the schema {schema} is at version {newest} and needs a program that knows version "
            f"{needed} or later; this program knows version {ours}; install a newer outbox-relay"
        )
    for migration in known[:newest]:
        _check_applied(migration, applied.get(migration.version))
    return SchemaState(newest, known[newest:])


async def check_row_security(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> None:
    """Raise SchemaError if row level security would hide rows of the outbox from this role.

    What it does not see it would take for settled.
    """
    with translated():
        tables = [row["name"] for row in await connection.fetch(query("row_security_applies", schema))]
        role = await connection.fetchval(query("current_role"))
    if tables:
        raise SchemaError(
            f"row level security applies to the role {role} on {', '.join(tables)}, and events that it hides would be "
            f"lost; run ALTER ROLE {role} BYPASSRLS, or ALTER TABLE {tables[0]} DISABLE ROW LEVEL SECURITY for each "
            "of these tables"
        )


def _check_applied(migration: Migration, row: asyncpg.Record | None) -> None:
    label = f"{migration.version:04} {migration.name}"
    if row is None:
        raise SchemaError(
            f"migration {label} is missing from the list of applied migrations, although a later one is in it; "
            "restore the table `migration` of the outbox"
        )
    if row["checksum"] != migration.checksum:
        raise SchemaError(
            f"migration {label} was applied with a different text than this program has (checksum "
            f"{row['checksum'][:12]}, not {migration.checksum[:12]}); use the release that created the outbox, "
            "or compare the two texts and correct the outbox by hand"
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
            f"{'CYCLE' if state['cycle'] else 'NO CYCLE'}, and so gives ids out of order; "
            f"run ALTER SEQUENCE {name} INCREMENT BY 1 CACHE 1 NO CYCLE"
        )
    highest = max(state["highest_id"], state["highest_position"])
    if state["reached"] < highest:
        raise SchemaError(
            f"the sequence {name} is at {state['reached']}, behind id {highest}, which is already in use; "
            f"stop the writers and run SELECT setval('{name}', {highest})"
        )
