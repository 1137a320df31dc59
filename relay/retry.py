"""How long to wait before trying again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def delay_after(failures: int, *, first: float, most: float, draw: float) -> float:
    """Seconds to wait after so many earlier `failures`: exponential backoff with equal jitter.

    `first`, doubled with every failure, at most `most`, times 0.5 to 1: `draw` is a random number in [0, 1). The jitter
    keeps replicas from coming back in step.
    """
    return min(most, first * 2.0 ** min(failures, 30)) * (0.5 + draw / 2)


@dataclass(slots=True)
class Backoff:
    """Counts failures in a row; the delays grow as `delay_after` says."""

    random: Callable[[], float]
    """Returns a number in [0, 1)."""
    first: float = 0.1
    most: float = 10.0
    failures: int = 0

    def next_delay(self) -> float:
        """Count a failure and return the delay before the next try."""
        delay = delay_after(self.failures, first=self.first, most=self.most, draw=self.random())
        self.failures += 1
        return delay

    def reset(self) -> None:
        """Take note that it worked: the next failure counts as the first."""
        self.failures = 0
