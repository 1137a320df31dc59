"""The door between scan and publish: events pass, or are held back.

Scan and sweep call `take` with what they took. Resume and republish enter behind the gate, because they know that
nothing stands before their events. Publish closes the gate: for a topic in trouble (`close`, `open`), for topics that
people paused (`close_as_asked`), and through `Failures` for the key of a failed event (`close_key`).

The gate alone closes keys and topics (`Closed`) and queues `Held` outcomes. Resume alone opens keys, at the end of a
pass over the held rows. An event must never pass once an earlier one of its key or paused topic is held back: so the
gate closes in memory at once, before anything is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.stages.settle.outcomes import Held

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.event import PendingEvent
    from relay.stages.settle.outcomes import Outcomes
    from relay.stages.tenure import Tenure


class Gate:
    """Outlives tenures; works for one at a time."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._tenure: Tenure | None = None
        self._pass_on: Callable[[list[PendingEvent]], None] = lambda _: None

    def serve(self, tenure: Tenure, pass_on: Callable[[list[PendingEvent]], None]) -> None:
        """Work for `tenure` from now on, and pass its events on."""
        self._tenure = tenure
        self._pass_on = pass_on

    def take(self, events: list[PendingEvent]) -> None:
        """Pass on the events of one lane that may go on; hold the others back."""
        tenure = self._tenure
        if tenure is None or not events:
            return
        go, wait = tenure.closed_in(events[0].lane).divide(events)
        if wait:
            self.hold(wait)
        if go:
            self._pass_on(go)

    def close(self, topic: str, waiting: list[PendingEvent]) -> None:
        """Hold back the topic's events from now on, and those that were `waiting` in publish."""
        if self._tenure is not None:
            self._tenure.pause(topic)
            self.hold(waiting)

    def open(self, topic: str) -> None:
        """Let the topic's held events go on."""
        if self._tenure is not None:
            self._tenure.unpause(topic)

    def close_as_asked(self, topics: frozenset[str], waiting: list[PendingEvent]) -> None:
        """Hold back the events of just these topics because people ask for it, and those that were `waiting`."""
        if self._tenure is not None:
            self._tenure.pause_as_asked(topics)
            self.hold(waiting)

    def throttle(self, topic: str, beyond: list[PendingEvent]) -> None:
        """Hold the topic's events back from now on, and those that are `beyond` what may wait in memory."""
        if self._tenure is not None:
            self._tenure.throttle_topic(topic)
            self.hold(beyond)

    def unthrottle(self, topic: str) -> None:
        """Let the topic's held events go on: there is room for some."""
        if self._tenure is not None:
            self._tenure.unthrottle_topic(topic)

    def close_key(self, event: PendingEvent, behind: list[PendingEvent]) -> None:
        """Hold back what comes of the event's key from now on, and those `behind` it that waited in publish."""
        if self._tenure is not None and event.key is not None:
            self._tenure.closed_in(event.lane).close_key(event.topic, event.key)
            self.hold(behind)

    def hold(self, events: list[PendingEvent]) -> None:
        """Hold these back: note them for a pass over the held rows, and have them recorded."""
        tenure = self._tenure
        if tenure is None:
            return
        lanes: dict[int, list[PendingEvent]] = {}
        for event in events:
            lanes.setdefault(event.lane, []).append(event)
        for lane, its_events in lanes.items():
            tenure.closed_in(lane).note_held(its_events)
        self._outcomes.add(Held(tenure, events))
