"""When work that is not urgent is due, and which of its errors are worth telling.

`now` is monotonic seconds everywhere.
"""

from __future__ import annotations

CHECK = "check receipts"
"""The name of the chore that looks for events of which nothing is recorded. What it finds is not about the chore."""

LONGEST_PAUSE = 8
"""Maximum pause of a chore that fails, in usual pauses: 8 minutes for a chore that is done once a minute. A person who
removes the cause sees the chore work again within that time."""

MOST_CAUSES = 8
"""Maximum number of different causes that are told while a chore fails; further ones are not told."""


class Pace:
    """The pace of one chore: when it is due, and since when and why it has been put off."""

    def __init__(self, every: float, now: float) -> None:
        self.due = now
        self.since: float | None = None
        """Monotonic seconds of the first failure in a row; None while the chore works."""
        self.error = ""
        self._every = every
        self._failures = 0
        self._told: set[str] = set()

    def soon(self, now: float) -> None:
        """Make the chore due immediately, unless it is being put off."""
        if self.since is None:
            self.due = min(self.due, now)

    def worked(self, now: float) -> bool:
        """Note that the chore was done; return whether it had been put off before."""
        self.due = now + self._every
        if self.since is None:
            return False
        self.since, self.error, self._failures = None, "", 0
        self._told.clear()
        return True

    def put_off(self, now: float, error: str, cause: str) -> bool:
        """Note that the chore failed; return whether this cause has not been told yet."""
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
        """Return for how many seconds the chore has been put off."""
        return 0.0 if self.since is None else now - self.since
