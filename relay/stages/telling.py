"""How many log lines of one kind are worth reading: the first ones, and then their number."""

from __future__ import annotations

MOST_TOLD = 20
"""Happenings of one kind that are logged one by one within TOLD_INTERVAL; the others are only counted."""

TOLD_INTERVAL = 10.0
"""Seconds."""


class Telling:
    """Decides which happenings of one kind are logged."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._told = 0

    def worth_a_line(self, now: float) -> bool:
        """Count a happening at `now`, in monotonic seconds; whether it is among the first."""
        if now - self._since > TOLD_INTERVAL:
            self._since, self._told = now, 0
        self._told += 1
        return self._told <= MOST_TOLD
