"""What is to be done about a topic that takes no events: two closed unions, matched with `assert_never`.

relay/decide/trouble.py decides on them, relay/stages/publish/watch.py carries them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from relay.outcome import PublishError


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell people that the topic takes no events, for a reason that was not told before."""

    error: PublishError


@dataclass(frozen=True, slots=True)
class Pause:
    """Tell people, and hold the topic's events back from now on, those that wait as well."""

    error: PublishError


@dataclass(frozen=True, slots=True)
class HoldBack:
    """Hold back the events that wait for the topic, which is paused already."""


@dataclass(frozen=True, slots=True)
class End:
    """Tell people that the topic works again, and let its held events go."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Let the topic's held events go, to see whether it works again."""


@dataclass(frozen=True, slots=True)
class LookUp:
    """Ask Kafka for the topic's partitions and their leaders."""


@dataclass(frozen=True, slots=True)
class ResolveAgain:
    """Find out the number of the topic's partitions again, before more of its events are routed."""


@dataclass(frozen=True, slots=True)
class Chill:
    """Send the first batch of each of the topic's partitions alone: the topic may have been made again."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """Send the partition's batches through the producer that is kept for such, and discard the one it is stuck in."""

    partition: int
    why: str


@dataclass(frozen=True, slots=True)
class TellStalled:
    """Tell people that nothing moves in the partition."""

    partition: int
    error: str


@dataclass(frozen=True, slots=True)
class TellMoving:
    """Tell that something moves in the partition that had stalled."""

    partition: int


Answer: TypeAlias = Tell | Pause | HoldBack | End
"""What may follow from an answer of Kafka."""

Action: TypeAlias = Answer | Probe | LookUp | ResolveAgain | Chill | Suspect | TellStalled | TellMoving
"""What may follow from a look."""
