"""Reads the state of an outbox, in statements that a huge one cannot make expensive.

Counting starts at the lanes' positions (everything below is settled) and ends at a limit or after a few seconds;
each count says whether it is exact.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from asyncpg.exceptions import QueryCanceledError

from relay.postgres.admin.lanes import OwnedLane, Replica, read_ownership
from relay.postgres.admin.replays import ReplayRow
from relay.postgres.checks import check_schema
from relay.postgres.errors import translated
from relay.postgres.sql import DEFAULT_SCHEMA, query

if TYPE_CHECKING:
    import asyncpg

LANES = 16
COUNT_LIMIT = 1_000_000
"""No count goes further: about a second of index probes."""

LOOKED_AT = 10_000
"""Held events of which the topics are told, when no failure explains why they wait."""

MOST_TOPICS = 20

MOST_REPLAYS = 20


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
class Replay:
    """Delivered events that are being published again."""

    id: int
    topic: str
    events: int
    published: int
    failed: int


@dataclass(frozen=True, slots=True)
class PutOff:
    """Work that is not urgent and that a replica cannot do for now."""

    replica: str
    chore: str
    seconds: float
    error: str


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
    replays: list[Replay] = field(default_factory=list)
    """Those under way."""
    put_off: list[PutOff] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)
    """Held events that stand behind no failure, by the topic that does not take them; of some of the topics."""


async def read_status(connection: asyncpg.Connection, schema: str = DEFAULT_SCHEMA) -> Status:
    """Read the state of the outbox. Raises SchemaError if there is none, or of another version."""
    await check_schema(connection, schema)

    async def rows(name: str, *arguments: object) -> list[asyncpg.Record]:
        return await _rows(connection, schema, name, *arguments)

    async def rows_in_time(name: str, *arguments: object) -> list[asyncpg.Record] | None:
        try:
            return await rows(name, *arguments)
        except QueryCanceledError:
            return None

    per_lane_limit = COUNT_LIMIT // LANES
    with translated():
        (server,) = await rows("status_server")
        replicas, lanes = await read_ownership(connection, schema)
        oldest = _dict(await rows_in_time("status_oldest"))
        pending = _dict(await rows_in_time("status_pending", per_lane_limit))
        delivered = await rows_in_time("status_delivered", COUNT_LIMIT)
        held = await rows_in_time("status_held", COUNT_LIMIT)
        return Status(
            schema=schema,
            **server,
            backlog=_backlog(list(pending.values()), per_lane_limit, server, lanes),
            oldest_seconds=max(oldest.values(), default=None),
            delivered=_delivered(delivered),
            last_delivered_seconds=delivered[0]["last_seconds"] if delivered else None,
            failures=_dict(await rows("status_failures")),
            held=_held(held),
            replays=[_replay(ReplayRow.of(row)) for row in await rows("replays", MOST_REPLAYS, None, True)],
            lanes=[
                Lane(**asdict(lane), pending=pending.get(lane.lane), oldest_seconds=oldest.get(lane.lane))
                for lane in lanes
            ],
            replicas=replicas,
            segments=[Segment(**row) for row in await rows("status_segments")],
            put_off=[PutOff(**row) for row in await rows("status_put_off")],
            waiting=_dict(await rows_in_time("status_waiting", LOOKED_AT, MOST_TOPICS)),
        )


async def _rows(connection: asyncpg.Connection, schema: str, name: str, *arguments: object) -> list[asyncpg.Record]:
    async with connection.transaction(readonly=True):
        await connection.execute(query("status_session", schema))
        return cast("list[asyncpg.Record]", await connection.fetch(query(name, schema), *arguments))


def _replay(row: ReplayRow) -> Replay:
    return Replay(row.id, str(row.filter.get("topic")), row.events, row.published, row.failed)


def _dict(rows: list[asyncpg.Record] | None) -> dict[Any, Any]:
    """Two columns as keys and values; nothing when reading them took too long."""
    return {row[0]: row[1] for row in rows or []}


def _backlog(counts: list[int], limit: int, server: asyncpg.Record, lanes: list[OwnedLane]) -> Count:
    """Add the lanes' counts, each of which went up to `limit`; there are none if counting took too long."""
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
