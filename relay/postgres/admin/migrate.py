"""Applies the migrations in `sql/migrations`, one transaction each, one program at a time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from asyncpg.exceptions import (
    DuplicateSchemaError,
    InsufficientPrivilegeError,
    InvalidParameterValueError,
    LockNotAvailableError,
    ObjectInUseError,
    UndefinedObjectError,
    UniqueViolationError,
)

from relay.errors import HeldUpError, SchemaError
from relay.postgres.checks import schema_state
from relay.postgres.errors import PrivilegeError, translated
from relay.postgres.locks import Holder, held_up, holders, tables_of
from relay.postgres.owners import check_in_sql, check_owners, refused_to_look
from relay.postgres.sessions import as_text, secure_transaction
from relay.postgres.sql import DEFAULT_SCHEMA, query, roles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
    from typing import TypeVar

    import asyncpg

    from relay.postgres.sql import Migration

    Result = TypeVar("Result")

LOCK_ATTEMPTS = 60
LOCK_PAUSE = 0.5
"""Seconds between attempts to lock the table of events, in which waiting writers proceed."""


async def migrate(
    connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA, owner: str | None = None
) -> list[Migration]:
    """Apply the pending migrations and return them. Safe to run again, and by several programs at the same time.

    With an `owner`, that role makes everything and owns it. Nothing is pending in a newer schema that this program can
    work with. Raises SchemaError if it cannot, if what was applied is not what it knows (see `schema_state`), or if the
    schema or something in it belongs to somebody else. Raises HeldUpError if others keep it locked for too long, or if
    replicas are running that cannot work with the result.
    """
    applied: list[Migration] = []
    what = f"a migration of the schema {schema}"

    async def patiently(work: Callable[..., Awaitable[Result]]) -> Result:
        return await in_small_steps(partial(work, connection, schema, owner), what, connection, schema)

    # Without the lock: those who may only read can be told that nothing is pending.
    if not await patiently(_pending):
        return applied
    await patiently(_make_schema)
    while (migration := await patiently(_apply_next)) is not None:
        applied.append(migration)
    return applied


async def in_small_steps(
    work: Callable[[], Awaitable[Result]],
    what: str,
    connection: asyncpg.Connection,
    schema: str,
    tables: Sequence[str] | None = None,
) -> Result:
    """Run `work`, which gives up after a short wait for a lock, so that writers do not queue up behind it.

    Tried for half a minute or more; then HeldUpError names who held the lock: on `tables`, or on the outbox.
    """
    for attempt in range(LOCK_ATTEMPTS):
        if attempt:
            await asyncio.sleep(LOCK_PAUSE)
        with suppress(LockNotAvailableError):
            return await work()
    with translated():
        async with transaction_as(connection, None):
            if tables is not None:
                raise held_up(what, await holders(connection, tables))
            of_schema = [Holder(**row) for row in await connection.fetch(query("schema_holders", schema))]
            raise held_up(what, of_schema + await holders(connection, tables_of(schema)))


async def _pending(connection: asyncpg.Connection, schema: str, owner: str | None) -> bool:
    with translated():
        async with transaction_as(connection, owner):
            await connection.execute(query("lock_patience"))
            await check_owners(connection, schema, refused_to_look)
            return bool((await schema_state(connection, schema)).pending)


async def _make_schema(connection: asyncpg.Connection, schema: str, owner: str | None) -> None:
    with translated(), suppress(DuplicateSchemaError, UniqueViolationError):
        async with transaction_as(connection, None):
            await connection.execute(query("lock_patience"))
            await connection.execute(query("intended_owner"), owner or "")
            await connection.execute(query("create_schema", schema))


async def _apply_next(connection: asyncpg.Connection, schema: str, owner: str | None) -> Migration | None:
    """Apply the first pending migration, with everything that decides it read under the lock.

    The lock belongs to the transaction and not to the session, so that a pooler in between does no harm.
    """
    with translated():
        async with transaction_as(connection, owner):
            await connection.execute(query("lock_patience"))
            await check_owners(connection, schema)
            await connection.execute(query("migration_lock", schema))
            # Again: what was not there before may be somebody else's by now.
            await check_owners(connection, schema)
            for migration in (await schema_state(connection, schema)).pending:
                try:
                    await connection.execute(migration.sql)
                except ObjectInUseError as error:
                    reason, hint = error.args[0], getattr(error, "hint", None)
                    if hint is None:
                        raise
                    raise HeldUpError(f"{reason}; {hint}", cause=str(reason)) from error
                await connection.execute(
                    query("record_migration", schema),
                    migration.version,
                    migration.name,
                    migration.checksum,
                    migration.compatible_from,
                )
                return migration
    return None


@asynccontextmanager
async def transaction_as(connection: asyncpg.Connection, owner: str | None) -> AsyncIterator[None]:
    """Begin a transaction as the role `owner`, or as the one that connected.

    Raises SchemaError if there is no such role, PrivilegeError if the one that connected may not act as it.
    """
    async with connection.transaction(isolation="read_committed"):
        await secure_transaction(connection)
        if owner is not None:
            ours = await connection.fetchval(query("current_role"))
            try:
                await connection.execute(query("act_as"), owner)
            except InsufficientPrivilegeError as error:
                raise PrivilegeError(
                    f"the role {ours} cannot act as {owner}, because it is not a member of that role; as an "
                    f"administrator, run GRANT {owner} TO {ours}, or connect as {owner}"
                ) from error
            except (InvalidParameterValueError, UndefinedObjectError) as error:
                raise SchemaError(
                    f"the role {owner} does not exist; create it, or name another one with `--owner`"
                ) from error
        yield


async def make_roles(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA, owner: str | None = None) -> None:
    """Create the roles for writers, relay and people if they are missing, and grant them what they need.

    That takes CREATEROLE, so it is not done as the `owner`, but the outbox must be that one's or our own.
    """
    with translated():
        async with transaction_as(connection, owner):
            await check_owners(connection, schema)
        async with transaction_as(connection, None):
            await _check_roles(connection, schema)
            await connection.execute(roles(schema))


async def _check_roles(connection: asyncpg.Connection, schema: str) -> None:
    """Raise SchemaError if a role that is to be given rights is in the hands of somebody else.

    One that has rights on the schema was given them by who owns it.
    """
    names = [f"{schema}_{kind}" for kind in ("writer", "relay", "admin")]
    for row in await connection.fetch(query("roles_of_others", schema), names):
        whose = f"is in the hands of {row['names']}" if row["names"] else "can log in"
        raise SchemaError(
            f"the role {row['role']} existed before and {whose}; drop it, or, if this is intended, "
            f"run GRANT USAGE ON SCHEMA {schema} TO {row['role']} first"
        )


async def max_event_bytes(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> int:
    """Read the limit on an event's size: bytes of key, payload, headers and type together.

    Raises SchemaError if somebody has dropped it.
    """
    limit = await _max_event_bytes(connection, schema)
    if limit is None:
        raise SchemaError(
            f"the CHECK constraint event_size of the table {schema}.event is missing, so events of any size are taken; "
            "restore it: `relay migrate --max-event-bytes 1000000`"
        )
    return limit


async def _max_event_bytes(connection: asyncpg.Connection, schema: str) -> int | None:
    with translated():
        limit = await connection.fetchval(query("max_event_bytes", schema))
    return None if limit is None else int(limit)


async def set_max_event_bytes(
    connection: asyncpg.Connection, limit: int, schema: str = DEFAULT_SCHEMA, owner: str | None = None
) -> bool:
    """Change the limit for new events; returns whether it was another one before, or none.

    The tables are locked for an instant. Raises HeldUpError when that did not work out for half a minute.
    """
    with translated():
        async with transaction_as(connection, owner):
            await check_owners(connection, schema)
            before = await _max_event_bytes(connection, schema)
            if limit == before:
                return False

    async def change() -> None:
        with translated():
            async with transaction_as(connection, owner):
                if before is None:
                    await connection.execute(query("event_size_stand_in", schema))
                await connection.execute(query("set_max_event_bytes", schema), limit)

    await in_small_steps(change, "the change of the event size limit", connection, schema)
    return True


def script(migrations: Iterable[Migration], schema: str = DEFAULT_SCHEMA) -> str:
    """Return the migrations as SQL text for another tool to run, each with the statement that records it.

    The text checks who owns the schema before and after each: an object that was not there at first may be of somebody
    else.
    """
    check = check_in_sql(schema)
    return "\n".join(
        f"BEGIN;\n{as_text()}\n{check}\n{migration.sql}\n{_record(migration, schema)}\n{check}\nCOMMIT;\n"
        for migration in migrations
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
