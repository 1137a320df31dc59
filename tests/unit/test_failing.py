"""The verdict on an event that Kafka did not take."""

from __future__ import annotations

import pytest

from relay.decide.failing import Fail, Retry, judge, policy_for
from relay.outcome import FailureKind


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


def test_the_first_matching_pattern_gives_the_policy() -> None:
    policies = {"orders.audit": "skip", "orders.*": "dead-letter"}
    assert policy_for("orders.audit", policies, "block") == "skip"  # type: ignore[arg-type]
    assert policy_for("orders.placed", policies, "block") == "dead-letter"  # type: ignore[arg-type]
    assert policy_for("orders", policies, "block") == "block"  # type: ignore[arg-type]
