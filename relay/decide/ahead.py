"""How many segments to make ahead of the writers: enough for hours of their present rate, within a bound."""

from __future__ import annotations

import math
from collections import deque

AHEAD_SECONDS = 4 * 3600.0
"""Seconds of writing, at the present rate, that the segments ahead must hold: the time for which a lock may keep the
relay from making more before events land in the DEFAULT partition."""

MOST_AHEAD = 32
"""Maximum number of segments ahead; each one costs every plan a little."""

REMEMBERED = 3600.0
"""Seconds of looks from which the rate is worked out."""

LONG_ENOUGH = 600.0
"""Minimum seconds between the first and the last look for a rate: one bulk load does not make a rate."""


class Ahead:
    """Remembers the highest id at each look; `now` is monotonic seconds."""

    def __init__(self, ids_per_segment: int, least: int) -> None:
        self._ids = ids_per_segment
        self._least = least
        self._looks: deque[tuple[float, int]] = deque()

    def segments(self, now: float, reached: int) -> int:
        """Note the highest id; return the number of whole segments that should exist above it."""
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
