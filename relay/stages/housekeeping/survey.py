"""Surveys the whole outbox for its gauges: what is failed, held and owned now, whoever the replica is.

Counters say what happened in one process, and begin at 0 with it. What *is* the matter must not vanish from a dashboard
because a replica restarts, so it is read from the tables. Every replica does it, and all come to the same numbers.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from relay.decide.backlog_sample import Pending, estimate, slices
from relay.decide.top_topics import longest, top_topics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.stages.housekeeping.ports import SurveyedFailures, SurveyPort
    from relay.telemetry import Telemetry

SURVEY = "survey the outbox"
"""The name of the chore."""

MOST_TOPICS = 50
"""Maximum number of topics that a gauge names; the others are counted together."""

MOST_COUNTED = 50_000
"""Failures, and held events, that are counted: about 50 ms of reading. A gauge that shows so many says enough."""


class Survey:
    """A chore of housekeeping."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    async def look(self, port: SurveyPort) -> None:
        """Read the tables and set the gauges."""
        ids = await port.survey_ids()
        failures = await port.survey_failures(MOST_COUNTED)
        held = await port.survey_held(MOST_COUNTED)
        tell = self._telemetry
        tell.gauge("outbox_open_ids", ids.open_ids)
        tell.gauge("outbox_ids_ahead", ids.ids_ahead)
        tell.gauge("outbox_unowned_lanes", ids.unowned_lanes)
        tell.gauges("outbox_failed_events", "topic", _in_state(failures, "failed"))
        tell.gauges("outbox_retrying_events", "topic", _in_state(failures, "retrying"))
        tell.gauges("outbox_replaying_events", "topic", _in_state(failures, "replaying"))
        tell.gauges("outbox_blocked_keys", "topic", _keys(failures))
        tell.gauges("outbox_held_events", "topic", top_topics(held, MOST_TOPICS))
        pending = await _pending(port)
        by_number = {topic: round(each.events) for topic, each in pending.items()}
        tell.gauges("outbox_pending_events", "topic", top_topics(by_number, MOST_TOPICS))
        by_age = {topic: each.oldest for topic, each in pending.items()}
        tell.gauges("outbox_pending_oldest_seconds", "topic", longest(by_age, MOST_TOPICS))


async def _pending(port: SurveyPort) -> dict[str, Pending]:
    """Count the pending events by topic, in a sample of the ids."""
    above, up_to = await port.survey_reach()
    looked_at, seen = 0, []
    for start, end in slices(above, up_to):
        seen += await port.survey_pending(start, end)
        looked_at += end - start
    return estimate(above, up_to, looked_at, seen)


def _in_state(failures: Sequence[SurveyedFailures], state: str) -> dict[str, int]:
    return top_topics({each.topic: each.events for each in failures if each.state == state}, MOST_TOPICS)


def _keys(failures: Sequence[SurveyedFailures]) -> dict[str, int]:
    keys: Counter[str] = Counter()
    for each in failures:
        keys[each.topic] += each.keys
    return top_topics(keys, MOST_TOPICS)
