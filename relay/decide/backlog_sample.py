"""Which ids to look at for the number of pending events of each topic, and what the sample says of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SLICE_IDS = 500
"""Ids in a slice: 1.5 ms where all are pending, 25 ms where each of the ids around has a receipt of its own."""

MOST_SLICES = 20
"""Slices in a sample: each topic that has a hundredth of the backlog is seen a hundred times."""


class Pending(NamedTuple):
    """The pending events of a topic."""

    events: float
    oldest: float
    """Seconds since the oldest that was seen was written."""


def slices(above: int, up_to: int) -> Iterator[tuple[int, int]]:
    """Yield the slices (above, up to) of a sample of ids, the oldest ids first.

    Few ids are looked at as a whole. Of many, the slices are spread evenly, and the first is at the oldest.
    """
    ids = up_to - above
    if ids <= SLICE_IDS * MOST_SLICES:
        for start in range(above, up_to, SLICE_IDS):
            yield start, min(start + SLICE_IDS, up_to)
        return
    for number in range(MOST_SLICES):
        start = above + number * (ids - SLICE_IDS) // (MOST_SLICES - 1)
        yield start, start + SLICE_IDS


def estimate(above: int, up_to: int, looked_at: int, seen: Iterable[tuple[str, int, float]]) -> dict[str, Pending]:
    """Return the pending events by topic, from (topic, events, oldest) of each slice; `looked_at` ids of all in range.

    Exact where all ids were looked at. The age is that of the oldest event of the sample, which begins with the oldest
    ids.
    """
    scale = max(1.0, (up_to - above) / looked_at) if looked_at else 1.0
    found: dict[str, Pending] = {}
    for topic, events, oldest in seen:
        before = found.get(topic, Pending(0.0, 0.0))
        found[topic] = Pending(before.events + events * scale, max(before.oldest, oldest))
    return found
