"""What reading events asks of PostgreSQL, and the words that cross this edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.decide.lane_scan import Reach
    from relay.decide.snapshot import Snapshot
    from relay.decide.sweep_start import SweepStart
    from relay.event import PendingEvent


class LaneRequest(NamedTuple):
    """What a scan is to read of one lane."""

    lane: int
    taken_to: int
    """The highest id ever taken from the lane: the sweep part is at or below it, the fresh part above."""
    sweep_start: SweepStart
    """Where the sweep part starts."""
    sweep: Reach
    """The limits of the sweep part."""
    fresh: Reach
    """The limits of the fresh part."""


class ScanResult(NamedTuple):
    """What one statement read, all in one snapshot."""

    snapshot: Snapshot
    sequence_value: int
    """The id sequence's last value, 0 when unused. Read after the snapshot: it says nothing about the
    transactions that are not in it, only about those that take their xid once the result is there."""
    next_xid: int
    """What the next transaction to take an xid would have got. Read after the snapshot."""
    events: list[PendingEvent]
    """Per lane the swept, then the fresh ones, each in id order."""


class ScanPort(Protocol):
    """What the scan needs of PostgreSQL; one statement at a time.

    Every method raises PostgresLostError when the connection is gone or the server gave up the statement, and
    StatementFailedError when it was refused for any other reason: among them an event that cannot be read.
    """

    async def scan(self, lanes: Sequence[LaneRequest], longest_sweep: int) -> ScanResult:
        """Read the next pending events of several lanes, at least one, in one statement and one snapshot.

        A lane gives no more events than the limits of its parts allow. Only the last event of a part may exceed the
        part's bytes. A lane whose sweep part would be longer than `longest_sweep` ids gives none.
        """

    async def snapshot(self) -> Snapshot:
        """Return the snapshot that a scan would see now."""


class StepPort(Protocol):
    """A read of one lane between two ids, which long sweeps and the search for an unreadable event share.

    Errors are those of a ScanPort.
    """

    async def sweep_step(self, lane: int, above: int, up_to: int, max_events: int, max_bytes: int) -> ScanResult:
        """Read the unsettled events of one lane with above < id <= up_to, in the order of their ids.

        Unsettled is what has no receipt, no failure and no held row. At most `max_events`, and `max_bytes` of keys,
        payloads and headers, which only the last event may exceed.
        """


class SweepPort(StepPort, Protocol):
    """What long sweeps need of PostgreSQL."""

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
