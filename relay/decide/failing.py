"""Decides what happens to an event that Kafka did not take: tried again later, or failed."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, TypeAlias

from relay.outcome import FailureKind

if TYPE_CHECKING:
    from collections.abc import Mapping

Policy: TypeAlias = Literal["block", "skip", "dead-letter"]


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


def policy_for(topic: str, policies: Mapping[str, Policy], default: Policy) -> Policy:
    """Return the policy of the first pattern (shell-style: `orders.*`) that matches the topic, else the default."""
    for pattern, policy in policies.items():
        if fnmatchcase(topic, pattern):
            return policy
    return default


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
