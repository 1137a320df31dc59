"""An event as the relay handles it between scan and settle: one row of ten columns, whoever made the row.

A scan returns rows of the database driver's own class, and they stay what they are until their receipts are written:
to build an `EventTuple` of each would cost 0.34 us, a twentieth of what an event costs the relay altogether.
`PendingEvent` is what both have in common: the names, and a tuple's order of columns.

Names (`event.topic`) are the rule: indexes and `map(column_of, ...)` only in scan, lane_scan, hand_in, topic, pack and
settle, which look at each event of each batch. In a list of 1,000 rows, `[event.topic for event in events]` takes 33 ns
an event, `[event[TOPIC] for event in events]` 20 ns, and `list(map(topic_of, events))` 18 ns.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import SupportsIndex
    from uuid import UUID

    from relay.outcome import PublishError

OVERHEAD_BYTES = 512
"""What one taken event costs in memory beyond its own bytes (row object, ids, list slots); measured with
tracemalloc on CPython 3.11 for 36-byte keys and rounded up."""

LANE, ID, EVENT_ID, TOPIC, KEY, PAYLOAD, HEADERS, TYPE, CREATED_MS, SIZE = range(10)
"""The columns, in the order in which the statements that read events return them."""


class PendingEvent(Protocol):
    """One row of `outbox.event`, as the stages see it: the driver's own row, or an `EventTuple`."""

    @property
    def lane(self) -> int:
        """The lane of the event's key."""

    @property
    def id(self) -> int:
        """The number that the sequence gave the event; unique, and growing within a key."""

    @property
    def event_id(self) -> UUID:
        """The id that the writer gave the event, or had the database make."""

    @property
    def topic(self) -> str:
        """The event's topic in Kafka."""

    @property
    def key(self) -> bytes | None:
        """The key that orders the event; None for an event without order."""

    @property
    def payload(self) -> bytes | None:
        """The record's value; None for a tombstone."""

    @property
    def headers(self) -> str | None:
        """The JSON text of an object of strings; None when there are none."""

    @property
    def type(self) -> str | None:
        """A name for what happened, which travels as a header."""

    @property
    def created_ms(self) -> int:
        """The time at which the event was written, in milliseconds since 1970-01-01 UTC."""

    @property
    def size(self) -> int:
        """Bytes of key, payload and headers."""

    def __getitem__(self, column: SupportsIndex, /) -> Any:
        """The value of a column."""

    def __iter__(self) -> Iterator[Any]:
        """The values of all columns, in their order; an adapter's statement may return more columns after them."""


class EventTuple(NamedTuple):
    """An event made by the relay itself, from columns that it changed or read apart."""

    lane: int
    id: int
    event_id: UUID
    topic: str
    key: bytes | None
    payload: bytes | None
    headers: str | None
    type: str | None
    created_ms: int
    size: int


lane_of: Callable[[PendingEvent], int] = itemgetter(LANE)
id_of: Callable[[PendingEvent], int] = itemgetter(ID)
event_id_of: Callable[[PendingEvent], UUID] = itemgetter(EVENT_ID)
topic_of: Callable[[PendingEvent], str] = itemgetter(TOPIC)
key_of: Callable[[PendingEvent], bytes | None] = itemgetter(KEY)
created_ms_of: Callable[[PendingEvent], int] = itemgetter(CREATED_MS)
size_of: Callable[[PendingEvent], int] = itemgetter(SIZE)


class Origin(Protocol):
    """Who asked for an event that no scan took: the failure of a dead letter, or a replay of delivered events.

    An origin hears the outcome of each of its events exactly once: acknowledged, refused or withdrawn.
    """

    @property
    def exempt(self) -> bool:
        """Whether the origin's events may go to a topic that the settings do not allow."""

    def acknowledged(self, event: PendingEvent, partition: int, offset: int, /) -> None:
        """Take note that Kafka has the event, at this place; the offset is -1 when the broker did not say."""

    def refused(self, event: PendingEvent, error: PublishError, /) -> None:
        """Take note that Kafka refused the event alone, for a reason of its own or an unknown one."""

    def withdrawn(self, event: PendingEvent, /) -> PendingEvent | None:
        """Take note that the event left publish's queues and will not be published from there.

        Returns the event to hold back or drop in its place; None if the origin takes care of it.
        """


class EventWithOrigin(EventTuple):
    """An event that no scan took. Publish packs and queues it like any other.

    Its class is the mark, so that events of the hot path carry none.
    """

    origin: Origin
    written_ms: int | None = None
    """The time at which it was written, in milliseconds since 1970, if it has another `created_ms` than that."""


def with_origin(event: EventTuple, origin: Origin) -> EventWithOrigin:
    """Return the event, marked with its origin."""
    marked = EventWithOrigin._make(event)
    marked.origin = origin
    return marked
