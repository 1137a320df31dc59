"""How many lines of one kind are worth reading: the first, and then their number."""

from __future__ import annotations

MOST_TOLD = 20
"""Happenings of a kind that are logged each in so many seconds; the others of that time are only counted."""

TOLD_INTERVAL = 10.0


class Telling:
    """Decides for one kind of happening which are told; no clock of its own."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._told = 0

    def worth_a_line(self, now: float) -> bool:
        """Whether one that happens `now` (monotonic seconds) is among the first."""
        if now - self._since > TOLD_INTERVAL:
            self._since, self._told = now, 0
        self._told += 1
        return self._told <= MOST_TOLD
