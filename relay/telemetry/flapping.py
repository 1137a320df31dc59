"""Recognises states that keep changing, so that they are told as one lasting state."""

from __future__ import annotations

from collections import deque

MANY = 10
"""Number of changes within WINDOW, five in each direction, that make a thing unsteady."""

WINDOW = 60.0
"""Seconds within which MANY changes make a thing unsteady."""

HOLDS_AFTER = 30.0
"""Seconds without a change after which a state counts as lasting."""


class Flapping:
    """The changes of one thing's state; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._changes: deque[float] = deque(maxlen=MANY)
        self.unsteady = False

    def changed(self, now: float) -> bool:
        """Note a change of state; return whether the thing became unsteady with it."""
        self._changes.append(now)
        if self.unsteady or len(self._changes) < MANY or now - self._changes[0] > WINDOW:
            return False
        self.unsteady = True
        return True

    def holds(self, now: float) -> bool:
        """Return whether an unsteady thing has kept its state for HOLDS_AFTER; true once, then it is steady again."""
        if not self.unsteady or now - self._changes[-1] < HOLDS_AFTER:
            return False
        self.unsteady = False
        self._changes.clear()
        return True
