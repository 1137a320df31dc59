"""The survey of the outbox: which numbers the gauges show, and for how many topics."""

from __future__ import annotations

from relay.decide.top_topics import OTHERS, top_topics
from relay.stages.housekeeping.ports import SurveyedFailures, SurveyedIds, SurveyedPending
from relay.stages.housekeeping.survey import MOST_TOPICS, Survey
from relay.telemetry import Telemetry


class Port:
    """An outbox as a test says it is."""

    def __init__(self) -> None:
        self.ids = SurveyedIds(0, 0, 0)
        self.failures: list[SurveyedFailures] = []
        self.held: dict[str, int] = {}
        self.reach = (0, 0)
        self.pending: dict[int, list[SurveyedPending]] = {}
        """By the id above which a slice begins."""

    async def survey_ids(self) -> SurveyedIds:
        return self.ids

    async def survey_reach(self) -> tuple[int, int]:
        return self.reach

    async def survey_pending(self, above: int, up_to: int) -> list[SurveyedPending]:
        assert above < up_to
        return self.pending.get(above, [])

    async def survey_failures(self, most: int) -> list[SurveyedFailures]:
        assert most > 0
        return self.failures

    async def survey_held(self, most: int) -> dict[str, int]:
        assert most > 0
        return self.held


def test_the_topics_with_the_most_are_named_and_the_rest_summed_up() -> None:
    assert top_topics({"a": 1, "b": 3, "c": 2, "d": 4}, 2) == {"d": 4, "b": 3, OTHERS: 3}
    assert top_topics({"a": 1, "b": 3}, 2) == {"a": 1, "b": 3}
    assert top_topics({}, 2) == {}


async def test_failures_are_shown_by_state_and_their_keys_together() -> None:
    port, telemetry = Port(), Telemetry()
    port.ids = SurveyedIds(open_ids=7, ids_ahead=10_000, unowned_lanes=2)
    port.failures = [
        SurveyedFailures("orders", "failed", 5, 3),
        SurveyedFailures("orders", "retrying", 2, 1),
        SurveyedFailures("bills", "replaying", 1, 0),
    ]
    port.held = {"orders": 40}
    await Survey(telemetry).look(port)
    value = telemetry.value
    assert value("outbox_open_ids") == 7
    assert value("outbox_ids_ahead") == 10_000
    assert value("outbox_unowned_lanes") == 2
    assert value("outbox_failed_events", topic="orders") == 5
    assert value("outbox_retrying_events", topic="orders") == 2
    assert value("outbox_replaying_events", topic="bills") == 1
    assert value("outbox_failed_events", topic="bills") == 0
    assert value("outbox_blocked_keys", topic="orders") == 4
    assert value("outbox_blocked_keys", topic="bills") == 0
    assert value("outbox_held_events", topic="orders") == 40


async def test_what_was_mended_is_shown_as_zero() -> None:
    port, telemetry = Port(), Telemetry()
    survey = Survey(telemetry)
    port.failures, port.held = [SurveyedFailures("orders", "failed", 5, 3)], {"orders": 2}
    await survey.look(port)
    port.failures, port.held = [], {}
    await survey.look(port)
    for gauge in ("outbox_failed_events", "outbox_blocked_keys", "outbox_held_events"):
        assert telemetry.value(gauge, topic="orders") == 0


async def test_more_topics_than_a_gauge_names_are_counted_together() -> None:
    port, telemetry = Port(), Telemetry()
    port.held = {f"topic-{number}": number for number in range(1, MOST_TOPICS + 3)}
    await Survey(telemetry).look(port)
    assert telemetry.value("outbox_held_events", topic=f"topic-{MOST_TOPICS + 2}") == MOST_TOPICS + 2
    assert telemetry.value("outbox_held_events", topic="topic-1") is None
    assert telemetry.value("outbox_held_events", topic=OTHERS) == 1 + 2


async def test_few_pending_events_are_counted_by_topic() -> None:
    port, telemetry = Port(), Telemetry()
    survey = Survey(telemetry)
    port.reach = (100, 800)
    port.pending = {100: [SurveyedPending("orders", 300, 9.0)], 600: [SurveyedPending("orders", 30, 2.0)]}
    await survey.look(port)
    assert telemetry.value("outbox_pending_events", topic="orders") == 330
    assert telemetry.value("outbox_pending_oldest_seconds", topic="orders") == 9.0
    port.pending = {}
    await survey.look(port)
    assert telemetry.value("outbox_pending_events", topic="orders") == 0
    assert telemetry.value("outbox_pending_oldest_seconds", topic="orders") == 0


async def test_more_topics_with_pending_events_than_a_gauge_names_show_the_oldest_of_the_rest() -> None:
    port, telemetry = Port(), Telemetry()
    port.reach = (0, 500)
    port.pending = {0: [SurveyedPending(f"topic-{n}", 1, float(n)) for n in range(1, MOST_TOPICS + 4)]}
    await Survey(telemetry).look(port)
    assert telemetry.value("outbox_pending_events", topic=OTHERS) == 3
    assert telemetry.value("outbox_pending_oldest_seconds", topic=OTHERS) == 3.0
    assert telemetry.value("outbox_pending_oldest_seconds", topic=f"topic-{MOST_TOPICS + 3}") == MOST_TOPICS + 3
