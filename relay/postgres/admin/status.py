"""Reads the state of an outbox, in statements that a huge one cannot make expensive.

Counting starts at the lanes' positions (everything below is settled) and ends at a limit or after a few seconds;
each count says whether it is exact.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from relay.decide.held_back import PausedTopic
from relay.errors import BusyError
from relay.keys import LANES
from relay.postgres.admin.lanes import OwnedLane, Replica, read_ownership
from relay.postgres.admin.reads import read, read_in_time
from relay.postgres.admin.replays import Replay
from relay.postgres.admin.segments import COUNT_NEEDED, Segment, segments_of
from relay.postgres.checks import check_schema
from relay.postgres.locks import Holder
from relay.postgres.sql import DEFAULT_SCHEMA
from relay.text import MAX_NAMED

if TYPE_CHECKING:
    import asyncpg

COUNT_LIMIT = 1_000_000
"""Events at which every count stops: about a second."""

COUNT_IDS = 100_000
"""Ids in which pending events are counted at once: about 100 ms if all of them are delivered."""

COUNT_SECONDS = 5.0
"""Maximum time for counting pending events; one that may take longer is named by what is counted by then."""

LOOKED_AT = 10_000
"""Number of held events whose topics are named, if no failure explains why they wait."""

MAX_REPLAYS = 20


@dataclass(frozen=True, slots=True)
class Count:
    """A number of events, and what it says about the true one; None when it is unknown."""

    events: int | None
    precision: Literal["exact", "at least", "at most", "about", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane(OwnedLane):
    """A lane, its owner, and what waits in it."""

    pending: int | None
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True)
class OpenReplay:
    """A replay of delivered events that is not over."""

    id: int
    topic: str
    events: int
    published: int
    failed: int


@dataclass(frozen=True, slots=True)
class PutOff:
    """A chore that a replica cannot do for now."""

    replica: str
    chore: str
    seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Blocker:
    """A transaction that locks tables of the outbox against readers, or waits for that lock with readers behind it."""

    who: str
    """Its session or name, role, application and age."""
    pid: int | None
    """None for a prepared transaction."""
    tables: list[str]
    waits_for: list[int] | None
    """Sessions for whose locks it waits itself; None if it has the lock."""
    statement_seconds: float | None
    """Since its last statement began; None if we may not know."""


@dataclass(frozen=True, slots=True)
class Status:
    """Everything `relay status` shows."""

    schema: str
    version: int
    database: str
    server: str
    in_recovery: bool
    newest_id: int
    backlog: Count
    oldest_seconds: float | None
    delivered: Count
    last_delivered_seconds: float | None
    failures: dict[str, int]
    held: Count
    lanes: list[Lane]
    replicas: list[Replica]
    segments: list[Segment]
    stranded: bool
    """Whether rows are in the DEFAULT partitions."""
    replays: list[OpenReplay] = field(default_factory=list)
    """Replays of delivered events that are not over."""
    put_off: list[PutOff] = field(default_factory=list)
    scheduled: Count = field(default_factory=lambda: Count(0, "exact"))
    """Events that are to come."""
    due_seconds: float | None = None
    """Until the first of them is due; below zero if it is."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Held events that stand behind no failure, by the topic that does not take them; of some of the topics."""
    paused: list[PausedTopic] = field(default_factory=list)
    """Topics that people paused."""
    limited: dict[str, str] = field(default_factory=dict)
    """Topics that go at a limited rate, and would go faster."""
    unread: list[str] = field(default_factory=list)
    """Parts that could not be read in time, such as "pending"; their fields are empty."""
    blockers: list[Blocker] = field(default_factory=list)
    """Who kept them from being read."""


@dataclass(slots=True)
class _Pending:
    """Pending events as far as they were counted."""

    counts: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(LANES), 0))
    oldest: dict[int, float] = field(default_factory=dict)
    """Age in seconds of the first event of each lane that has any."""
    complete: bool = False

    @property
    def events(self) -> int:
        return sum(self.counts.values())

    def add(self, lane: int, events: int, oldest_seconds: float) -> None:
        self.counts[lane] += events
        self.oldest.setdefault(lane, oldest_seconds)


@dataclass(slots=True)
class _Reads:
    """Runs the statements of one status, and notes the parts that could not be read."""

    connection: asyncpg.Connection
    schema: str
    unread: list[str] = field(default_factory=list)

    async def rows(self, part: str, name: str, *arguments: object) -> list[asyncpg.Record] | None:
        """Run a statement; None, with `part` noted, if it took too long."""
        rows = await read_in_time(self.connection, self.schema, name, *arguments)
        if rows is None and part not in self.unread:
            self.unread.append(part)
        return rows

    async def pending(self) -> _Pending | None:
        """Count the pending events from the lowest position up, by some ids at a time; None if no count was made."""
        found = _Pending()
        deadline = time.monotonic() + COUNT_SECONDS
        reach = await self.rows("pending", "status_reach")
        above, up_to = reach[0] if reach else (0, None)
        while up_to is not None and above < up_to:
            end = min(above + COUNT_IDS, up_to)
            rows = await self.rows("pending", "status_pending", above, end)
            if rows is None:
                return found if found.events else None
            for lane, events, seconds, next_ in rows:
                if lane is None:
                    above = end if next_ is None else max(end, next_)
                    up_to = end if next_ is None else up_to
                else:
                    found.add(lane, events, seconds)
            if above < up_to and (found.events >= COUNT_LIMIT or time.monotonic() > deadline):
                return found
        found.complete = up_to is not None
        return found if found.complete else None

    async def ownership(self) -> tuple[list[Replica], list[OwnedLane]]:
        """Read replicas and lanes; nothing, noted, if that took too long."""
        try:
            return await read_ownership(self.connection, self.schema)
        except BusyError:
            self.unread.append("replicas and lanes")
            return [], []

    async def blockers(self) -> list[Blocker]:
        """Read who locks tables against readers, if something could not be read."""
        found = await read_in_time(self.connection, self.schema, "status_blockers") if self.unread else None
        return [_blocker(**row) for row in found or ()]


async def read_status(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> Status:
    """Read the state of the outbox, as much of it as takes no longer than some seconds.

    Raises SchemaError if there is no outbox, or one of another version.
    """
    await check_schema(connection, schema)
    reads = _Reads(connection, schema)
    (server,) = await read(connection, schema, "status_server")
    replicas, lanes = await reads.ownership()
    pending = await reads.pending()
    delivered = await reads.rows("delivered", "status_delivered", COUNT_LIMIT)
    stranded = await reads.rows("rows in the DEFAULT partitions", "status_stranded")
    failures = await reads.rows("failures", "status_failures")
    held = await reads.rows("held", "status_held", COUNT_LIMIT)
    scheduled = await reads.rows("scheduled", "status_scheduled", COUNT_LIMIT)
    replays = await reads.rows("replays", "replays", MAX_REPLAYS, None, True)
    segments = await reads.rows("segments", "status_segments")
    # Whoever locks the one locks the other, and each would take a second.
    needed = await reads.rows("what segments keep", "status_needed", COUNT_NEEDED) if segments is not None else None
    put_off = await reads.rows("chores", "status_put_off")
    waiting = await reads.rows("held", "status_waiting", LOOKED_AT, MAX_NAMED)
    paused = await reads.rows("paused topics", "paused_topics")
    told = await reads.rows("topics", "told_topics")
    blockers = await reads.blockers()
    counts = pending.counts if pending else {}
    oldest = pending.oldest if pending else {}
    return Status(
        schema=schema,
        **server,
        backlog=_backlog(pending, server, lanes, blocked=bool(blockers)),
        oldest_seconds=max(oldest.values(), default=None),
        delivered=_delivered(delivered),
        last_delivered_seconds=delivered[0]["last_seconds"] if delivered else None,
        failures=_dict(failures),
        held=_counted(held),
        scheduled=_counted(scheduled),
        due_seconds=scheduled[0]["due_seconds"] if scheduled else None,
        stranded=bool(stranded and stranded[0]["stranded"]),
        replays=[_open_replay(Replay.of(row)) for row in replays or ()],
        lanes=[
            Lane(**asdict(lane), pending=counts.get(lane.lane), oldest_seconds=oldest.get(lane.lane)) for lane in lanes
        ],
        replicas=replicas,
        segments=segments_of(segments or (), needed or ()),
        put_off=[PutOff(**row) for row in put_off or ()],
        waiting=_dict(waiting),
        paused=[PausedTopic(*row) for row in paused or ()],
        limited={topic: limit for topic, _, limit in told or () if limit is not None},
        unread=reads.unread,
        blockers=blockers,
    )


def _blocker(
    *, statement_seconds: float | None, waits_for: list[int] | None, tables: list[str], **holder: Any
) -> Blocker:
    return Blocker(str(Holder(**holder)), holder["pid"], tables, waits_for, statement_seconds)


def _open_replay(replay: Replay) -> OpenReplay:
    topic = replay.filter.get("topic", replay.filter.get("from_topic"))
    return OpenReplay(replay.id, str(topic), replay.events, replay.published, replay.failed)


def _dict(rows: list[asyncpg.Record] | None) -> dict[Any, Any]:
    """Two columns as keys and values; nothing when reading them took too long."""
    return {row[0]: row[1] for row in rows or []}


def _backlog(pending: _Pending | None, server: asyncpg.Record, lanes: list[OwnedLane], *, blocked: bool) -> Count:
    """What was counted; if nothing was in time, what can be said without."""
    if pending is not None:
        return Count(pending.events, "exact" if pending.complete else "at least")
    if blocked or not lanes:
        return Count(None, "unknown")
    # One id is one event in one lane, so this many can be pending and no more.
    return Count(server["newest_id"] - min(lane.position for lane in lanes), "at most")


def _counted(rows: list[asyncpg.Record] | None) -> Count:
    if rows is None:
        return Count(None, "unknown")
    counted = rows[0][0]
    return Count(counted, "exact" if counted < COUNT_LIMIT else "at least")


def _delivered(rows: list[asyncpg.Record] | None) -> Count:
    if rows is None:
        return Count(None, "unknown")
    counted, estimate = rows[0]["events"], rows[0]["estimate"]
    whole = not rows[0]["cut_off"] and counted < COUNT_LIMIT
    return Count(counted, "exact") if whole else Count(max(counted, estimate), "about")
