"""Events as the rows that are written: one by an INSERT, many in batches by COPY."""

from __future__ import annotations

from relay.enqueue.copy import binary_copy
from relay.enqueue.event import row
from relay.enqueue.trace import rows, trace_headers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from relay.enqueue.event import Event


def values(event: Event) -> tuple[Any, ...]:
    """The columns of one event for an INSERT, with the caller's trace; three more for one that is scheduled."""
    columns = row(event, trace_headers())
    if not event.is_scheduled:
        return columns
    from relay.enqueue.scheduling import as_text

    return *columns, *as_text(event.deliver_at, event.delay, event.timer)


class Batch(list["Event"]):
    """Events that go in one COPY: all of them scheduled, or none."""

    def __init__(self, events: Iterable[Event], *, scheduled: bool, indexes: Sequence[int] | None = None) -> None:
        super().__init__(events)
        self.scheduled = scheduled
        self.indexes = indexes
        """Where each stands in what the caller gave, if that is elsewhere than here."""


def batches(events: Sequence[Event]) -> list[Batch]:
    """The events as they are copied, those that are scheduled apart."""
    later = [index for index, event in enumerate(events) if event.deliver_at is not None or event.delay is not None]
    if not later:
        return [Batch(events, scheduled=False)] if events else []
    if len(later) == len(events):
        return [Batch(events, scheduled=True)]
    chosen = set(later)
    now = [index for index in range(len(events)) if index not in chosen]
    return [
        Batch([events[index] for index in indexes], scheduled=scheduled, indexes=indexes)
        for scheduled, indexes in ((False, now), (True, later))
    ]


def portions(batch: Batch, encoding: str) -> Iterator[bytes]:
    """A batch as the bytes of its COPY, with the caller's trace. `encoding` as in relay.enqueue.copy."""
    if not batch.scheduled:
        return binary_copy(rows(batch), encoding)
    from relay.enqueue.scheduling import as_binary

    return binary_copy(
        rows(batch), encoding, (as_binary(event.deliver_at, event.delay, event.timer, encoding) for event in batch)
    )
