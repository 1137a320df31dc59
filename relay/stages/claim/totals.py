"""What a replica counts of itself since its process began, and shows to people with every heartbeat."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from relay.text import MAX_NAMED, clip, one_line

if TYPE_CHECKING:
    from relay.telemetry import Telemetry, Told


MOST_OF_AN_ERROR = 300
"""Maximum characters of a topic's error: each heartbeat writes them."""

LIMITED_FOR = 60.0
"""Seconds for which a topic counts as limited after events were held back for its rate: that comes and goes."""


class Totals:
    """Duplicates and lost leases of this process, and the topics in trouble now. Outlives tenures."""

    def __init__(self) -> None:
        self.duplicates = 0
        """Events that were found to be in Kafka more than once."""
        self.leases_lost = 0
        """Leases that ended before they were given back."""
        self._troubled: dict[str, str] = {}
        self._limited: dict[str, tuple[str, float]] = {}
        """By topic: its limit, and when events were last held back for it (monotonic seconds)."""

    def topics(self, now: float) -> dict[str, dict[str, str]]:
        """Return the topics that do not take events, and why, and those that go at a limited rate: some of either."""
        self._limited = {topic: each for topic, each in self._limited.items() if now - each[1] < LIMITED_FOR}
        limited = {topic: {"limit": limit} for topic, (limit, _) in islice(self._limited.items(), MAX_NAMED)}
        return limited | {topic: {"trouble": error} for topic, error in self._troubled.items()}

    def listen_to(self, telemetry: Telemetry) -> None:
        """Count what happens from now on."""
        telemetry.listen("settle.duplicates", self._found_twice)
        telemetry.listen("lease.lost", self._lease_lost)
        telemetry.listen("topic.", self._heard_of_topic)

    def _found_twice(self, told: Told) -> None:
        match told.fields:
            case {"events": int(events)}:
                self.duplicates += events

    def _heard_of_topic(self, told: Told) -> None:
        match told:
            case ("topic.troubled" | "topic.troubled_too", _, {"topic": str(topic), "error": error}):
                if topic in self._troubled or len(self._troubled) < MAX_NAMED:
                    self._troubled[topic] = clip(one_line(error), MOST_OF_AN_ERROR)
            case ("topic.limited", at, {"topic": str(topic), "limit": limit}):
                self._limited[topic] = (str(limit), at)
            case ("topic.resumed" | "topic.resumed_too", _, {"topic": str(topic)}):
                self._troubled.pop(topic, None)

    def _lease_lost(self, _: Told) -> None:
        self.leases_lost += 1
