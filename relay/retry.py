"""How long to wait before trying again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Backoff:
    """Exponential backoff with full-range jitter above half, so that replicas do not come back in step.

    Delays are in seconds: `first`, doubled with every failure, at most `most`, times a random 0.5 to 1.
    """

    random: Callable[[], float]
    """Returns a number in [0, 1)."""
    first: float = 0.1
    most: float = 10.0
    failures: int = 0

    def next_delay(self) -> float:
        """Count a failure and return the delay before the next try."""
        delay = min(self.most, self.first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return delay * (0.5 + self.random() / 2)

    def reset(self) -> None:
        """It worked: the next failure is a first one."""
        self.failures = 0
