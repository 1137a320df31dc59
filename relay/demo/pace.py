"""Decides when the next transaction may begin, for a given number of events per second. No I/O."""

from __future__ import annotations

CATCH_UP_SECONDS = 1.0
"""Maximum seconds of missed events that are made up for, so that no flood follows a long stop."""


class Pace:
    """The pace of all writers of one event loop together."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._next = now

    def wait(self, events: int, now: float) -> float:
        """Take the next place, for a transaction with this number of events; return the seconds to wait for it."""
        place = max(self._next, now - CATCH_UP_SECONDS)
        self._next = place + events / self._rate
        return max(0.0, place - now)
