"""What recording outcomes asks of PostgreSQL, and the words that cross this edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from relay.decide.failing import Verdict
    from relay.event import PendingEvent
    from relay.outcome import PublishError


class Receipts(NamedTuple):
    """Receipts to write. Events were acknowledged in runs, one per record batch: only its beginning is kept of each."""

    publisher: UUID
    """The registration under which they were published."""
    owned: Sequence[int]
    """Lanes that this registration must still own for its receipts to be nothing special. Otherwise they are marked as
    late: somebody else may have published the events, too."""
    lanes: list[int]
    """Of each event; as many as `ids`, and in their order."""
    ids: list[int]
    firsts: list[int]
    """Number of each run's first event, from 1, ascending; as many as `partitions` and `bases`."""
    partitions: list[int]
    bases: list[int]
    """Offset of each run's first event; the others follow. -1 when the broker did not say, for all of them then."""

    def runs(self) -> Iterator[tuple[list[int], int, int]]:
        """Ids, partition and base of each run."""
        ends = [*self.firsts[1:], len(self.ids) + 1]
        for first, end, partition, base in zip(self.firsts, ends, self.partitions, self.bases, strict=True):
            yield self.ids[first - 1 : end - 1], partition, base

    def places(self) -> tuple[list[int], list[int]]:
        """Partition and offset of each event."""
        partitions: list[int] = []
        offsets: list[int] = []
        for ids, partition, base in self.runs():
            events = len(ids)
            partitions += [partition] * events
            offsets += range(base, base + events) if base >= 0 else [-1] * events
        return partitions, offsets


class FailedEvent(NamedTuple):
    """An event that failed, or is to be retried."""

    event: PendingEvent
    verdict: Verdict
    error: PublishError


class SettlePort(Protocol):
    """What settling needs of PostgreSQL. Each write may be repeated: it changes nothing the second time.

    Receipts are not fenced, because an acknowledged event is delivered whoever owns its lane. What writes them returns
    how many the publisher had not written before. Failures and held rows are fenced by the lane's owner and epoch.

    Every method raises PostgresLostError when the connection is gone or the server gave up the statement, and
    StatementFailedError when it was refused for any other reason.
    """

    async def settle(self, receipts: Receipts) -> int:
        """Write receipts of events that have neither failure nor held row."""

    async def settle_recorded(self, receipts: Receipts, recorded: Sequence[tuple[int, int]]) -> int:
        """Write receipts, and in the same transaction delete the failure and held rows of `recorded`, (lane, id) each.

        `recorded` has at least one.
        """

    async def settle_checked(self, receipts: Receipts, event_ids: list[UUID]) -> int:
        """Write receipts for those events whose id still belongs to the event_id, as many as there are ids.

        Their failure and held rows go with it. Any other is a new event, which got the id of one that a crash or
        fail-over took back.
        """

    async def hold(self, replica: UUID, events: Sequence[PendingEvent], epochs: dict[int, int]) -> int | None:
        """Write held rows for events of the lanes `epochs` (lane to epoch), and return how many are new.

        None, and nothing is written, when the replica does not own one of the lanes at its epoch any more.
        """

    async def fail(self, replica: UUID, failures: Sequence[FailedEvent], epochs: dict[int, int]) -> bool:
        """Write failure rows for events of the lanes `epochs` (lane to epoch), each in place of its held row, if any.

        No event may be in it twice. False, and nothing is written, when the replica does not own one of the lanes at
        its epoch any more.
        """
