"""Which topics events may go to."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from relay.decide.admission import Admission
from relay.settings import TopicSettings


def refused(topic: str, **settings: str) -> bool:
    return TopicSettings.model_validate(settings).admission().refusal(topic) is not None


def test_events_may_go_to_any_topic_but_those_of_kafka_itself_unless_somebody_says_otherwise() -> None:
    assert not refused("orders")
    assert not refused("_orders")
    assert refused("__consumer_offsets")
    assert refused("__transaction_state")
    assert not refused("__consumer_offsets", deny="")
    assert refused("secret.keys", deny="__*, secret.*")


def test_events_may_go_to_no_topic_that_no_pattern_allows() -> None:
    allow = "orders, billing.*"
    assert [topic for topic in ("orders", "orders2", "billing.paid", "Orders") if not refused(topic, allow=allow)] == [
        "orders",
        "billing.paid",
    ]
    assert refused("orders.dead-letter", allow=allow), "a writer's own event, no dead letter"


def test_what_is_denied_is_so_though_it_is_allowed() -> None:
    assert refused("__consumer_offsets", allow="__consumer_offsets")


def test_a_refusal_says_which_setting_to_change() -> None:
    assert Admission(allow=["orders"]).refusal("other") == (
        "RELAY_TOPIC_ALLOW does not list it; add it and replay, or discard"
    )
    assert Admission().refusal("__x") == "RELAY_TOPIC_DENY lists __*; remove it and replay, or discard"


@pytest.mark.parametrize("patterns", ["orders;billing", ",", "orders billing", ""])
def test_patterns_that_no_topic_can_match_are_refused(patterns: str) -> None:
    with pytest.raises(ValidationError, match=r"pattern|at least 1 character"):
        TopicSettings(allow=patterns)
