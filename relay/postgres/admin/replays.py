"""Replays of delivered events as people ask for them: what would match, the request, its progress."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from relay.keys import LANES, lane_of_key
from relay.postgres.admin.reads import read, read_in_time
from relay.postgres.errors import translated
from relay.postgres.hints import hint
from relay.postgres.sql import query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    import asyncpg

COUNT_SECONDS = 10.0
"""Seconds that a person waits for a count; events that are not counted by then are replayed all the same."""

COUNT_IDS = 250_000
"""Ids per statement: a fraction of a second if all of them match."""

TOPICS_FROM = 1_000
"""Number of newest receipts in which `topics` looks."""


class Horizon(NamedTuple):
    """Which events can be replayed at all, at one moment."""

    now: datetime
    lowest_id: int
    newest_id: int
    kept_since: datetime | None
    """When the first receipt of them was written; None when there is none."""
    kept_lower: Sequence[int] = ()
    """First ids of what was kept of segments below: single events, some of which were delivered lately."""
    kept_upper: Sequence[int] = ()
    """First ids above each of those."""

    @property
    def pruned(self) -> bool:
        """Whether there were events that are no longer kept."""
        return self.lowest_id > 1


@dataclass(frozen=True, slots=True)
class ReplayFilter:
    """Which delivered events are meant, and how many of them may go per second."""

    topic: str
    key: bytes | None
    since: datetime
    until: datetime
    rate: float | None
    to_topic: str | None = None
    """The topic that they go to, if it is not their own."""
    group: str | None = None
    """The consumer group that they are meant for, if it is one."""

    def lanes(self) -> list[int]:
        """Return the lanes in which they can be: a key is in one, as the table's generated column computes it."""
        return list(range(LANES)) if self.key is None else [lane_of_key(self.key)]


@dataclass(slots=True)
class Counted:
    """The delivered events that match."""

    events: int = 0
    exact: bool = True
    """False: counting took too long, and there may be more."""
    first_at: datetime | None = None
    last_at: datetime | None = None
    erased: int = 0
    """Events that match as well, and cannot be published again."""
    positions: dict[int, int] | None = None
    """Per lane: no event that is meant has this id or a lower one."""


class Replay(NamedTuple):
    """A replay that was asked for, and its progress."""

    id: int
    filter: dict[str, Any]
    reason: str
    requested_by: str
    requested_at: datetime
    finished_at: datetime | None
    counts: dict[str, Any]
    requested_seconds: float

    @property
    def events(self) -> int:
        """The number of events that matched when it was asked for."""
        return self._count("events")

    @property
    def published(self) -> int:
        """The number of events that are in Kafka once more."""
        return self._count("published")

    @property
    def failed(self) -> int:
        """The number of events that Kafka refused."""
        return self._count("failed")

    @property
    def state(self) -> str:
        """Its state in one word."""
        if self.finished_at is None:
            return "open"
        return "invalid" if "error" in self.counts else "cancelled" if self.counts.get("cancelled") else "finished"

    @classmethod
    def of(cls, row: asyncpg.Record) -> Replay:
        """Read a row of the statement `replays`."""
        return cls(**{**row, "filter": json.loads(row["filter"]), "counts": json.loads(row["counts"])})

    def _count(self, name: str) -> int:
        value = self.counts.get(name)
        return value if isinstance(value, int) else 0


class Replays:
    """Replays of an outbox's delivered events, through one connection; no method leaves a transaction open."""

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def horizon(self) -> Horizon:
        """Read which events can be replayed."""
        return Horizon(**(await self._read("replay_horizon"))[0])

    async def count(
        self, wanted: ReplayFilter, horizon: Horizon, report: Callable[[int], None], seconds: float = COUNT_SECONDS
    ) -> Counted:
        """Count what matches, from the newest ids down: recent deliveries are found first, if time is short.

        `report` hears how many were found so far.
        """
        counted = Counted()
        first = dict.fromkeys(range(LANES), horizon.newest_id + 1)
        deadline = time.monotonic() + seconds
        for above, up_to in _ranges(horizon):
            arguments = wanted.lanes(), above, up_to, *_matching(wanted)
            rows = await read_in_time(
                self._connection, self._schema, "count_delivered", *arguments, limits="replay_counting"
            )
            for row in rows or ():
                counted.events += row["events"]
                counted.erased += row["erased"]
                first[row["lane"]] = min(first[row["lane"]], row["first_id"])
                counted.first_at = min(filter(None, (counted.first_at, row["first_at"])))
                counted.last_at = max(filter(None, (counted.last_at, row["last_at"])))
            report(counted.events)
            if rows is None or (time.monotonic() > deadline and above >= horizon.lowest_id):
                counted.exact = False
                first.update({lane: min(first[lane], horizon.lowest_id) for lane in wanted.lanes()})
                break
        counted.positions = {lane: min(id_ - 1, horizon.newest_id) for lane, id_ in first.items()}
        return counted

    async def topics(self) -> list[str]:
        """Read the topics of events that were delivered lately."""
        return [row["topic"] for row in await self._try("delivered_topics", TOPICS_FROM) or ()]

    async def request(
        self, recorded: Mapping[str, object], *, found: Counted, horizon: Horizon, reason: str, requested_by: str
    ) -> int:
        """Record the request and wake the relay; returns its number. `recorded` is the filter as the audit has it."""
        counts: dict[str, object] = {"events": found.events, "published": 0, "failed": 0}
        if not found.exact:
            counts["at_least"] = True
        progress = {"last_id": horizon.newest_id, "lanes": found.positions}
        with translated():
            async with self._connection.transaction():
                id_ = await self._connection.fetchval(
                    query("request_replay", self._schema),
                    json.dumps(recorded),
                    reason,
                    requested_by,
                    json.dumps(counts),
                    json.dumps(progress),
                )
        await hint(self._connection, "replay_wake_up", self._schema)
        return cast("int", id_)

    async def cancel(self, id_: int, requested_by: str) -> bool:
        """End a replay; False if it is over, or there is none with this number."""
        with translated():
            async with self._connection.transaction():
                found = await self._connection.fetchval(query("cancel_replay", self._schema), id_, requested_by)
        await hint(self._connection, "replay_wake_up", self._schema)
        return found is not None

    async def listed(self, limit: int, only: int | None = None, *, only_open: bool = False) -> list[Replay]:
        """Read what was asked for, the latest first."""
        return [Replay.of(row) for row in await self._read("replays", limit, only, only_open)]

    async def errors(self, id_: int, limit: int) -> list[tuple[str, int, int]]:
        """Read why Kafka refused events of a replay: triples (error, number of events, id of one of them)."""
        return [tuple(row) for row in await self._try("replay_errors", id_, limit) or ()]

    async def live_replicas(self) -> int:
        """Count the replicas that could carry out a request."""
        return len(await self._read("live_replicas"))

    async def _read(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        return await read(self._connection, self._schema, name, *arguments)

    async def _try(self, name: str, *arguments: object) -> list[asyncpg.Record] | None:
        return await read_in_time(self._connection, self._schema, name, *arguments)


def _ranges(horizon: Horizon) -> Iterator[tuple[int, int]]:
    """Yield (above, up_to): first what was kept, which is little, and then all that is there, from the newest down."""
    for lower, upper in zip(horizon.kept_lower, horizon.kept_upper, strict=True):
        yield lower - 1, upper - 1
    up_to = horizon.newest_id
    while up_to >= horizon.lowest_id:
        above = max(up_to - COUNT_IDS, horizon.lowest_id - 1)
        yield above, up_to
        up_to = above


def _matching(wanted: ReplayFilter) -> tuple[datetime, datetime, str, bytes | None]:
    return wanted.since, wanted.until, wanted.topic, wanted.key
