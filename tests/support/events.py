"""Events for tests that need no database."""

from __future__ import annotations

from uuid import UUID

from relay.event import EventTuple, PendingEvent


def event(
    id_: int,
    *,
    lane: int = 0,
    key: bytes | None = b"k",
    topic: str = "orders",
    payload: bytes | None = b"",
    size: int = 10,
) -> EventTuple:
    """An event as a scan returns it."""
    return EventTuple(lane, id_, UUID(int=id_), topic, key, payload, None, None, 0, size)


def events(*ids: int, lane: int = 0, size: int = 10) -> list[PendingEvent]:
    """Events of one key as a scan returns them."""
    return [event(id_, lane=lane, size=size) for id_ in ids]


def ids(taken: list[PendingEvent]) -> list[int]:
    """Their ids, in the same order."""
    return [each.id for each in taken]
