"""What resuming asks of PostgreSQL, and the words that cross this edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.decide.held_back import BlockedKey
    from relay.event import PendingEvent


class DueFailure(NamedTuple):
    """A failed event that is to be published now."""

    event: PendingEvent
    attempts: int
    """How many times it has failed."""


class ResumePort(Protocol):
    """What resuming needs of PostgreSQL. Nothing here changes who owns a lane, so nothing is fenced.

    Every method raises PostgresLostError when the connection is gone or the server gave up the statement, and
    StatementFailedError when it was refused for any other reason: among them an event that cannot be read.
    """

    async def due_failures(
        self,
        lanes: Sequence[int],
        max_events: int,
        max_bytes: int,
        paused: Sequence[str],
        under_way: Sequence[tuple[int, int]],
    ) -> list[DueFailure]:
        """Return the failures of these lanes whose time has come, or that a person has replayed, in the order of ids.

        Not those of the topics `paused`, and not those `under_way`, (lane, id) each. At most `max_events`, and
        `max_bytes` of keys, payloads and headers, which only the last event may exceed.
        """

    async def still_unreadable(self, lanes: Sequence[int], why: str) -> bool:
        """Record that the events of these lanes that could not be read, and still cannot, have failed again.

        Returns whether there were any.
        """

    async def blocking(self, lanes: Sequence[int]) -> list[BlockedKey]:
        """Return the keys in these lanes that stand behind a failure that is not resolved."""

    async def has_failures(self, lanes: Sequence[int]) -> bool:
        """Return whether these lanes have a failure that is not discarded, so that it may have to be acted on."""

    async def held_events(
        self, lane: int, above: int, max_events: int, max_bytes: int, paused: Sequence[str]
    ) -> list[PendingEvent]:
        """Return the held events of a lane above an id that no failure blocks, in the order of ids.

        Not those of the topics `paused`. At most `max_events`, and `max_bytes` of keys, payloads and headers, which
        only the last event may exceed.
        """
