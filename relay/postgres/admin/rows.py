"""Rows of the statements in `failures.sql`: failures, events, and what people asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


class FailureRow(NamedTuple):
    """A failure as the list has it."""

    id: int
    lane: int
    topic: str
    key: bytes | None
    state: str
    policy: str
    error: str
    attempts: int
    failed_at: datetime
    failed_seconds: float
    next_attempt_at: datetime | None
    action: int | None


class FailureGroup(NamedTuple):
    """Failures of one topic, error and state."""

    topic: str
    error: str
    state: str
    events: int
    passed: int
    """The number of them whose policy lets later events of their keys go on."""
    first_seconds: float
    last_seconds: float


class EventState(NamedTuple):
    """The state of an event that somebody named by its id; all but the id is None if there is no such event."""

    id: int
    lane: int | None
    topic: str | None
    key: bytes | None
    kafka_partition: int | None
    kafka_offset: int | None
    delivered_seconds: float | None
    state: str | None
    action: int | None
    requested_by: str | None
    requested_seconds: float | None
    held: bool
    erased_by: int | None
    """The action by which it was erased; then that is who asked."""


class EventDetails(NamedTuple):
    """Everything about one event."""

    id: int
    lane: int
    event_id: UUID
    topic: str
    key: bytes | None
    headers: str
    type: str | None
    created_at: datetime
    created_seconds: float
    payload: bytes | None
    """Its first bytes, as many as were asked for."""
    payload_bytes: int | None
    kafka_partition: int | None
    kafka_offset: int | None
    delivered_at: datetime | None
    state: str | None
    policy: str | None
    attempts: int | None
    error: str | None
    detail: str | None
    failed_at: datetime | None
    failed_seconds: float | None
    next_attempt_at: datetime | None
    next_attempt_seconds: float | None
    history: str | None
    action: int | None
    held: bool
    erased_by: int | None
    """The action by which it was erased."""


class Blocker(NamedTuple):
    """The failure that an event is held behind."""

    id: int
    state: str
    error: str


class IdRange(NamedTuple):
    """The ids that events can have: `lowest` is None when there is no segment."""

    lowest: int | None
    newest: int


class Action(NamedTuple):
    """What somebody asked for, and its progress."""

    id: int
    kind: str
    filter: dict[str, Any]
    reason: str
    requested_by: str
    requested_at: datetime
    requested_seconds: float
    finished_at: datetime | None
    counts: dict[str, Any]
    to_go: int
    """Number of events that are marked and not published yet."""
    failed: int
    """Number of events that failed again."""

    @property
    def events(self) -> int:
        """The number of events that it was asked for."""
        return int(self.counts.get("events", 0))

    @property
    def done(self) -> int:
        """The number of events that were delivered, or discarded."""
        return max(self.events - self.to_go - self.failed, 0)

    @property
    def finished(self) -> bool:
        """Whether none of its events is still to be published."""
        return self.finished_at is not None or (self.kind == "replay" and self.to_go == 0)


class Marked(NamedTuple):
    """A recorded action, with the number of events it marked."""

    action: int
    events: int
