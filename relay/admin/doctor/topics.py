"""Which topics Kafka must be asked about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.decide.failing import policies_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.settings import FailureSettings


def with_dead_letters(topics: Sequence[str], settings: FailureSettings) -> list[str]:
    """Return the topics, each followed by its dead-letter topic if a policy of it sends letters."""
    rules = settings.rules()
    suffix = settings.dead_letter_suffix
    found: list[str] = []
    for topic in topics:
        found.append(topic)
        if not topic.endswith(suffix) and "dead-letter" in policies_of(topic, rules, settings.policy):
            found.append(f"{topic}{suffix}")
    return list(dict.fromkeys(found))
