"""Erases events: reads what it would meet, and has the function of the schema do it in one transaction."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

from asyncpg import exceptions as pg

from relay.errors import BusyError, PostgresLostError, RefusedError
from relay.postgres.admin.reads import read_in_time
from relay.postgres.errors import translated
from relay.postgres.hints import hint
from relay.postgres.sql import query
from relay.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    import asyncpg

    from relay.postgres.admin.connection import AdminConnection


@dataclass(frozen=True, slots=True)
class EraseFilter:
    """Which events are meant: those with ids, or those of a key."""

    ids: tuple[int, ...] | None = None
    key: bytes | None = None
    topic: str | None = None
    scheduled_ids: tuple[UUID, ...] | None = None


class ErasableGroup(NamedTuple):
    """Events of one topic that are in the same state."""

    topic: str
    state: str
    events: int
    first_id: int
    lanes: list[int]
    keyless: int
    """The number of them without a key."""


class Erased(NamedTuple):
    """What was done."""

    action: int
    events: int
    discarded: int
    """The number of them that will not be published any more."""
    cancelled: int
    """The number of scheduled events that are gone."""
    segments: list[str]
    """The tables that still have old versions of the events' rows."""


class Erasures:
    """Erasing in an outbox, through one connection; no method leaves a transaction open."""

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def groups(self, wanted: EraseFilter) -> list[ErasableGroup]:
        """Read in which states the events are."""
        rows = await self._read("erasable", wanted.ids, wanted.key, wanted.topic)
        return [ErasableGroup(*row) for row in rows]

    async def scheduled(self, wanted: EraseFilter) -> int:
        """Count the scheduled events that are meant."""
        rows = await self._read("erasable_scheduled", wanted.scheduled_ids, wanted.key, wanted.topic)
        return int(rows[0]["events"])

    async def owners(self, lanes: Sequence[int]) -> list[tuple[int, str]]:
        """Read which of these lanes have a live owner: pairs (lane, name of the replica)."""
        return [(row["lane"], row["name"]) for row in await self._read("owners_of", lanes)]

    async def erase(
        self,
        wanted: EraseFilter,
        *,
        force: bool,
        tombstone: bool,
        recorded: Mapping[str, object],
        reason: str,
        machine: str,
    ) -> Erased:
        """Erase all of them, or none. Raises RefusedError if one is in a state now that is refused, and BusyError."""
        arguments = [wanted.ids, wanted.key, wanted.topic, wanted.scheduled_ids, force, tombstone]
        try:
            with translated():
                erased = await self._erase([*arguments, json.dumps(recorded), reason, machine])
        except PostgresLostError as error:
            if not self._connection.is_closed():
                raise
            raise PostgresLostError(
                f"{error}; check with `relay failed actions` whether this erasure was recorded"
            ) from error
        await hint(self._connection, "mark_wake_up", self._schema)
        return erased

    async def _erase(self, arguments: list[object]) -> Erased:
        try:
            async with self._connection.transaction(isolation="read_committed"):
                await self._connection.execute(query("erase_session", self._schema))
                return Erased(*await self._connection.fetchrow(query("erase", self._schema), *arguments))
        except pg.ObjectInUseError as error:
            raise RefusedError(f"{one_line(error)} now; nothing was changed") from error
        except (pg.LockNotAvailableError, pg.QueryCanceledError, pg.DeadlockDetectedError) as error:
            raise BusyError("other transactions keep these events locked; nothing was changed, try again") from error
        except (pg.ObjectNotInPrerequisiteStateError, pg.InvalidColumnReferenceError) as error:
            # PostgreSQL 18 and a publication: the primary key has a generated column, which is not published.
            raise RefusedError(
                f"PostgreSQL does not let rows of the outbox change ({one_line(error)}): a publication has them; take "
                "the outbox out of it (ALTER PUBLICATION), or publish inserts only; nothing was changed"
            ) from error

    async def vacuum(self, tables: Sequence[str]) -> bool:
        """Have old versions of rows removed; False, and nothing is done, if only the outbox's owner may."""
        with translated():
            if not await self._connection.fetchval(query("may_vacuum", self._schema)):
                return False
            for table in tables:
                await cast("AdminConnection", self._connection).outside_a_transaction(f"VACUUM {table}")
        return True

    async def _read(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        rows = await read_in_time(self._connection, self._schema, name, *arguments, limits="verify_session")
        if rows is None:
            raise BusyError("PostgreSQL took too long to answer; nothing was changed, see `relay status` and try again")
        return rows
