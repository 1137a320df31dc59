"""When work that is not urgent is due, and which of its errors are worth telling.

`now` is monotonic seconds everywhere.
"""

from __future__ import annotations

LONGEST_PAUSE = 8
"""How many times its usual pause a chore that does not work out is put off at most: 8 minutes for one that is done once
a minute. Whoever removes the cause sees it work again within that time."""

MOST_CAUSES = 8
"""So many different causes are told while a chore does not work out; what comes then is silent, however it varies."""


class Pace:
    """Of one chore: when it is due, and since when and why it has been put off."""

    def __init__(self, every: float, now: float) -> None:
        self.due = now
        self.since: float | None = None
        """Since when it has not worked out; None while it does."""
        self.error = ""
        self._every = every
        self._failures = 0
        self._told: set[str] = set()

    def soon(self, now: float) -> None:
        """Let it be due at once, unless it is being put off."""
        if self.since is None:
            self.due = min(self.due, now)

    def worked(self, now: float) -> bool:
        """Note that it was done; returns whether it had been put off before."""
        self.due = now + self._every
        if self.since is None:
            return False
        self.since, self.error, self._failures = None, "", 0
        self._told.clear()
        return True

    def put_off(self, now: float, error: str, cause: str) -> bool:
        """Note that it did not work out; returns whether this cause was not told yet."""
        if self.since is None:
            self.since = now
        self.error = error
        self.due = now + self._every * min(2.0**self._failures, LONGEST_PAUSE)
        self._failures = min(self._failures + 1, LONGEST_PAUSE)
        new = cause not in self._told and len(self._told) < MOST_CAUSES
        if new:
            self._told.add(cause)
        return new

    def overdue(self, now: float) -> float:
        """For how many seconds it has been put off."""
        return 0.0 if self.since is None else now - self.since
