"""The progress of the demo: filled by `run`, shown by `display`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from relay.demo.check import Checker
from relay.demo.latency import Latencies

if TYPE_CHECKING:
    from relay.postgres.admin.status import Status

RATE_SECONDS = 3.0
LATEST_EVENTS = 20


class Phase(Enum):
    """What the demo does while there is something to watch."""

    WRITING = "writing"
    FINISHING = "finishing"
    DRAINING = "draining"
    CHECKING = "checking"


@dataclass(slots=True)
class Arrival:
    """An event as the consumer saw it. `latency` is in ms, None until the commit is known."""

    order: int
    version: int
    change: str
    partition: int
    offset: int
    latency: float | None


class Rate:
    """Events per second, over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, total: int, now: float) -> None:
        """Note the total number of events at this moment."""
        self._seen.append((now, total))
        while self._seen[0][0] < now - RATE_SECONDS:
            self._seen.popleft()

    def per_second(self) -> float:
        """Return the events per second; 0 before the second update."""
        (begin, first), (end, last) = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, 0), (0.0, 0))
        return (last - first) / (end - begin) if end > begin else 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    """The work of the order service so far, in numbers of transactions."""

    committed: int = 0
    rolled_back: int = 0
    savepoints: int = 0
    """Savepoints that were rolled back, each with an event."""
    slow: int = 0
    """Transactions, committed or rolled back, that stayed open for long."""
    foreign: int = 0
    """Long transactions of another program, without events."""
    writers: int = 0


@dataclass(slots=True)
class Progress:
    """The progress of all parts of the demo."""

    seconds: float
    """Seconds for which the writers are to write."""
    elapsed: float = 0.0
    phase: Phase = Phase.WRITING
    committed: int = 0
    """Committed events that the order service has reported so far."""
    counts: Counts = field(default_factory=Counts)
    checker: Checker = field(default_factory=Checker)
    latencies: Latencies = field(default_factory=Latencies)
    latest: deque[Arrival] = field(default_factory=lambda: deque(maxlen=LATEST_EVENTS))
    status: Status | None = None
    """The status, as `relay status` has it; at most a second old."""
    committing: Rate = field(default_factory=Rate)
    arriving: Rate = field(default_factory=Rate)
