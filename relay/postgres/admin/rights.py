"""What sql/roles.sql grants, and which of it is missing in an outbox."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from relay.postgres.admin.reads import read
from relay.postgres.sql import roles

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import asyncpg

_GRANT = re.compile(r"GRANT (.+?) ON (.+) TO (.+)")
_PRIVILEGE = re.compile(r"(\w+)(?: \(([^)]*)\))?")
_FUNCTION = re.compile(r"[\w.]+\([^)]*\)")


class Grant(NamedTuple):
    """One privilege on one object, or on one column of it."""

    kind: str
    """SCHEMA, SEQUENCE, FUNCTION, TABLE, COLUMN, or ALL TABLES."""
    privilege: str
    target: str
    column: str = ""


class Login(NamedTuple):
    """The role that connected."""

    role: str
    unbound: bool
    """Whether it owns the outbox or is a superuser, and needs no grant."""
    usable: bool
    """Whether it may use the schema; without that it cannot name what is in it."""


def granted(role: str, schema: str) -> list[Grant]:
    """Return what sql/roles.sql grants to a role such as `outbox_relay`, one privilege and object each."""
    text = re.sub(r"--[^\n]*", "", roles(schema))
    found = (_GRANT.fullmatch(" ".join(statement.split())) for statement in text.split(";"))
    return [
        grant
        for match in found
        if match is not None and role in match[3].split(", ")
        for grant in _of_statement(match[1], match[2])
    ]


def _of_statement(what: str, on: str) -> Iterator[Grant]:
    kind, targets = _targets(on)
    for privilege, columns in _PRIVILEGE.findall(what):
        for target in targets:
            if columns:
                yield from (Grant("COLUMN", privilege, target, column) for column in columns.split(", "))
            else:
                yield Grant(kind, privilege, target)


def _targets(on: str) -> tuple[str, list[str]]:
    if on.startswith("ALL TABLES IN SCHEMA "):
        return "ALL TABLES", [on.rpartition(" ")[2]]
    for kind in ("SCHEMA", "SEQUENCE"):
        if on.startswith(f"{kind} "):
            return kind, [on.removeprefix(f"{kind} ")]
    if on.startswith("FUNCTION "):
        return "FUNCTION", _FUNCTION.findall(on)
    return "TABLE", on.split(", ")


def statements(missing: Iterable[Grant], role: str) -> list[str]:
    """Return the statement for each missing privilege; the columns of a table are granted together."""
    columns: dict[tuple[str, str], list[str]] = {}
    made: dict[tuple[str, ...], str] = {}
    for kind, privilege, target, column in missing:
        if kind == "COLUMN":
            columns.setdefault((privilege, target), []).append(column)
            made[privilege, target] = (
                f"GRANT {privilege} ({', '.join(columns[privilege, target])}) ON {target} TO {role}"
            )
        else:
            on = target if kind == "TABLE" else f"{kind} {target}"
            made[kind, privilege, target] = f"GRANT {privilege} ON {on} TO {role}"
    return list(made.values())


async def read_login(connection: asyncpg.Connection, schema: str) -> Login | None:
    """Read who we are; None if there is no such schema."""
    rows = await read(connection, schema, "doctor_login")
    return Login(**rows[0]) if rows else None


async def roles_seen(connection: asyncpg.Connection, schema: str) -> dict[str, bool]:
    """Read which of the three roles there are, each with whether the role that connected has its rights."""
    names = [f"{schema}_{each}" for each in ("relay", "writer", "admin")]
    return {row["role"]: row["ours"] for row in await read(connection, schema, "doctor_roles", names)}


async def ungranted(connection: asyncpg.Connection, schema: str, role: str, grants: list[Grant]) -> list[Grant]:
    """Return those of the grants that the role does not have, be it by another role or by everybody's rights."""
    kinds, privileges, targets, columns = (list(each) for each in zip(*grants, strict=True))
    rows = await read(connection, schema, "doctor_ungranted", role, kinds, privileges, targets, columns)
    found: list[Grant] = []
    for number, target in rows:
        grant = grants[number - 1]
        if grant.kind == "ALL TABLES":
            grant = Grant("TABLE", grant.privilege, target)
        # A table that is granted as one of all and by name is missing once.
        if grant not in found:
            found.append(grant)
    return found
