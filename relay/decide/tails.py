"""From which offset on whoever takes over from this process has to read each partition. Pure, no I/O.

The offset of a partition may be written down when every record of this process below it has its receipt committed
(rule T of RECONCILE.md). Batches are acknowledged in the order of their offsets, but their receipts may be committed
in another one, and in parts. So the offset rises to the beginning of the first batch that has not all of its receipts,
and never past one of which nobody knows whether it is in Kafka.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class _Run:
    """A record batch that Kafka has, or may have."""

    begin: int
    """-1 when the broker did not say."""
    end: int
    left: int
    """Events without a committed receipt."""


_DOUBT = _Run(-1, -1, 1)


@dataclass(slots=True)
class Tail:
    """One partition of a topic that this process has noted."""

    offset: int
    """Every record of this process below it has its receipt committed."""
    sent: int = 0
    """Batches that were handed to a producer."""
    runs: deque[_Run] = field(default_factory=deque)

    @property
    def open(self) -> bool:
        """Whether a record of this process may be at the offset or above, without a receipt."""
        return bool(self.runs)

    @property
    def doubtful(self) -> bool:
        """Whether there is a batch of which nobody knows whether it is in Kafka."""
        return any(run is _DOUBT for run in self.runs)

    def acknowledged(self, begin: int, records: int, to_record: int) -> None:
        """Note a batch that Kafka has; `to_record` of its records get a receipt. -1 for an offset that is not known.

        One below the offset is in a topic that was made anew, whose offsets begin from the start.
        """
        if 0 <= begin < self.offset:
            self.offset = begin
        self.runs.append(_Run(begin, begin + records if begin >= 0 else -1, to_record))
        self._rise()

    def doubt(self) -> None:
        """Note a batch of which nobody knows whether Kafka has it, behind all that were acknowledged before."""
        if not self.runs or self.runs[-1] is not _DOUBT:
            self.runs.append(_DOUBT)

    def resolved(self) -> None:
        """Note that what was doubtful is known, and has its receipts."""
        self.runs = deque(run for run in self.runs if run is not _DOUBT)
        self._rise()

    def recorded(self, begin: int, events: int) -> bool:
        """Note committed receipts of the batch that has offset `begin`; returns whether the offset has risen."""
        for run in self.runs:
            if run is not _DOUBT and run.left and (run.begin <= begin < run.end if begin >= 0 else run.begin < 0):
                run.left -= min(events, run.left)
                return self._rise()
        return False

    def looked_up(self, end: int, sent: int) -> bool:
        """Note that the partition ended at `end` when `sent` batches had been handed over, and all had receipts.

        Returns whether the offset has risen: not if anything was handed over since.
        """
        if self.runs or self.sent != sent or end <= self.offset:
            return False
        self.offset = end
        return True

    def _rise(self) -> bool:
        before = self.offset
        while self.runs and not self.runs[0].left:
            self.offset = max(self.offset, self.runs.popleft().end)
        return self.offset > before

    def awaiting(self) -> Callable[[], bool]:
        """Return what tells whether one of the batches that Kafka has by now still waits for a receipt."""
        runs = list(self.runs)
        return lambda: any(run.left for run in runs)
