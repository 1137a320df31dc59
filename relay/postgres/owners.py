"""Checks who owns the schema and the objects in it: an owner can replace them, and have others run any code."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from relay.errors import SchemaError
from relay.postgres.errors import translated
from relay.postgres.sql import DEFAULT_SCHEMA, migrations, query

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import asyncpg

_MADE = re.compile(
    r"^\s*(?:CREATE (?:OR REPLACE )?(?:TABLE|VIEW|SEQUENCE|FUNCTION) outbox\.|ALTER TABLE outbox\.\w+ RENAME TO )(\w+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Owned:
    """The schema, or something of the outbox in it."""

    kind: str
    name: str
    owner: str
    ours: bool
    """Its owner is the current role or the one that logged in, or one of them was made a member of it."""
    below_us: bool
    """We are a superuser or the owner of the database, and its owner is less than that."""
    above_us: bool
    """Its owner is a superuser or the owner of the database, and we are no more than that."""
    of_the_schemas: bool
    """Its owner is the schema's, or one of the two was made a member of the other."""
    open: bool
    """Everybody may create things in it."""


@cache
def names() -> tuple[str, ...]:
    """Return the names of the objects that the migrations make or rename, former ones too, partitions aside."""
    return tuple(sorted({name for migration in migrations() for name in _MADE.findall(migration.sql)}))


async def check_owners(
    connection: asyncpg.Connection,
    schema: str = DEFAULT_SCHEMA,
    refused: Callable[[Sequence[Owned], str], str | None] | None = None,
) -> list[Owned]:
    """Raise SchemaError if the schema or something of the outbox in it belongs to somebody who is not meant.

    Reads only PostgreSQL's own catalogs, and has to come before anything in the schema is used. `refused` is one of the
    functions below and says what the caller is going to do there: change things, unless given. Returns the objects that
    are there: the caller must use these alone, because another one may appear at any moment.
    """
    with translated():
        found = [Owned(**row) for row in await connection.fetch(query("owned", schema), names())]
    reason = (refused or refused_to_change)(found, schema)
    if reason is not None:
        raise SchemaError(reason)
    return found


def check_in_sql(schema: str = DEFAULT_SCHEMA) -> str:
    """Return the checks of `check_owners` before a change, for a script that another tool runs."""
    listed = ", ".join(f"'{name}'" for name in names())
    owned = query("owned", schema).replace("$1::text[]", f"ARRAY[{listed}]").removesuffix(";")
    return f"""DO $check$
DECLARE
    thing record;
BEGIN
    FOR thing IN
{owned}
    LOOP
        IF thing.open THEN
            RAISE EXCEPTION 'every role may create objects in the schema %', thing.name;
        END IF;
        IF NOT thing.ours THEN
            RAISE EXCEPTION 'the % % belongs to %, who could change or drop it; if this is intended, SET ROLE to it',
                thing.kind, thing.name, thing.owner;
        END IF;
    END LOOP;
END
$check$;"""


def refused_to_change(found: Sequence[Owned], schema: str) -> str | None:
    """Say why nothing is made in the schema, if so; `found` begins with the schema.

    To be a superuser is not to be meant: a superuser may act as everybody.
    """
    for each in found:
        if each.open:
            return (
                f"every role may create objects in the schema {schema}; "
                f"run REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC, or choose another for RELAY_POSTGRES_SCHEMA"
            )
        if not each.ours:
            return (
                f"the {each.kind} {each.name} belongs to {each.owner}, who could change or drop it; if this is "
                f"intended, run `relay migrate --owner {each.owner}`; if not, drop it or set RELAY_POSTGRES_SCHEMA"
            )
    return None


def refused_to_look(found: Sequence[Owned], schema: str) -> str | None:
    """Say why a command that wants to change the schema does not even read what is in it, if so.

    Looking may run its owner's functions with our rights, and not only a superuser has rights to lose.
    """
    return refused_to_change([replace(each, open=False) for each in found if not each.above_us], schema)


def refused_to_use(found: Sequence[Owned], schema: str) -> str | None:
    """Say why the objects in the schema are not used, if so; `found` begins with the schema."""
    for each in found:
        if not each.of_the_schemas:
            return (
                f"the {each.kind} {each.name} belongs to {each.owner}, and the schema {schema} to {found[0].owner}, "
                "who could drop it; give both to one role (ALTER ... OWNER TO), or make one role a member of the other"
            )
        if each.below_us and not each.ours:
            return (
                f"the {each.kind} {each.name} belongs to {each.owner}, whose functions would run with the rights "
                f"of this connection, which exceed that owner's; connect as {each.owner} or as a role of `relay "
                f"migrate --roles`, or, if you trust that owner, run GRANT {each.owner} TO the role that connects"
            )
    return None
