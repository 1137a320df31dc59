"""The origin of delivered events that are published again: a replay in one lane, which hears what became of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.stages.republish.ports import Landed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.decide.lane_scan import LaneScan
    from relay.decide.republishing import Progress, ReplayRequest
    from relay.event import PendingEvent
    from relay.outcome import PublishError


class LaneRepublish:
    """One replay in one owned lane: the origin of the events that it has published again.

    Kafka refuses one without harm: consumers have had it once, so it stands in nobody's way, is counted, and the replay
    goes on. One that is withdrawn is read again.
    """

    exempt = False

    def __init__(self, request: ReplayRequest, state: LaneScan, progress: Progress, republished: Republished) -> None:
        self.request = request
        self.state = state
        self.progress = progress
        self.saved = progress.position
        self._republished = republished

    def __repr__(self) -> str:
        return f"<LaneReplay action={self.request.action} lane={self.state.lane} {self.progress}>"

    def handed_in(self, events: Sequence[PendingEvent]) -> None:
        """Note events that publish has from now on."""
        self._republished.took(len(events))
        self.state.republish(len(events))
        for event in events:
            self.progress.began(event.id, event.size)

    def acknowledged(self, event: PendingEvent, partition: int, offset: int) -> None:
        """Have a receipt written."""
        self._republished.land(Landed(self, event, partition, offset, None))

    def refused(self, event: PendingEvent, error: PublishError) -> None:
        """Have the refusal counted."""
        self._republished.land(Landed(self, event, None, None, f"{error.name}: {error}"))

    def withdrawn(self, event: PendingEvent) -> None:
        """Have the event read again."""
        self.progress.returned(event.id)
        self.state.republished()
        self._republished.gave_back()

    def settled(self, event: PendingEvent) -> None:
        """Note an event whose receipt is committed."""
        self.progress.settled([event.id])
        self.state.republished()


class Republished:
    """What landed of all replays and has no receipt yet. Outlives tenures, as publish does."""

    def __init__(self) -> None:
        self._in_hand = 0
        self._landed: list[Landed[LaneRepublish]] = []
        self.changed = asyncio.Event()
        """Set when something landed or came back."""

    def __repr__(self) -> str:
        return f"<Replayed in_hand={self._in_hand} landed={len(self._landed)}>"

    @property
    def idle(self) -> bool:
        """Whether nothing is in publish's hands, and nothing landed that has no receipt yet."""
        return not self._in_hand and not self._landed

    def took(self, events: int) -> None:
        """Count `events` more in publish's hands."""
        self._in_hand += events

    def gave_back(self) -> None:
        """Count an event that publish has no longer, and that is to be read again."""
        self._in_hand -= 1
        self.changed.set()

    def land(self, landed: Landed[LaneRepublish]) -> None:
        """Keep what became of an event until a receipt of it is committed."""
        self._in_hand -= 1
        self._landed.append(landed)
        self.changed.set()

    def take_landed(self) -> list[Landed[LaneRepublish]]:
        """What landed since."""
        landed, self._landed = self._landed, []
        return landed

    def put_back(self, landed: list[Landed[LaneRepublish]]) -> None:
        """Whether receipts of these were committed is unknown: they are written again, which changes nothing then."""
        self._landed[:0] = landed
