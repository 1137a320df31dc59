"""When the next transaction may begin, so that a wanted number of events a second comes about. No I/O."""

from __future__ import annotations

CATCH_UP_SECONDS = 1.0
"""What was missed is made up for, but not more than this much of it: no flood after a long stop."""


class Pace:
    """Shared by all writers of one loop."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._next = now

    def wait(self, events: int, now: float) -> float:
        """Take the next place, for a transaction of that many events; returns the seconds to wait for it."""
        place = max(self._next, now - CATCH_UP_SECONDS)
        self._next = place + events / self._rate
        return max(0.0, place - now)
