"""What a server, a database or a role was set to, and the limits of its connections, for `relay doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from relay.postgres.admin.reads import read

if TYPE_CHECKING:
    from collections.abc import Collection

    import asyncpg


class Configured(NamedTuple):
    """A setting, and where it was made."""

    database: str | None
    """The database that it holds in; None for all of them."""
    role: str | None
    """The role that it holds for; None for all of them."""
    name: str
    value: str
    ours: bool
    """Whether it holds for the role that connected."""
    writers: bool
    """Whether it holds for a role that may write events."""


class Limits(NamedTuple):
    """How many connections there may be."""

    usable: int
    """Connections that roles without special rights may have."""
    in_use: int
    role: str
    role_limit: int
    """-1: none."""
    database: str
    database_limit: int
    """-1: none."""
    valid_seconds: float | None
    """How long the role's password is still taken; None if without end."""
    replicas: int
    """Number of replicas that are alive."""


async def read_configured(
    connection: asyncpg.Connection, schema: str, names: Collection[str]
) -> tuple[list[Configured], list[tuple[str, str]]]:
    """Read what the settings `names` were set to for roles and databases, and as pairs (name, value) for the server."""
    asked = list(names)
    found = [Configured(**row) for row in await read(connection, schema, "doctor_set", asked)]
    return found, [(row["name"], row["value"]) for row in await read(connection, schema, "doctor_server_set", asked)]


async def read_limits(connection: asyncpg.Connection, schema: str, *, outbox: bool) -> Limits:
    """Read the limits, and of the outbox how many replicas are alive: none if there is no `outbox`."""
    (row,) = await read(connection, schema, "doctor_limits")
    replicas = (await read(connection, schema, "doctor_replicas"))[0]["replicas"] if outbox else 0
    return Limits(**row, replicas=replicas)
