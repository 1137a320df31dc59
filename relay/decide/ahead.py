"""How many segments to make ahead of the writers: enough for hours of their present rate, within a bound."""

from __future__ import annotations

import math
from collections import deque

AHEAD_SECONDS = 4 * 3600.0
"""Of the present rate: so long may somebody stand in the way until events land in the DEFAULT partition."""

MOST_AHEAD = 32
"""Segments; each costs every plan a little."""

REMEMBERED = 3600.0
"""Seconds of looks that the rate is taken from."""

LONG_ENOUGH = 600.0
"""Seconds of looks below which they say nothing: one bulk load is no rate."""


class Ahead:
    """Remembers how far the ids were; `now` is monotonic seconds."""

    def __init__(self, ids_per_segment: int, least: int) -> None:
        self._ids = ids_per_segment
        self._least = least
        self._looks: deque[tuple[float, int]] = deque()

    def segments(self, now: float, reached: int) -> int:
        """Note how far the ids are; returns how many whole segments to have above them."""
        looks = self._looks
        if looks and reached < looks[-1][1]:
            # Another server, or the same one restored.
            looks.clear()
        looks.append((now, reached))
        while looks[0][0] < now - REMEMBERED:
            looks.popleft()
        then, before = looks[0]
        if now - then < LONG_ENOUGH:
            return self._least
        wanted = math.ceil((reached - before) / (now - then) * AHEAD_SECONDS / self._ids)
        return max(self._least, min(wanted, MOST_AHEAD))
