"""Reads failures for people, and marks them: replay and discard are marks, on which only a lane's owner acts.

A mark is set in the failure's own row, in the transaction that records the action. So its count is exact, everybody
sees it immediately, and it needs no relay.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, cast

from asyncpg.exceptions import (
    DeadlockDetectedError,
    InsufficientPrivilegeError,
    LockNotAvailableError,
    QueryCanceledError,
    ReadOnlySQLTransactionError,
)

from relay.errors import BusyError, PostgresLostError
from relay.postgres.admin.reads import like, read_in_time
from relay.postgres.admin.rows import (
    Action,
    Blocker,
    EventDetails,
    EventState,
    FailureGroup,
    FailureRow,
    IdRange,
    Marked,
)
from relay.postgres.errors import translated
from relay.postgres.hints import hint
from relay.postgres.sql import query

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    import asyncpg

Kind: TypeAlias = Literal["replay", "discard"]
Row = TypeVar("Row")

_MARK: dict[Kind, str] = {"replay": "replaying", "discard": "discarded"}


@dataclass(frozen=True, slots=True)
class FailureFilter:
    """Which failures are meant; None means any. `*` in a pattern stands for any characters, `error` ignores case."""

    ids: tuple[int, ...] | None = None
    """Without repetition."""
    topic: str | None = None
    key: bytes | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Both are about the latest attempt, on the server's clock."""
    states: tuple[str, ...] | None = None

    def arguments(self) -> list[object]:
        """Return the parameters $1 to $7 of the statements that take a filter."""
        topic, error = (None if pattern is None else like(pattern) for pattern in (self.topic, self.error))
        return [self.ids, topic, self.key, error, self.since, self.until, self.states]


class Failures:
    """The failures of an outbox, through one connection; no method leaves a transaction open."""

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def now(self) -> datetime:
        """Read the server's time."""
        return cast("datetime", (await self._rows("failures_now"))[0]["now"])

    async def listed(self, matching: FailureFilter, after: int, limit: int) -> list[FailureRow]:
        """Read the failures that match, in id order: at most `limit` with ids above `after`."""
        return _all(FailureRow, await self._rows("failures_list", *matching.arguments(), after, limit))

    async def counted(self, matching: FailureFilter) -> list[FailureGroup]:
        """Count the failures that match, per topic, error and state; the largest group first."""
        return _all(FailureGroup, await self._rows("failures_counts", *matching.arguments()))

    async def held_back(self, matching: FailureFilter) -> int | None:
        """Count the events that the failures that match hold back; None if counting took too long."""
        rows = await self._count("failures_hold_back", *matching.arguments())
        return None if rows is None else cast("int", rows[0]["events"])

    async def held_back_each(self, ids: Sequence[int]) -> dict[int, int] | None:
        """Count the events that each failure holds back, by its id; None if counting took too long."""
        rows = await self._count("failures_hold_back_each", ids)
        return None if rows is None else dict.fromkeys(ids, 0) | {row["id"]: row["events"] for row in rows}

    async def states(self, ids: Sequence[int]) -> list[EventState]:
        """Read the states of events, in the order of `ids`, whether there are such events or not."""
        return _all(EventState, await self._rows("events_asked_for", ids))

    async def event(self, event_id: int, payload_bytes: int) -> EventDetails | None:
        """Read an event with the first bytes of its payload; None if there is none with this id."""
        rows = _all(EventDetails, await self._rows("event_shown", event_id, payload_bytes))
        return rows[0] if rows else None

    async def behind(self, lane: int, event_id: int, topic: str, key: bytes | None) -> Blocker | None:
        """Read the failure that a held event waits for; None if it waits for its topic."""
        rows = _all(Blocker, await self._rows("held_behind", lane, event_id, topic, key))
        return rows[0] if rows else None

    async def first_held(self, lane: int, event_id: int, topic: str, key: bytes | None, limit: int) -> list[int]:
        """Read the ids of the first `limit` events that wait behind this one."""
        return [row["id"] for row in await self._rows("first_held", lane, event_id, topic, key, limit)]

    async def id_range(self) -> IdRange:
        """Read which ids events can have."""
        return _all(IdRange, await self._rows("ids_there_are"))[0]

    async def actions(self, limit: int, before: int | None = None, only: int | None = None) -> list[Action]:
        """Read what people asked for, the latest first: `only` one, or those before an id."""
        rows = await self._rows("actions", limit, before, only)
        return [
            Action(**{**row, "filter": json.loads(row["filter"]), "counts": json.loads(row["counts"])}) for row in rows
        ]

    async def live_replicas(self) -> int:
        """Count the replicas that could act on a mark."""
        return len(await self._rows("live_replicas"))

    async def mark(
        self, kind: Kind, matching: FailureFilter, *, recorded: dict[str, object], reason: str, requested_by: str
    ) -> Marked | None:
        """Mark the failures that match and are not marked yet; None, and nothing is recorded, if there is none.

        With ids it is all or none of them. `recorded` is the filter as the audit has it. Raises BusyError.
        """
        arguments = [*matching.arguments(), kind, json.dumps(recorded), reason, requested_by, _MARK[kind]]
        try:
            with translated():
                return await self._mark(arguments)
        except PostgresLostError as error:
            if not self._connection.is_closed():
                raise
            raise PostgresLostError(
                f"{error}; check with `relay failed actions` whether this {kind} was recorded"
            ) from error

    async def _mark(self, arguments: list[object]) -> Marked | None:
        try:
            async with self._connection.transaction(isolation="read_committed"):
                await self._connection.execute(query("mark_session", self._schema))
                row = await self._connection.fetchrow(query("mark_failures", self._schema), *arguments)
        except (LockNotAvailableError, QueryCanceledError, DeadlockDetectedError) as error:
            raise BusyError("other transactions keep these events locked; nothing was changed, try again") from error
        if row is None:
            return None
        await hint(self._connection, "mark_wake_up", self._schema)
        return Marked(**row)

    async def finish_replays(self) -> None:
        """Record the end of replays that have come to one, unless this role may not write."""
        with translated(), suppress(InsufficientPrivilegeError, ReadOnlySQLTransactionError):
            await self._connection.execute(query("finish_replays", self._schema))

    async def _rows(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        rows = await read_in_time(self._connection, self._schema, name, *arguments)
        if rows is None:
            raise BusyError(
                "PostgreSQL took too long to answer; nothing was changed, see `relay status` and try a narrower filter"
            )
        return rows

    async def _count(self, name: str, *arguments: object) -> list[asyncpg.Record] | None:
        return await read_in_time(self._connection, self._schema, name, *arguments, limits="failures_counting")


def _all(kind: Callable[..., Row], rows: Sequence[asyncpg.Record]) -> list[Row]:
    return [kind(**row) for row in rows]
