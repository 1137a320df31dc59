"""Reads what `relay doctor` judges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from relay.postgres.admin.reads import read, read_in_time

if TYPE_CHECKING:
    import asyncpg

OLD = 300.0
"""Seconds after which a transaction is old: no segment is made or dropped, and nothing is vacuumed, while it lasts."""

UNCOMMITTED = 60.0
"""Seconds after which a transaction is old that has written events: they wait, and the scan cannot pass them."""

SHOWN = 5
"""Number of old transactions that are named."""

NEWEST = 50
"""Number of events of each lane whose topics are looked at."""

OLDEST = 50
"""Number of waiting events of each lane whose ages are looked at, the oldest first."""


@dataclass(frozen=True, slots=True)
class Server:
    """The server, as our session sees it."""

    version: str
    encrypted: bool
    far: bool
    """Whether the server is on another machine."""
    clock: float
    """Its time, in seconds since 1970."""
    autovacuum: bool
    sees_others: bool
    """Whether we may see when transactions of other roles began."""
    role: str


class Starved(NamedTuple):
    """A table with many dead rows that nothing was vacuumed of for long."""

    name: str
    dead: int
    """Number of dead rows."""
    seconds: float
    """Since the last vacuum, or since the server started."""


@dataclass(frozen=True, slots=True)
class OldTransaction:
    """A transaction of somebody else that has been open for long."""

    pid: int | None
    gid: str | None
    """The name of a prepared transaction, which has no session."""
    role: str | None
    application: str
    state: str | None
    seconds: float
    query: str | None
    took_ids: bool
    """Whether it has written events, or at least taken their ids: the scan waits for it to be certain of those."""


async def read_server(connection: asyncpg.Connection, schema: str) -> Server:
    """Read what there is to know about the server."""
    (row,) = await read(connection, schema, "doctor_server")
    return Server(**row)


async def old_transactions(
    connection: asyncpg.Connection, schema: str, older_than: float, uncommitted: float
) -> list[OldTransaction]:
    """Read the oldest transactions: older than `older_than` seconds, or than `uncommitted` if they took event ids."""
    rows = await read(connection, schema, "doctor_transactions", older_than, uncommitted, SHOWN)
    return [OldTransaction(**row) for row in rows]


async def not_vacuumed(connection: asyncpg.Connection, schema: str) -> list[str]:
    """Read which tables are not vacuumed."""
    return [row["name"] for row in await read(connection, schema, "doctor_not_vacuumed")]


async def starved(connection: asyncpg.Connection, schema: str, older_than: float, dead: int) -> list[Starved]:
    """Read which tables have more than `dead` dead rows, and were not vacuumed for `older_than` seconds."""
    return [Starved(**row) for row in await read(connection, schema, "doctor_starved", older_than, dead)]


async def oldest_waiting(connection: asyncpg.Connection, schema: str) -> dict[str, float]:
    """Read the age in seconds of the oldest event that waits, by topic; empty if that takes too long."""
    return {
        row["topic"]: row["seconds"] for row in await read_in_time(connection, schema, "doctor_oldest", OLDEST) or ()
    }


async def used_topics(connection: asyncpg.Connection, schema: str, most: int) -> list[str]:
    """Read the topics that events go to."""
    return [row["topic"] for row in await read(connection, schema, "doctor_topics", NEWEST, most)]
