"""Which series the metrics with labels have: a bounded number, and all from the moment their label is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.decide.top_topics import OTHERS
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Counter, Gauge

__all__ = ["MOST_SERIES", "OTHERS", "Series"]

MOST_SERIES = 1_000
"""Maximum number of series of a metric with labels, for the life of the process: writers choose the names of topics."""


class Series:
    """The values that labels have had.

    With the first metric that sees a value, every counter and gauge with the same labels has it, at 0. Otherwise the
    first event of a topic that fails would make a counter appear at 1, and no alert sees a rise from nothing.
    """

    def __init__(self, metrics: Iterable[tuple[tuple[str, ...], Counter | Gauge]]) -> None:
        """`metrics` are all counters and gauges that have labels, with the names of these."""
        self._metrics = list(metrics)
        self._seen: dict[tuple[str, ...], set[tuple[str, ...]]] = {}

    def of(self, names: tuple[str, ...], labels: tuple[object, ...]) -> tuple[str, ...]:
        """Return the labels as they are shown; OTHERS for each of them once there are too many."""
        shown = tuple([plain(label) for label in labels])
        seen = self._seen.setdefault(names, set())
        if shown in seen:
            return shown
        if len(seen) >= MOST_SERIES:
            shown = (OTHERS,) * len(names)
        else:
            seen.add(shown)
        for its_names, metric in self._metrics:
            if its_names == names:
                metric.labels(*shown)
        return shown
