"""Topics that people paused: their events are held back until the time given, and told apart from trouble.

Claim reads with each look what people ask for (`relay topics pause`), and hands it here. What waits for such a topic is
held back; what is in flight lands. Nothing else of the topic is sent until the pause ends: what comes back refused, a
dead letter, and what resume had just read are held back, too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.decide.held_back import PausedTopic
    from relay.stages.hold.gate import Gate
    from relay.stages.publish.queues import Topics
    from relay.stages.publish.topic import Topic
    from relay.telemetry import Telemetry


class Pauses:
    """Has the gate hold back what people paused. Outlives tenures, so that a lost connection repeats no log line."""

    def __init__(self, *, topics: Topics, gate: Gate, telemetry: Telemetry) -> None:
        self._topics = topics
        self._gate = gate
        self._telemetry = telemetry
        self._told: dict[str, PausedTopic] = {}

    def obey(self, asked: Sequence[PausedTopic]) -> None:
        """Hold back the events of just these topics for the current tenure."""
        tenure = self._topics.tenure
        if tenure is None:
            return
        wanted = {each.topic: each for each in asked}
        new = wanted.keys() - tenure.paused_by_people
        waiting = [event for name in new if (topic := self._topics.get(name)) for event in topic.withdraw()]
        if wanted.keys() != tenure.paused_by_people:
            self._gate.close_as_asked(frozenset(wanted), waiting)
        self._tell(wanted)

    def given_back(self, topic: Topic) -> None:
        """Hold back what waits for the topic, if people paused it: it was in flight, or does not come by the gate."""
        tenure = self._topics.tenure
        if tenure is not None and topic.name in tenure.paused_by_people:
            self._gate.hold(topic.withdraw())

    def _tell(self, wanted: dict[str, PausedTopic]) -> None:
        if not wanted and not self._told:
            return
        for name, pause in wanted.items():
            before = self._told.get(name)
            if before is None or pause._replace(seconds=0) != before._replace(seconds=0):
                self._telemetry.emit(
                    "pause.began",
                    topic=name,
                    until=datetime.fromtimestamp(pause.until, UTC).isoformat(timespec="seconds"),
                    requested_by=pause.requested_by,
                    reason=pause.reason,
                )
        for name in self._told.keys() - wanted.keys():
            self._telemetry.emit("pause.ended", topic=name)
        self._told = wanted
        self._telemetry.gauges("paused_topics", "topic", dict.fromkeys(wanted, 1.0))
