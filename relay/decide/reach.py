"""How much one read of a lane may return, and what of a read is within that."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from relay.event import SIZE, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.event import PendingEvent


class Reach(NamedTuple):
    """The maximum that one read of one lane may return, or that may be under way of it."""

    events: int
    bytes: int
    """Of keys, payloads and headers; the last event may exceed it."""


def within(events: Sequence[PendingEvent], reach: Reach) -> tuple[list[PendingEvent], Reach]:
    """Return the first events, as many as a read with this reach would return, and the reach that they leave."""
    size = 0
    for count, event in enumerate(events):
        if count >= reach.events or size >= reach.bytes:
            return list(events[:count]), Reach(0, 0)
        size += event[SIZE]
    return list(events), Reach(reach.events - len(events), reach.bytes - size)


def cut_off(events: Sequence[PendingEvent], reach: Reach) -> bool:
    """Return whether a read stopped at its reach, so that there may be more events.

    The statement returns an event while the events before it leave a byte of the reach: the last one may exceed it.
    """
    return len(events) >= reach.events or sum(map(size_of, events)) >= reach.bytes
