"""Who owns the schema and what is in it: whoever does can replace it, and have others run what they like."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from relay.errors import SchemaError
from relay.postgres.errors import translated
from relay.postgres.sql import DEFAULT_SCHEMA, migrations, query

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

_MADE = re.compile(r"^\s*CREATE (?:OR REPLACE )?(?:TABLE|VIEW|SEQUENCE|FUNCTION) outbox\.(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Owned:
    """The schema, or something of the outbox in it."""

    kind: str
    name: str
    owner: str
    ours: bool
    """Its owner is the current role or the one that logged in, or one of them was made a member of it."""
    below_us: bool
    """We are a superuser and its owner is none."""
    of_the_schemas: bool
    """Its owner is the schema's, or one of the two was made a member of the other."""
    open: bool
    """Everybody may create things in it."""


@cache
def names() -> tuple[str, ...]:
    """What the migrations make, partitions aside."""
    return tuple(sorted({name for migration in migrations() for name in _MADE.findall(migration.sql)}))


async def check_owners(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA, *, to_change: bool = True) -> None:
    """Raise SchemaError if the schema or something of the outbox in it belongs to somebody who is not meant.

    Reads nothing but PostgreSQL's own catalogs, and comes before anything that is in the schema. `to_change`: we make
    or change something there; otherwise we only use it.
    """
    with translated():
        found = [Owned(**row) for row in await connection.fetch(query("owned", schema), names())]
    reason = refused_to_change(found, schema) if to_change else refused_to_use(found, schema)
    if reason is not None:
        raise SchemaError(reason)


def refused_to_change(found: Sequence[Owned], schema: str) -> str | None:
    """Why nothing is made in the schema; the schema comes first.

    To be a superuser is not to be meant: a superuser may act as everybody.
    """
    for each in found:
        if each.open:
            return (
                f"everybody may create things in the schema {schema}; "
                f"run REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC, or choose another for RELAY_POSTGRES_SCHEMA"
            )
        if not each.ours:
            return (
                f"the {each.kind} {each.name} belongs to {each.owner}, who could change or drop it; if that is meant, "
                f"run `relay migrate --owner {each.owner}`, and if not, drop it or set RELAY_POSTGRES_SCHEMA"
            )
    return None


def refused_to_use(found: Sequence[Owned], schema: str) -> str | None:
    """Why what is in the schema is not used; the schema comes first."""
    for each in found:
        if not each.of_the_schemas:
            return (
                f"the {each.kind} {each.name} belongs to {each.owner}, and the schema {schema} to {found[0].owner}, "
                "who could drop it; give both to one role (ALTER ... OWNER TO), or make one a member of the other"
            )
        if each.below_us and not each.ours:
            return (
                f"the {each.kind} {each.name} belongs to {each.owner}, whose functions would run with the rights of a "
                f"superuser; connect as {each.owner} or a role of `relay migrate --roles`, or, if you trust it, run "
                f"GRANT {each.owner} TO the role that connects"
            )
    return None
