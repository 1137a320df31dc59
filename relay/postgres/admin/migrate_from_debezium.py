"""Takes over from Debezium: lets the rows of an application's outbox table become events, as its event router would.

A trigger carries each row over in the transaction that inserts it. What Debezium's router does is said in the words of
its documentation; `relay/admin/connector.py` reads them from a connector's configuration.
"""

from __future__ import annotations

import json
import re
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from asyncpg.exceptions import (
    FeatureNotSupportedError,
    InsufficientPrivilegeError,
    InvalidNameError,
    InvalidParameterValueError,
    SyntaxOrAccessError,
)

from relay.errors import RefusedError, SchemaError
from relay.postgres.admin.event_router import Table, identifier, values_of
from relay.postgres.admin.migrate import in_small_steps, transaction_as
from relay.postgres.checks import schema_state
from relay.postgres.errors import PrivilegeError, translated
from relay.postgres.owners import check_owners, refused_to_use
from relay.postgres.sql import DEFAULT_SCHEMA, query
from relay.text import one_line, plain

if TYPE_CHECKING:
    import asyncpg

    from relay.postgres.admin.event_router import EventRouter

LONGEST_NAME = 63
"""Bytes of an identifier, by PostgreSQL's rule."""


class Adopted(NamedTuple):
    """A table whose rows are events from now on."""

    table: str
    granted: list[str]
    """Roles, quoted, that were given the right to enqueue."""
    position: str
    """Debezium still has to read what lies before it in the write-ahead log."""


async def adoption_script(
    connection: asyncpg.Connection, name: str, router: EventRouter, schema: str = DEFAULT_SCHEMA
) -> str:
    """Return the SQL that lets rows of the table become events, for a person to read and run.

    Raises SchemaError if the outbox is not up to date, RefusedError if the table cannot be taken over, and says why.
    """
    with translated():
        async with transaction_as(connection, None):
            await check_owners(connection, schema, refused_to_use)
            table = await _look_at(connection, name, schema)
            writers = await _writers(connection, table, schema)
    # A note may have a word of the configuration's: on one line it is no statement.
    notes = "".join(f"-- {one_line(note)}\n" for note in router.notes)
    return (
        f"{notes}BEGIN;\n"
        f"{_plain_statement(query('safe_search_path_of_transaction'))}\n{_plain_statement(query('lock_patience'))}\n"
        f"{_statements(table, writers, router, schema)}\nCOMMIT;\n"
        "-- Debezium has to read the write-ahead log up to here before the relay begins:\n"
        f"{_plain_statement(query('wal_position'))}\n"
    )


async def adopt(
    connection: asyncpg.Connection,
    name: str,
    router: EventRouter,
    *,
    schema: str = DEFAULT_SCHEMA,
    owner: str | None = None,
) -> Adopted:
    """Let rows of the table that are inserted from now on become events.

    Raises as `adoption_script`, RefusedError if a replica of the relay runs, PrivilegeError if the role may not make
    the trigger, and HeldUpError if transactions that write into the table leave no gap for half a minute.
    """
    with translated():
        async with transaction_as(connection, owner):
            await check_owners(connection, schema)
            table = await _look_at(connection, name, schema)
    work = partial(_adopt, connection, name, router, schema, owner)
    granted = await in_small_steps(work, f"the trigger on {table.quoted}", connection, schema, [table.quoted])
    with translated():
        position: str = await connection.fetchval(query("wal_position"))
    return Adopted(table.quoted, granted, position)


async def _adopt(
    connection: asyncpg.Connection, name: str, router: EventRouter, schema: str, owner: str | None
) -> list[str]:
    with translated():
        async with transaction_as(connection, owner):
            await connection.execute(query("lock_patience"))
            await check_owners(connection, schema)
            table = await _look_at(connection, name, schema)
            if not table.may_trigger:
                raise PrivilegeError(
                    f"the role {table.role} may not make triggers on {table.quoted}; as {table.owner}, who owns it, "
                    f"run GRANT TRIGGER ON {table.quoted} TO {table.role}"
                )
            if not table.adopted:
                await _check_that_none_runs(connection, table, schema)
            writers = await _writers(connection, table, schema)
            await connection.execute(_statements(table, writers, router, schema))
            return writers


async def _check_that_none_runs(connection: asyncpg.Connection, table: Table, schema: str) -> None:
    """Raise RefusedError if new events would be published at once: what Debezium has not sent yet must come first."""
    if running := [plain(row["name"]) for row in await connection.fetch(query("debezium_replicas", schema))]:
        raise RefusedError(
            f"the relay runs ({', '.join(running)}), and would publish new rows of {table.quoted} before those that "
            "Debezium has not sent yet; stop it, and start it again when Debezium has read up to where it has to"
        )


async def _look_at(connection: asyncpg.Connection, name: str, schema: str) -> Table:
    """Read what the table is. Raises RefusedError if it is none that could be taken over."""
    if (await schema_state(connection, schema)).pending:
        raise SchemaError(f"the outbox in the schema {schema} is missing or not up to date; run `relay migrate` first")
    try:
        async with connection.transaction():
            row = await connection.fetchrow(query("debezium_table"), name)
    except InsufficientPrivilegeError:
        raise
    except (FeatureNotSupportedError, InvalidNameError, InvalidParameterValueError, SyntaxOrAccessError) as error:
        raise RefusedError(f"{name} is not the name of a table: write schema.table, {_QUOTES}") from error
    if row is None:
        raise RefusedError(
            f"there is no table {name} in this database; write schema.table, as in Debezium's table.include.list, "
            f"{_QUOTES}"
        )
    table = Table(**{**row, "columns": json.loads(row["columns"] or "{}")})
    if reason := _refusal(table, schema):
        raise RefusedError(reason)
    return table


_QUOTES = "with double quotes around names that have capitals or other characters"


def _refusal(table: Table, schema: str) -> str | None:
    if table.schema == schema:
        return f"{table.quoted} is a table of the relay's own; name the one that Debezium reads"
    if table.kind not in ("r", "p"):
        return f"{table.quoted} is not a table"
    if table.parent is not None:
        return f"{table.quoted} is a part of {table.parent}, which has other rows as well; name that table"
    if table.has_children:
        return f"other tables inherit from {table.quoted}, and a trigger does not see their rows; name each of them"
    if table.persistence == "t":
        return f"{table.quoted} is a temporary table"
    if unreadable := [name for name in (table.quoted, *table.columns) if plain(name) != name]:
        return f"the name {plain(unreadable[0])} has characters that nobody can see; rename it first"
    return None


async def _writers(connection: asyncpg.Connection, table: Table, schema: str) -> list[str]:
    """The roles that insert into the table and need the right to enqueue: without it their inserts would fail."""
    rows = await connection.fetch(query("debezium_writers", schema), table.oid)
    roles: list[str | None] = [row["role"] for row in rows]
    if None in roles:
        raise RefusedError(
            f"every role may insert into {table.quoted}, and each would need the right to enqueue; name who inserts: "
            f"run REVOKE INSERT ON {table.quoted} FROM PUBLIC, and GRANT INSERT ON {table.quoted} TO those roles"
        )
    return [role for role in roles if role is not None]


def _statements(table: Table, writers: list[str], router: EventRouter, schema: str) -> str:
    # After the schema's name was written: words of the application's are not to be taken for it.
    script = _plain_statement(query("debezium_adopt", schema))
    grants = _plain_statement(query("debezium_grant", schema))
    values = values_of(table, router)
    body = "".join(values.values())
    tag = next(tag for tag in _tags() if tag not in body)
    words = {**values, "function": _function(table), "table": table.quoted, "tag": tag}
    script = re.sub(r"<(\w+)>", lambda word: words[word[1]], script)
    return "\n".join([*(grants.replace("<role>", role) for role in writers), script])


def _tags() -> list[str]:
    """Quotes of dollars for the body, of which one is not in it."""
    return ["$row$", *(f"$row{number}$" for number in range(10_000))]


def _plain_statement(text: str) -> str:
    """A statement without the line that says what it is for."""
    return re.sub(r"\A(--[^\n]*\n)+", "", text)


def _function(table: Table) -> str:
    """The function's name, which says whose rows it carries over."""
    name = f"from_{table.schema}.{table.name}"
    if len(name.encode()) > LONGEST_NAME:
        digest = sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[: LONGEST_NAME - 9].decode(errors='ignore')}_{digest}"
    return identifier(name)
