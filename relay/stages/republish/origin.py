"""Delivered events in publish's hands once more: marked, and told apart when it is known what became of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from relay.event import EventTuple, PendingEvent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relay.decide.lane_scan import LaneScan
    from relay.decide.republishing import Progress, ReplayRequest
    from relay.outcome import PublishError
    from relay.stages.settle.outcomes import Delivered


class LaneRepublish:
    """One replay in one owned lane."""

    def __init__(self, request: ReplayRequest, state: LaneScan, progress: Progress) -> None:
        self.request = request
        self.state = state
        self.progress = progress
        self.saved = progress.position

    def __repr__(self) -> str:
        return f"<LaneReplay action={self.request.action} lane={self.state.lane} {self.progress}>"


class RepublishedEvent(EventTuple):
    """A delivered event on its way to Kafka again.

    To publish it is an event like any other, packed and queued with them. Its type is the mark, so that events of the
    hot path need none.
    """

    replay: LaneRepublish


class Landed(NamedTuple):
    """What became of one: its place in Kafka, or why Kafka refused it."""

    event: RepublishedEvent
    partition: int | None
    offset: int | None
    error: str | None


class Republished:
    """Takes the replayed events out of what publish reports. Outlives tenures, as publish does."""

    def __init__(self) -> None:
        self._in_hand = 0
        self._landed: list[Landed] = []
        self.changed = asyncio.Event()
        """Set when something landed or came back."""

    def __repr__(self) -> str:
        return f"<Replayed in_hand={self._in_hand} landed={len(self._landed)}>"

    @property
    def idle(self) -> bool:
        """Whether nothing is in publish's hands, and nothing landed that has no receipt yet."""
        return not self._in_hand and not self._landed

    def handed_in(self, replay: LaneRepublish, events: Sequence[RepublishedEvent]) -> None:
        """These are in publish's hands from now on."""
        self._in_hand += len(events)
        replay.state.replaying += len(events)
        for event in events:
            replay.progress.began(event.id, event.size)

    def take_landed(self) -> list[Landed]:
        """What landed since."""
        landed, self._landed = self._landed, []
        return landed

    def put_back(self, landed: list[Landed]) -> None:
        """Whether receipts of these were committed is unknown: they are written again, which changes nothing then."""
        self._landed[:0] = landed

    def settled(self, landed: Sequence[Landed]) -> None:
        """Their receipts are committed, or they are of no account."""
        for each in landed:
            replay = each.event.replay
            replay.progress.settled([each.event.id])
            replay.state.replaying -= 1

    def acknowledged(self, delivery: Delivered) -> Iterator[Delivered]:
        """The delivery without the replayed ones among its events: whole, as long as nothing is replayed."""
        if not self._in_hand:
            yield delivery
            return
        _, events, partition, base = delivery
        begin = 0
        for index, event in enumerate(events):
            if isinstance(event, RepublishedEvent):
                if begin < index:
                    yield _part(delivery, begin, index)
                begin = index + 1
                self._land(Landed(event, partition, base + index if base >= 0 else base, None))
        if begin < len(events):
            yield _part(delivery, begin, len(events))

    def refused(self, event: RepublishedEvent, error: PublishError) -> None:
        """Kafka refused it alone, for its own or an unknown reason. It is counted, and the replay goes on: consumers
        have had it once, so it stands in nobody's way."""
        self._land(Landed(event, None, None, f"{error.name}: {error}"))

    def without(self, events: list[PendingEvent]) -> list[PendingEvent]:
        """Of events that were taken out of their queues, those that are not replayed; the others are read again."""
        if not self._in_hand:
            return events
        for event in events:
            if isinstance(event, RepublishedEvent):
                self._in_hand -= 1
                event.replay.progress.returned(event.id)
                event.replay.state.replaying -= 1
                self.changed.set()
        return [event for event in events if not isinstance(event, RepublishedEvent)]

    def _land(self, landed: Landed) -> None:
        self._in_hand -= 1
        self._landed.append(landed)
        self.changed.set()


def _part(delivery: Delivered, begin: int, end: int) -> Delivered:
    base = delivery.base_offset
    return delivery._replace(events=delivery.events[begin:end], base_offset=base + begin if base >= 0 else base)
