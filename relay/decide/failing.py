"""Decides what happens to an event that Kafka did not take: tried again later, or failed."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from relay.outcome import FailureKind

if TYPE_CHECKING:
    from collections.abc import Sequence

Policy: TypeAlias = Literal["block", "skip", "dead-letter"]

ERRORS = (
    # The relay's own.
    *("EventTooLarge", "RequestTooLarge", "RequestTooLargeError", "TopicNotAllowed", "UnreadableEvent"),
    # Those of the brokers that are about an event, or for which nobody knows better.
    *("MessageSizeTooLargeError", "RecordListTooLargeError", "RecordTooLargeError"),
    *("InvalidRecordError", "InvalidTopicError", "PolicyViolationError", "UnsupportedForMessageFormatError"),
    *("CorruptRecordException", "UnknownError"),
)
"""The names of the errors for which an event may fail, as `relay failed list` shows them."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try the event again after `delay` seconds; later events of its key are held back until then."""

    attempts: int
    delay: float

    @property
    def blocks(self) -> bool:
        """Whether later events of the key wait for this one."""
        return True


@dataclass(frozen=True, slots=True)
class Fail:
    """The event failed. The policy decides whether later events of its key wait."""

    attempts: int
    policy: Policy

    @property
    def blocks(self) -> bool:
        """Whether later events of the key wait until a person has dealt with this one."""
        return self.policy == "block"


Verdict: TypeAlias = Retry | Fail


class Rule(NamedTuple):
    """The policy of topics, or of some errors of theirs; both are shell-style patterns such as `orders.*`."""

    topic: str
    error: str | None
    """None: any error."""
    policy: Policy


def policy_for(topic: str, error: str, rules: Sequence[Rule], default: Policy) -> Policy:
    """Return the policy of the first rule that has the topic and names the error; without one, of the first for any
    error; else the default."""
    matching = [rule for rule in rules if fnmatchcase(topic, rule.topic)]
    for rule in matching:
        if rule.error is not None and fnmatchcase(error, rule.error):
            return rule.policy
    return next((rule.policy for rule in matching if rule.error is None), default)


def policies_of(topic: str, rules: Sequence[Rule], default: Policy) -> set[Policy]:
    """Return the policies that events of the topic may have, whatever error they fail for."""
    return {policy_for(topic, error, rules, default) for error in ERRORS}


def judge(
    kind: FailureKind,
    attempts: int,
    policy: Policy,
    max_attempts: int,
    first_delay: float,
    most_delay: float,
    random: float,
) -> Verdict:
    """Return the verdict on an event that was refused alone, after `attempts` earlier tries; `random` is in [0, 1).

    Raises ValueError for errors of the cluster or a topic: these are not about an event and do not count as attempts.
    """
    if kind in (FailureKind.CLUSTER, FailureKind.TOPIC, FailureKind.TIME):
        raise ValueError(f"a {kind.value} error is not about an event")
    attempts += 1
    if kind is FailureKind.EVENT or attempts >= max_attempts:
        return Fail(attempts, policy)
    delay = min(most_delay, first_delay * 2.0 ** min(attempts - 1, 30))
    return Retry(attempts, delay * (0.5 + random / 2))
