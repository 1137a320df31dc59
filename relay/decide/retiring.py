"""Which of the segments that are due are worth a look.

`now` is monotonic seconds everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

PAUSE = 600.0
"""Seconds until another look at a segment of which too much is needed: a look may count millions of held events."""


class Segment(Protocol):
    """A segment, as far as this needs to know it."""

    @property
    def lower_id(self) -> int:
        """Its first id."""

    @property
    def upper_id(self) -> int:
        """The first id above it."""

    @property
    def kept(self) -> bool:
        """Whether it is what was left of one or more."""


S = TypeVar("S", bound=Segment)


class Retiring:
    """Remembers the segments that were looked at in vain."""

    def __init__(self) -> None:
        self._left: dict[tuple[int, int], float] = {}
        """By lower and upper id: until when it is left alone."""

    def worth_a_look(self, due: Sequence[S], now: float) -> list[S]:
        """Return those of the segments that are not left alone for a while, in their order."""
        self._left = {bounds: until for bounds, until in self._left.items() if until > now}
        return [segment for segment in due if (segment.lower_id, segment.upper_id) not in self._left]

    def leave(self, segment: Segment, now: float) -> None:
        """Leave a segment alone for a while; not a small one, which goes as soon as a person has decided."""
        if not segment.kept:
            self._left[segment.lower_id, segment.upper_id] = now + PAUSE
