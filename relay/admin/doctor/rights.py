"""Judges the privileges of the roles: each one that is missing, with the statement that grants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.admin.counts import counted
from relay.admin.doctor.check import Check, State
from relay.postgres.admin.rights import Grant, granted, roles_seen, statements, ungranted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import asyncpg

    from relay.postgres.admin.rights import Login

MOST_STATEMENTS = 10
"""Missing privileges of a role that are shown one by one; the script of the roles grants more at once."""

_WITHOUT: dict[str, tuple[State, str]] = {
    "relay": ("problem", "`relay run` fails where it needs this"),
    "writer": ("problem", "services fail where they need this to enqueue"),
    "admin": ("warning", "commands of people fail where they need this"),
}


async def of_rights(connection: asyncpg.Connection, schema: str, login: Login) -> AsyncIterator[Check]:
    """Look at the three roles, and at the role that connected if that is none of the relay's."""
    seen = await roles_seen(connection, schema)
    if not login.usable:
        # Without it nobody can name what is in the schema, and ask about it.
        ours = next((role for role in (f"{schema}_relay", f"{schema}_admin") if seen.get(role)), login.role)
        yield _missing_one(f"GRANT USAGE ON SCHEMA {schema} TO {ours}", "relay", ours)
        return
    for kind in _WITHOUT:
        role = f"{schema}_{kind}"
        if role not in seen:
            continue
        expected = granted(role, schema)
        missing = await ungranted(connection, schema, role, expected)
        # Roles are the cluster's, and migrations grant some of this to all that there are: another outbox may use it.
        enters = Grant("SCHEMA", "USAGE", schema) not in missing
        used = enters or len(missing) == 1 or (seen[role] and not login.unbound)
        for check in of_role(role, kind, missing) if used else ():
            yield check
    relay = f"{schema}_relay"
    if login.unbound or seen.get(relay):
        return
    if missing := await ungranted(connection, schema, login.role, granted(relay, schema)):
        first = "" if relay in seen else "`relay migrate --roles`, then "
        yield Check(
            "postgres",
            "warning",
            f"the role {login.role} has not the rights of the relay",
            f"`relay run` cannot work as this role: it lacks {counted(len(missing), 'privilege')}",
            f"as an administrator, run {first}GRANT {relay} TO {login.role} (unless this is a role for people)",
        )


def of_role(role: str, kind: str, missing: list[Grant]) -> Iterator[Check]:
    """Judge one of the three roles, `relay`, `writer` or `admin`, by what it lacks."""
    single = statements(missing, role)
    if len(single) <= MOST_STATEMENTS:
        yield from (_missing_one(statement, kind, role) for statement in single)
        return
    state, means = _WITHOUT[kind]
    yield Check(
        "postgres",
        state,
        f"the role {role} lacks {counted(len(missing), 'privilege')}",
        means,
        "as the owner of the outbox, run `relay migrate --roles`",
    )


def _missing_one(statement: str, kind: str, role: str) -> Check:
    state, means = _WITHOUT[kind]
    what = statement.removeprefix("GRANT ").rpartition(" TO ")[0]
    return Check(
        "postgres",
        state,
        f"the role {role} lacks {what}",
        means,
        f"as the owner of the outbox, run {statement}",
    )
