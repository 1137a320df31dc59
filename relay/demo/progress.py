"""How the demo is going: filled by `run`, shown by `display`."""

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
    """What the demo is doing while there is something to watch."""

    WRITING = "writing"
    FINISHING = "finishing"
    DRAINING = "draining"
    CHECKING = "checking"


@dataclass(slots=True)
class Arrival:
    """An event as the consumer saw it. `latency` is in ms, None as long as its commit was not told."""

    order: int
    version: int
    change: str
    partition: int
    offset: int
    latency: float | None


class Rate:
    """Events a second, over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, total: int, now: float) -> None:
        """Tell the total at a moment."""
        self._seen.append((now, total))
        while self._seen[0][0] < now - RATE_SECONDS:
            self._seen.popleft()

    def per_second(self) -> float:
        """0 before the second update."""
        (begin, first), (end, last) = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, 0), (0.0, 0))
        return (last - first) / (end - begin) if end > begin else 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What the order service did so far, in numbers of transactions."""

    committed: int = 0
    rolled_back: int = 0
    savepoints: int = 0
    """Savepoints that were rolled back, each with an event."""
    slow: int = 0
    """Those among both that stayed open for long."""
    foreign: int = 0
    """Long ones of somebody else, without events."""
    writers: int = 0


@dataclass(slots=True)
class Progress:
    """How far everything is."""

    seconds: float
    """How long the writers are meant to write."""
    elapsed: float = 0.0
    phase: Phase = Phase.WRITING
    committed: int = 0
    """Events, as the order service has told so far."""
    counts: Counts = field(default_factory=Counts)
    checker: Checker = field(default_factory=Checker)
    latencies: Latencies = field(default_factory=Latencies)
    latest: deque[Arrival] = field(default_factory=lambda: deque(maxlen=LATEST_EVENTS))
    status: Status | None = None
    """What `relay status` would say, a second ago at most."""
    committing: Rate = field(default_factory=Rate)
    arriving: Rate = field(default_factory=Rate)
