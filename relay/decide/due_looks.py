"""When to look for scheduled events that are due. `now` is monotonic seconds everywhere."""

from __future__ import annotations

LOOKS_SHARE = 10
"""Looks for what was scheduled meanwhile may take a tenth of the time."""

CLOCK_LOOK = 5.0
"""Maximum seconds between looks: the server's clock may have been set, and a wait is by our own."""

WIDEST = 64
"""Maximum factor by which a batch is widened to reach over events that wait."""

SLOW = 0.1
"""Seconds of a look from which on the next one moves more. Behind an old transaction each look passes over all that was
moved since that began, however much it moves itself."""

WIDEST_SLOW = 8
"""Maximum factor by which a batch is widened for that: on a slow machine a look must not get too long."""


class DueLooks:
    """Paces the looks of one tenure."""

    def __init__(self, interval: float, batch: int) -> None:
        """`interval`: seconds between looks for events that were scheduled meanwhile; `batch`: events of one move."""
        self._interval = interval
        self._batch = batch
        self._factor = 1
        self._looked = float("-inf")
        self._gap = interval
        self._due = float("-inf")
        self._pause = 0.0
        self._not_before = float("-inf")

    def forget(self) -> None:
        """Look at once: lanes were claimed."""
        self._due = float("-inf")

    def wanted(self, now: float, *, something_ended: bool) -> bool:
        """Whether to look now; `something_ended` says whether a transaction may have ended since the last look."""
        if now < self._not_before:
            return False
        if now >= self._due or now - self._looked >= CLOCK_LOOK:
            return True
        return something_ended and now - self._looked >= self._gap

    @property
    def at_most(self) -> int:
        """How many events to move at once."""
        return self._batch * self._factor

    def looked(self, started: float, now: float, *, moved: int, waiting: int, next_in: float | None) -> None:
        """Note a look that began at `started`, and what it came to."""
        took = now - started
        if waiting > moved:
            self._factor = min(4 * self._factor, WIDEST)
        elif moved and took > SLOW:
            self._factor = min(2 * self._factor, WIDEST_SLOW)
        else:
            self._factor = 1
        self._looked = now
        self._gap = max(self._interval, LOOKS_SHARE * took)
        if next_in is None:
            self._due, self._pause = float("inf"), 0.0
        elif next_in > 0:
            self._due, self._pause = now + next_in, 0.0
        elif moved:
            # More is due. As long as this took, the others get the server.
            self._due, self._pause = now + took, 0.0
        else:
            self._pause = min(max(2 * self._pause, self._interval / 4), CLOCK_LOOK)
            self._due = now + self._pause

    def failed(self, now: float, again_in: float) -> None:
        """Note that a look did not work out."""
        self._looked = now
        self._due = self._not_before = now + again_in

    def wait(self, now: float) -> float:
        """Return for how many seconds nothing has to be asked."""
        return max(0.0, self._not_before - now, min(self._due - now, self._interval))
