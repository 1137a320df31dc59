"""Which topics a gauge names: those that matter most, and the rest together."""

from __future__ import annotations

from heapq import nlargest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    Number = TypeVar("Number", int, float)

OTHERS = "(others)"
"""The label of all topics that a metric does not name. No topic of Kafka can have this name."""


def top_topics(numbers: Mapping[str, Number], most: int) -> dict[str, Number]:
    """Return the `most` topics with the highest numbers, and the sum of the others under OTHERS if there are any."""
    if len(numbers) <= most:
        return dict(numbers)
    named = dict(nlargest(most, numbers.items(), key=lambda each: each[1]))
    return {**named, OTHERS: sum(numbers.values()) - sum(named.values())}


def longest(numbers: Mapping[str, float], most: int) -> dict[str, float]:
    """Return the `most` topics with the highest numbers, and the highest of the others under OTHERS, if any."""
    if len(numbers) <= most:
        return dict(numbers)
    *named, (_, next_highest) = nlargest(most + 1, numbers.items(), key=lambda each: each[1])
    return {**dict(named), OTHERS: next_highest}
