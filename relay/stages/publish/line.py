"""Events that wait in publish, and the one door through which they leave it without being published."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from relay.event import EventWithOrigin, PendingEvent

if TYPE_CHECKING:
    from collections.abc import Callable


class Line(deque[PendingEvent]):
    """Events in the order in which they are to be published.

    Its owner takes events from its head to publish them, or to have them fail. All others leave by `withdraw`.
    """

    def withdraw(self, which: Callable[[PendingEvent], bool] | None = None) -> list[PendingEvent]:
        """Take out `which` events, all by default, and tell their origins; returns those to hold back or to drop."""
        if which is None:
            leaving = list(self)
            self.clear()
        elif leaving := [event for event in self if which(event)]:
            staying = [event for event in self if not which(event)]
            self.clear()
            self.extend(staying)
        return withdrawn(leaving)


def withdrawn(events: list[PendingEvent]) -> list[PendingEvent]:
    """Tell the origins of `events` that these are not published from here; returns those to hold back or to drop."""
    if EventWithOrigin not in map(type, events):
        return events
    left = [event.origin.withdrawn(event) if isinstance(event, EventWithOrigin) else event for event in events]
    return [event for event in left if event is not None]
