"""The outbox in PostgreSQL, as the stages see it: one class per connection, one method per statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, assert_never, cast

from asyncpg import UniqueViolationError

from relay.decide.failing import Fail, Retry
from relay.decide.shares import LaneRow, LiveReplica
from relay.decide.snapshot import Snapshot, next_xid
from relay.errors import PostgresLostError, StatementFailedError, StatementGivenUpError
from relay.event import EventTuple, PendingEvent
from relay.postgres.errors import running
from relay.postgres.flow import segments
from relay.postgres.sql import query
from relay.stages.claim.claim import Renewal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from uuid import UUID

    import asyncpg

    from relay.stages.claim.claim import Report
    from relay.stages.housekeeping.housekeeping import PutOff
    from relay.stages.scan.scan import LaneRequest
    from relay.stages.settle.outcomes import Failed, Held
    from relay.stages.settle.settle import Receipts


REPLAY_WAKE_UP = "replay"
"""Payload of the notification that somebody asked for, or cancelled, a replay of delivered events."""

LANES_WAKE_UP = "lanes"
"""Payload of the notification that a replica came, goes, or gave lanes back, or that a person wants something of them.
Only statements that are rare send it: a NOTIFY takes a lock that all senders share."""

FORGET_AT_ONCE = 10_000
"""Receipts of replays dropped in one statement: a fraction of a second."""


CHECKED_AT_ONCE = 20
"""Events per lane that the check for unseen ones names of a slice: more say nothing new."""


class ScanResult(NamedTuple):
    """What one scan read, all in one snapshot."""

    snapshot: Snapshot
    sequence_value: int
    """The id sequence's last value, 0 when unused. Read after the snapshot: it says nothing about the
    transactions that are not in it, only about those that take their xid once the result is there."""
    next_xid: int
    """What the next transaction to take an xid would have got. Read after the snapshot."""
    events: list[PendingEvent]
    """Per lane the swept, then the fresh ones, each in id order."""


class ClaimedLane(NamedTuple):
    """A lane that was just claimed, with what its scan starts from."""

    lane: int
    epoch: int
    position: int
    highest_settled: int
    snapshot: Snapshot


class Statements:
    """One connection and the named statements that are run on it."""

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self._fetch = connection.fetch

    async def _rows(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        # asyncpg keeps the statement prepared for as long as the connection lives: the text is constant.
        with running(name):
            return cast("list[asyncpg.Record]", await self._fetch(query(name, self._schema), *arguments))


class ScanConnection(Statements):
    """Reads events; used by one stage at a time."""

    async def scan(self, lanes: Sequence[LaneRequest], longest_sweep: int) -> ScanResult:
        """Read the next pending events of several lanes in one statement and one snapshot.

        A lane whose sweep would be longer than `longest_sweep` ids returns nothing.
        """
        bounds = list(dict.fromkeys(lane.bound for lane in lanes))
        number = {bound: index for index, bound in enumerate(bounds, start=1)}
        running = [(number[bound], xid, floor) for bound in bounds for xid, floor in bound.running]
        lowest = min(
            *(each.taken_to for each in lanes), *(bound.floor for bound in bounds), *(floor for _, _, floor in running)
        )
        rows = await self._rows(
            "scan",
            [each.lane for each in lanes],
            [each.taken_to for each in lanes],
            [each.sweep.events for each in lanes],
            [each.sweep.bytes for each in lanes],
            [each.fresh.events for each in lanes],
            [each.fresh.bytes for each in lanes],
            [number[each.bound] for each in lanes],
            [bound.floor for bound in bounds],
            [each[0] for each in running],
            [str(each[1]) for each in running],
            [each[2] for each in running],
            longest_sweep,
            lowest,
        )
        return _scan_result(rows)

    async def snapshot(self) -> Snapshot:
        """The snapshot that a scan would see now."""
        return Snapshot.parse((await self._rows("snapshot"))[0][0])

    async def sweep_step(self, lane: int, above: int, up_to: int, events: int, size: int) -> ScanResult:
        """Read unsettled events of one lane with above < id <= up_to, at most `events` and about `size` bytes."""
        return _scan_result(await self._rows("sweep_step", lane, above, up_to, events, size))

    async def sequence_value(self) -> int:
        """The last event id that was taken from the sequence; 0 when none was."""
        return cast("int", (await self._rows("sequence_value"))[0][0])

    async def pending_ids(self, lane: int, above: int, up_to: int, most: int) -> list[PendingEvent]:
        """The first unsettled events of a lane with above < id <= up_to: without payload, headers, type and time."""
        rows = await self._rows("pending_ids", lane, above, up_to, most)
        return [EventTuple(row[0], row[1], row[2], row[3], row[4], None, None, None, 0, 0) for row in rows]

    async def quiet_transactions(self, xids: Sequence[int]) -> list[int]:
        """Those of `xids` that are running and had taken no event id when the statement looked."""
        # pg_locks shows xids without their epoch, as 32 bits.
        full = {str(xid & 0xFFFFFFFF): xid for xid in xids}
        return [full[row[0]] for row in await self._rows("quiet_transactions", list(full))]


class SettleConnection(Statements):
    """Records what became of events; returns how many rows were not there before."""

    async def settle(self, receipts: Receipts) -> int:
        """Write receipts."""
        try:
            # As text: asyncpg takes 0.35 us of CPU for an element of an array.
            lanes, ids = _array(receipts.lanes), _array(receipts.ids)
            await self._rows("settle", lanes, ids, receipts.firsts, receipts.partitions, receipts.bases)
        except StatementFailedError as error:
            if not isinstance(error.__cause__, UniqueViolationError):
                raise
            # Another owner was there before us, or this is a repetition.
            return await self._new("settle_again", *_columns(receipts))
        return len(receipts.ids)

    async def settle_recorded(self, receipts: Receipts, recorded: Sequence[tuple[int, int]]) -> int:
        """Write receipts and delete the failure and held rows of the events `recorded`, (lane, id) each."""
        lanes, ids = map(list, zip(*recorded, strict=True))
        return await self._new("settle_recorded", *_columns(receipts), lanes, ids)

    async def settle_checked(self, receipts: Receipts, event_ids: list[UUID]) -> int:
        """Write receipts for events that are still the ones that were read."""
        return await self._new("settle_checked", *_columns(receipts), event_ids)

    async def count_duplicates(self, receipts: Receipts) -> int:
        """How many of these are also recorded at another place in Kafka."""
        return cast("int", (await self._rows("count_duplicates", *_columns(receipts)))[0][0])

    async def hold(self, replica: UUID, outcomes: Sequence[Held], epochs: dict[int, int]) -> int | None:
        """Write held rows; None when one of the lanes is not this replica's any more."""
        events = [event for record in outcomes for event in record.events]
        rows = await self._rows(
            "hold",
            replica,
            [event[0] for event in events],
            [event[1] for event in events],
            [event[3] for event in events],
            [event[4] for event in events],
            list(epochs),
            list(epochs.values()),
        )
        return cast("int", rows[0]["new"]) if rows[0]["owned"] == len(epochs) else None

    async def fail(self, replica: UUID, failure: Failed, epoch: int) -> bool:
        """Write a failure row in place of a held one; returns False when the lane is not this replica's any more."""
        (event,) = failure.events
        wait: float | None = None
        match failure.verdict:
            case Retry(attempts=attempts, delay=delay):
                state, wait, policy = "retrying", delay, "block"
            case Fail(attempts=attempts, policy=policy):
                state = "failed"
            case _ as never:
                assert_never(never)
        rows = await self._rows(
            "fail",
            replica,
            event[0],
            event[1],
            event[3],
            event[4],
            state,
            attempts,
            wait,
            failure.error.name,
            str(failure.error),
            policy,
            epoch,
        )
        return bool(rows[0]["owned"])

    async def _new(self, name: str, *arguments: object) -> int:
        return cast("int", (await self._rows(name, *arguments))[0]["new"])


class _Blocking(Statements):
    async def blocking(self, lanes: Sequence[int]) -> list[tuple[int, str, bytes]]:
        """The keys behind a failure that is not resolved: (lane, topic, key)."""
        return [(row[0], row[1], row[2]) for row in await self._rows("blocking", lanes)]

    async def held_topics(self, lanes: Sequence[int]) -> list[tuple[int, str]]:
        """The topics with held rows: (lane, topic)."""
        return [(row[0], row[1]) for row in await self._rows("held_topics", lanes)]

    async def has_failures(self, lanes: Sequence[int]) -> bool:
        """Whether there is a failure that may have to be acted on."""
        return cast("bool", (await self._rows("has_failures", lanes))[0][0])


class ResumeConnection(_Blocking):
    """Reads failed and held events whose time has come."""

    async def due_failures(
        self,
        lanes: Sequence[int],
        most: int,
        size: int,
        paused: Sequence[str],
        under_way: Sequence[tuple[int, int]],
    ) -> list[tuple[PendingEvent, int]]:
        """Failures to publish now, in id order and of about `size` bytes, with the attempts they have had."""
        rows = await self._rows(
            "due_failures", lanes, most, size, paused, [each[0] for each in under_way], [each[1] for each in under_way]
        )
        return [(EventTuple(*row[:10]), row[10]) for row in rows]

    async def still_unreadable(self, lanes: Sequence[int], why: str) -> bool:
        """Let events that could not be read, and still cannot, have failed again; returns whether there were any."""
        return bool(await self._rows("still_unreadable", lanes, why))

    async def held_events(
        self, lane: int, above: int, events: int, size: int, paused: Sequence[str]
    ) -> list[PendingEvent]:
        """Held events above an id, in id order, at most `events` and about `size` bytes."""
        return cast("list[PendingEvent]", await self._rows("held_events", lane, above, events, size, paused))


class ControlConnection(_Blocking):
    """Registers the replica, renews its lease, claims and releases lanes, and hears wake-ups."""

    async def sequence_value(self) -> int:
        """The last event id that was taken from the sequence; 0 when none was."""
        return cast("int", (await self._rows("sequence_value"))[0][0])

    async def register(self, replica: UUID, name: str, version: str, lease: float, former: UUID | None) -> int:
        """Enter a replica with a lease of `lease` seconds, in place of `former`; returns the transaction's xid."""
        return int((await self._rows("register", replica, name, version, lease, former))[0][0])

    async def renew(self, replica: UUID, lease: float, report: Report) -> Renewal | None:
        """Extend the lease and show the report; None when the lease had run out."""
        rows = await self._rows("renew", replica, lease, *report)
        return Renewal(int(rows[0]["xid"]), rows[0]["open_replays"]) if rows else None

    async def live_replicas(self) -> list[LiveReplica]:
        """Replicas with a running lease, in the order of their claim to one lane more."""
        return [LiveReplica(*row) for row in await self._rows("live_replicas")]

    async def lanes(self) -> list[LaneRow]:
        """All lanes."""
        return [LaneRow(*row) for row in await self._rows("lanes")]

    async def claim(self, replica: UUID, seen: Sequence[LaneRow]) -> list[ClaimedLane]:
        """Claim those of `seen` that nobody claimed or parked since."""
        rows = await self._rows("claim", replica, [row.lane for row in seen], [row.epoch for row in seen])
        claimed = {row["lane"]: (row["epoch"], row["position"]) for row in rows}
        highest = await self._rows("highest_settled", sorted(claimed))
        return [
            ClaimedLane(row["lane"], *claimed[row["lane"]], row["id"], Snapshot.parse(row["snapshot"]))
            for row in highest
        ]

    async def advance_positions(self, replica: UUID, positions: Sequence[tuple[int, int, int]]) -> None:
        """Raise positions: (lane, epoch, position) each."""
        await self._rows("advance_positions", replica, *map(list, zip(*positions, strict=True)))

    async def release(self, replica: UUID, positions: Sequence[tuple[int, int, int]]) -> None:
        """Give lanes back: (lane, epoch, position) each."""
        await self._rows("release", replica, *map(list, zip(*positions, strict=True)))

    async def drain(self, replica: UUID) -> None:
        """Nothing more is taken; the others may count the lanes as theirs."""
        await self._rows("drain", replica)

    async def unregister(self, replica: UUID) -> None:
        """Take the replica off the list."""
        await self._rows("unregister", replica)

    async def wake_others(self) -> None:
        """Have everybody who listens look at the lanes at once; a hint, which may fail."""
        await self._rows("lanes_wake_up")

    async def listen(
        self, on_wake_up: Callable[[], None], on_replay: Callable[[], None], on_lanes: Callable[[], None]
    ) -> None:
        """Call `on_wake_up` for every wake-up that a writer sends with `outbox.wake_up()`, `on_replay` for a person's
        request to replay delivered events, `on_lanes` when lanes were given back (by ourselves, too: whether somebody
        claims them has to be watched), a replica came or goes, or a person wants something of lanes."""
        hearers = {REPLAY_WAKE_UP: on_replay, LANES_WAKE_UP: on_lanes}

        def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            hearers.get(str(payload), on_wake_up)()

        with running("listen"):
            await self._connection.add_listener(self._schema, hear)


class HousekeepingConnection(Statements):
    """Makes and drops segments, and does other work that is not urgent."""

    def lost(self, error: Exception) -> bool:
        """Whether an error means that the connection is gone, and not that a statement did not work out."""
        return self._connection.is_closed() or (
            isinstance(error, PostgresLostError) and not isinstance(error, StatementGivenUpError)
        )

    async def sequence_value(self) -> int:
        """The last event id that was taken from the sequence; 0 when none was."""
        return cast("int", (await self._rows("sequence_value"))[0][0])

    async def ensure_segments(self, ids_per_segment: int, ahead: int) -> list[str]:
        """Make segments ahead; returns the names of the new ones."""
        return await segments.ensure_segments(self._connection, ids_per_segment, ahead, schema=self._schema)

    async def prune(self, retention: float) -> list[str]:
        """Drop segments that are settled and older than `retention` seconds; returns their names."""
        return await segments.prune(self._connection, retention, schema=self._schema)

    async def forget_replayed(self, retention: float) -> bool:
        """Drop receipts of replays that were over `retention` seconds ago; returns whether more may be left."""
        return len(await self._rows("forget_replayed", retention, FORGET_AT_ONCE)) == FORGET_AT_ONCE

    async def forget_replicas(self) -> None:
        """Remove replicas that have been gone for long."""
        await self._rows("forget_replicas")

    async def finish_replays(self) -> None:
        """Record the end of replays of which nothing is under way any more."""
        await self._rows("finish_replays")

    async def check_range(self) -> tuple[int, int]:
        """The lowest id that is kept, and the highest position of a lane."""
        ((oldest, highest),) = await self._rows("check_range")
        return oldest, highest

    async def check_slice(self, above: int, up_to: int) -> list[tuple[int, int]]:
        """(lane, id) of events in above < id <= up_to, below their lane's position, of which nothing is recorded."""
        return [(row[0], row[1]) for row in await self._rows("check_slice", above, up_to, CHECKED_AT_ONCE)]

    async def check_again(self, events: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of the events, (lane, id), for which that is still so."""
        lanes, ids = [lane for lane, _ in events], [id_ for _, id_ in events]
        return [(row[0], row[1]) for row in await self._rows("check_again", lanes, ids)]

    async def show_put_off(self, replica: UUID, chores: Sequence[PutOff]) -> None:
        """Let `relay status` show what this replica puts off."""
        columns: list[list[object]] = [list(column) for column in zip(*chores, strict=True)] or [[], [], []]
        await self._rows("show_put_off", replica, *columns)


def _array(numbers: Iterable[int]) -> str:
    """An array in PostgreSQL's text form."""
    return f"{{{','.join(map(str, numbers))}}}"


def _columns(receipts: Receipts) -> tuple[list[int], list[int], list[int], list[int]]:
    """Lane, id, partition and offset of each event."""
    return receipts.lanes, receipts.ids, *receipts.places()


def _scan_result(rows: list[asyncpg.Record]) -> ScanResult:
    head = rows[0]
    del rows[0]
    snapshot = Snapshot.parse(head["topic"])
    return ScanResult(snapshot, head["id"], next_xid(head["size"], snapshot), cast("list[PendingEvent]", rows))
