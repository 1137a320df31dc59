"""The verdict on an event that Kafka did not take."""

from __future__ import annotations

import pytest

from relay.decide.failing import ERRORS, Fail, Retry, Rule, judge, policies_of, policy_for
from relay.kafka.errors import KINDS
from relay.outcome import FailureKind
from tests.support.documents import ROOT


def verdict(kind: FailureKind, attempts: int = 0, random: float = 0.0) -> Retry | Fail:
    return judge(kind, attempts, "skip", max_attempts=3, first_delay=1.0, most_delay=3.0, random=random)


def test_an_events_own_fault_fails_it_at_once() -> None:
    assert verdict(FailureKind.EVENT) == Fail(1, "skip")


def test_an_unknown_error_is_retried_until_the_attempts_are_spent() -> None:
    assert verdict(FailureKind.UNKNOWN) == Retry(1, 0.5)
    assert verdict(FailureKind.UNKNOWN, 1) == Retry(2, 1.0)
    assert verdict(FailureKind.UNKNOWN, 2) == Fail(3, "skip")


def test_delays_have_jitter_and_a_bound() -> None:
    assert verdict(FailureKind.UNKNOWN, 1, random=0.5) == Retry(2, 1.5)
    long = judge(FailureKind.UNKNOWN, 50, "block", 100, 1.0, 3.0, 0.0)
    assert long == Retry(51, 1.5)


@pytest.mark.parametrize("kind", [FailureKind.CLUSTER, FailureKind.TOPIC])
def test_an_outage_or_a_topics_trouble_is_never_judged_as_an_events_fault(kind: FailureKind) -> None:
    with pytest.raises(ValueError, match="is not about an event"):
        verdict(kind)


def test_the_first_matching_rule_gives_the_policy() -> None:
    rules = [Rule("orders.audit", None, "skip"), Rule("orders.*", None, "dead-letter")]
    assert policy_for("orders.audit", "EventTooLarge", rules, "block") == "skip"
    assert policy_for("orders.placed", "EventTooLarge", rules, "block") == "dead-letter"
    assert policy_for("orders", "EventTooLarge", rules, "block") == "block"


def test_a_rule_for_an_error_counts_before_those_for_all_errors() -> None:
    rules = [
        Rule("orders", None, "block"),
        Rule("orders", "EventTooLarge", "dead-letter"),
        Rule("orders", "*TooLarge*", "skip"),
        Rule("*", "UnknownError", "skip"),
    ]
    assert policy_for("orders", "EventTooLarge", rules, "skip") == "dead-letter"
    assert policy_for("orders", "MessageSizeTooLargeError", rules, "skip") == "skip"
    assert policy_for("orders", "InvalidRecordError", rules, "skip") == "block"
    assert policy_for("audit", "UnknownError", rules, "block") == "skip"
    assert policy_for("audit", "EventTooLarge", rules, "block") == "block"


def test_all_policies_of_a_topic_are_known_before_anything_fails() -> None:
    rules = [Rule("orders", "EventTooLarge", "dead-letter"), Rule("audit", None, "skip")]
    assert policies_of("orders", rules, "block") == {"dead-letter", "block"}
    assert policies_of("audit", rules, "block") == {"skip"}


def test_the_errors_that_rules_may_name_are_all_for_which_an_event_fails() -> None:
    of_kafka = {error.__name__ for error, kind in KINDS.items() if kind in (FailureKind.EVENT, FailureKind.UNKNOWN)}
    of_ours = {"EventTooLarge", "RequestTooLarge", "RequestTooLargeError", "TopicNotAllowed", "UnreadableEvent"}
    assert set(ERRORS) == of_kafka | of_ours
    named = " ".join(path.read_text() for path in (ROOT / "relay").rglob("*.py") if path.name != "failing.py")
    assert [name for name in of_ours if name not in named] == []
