"""States that come and go by the second, told as one that lasts."""

from __future__ import annotations

from collections import deque

MANY = 10
"""Changes, five of each kind, within the window after which something is unsteady."""

WINDOW = 60.0
"""Seconds."""

HOLDS_AFTER = 30.0
"""Seconds without a change after which a state counts as one that lasts."""


class Flapping:
    """The changes of one thing; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._changes: deque[float] = deque(maxlen=MANY)
        self.unsteady = False

    def changed(self, now: float) -> bool:
        """It changed. Returns whether it became unsteady with this."""
        self._changes.append(now)
        if self.unsteady or len(self._changes) < MANY or now - self._changes[0] > WINDOW:
            return False
        self.unsteady = True
        return True

    def holds(self, now: float) -> bool:
        """Whether something that was unsteady has kept its state long enough; said once."""
        if not self.unsteady or now - self._changes[-1] < HOLDS_AFTER:
            return False
        self.unsteady = False
        self._changes.clear()
        return True
