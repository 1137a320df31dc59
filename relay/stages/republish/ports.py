"""What replays of delivered events ask of PostgreSQL, and the words that cross this edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from relay.decide.lane_scan import LanePosition
    from relay.decide.republishing import ReplayRequest
    from relay.event import PendingEvent

Replay_co = TypeVar("Replay_co", covariant=True)


class Landed(NamedTuple, Generic[Replay_co]):
    """What became of an event that was published again: its place in Kafka, or why Kafka refused it."""

    replay: Replay_co
    """Whose event it is; PostgreSQL does not need it."""
    event: PendingEvent
    partition: int | None
    offset: int | None
    error: str | None
    """None when Kafka has the event; otherwise `partition` and `offset` are."""


class RepublishPort(Protocol):
    """What replaying needs of PostgreSQL: one connection, for as long as a replay is under way.

    Every method but `close` raises PostgresLostError when the connection is gone or the server gave up the statement,
    and StatementFailedError when it was refused for any other reason.
    """

    async def open_replays(self) -> list[ReplayRequest]:
        """Return the replays that are under way. One that cannot be read is ended, with the error in its row."""

    async def events_to_replay(
        self, request: ReplayRequest, lane: int, above: int, up_to: int, max_events: int, max_bytes: int
    ) -> list[PendingEvent]:
        """Return delivered events of a lane with above < id <= up_to, as the request wants them, in the order of ids.

        Only those that have no receipt of this replay, each with its own topic, and with the headers that mark it. At
        most `max_events`, and `max_bytes` of keys, payloads and headers, which only the last event may exceed.
        """

    async def settle_replayed(self, action: int, landed: Sequence[Landed[object]]) -> None:
        """Write receipts of the replay `action`, and count them in its row.

        What has one already, or is not the same event any more, changes nothing.
        """

    async def advance_replay(self, action: int, replica: UUID, positions: Sequence[LanePosition]) -> None:
        """Raise the replay's positions in lanes, at least one, that the replica owns at their epochs.

        When the last lane has come to the end, the replay is finished.
        """

    def close(self) -> None:
        """Close the connection at once."""
