"""What reading events asks of PostgreSQL, and the words that cross this edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from relay.decide.reach import Reach
    from relay.decide.snapshot import Snapshot
    from relay.decide.sweep_start import SweepStart
    from relay.event import PendingEvent


ID_MAX = 2**63 - 1
"""The highest id there can be."""


class LaneRequest(NamedTuple):
    """What a scan is to read of one lane."""

    lane: int
    taken_to: int
    """The highest id ever taken from the lane: the sweep part is at or below it, the fresh part above."""
    known_from: int
    """Up to here it is not known what was settled: a sweep part that would start lower is not read."""
    sweep_start: SweepStart
    """Where the sweep part starts."""
    nothing_new_to: int
    """Up to here nothing can be new, whichever transaction has ended: the sweep part may start as low."""
    fresh: Reach
    """The limits of the fresh part. The sweep part is bounded by `known_from`."""


class ScanResult(NamedTuple):
    """What one statement read, all in one snapshot."""

    snapshot: Snapshot
    sequence_value: int
    """The id sequence's last value, 0 when unused. Read after the snapshot: it says nothing about the
    transactions that are not in it, only about those that take their xid once the result is there."""
    next_xid: int
    """What the next transaction to take an xid would have got. Read after the snapshot."""
    swept: dict[int, list[int]]
    """Per lane the ids of all visible events of its sweep part, settled or not; no lane without any. There may be some
    from below its start, but none up to `nothing_new_to`."""
    events: list[PendingEvent]
    """The fresh ones, lane by lane, each lane's in id order."""


class StepResult(NamedTuple):
    """What one step read, all in one snapshot. The first three are as of a ScanResult."""

    snapshot: Snapshot
    sequence_value: int
    next_xid: int
    settled: list[int]
    """Of the lane's visible events, those that are settled."""
    events: list[PendingEvent]
    """The unsettled ones, in id order, within the limits."""
    left: list[int]
    """The ids of the unsettled ones behind those, in order."""


class WantedEvents(NamedTuple):
    """Events of one lane that are to be read by their ids."""

    lane: int
    ids: Sequence[int]
    """In ascending order."""
    bytes: int
    """Of keys, payloads and headers; the last event may exceed it."""


class ScanPort(Protocol):
    """What the scan needs of PostgreSQL; one statement at a time.

    Every method raises PostgresLostError when the connection is gone or the server gave up the statement, and
    StatementFailedError when it was refused for any other reason: among them an event that cannot be read.
    """

    async def scan(self, lanes: Sequence[LaneRequest]) -> ScanResult:
        """Read what several lanes, at least one, have above their starts, in one statement and one snapshot.

        A lane gives no more fresh events than the limits allow; only the last one may exceed the bytes. A lane whose
        sweep part would start below `known_from` gives nothing at all. Nothing is left out because it is settled.
        """

    async def events_by_id(self, wanted: Sequence[WantedEvents]) -> list[PendingEvent]:
        """Read events by their ids, lane by lane in the order of lanes, each lane's in id order.

        A lane's events end where its bytes do. One that is gone is left out.
        """

    async def snapshot(self) -> Snapshot:
        """Return the snapshot that a scan would see now."""


class StepPort(Protocol):
    """A read of one lane between two ids, which long sweeps and the search for an unreadable event share.

    Errors are those of a ScanPort.
    """

    async def sweep_step(
        self, lane: int, above: int, up_to: int, max_events: int, max_bytes: int, settled_from: int = ID_MAX
    ) -> StepResult:
        """Read the unsettled events of one lane with above < id <= up_to, in the order of their ids.

        Unsettled is what has no receipt, no failure and no held row. At most `max_events`, and `max_bytes` of keys,
        payloads and headers, which only the last event may exceed: of the others, the ids alone. Which events are
        settled is said of those above `settled_from`.
        """


class SweepPort(StepPort, Protocol):
    """What long sweeps need of PostgreSQL."""

    async def new_step(
        self,
        lane: int,
        above: int,
        up_to: int,
        max_events: int,
        max_bytes: int,
        new: Callable[[Collection[int]], list[int]],
    ) -> StepResult:
        """Read those events of one lane with above < id <= up_to that are new, which `new` says in ascending order.

        It is asked about those that one snapshot shows. The limits are those of `sweep_step`. None is said to be
        settled.
        """

    async def gap_step(self, lane: int, ids: Sequence[int], max_events: int, max_bytes: int) -> StepResult:
        """Read those events of one lane that have one of these ids, which ascend and of which none can be settled.

        The limits are those of `sweep_step`. None is said to be settled.
        """

    async def events_by_id(self, wanted: Sequence[WantedEvents]) -> list[PendingEvent]:
        """As of a ScanPort."""

    async def quiet_transactions(self, xids: Sequence[int]) -> list[int]:
        """Return those of `xids` that are running and had taken no event id when the statement looked.

        A transaction that is just ending may be among them: a later snapshot has to show that it was still running.
        """


class UnreadablePort(StepPort, Protocol):
    """What the search for an event that cannot be read needs of PostgreSQL."""

    async def pending_ids(self, lane: int, above: int, up_to: int, max_events: int) -> list[PendingEvent]:
        """Return the first unsettled events of a lane with above < id <= up_to, at most `max_events`.

        Without what it may be impossible to read of them: payload, headers, type and time are empty, and the size is 0.
        """
