"""How people's commands read: each statement in a transaction of its own, with an end to what takes too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from asyncpg.exceptions import LockNotAvailableError, QueryCanceledError

from relay.errors import BusyError
from relay.postgres.errors import translated
from relay.postgres.sql import query

if TYPE_CHECKING:
    import asyncpg


async def read_in_time(
    connection: asyncpg.Connection, schema: str, name: str, *arguments: object, limits: str = "status_session"
) -> list[asyncpg.Record] | None:
    """Run the statement `name` with the plans of a queue; None if it took longer than `limits` lets it.

    That may be because it is slow, or because others lock what it reads.
    """
    with translated():
        try:
            async with connection.transaction(readonly=True):
                await connection.execute(query(limits, schema))
                return cast("list[asyncpg.Record]", await connection.fetch(query(name, schema), *arguments))
        except (QueryCanceledError, LockNotAvailableError):
            return None


async def read(connection: asyncpg.Connection, schema: str, name: str, *arguments: object) -> list[asyncpg.Record]:
    """Run the statement `name` as `read_in_time` does. Raises BusyError if it took too long."""
    rows = await read_in_time(connection, schema, name, *arguments)
    if rows is None:
        raise BusyError("PostgreSQL took too long to answer; nothing was changed, see `relay status` and try again")
    return rows


def like(pattern: str) -> str:
    """Return the LIKE pattern that matches the same texts as `pattern`, in which `*` stands for any characters."""
    for special in "\\%_":
        pattern = pattern.replace(special, f"\\{special}")
    return pattern.replace("*", "%")
