"""Reads the state of an outbox, in statements that a huge one cannot make expensive.

Counting starts at the lanes' positions (everything below is settled) and ends at a limit or after a few seconds;
each count says whether it is exact.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from relay.errors import BusyError
from relay.keys import LANES
from relay.postgres.admin.lanes import OwnedLane, Replica, read_ownership
from relay.postgres.admin.reads import read, read_in_time
from relay.postgres.admin.replays import Replay
from relay.postgres.checks import check_schema
from relay.postgres.locks import Holder
from relay.postgres.sql import DEFAULT_SCHEMA
from relay.text import MAX_NAMED

if TYPE_CHECKING:
    import asyncpg

COUNT_LIMIT = 1_000_000
"""Events at which every count stops: about a second of index probes."""

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
class Segment:
    """A partition of events and receipts: lower_id <= id < upper_id."""

    name: str
    lower_id: int
    upper_id: int
    bytes: int | None


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
    waiting: dict[str, int] = field(default_factory=dict)
    """Held events that stand behind no failure, by the topic that does not take them; of some of the topics."""
    unread: list[str] = field(default_factory=list)
    """Parts that could not be read in time, such as "pending"; their fields are empty."""
    blockers: list[Blocker] = field(default_factory=list)
    """Who kept them from being read."""


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
    per_lane_limit = COUNT_LIMIT // LANES
    (server,) = await read(connection, schema, "status_server")
    replicas, lanes = await reads.ownership()
    oldest = _dict(await reads.rows("pending", "status_oldest"))
    pending = await reads.rows("pending", "status_pending", per_lane_limit)
    delivered = await reads.rows("delivered", "status_delivered", COUNT_LIMIT)
    stranded = await reads.rows("rows in the DEFAULT partitions", "status_stranded")
    failures = await reads.rows("failures", "status_failures")
    held = await reads.rows("held", "status_held", COUNT_LIMIT)
    replays = await reads.rows("replays", "replays", MAX_REPLAYS, None, True)
    segments = await reads.rows("segments", "status_segments")
    put_off = await reads.rows("chores", "status_put_off")
    waiting = await reads.rows("held", "status_waiting", LOOKED_AT, MAX_NAMED)
    blockers = await reads.blockers()
    counts = _dict(pending)
    return Status(
        schema=schema,
        **server,
        backlog=_backlog(list(counts.values()), per_lane_limit, server, lanes, blocked=bool(blockers)),
        oldest_seconds=max(oldest.values(), default=None),
        delivered=_delivered(delivered),
        last_delivered_seconds=delivered[0]["last_seconds"] if delivered else None,
        failures=_dict(failures),
        held=_held(held),
        stranded=bool(stranded and stranded[0]["stranded"]),
        replays=[_open_replay(Replay.of(row)) for row in replays or ()],
        lanes=[
            Lane(**asdict(lane), pending=counts.get(lane.lane), oldest_seconds=oldest.get(lane.lane)) for lane in lanes
        ],
        replicas=replicas,
        segments=[Segment(**row) for row in segments or ()],
        put_off=[PutOff(**row) for row in put_off or ()],
        waiting=_dict(waiting),
        unread=reads.unread,
        blockers=blockers,
    )


def _blocker(
    *, statement_seconds: float | None, waits_for: list[int] | None, tables: list[str], **holder: Any
) -> Blocker:
    return Blocker(str(Holder(**holder)), holder["pid"], tables, waits_for, statement_seconds)


def _open_replay(replay: Replay) -> OpenReplay:
    return OpenReplay(replay.id, str(replay.filter.get("topic")), replay.events, replay.published, replay.failed)


def _dict(rows: list[asyncpg.Record] | None) -> dict[Any, Any]:
    """Two columns as keys and values; nothing when reading them took too long."""
    return {row[0]: row[1] for row in rows or []}


def _backlog(counts: list[int], limit: int, server: asyncpg.Record, lanes: list[OwnedLane], *, blocked: bool) -> Count:
    """Add the lanes' counts, each of which went up to `limit`; there are none if counting took too long."""
    if not counts and (blocked or not lanes):
        return Count(None, "unknown")
    if not counts:
        # One id is one event in one lane, so this many can be pending and no more.
        return Count(server["newest_id"] - min(lane.position for lane in lanes), "at most")
    return Count(sum(counts), "exact" if max(counts) < limit else "at least")


def _held(rows: list[asyncpg.Record] | None) -> Count:
    if rows is None:
        return Count(None, "unknown")
    counted = rows[0][0]
    return Count(counted, "exact" if counted < COUNT_LIMIT else "at least")


def _delivered(rows: list[asyncpg.Record] | None) -> Count:
    if rows is None:
        return Count(None, "unknown")
    counted, estimate = rows[0]["events"], rows[0]["estimate"]
    return Count(counted, "exact") if counted < COUNT_LIMIT else Count(max(counted, estimate), "about")
