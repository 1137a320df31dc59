"""What housekeeping asks of PostgreSQL, and the words that cross this edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID


class PutOff(NamedTuple):
    """A chore that does not work out, as people are shown it."""

    chore: str
    seconds: float
    """How long it has not worked out for."""
    error: str


class DueSegment(NamedTuple):
    """A segment that has had its time."""

    name: str
    lower_id: int
    upper_id: int
    """The first id above it."""
    kept: bool
    """Whether it is what was left of one or more."""


class HousekeepingPort(Protocol):
    """What housekeeping needs of PostgreSQL. Any number of replicas may do all of it at once.

    Errors are RelayErrors. HeldUpError says who holds the locks that a change would need; `lost` tells which errors
    end the connection.
    """

    def lost(self, error: Exception) -> bool:
        """Whether an error means that the connection is gone, and not that a statement did not work out."""

    async def sequence_value(self) -> int:
        """Return the last event id that was taken from the sequence; 0 when none was."""

    async def ensure_segments(self, ids_per_segment: int, ahead: int) -> list[str]:
        """Make segments until `ahead` whole ones lie above the newest id; returns the names of the new ones.

        Raises HeldUpError if it could make none because others hold locks.
        """

    async def due_segments(self, retention: float) -> list[DueSegment]:
        """Return the segments whose events are all settled, failed or held, and older than `retention` seconds.

        The oldest first.
        """

    async def retire_segment(self, segment: DueSegment, retention: float, discarded_retention: float) -> int | None:
        """Drop a segment, or put a small one in its place with what is still needed.

        That is what failed or is held, what was delivered less than `retention` seconds ago, and what was discarded
        less than `discarded_retention` seconds ago. Returns the number of events that are kept; None if it was not
        done, because it would free little, or because something needs all of it.

        Raises HeldUpError if others hold locks, and SchemaError for an event in it that nothing is recorded of.
        """

    async def forget_replayed(self, retention: float) -> bool:
        """Drop a bounded number of receipts of replays that were over `retention` seconds ago.

        Returns whether more may be left.
        """

    async def forget_actions(self, retention: float) -> bool:
        """Drop a bounded number of requests of people that were over `retention` seconds ago.

        Returns whether more may be left.
        """

    async def forget_replicas(self) -> None:
        """Remove the rows of replicas that have been gone for long."""

    async def finish_replays(self) -> None:
        """Record the end of replays of failed events of which nothing is under way any more."""

    async def show_put_off(self, replica: UUID, chores: Sequence[PutOff]) -> None:
        """Let `relay status` show the chores that this replica puts off, in place of those that it showed before."""


class SurveyedIds(NamedTuple):
    """How far the outbox has come."""

    open_ids: int
    """Ids up to the newest that the lowest position of a lane has not passed; most of them may be settled."""
    ids_ahead: int
    """Ids above the newest for which there are segments."""
    unowned_lanes: int
    """Lanes that no replica with a running lease owns."""


class SurveyedFailures(NamedTuple):
    """The failures of one topic in one state."""

    topic: str
    state: str
    events: int
    keys: int
    """Number of different keys among them; events without a key block nothing."""


class SurveyedPending(NamedTuple):
    """The pending events of one topic among some ids."""

    topic: str
    events: int
    oldest: float
    """Seconds since the oldest was written."""


class SurveyPort(Protocol):
    """What the survey needs of PostgreSQL; each a statement whose cost is bounded."""

    async def survey_ids(self) -> SurveyedIds:
        """Return how far the outbox has come."""

    async def survey_reach(self) -> tuple[int, int]:
        """Return the ids (above, up to) between which events may be pending."""

    async def survey_pending(self, above: int, up_to: int) -> list[SurveyedPending]:
        """Count the pending events with above < id <= up_to, by topic."""

    async def survey_failures(self, most: int) -> list[SurveyedFailures]:
        """Count up to `most` failures that are not discarded, by topic and state."""

    async def survey_held(self, most: int) -> dict[str, int]:
        """Count up to `most` held events, by topic."""


class CheckPort(Protocol):
    """What the check for unseen events needs of PostgreSQL."""

    async def check_range(self) -> tuple[int, int]:
        """Return the lowest id of which all segments are there, and the highest position of a lane."""

    async def check_kept(self, most_events: int) -> list[tuple[int, int]]:
        """Return what is left of segments below: (above, up_to) each, of at most about `most_events` events."""

    async def check_slice(self, above: int, up_to: int) -> list[tuple[int, int]]:
        """Return (lane, id) of events with above < id <= up_to, below their lane's position, with nothing recorded.

        A bounded number of each lane: more say nothing new.
        """

    async def check_again(self, events: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return those of the events, (lane, id) each, of which there is still nothing recorded."""
