"""Packs events into record batches: what Kafka gets of each event.

The batches are built by aiokafka. Its `BatchBuilder` passes each record on to a builder in C that it has inside, which
takes as long again as what is gained by C: 0.4 us of 2.2. The loop here calls the inner builder itself. That one is
private, so both ways build a small batch when the process starts; only if the bytes are the same is the inner one used.
"""

from __future__ import annotations

import json
import time
from functools import cache, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from aiokafka.producer.message_accumulator import BatchBuilder

from relay.decide.limits import ANY_TIME, NO_TIME
from relay.event import topic_of
from relay.headers import CREATED_AT, EVENT_ID, ID, TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from relay.decide.cloud_events import CloudEvents
    from relay.event import PendingEvent

RECORD_OVERHEAD = 160
"""Bytes of a record beyond the event's own: framing, `outbox-event-id` and `outbox-id`, rounded up."""

MARGIN_BYTES = 4_096
"""Bytes that a batch stays below its topic's limit, so that an estimate that is a little too low is not refused."""


class Append(Protocol):
    """Adds a record to a batch."""

    def __call__(
        self,
        offset: int,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes]],
        /,
    ) -> object | None:
        """Add the record with the number `offset`, from 0, and the time (ms); None, and nothing, if it does not fit."""


class Way(Protocol):
    """How records get into a builder of aiokafka's."""

    def append(self, builder: Any) -> Append:
        """What adds a record to the batch of `builder`."""

    def close(self, builder: Any, records: int, /) -> None:
        """End the batch, to which `records` records were added."""


class Inner:
    """By the builder inside, of which the one around it is told at the end."""

    def append(self, builder: Any) -> Append:
        """The inner builder's own method."""
        append: Append = builder._builder.append  # noqa: SLF001
        return append

    def close(self, builder: Any, records: int, /) -> None:
        """Say how many records there are, as if they had come one by one."""
        builder._relative_offset = records  # noqa: SLF001
        builder.close()


class Public:
    """By aiokafka's public interface."""

    def append(self, builder: Any) -> Append:
        """The public method, which counts by itself."""
        append = builder.append
        return lambda _, timestamp, key, value, headers: append(
            timestamp=timestamp, key=key, value=value, headers=headers
        )

    def close(self, builder: Any, _: int, /) -> None:
        """End the batch."""
        builder.close()


class KafkaBatch:
    """Events packed for one partition, in order, with what aiokafka builds of them."""

    __slots__ = ("builder", "events", "restamped", "size")

    def __init__(self, builder: Any, events: list[PendingEvent], size: int, restamped: int) -> None:
        self.builder = builder
        self.events = events
        self.size = size
        self.restamped = restamped


class Packer:
    """Packs for one producer."""

    def __init__(
        self,
        new_builder: Callable[[], Any],
        *,
        batch_bytes: int,
        created: bool,
        cloud_events: CloudEvents | None = None,
        way: Way | None = None,
    ) -> None:
        """`created` says whether a record has the time at which its event was written, or that of packing."""
        self._new_builder = new_builder
        self._batch_bytes = batch_bytes
        self._created = created
        # Asked of each batch; None where no topic has any.
        self._cloud_events_of = lru_cache(1_000)(cloud_events.of) if cloud_events and cloud_events.sources else None
        self._way = way or fastest_way()

    def pack(
        self,
        waiting: Collection[PendingEvent],
        most: int,
        max_bytes: int | None,
        times: tuple[int, int] = ANY_TIME,
    ) -> KafkaBatch:
        """Pack the first waiting events into a record batch until it is full: at least one event, at most `most`.

        `max_bytes` is the topic's limit of a record batch, `times` the earliest and the latest time (ms) that it takes.
        This is the hot path: one loop, which touches of each event only what Kafka gets.
        """
        room = max_bytes if max_bytes is not None and max_bytes < self._batch_bytes + MARGIN_BYTES else None
        packed = MARGIN_BYTES
        builder = self._new_builder()
        append = self._way.append(builder)
        created = self._created
        earliest, latest = times if created else NO_TIME
        now = time.time_ns() // 1_000_000
        records = restamped = total = 0
        cloud_events = self._cloud_events_of(topic_of(next(iter(waiting)))) if self._cloud_events_of else None
        for event in islice(waiting, most):
            _, id_, event_id, _, key, payload, headers, type_, created_ms, size = event
            if room is not None:
                packed += size + RECORD_OVERHEAD + (0 if cloud_events is None else cloud_events.added_bytes(event))
                if packed > room and records:
                    break
            record_headers = [(EVENT_ID, str(event_id).encode()), (ID, b"%d" % id_)]
            if type_ is not None:
                record_headers.append((TYPE, type_.encode()))
            if headers is not None and headers != "{}":
                # The writer's first: of two with one name consumers take the last, and rows from before version 7 of
                # the schema may have any names.
                record_headers[:0] = [(name, value.encode()) for name, value in json.loads(headers).items()]
            if cloud_events is not None:
                record_headers += cloud_events.headers(event, record_headers)
            time_ms = created_ms
            if not earliest <= created_ms <= latest:
                time_ms = now
                if created:
                    record_headers.append((CREATED_AT, b"%d" % created_ms))
            if append(records, time_ms, key, payload, record_headers) is None:
                break
            restamped += created and time_ms is not created_ms
            records += 1
            total += size
        self._way.close(builder, records)
        return KafkaBatch(builder, list(islice(waiting, records)), total, restamped)


@cache
def fastest_way() -> Way:
    """The way by the inner builder if it works with the installed aiokafka, else the public one."""
    inner = Inner()
    return inner if works(inner) else Public()


def works(way: Way) -> bool:
    """Whether batches that are packed this `way` have the bytes of those that are packed by the public one."""
    try:
        return _specimen(way) == _specimen(Public())
    except Exception:  # noqa: BLE001 an interface may have changed in any way: it is not used then
        return False


def _specimen(way: Way) -> tuple[int, list[bool], bytes]:
    """A batch of records with and without everything, up to one that does not fit: their number and its bytes."""
    builder = BatchBuilder(256, 0)
    append = way.append(builder)
    records: list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes]]]] = [
        (1_700_000_000_123, b"key", b"value", [(EVENT_ID, b"id"), (ID, b"1")]),
        (1_700_000_000_000, None, None, []),
        (1_700_000_086_400, b"", b"", [(TYPE, b"\xc3\xa9")]),
        (1_700_000_000_123, b"k" * 200, b"", []),
    ]
    added: list[bool] = []
    for time_ms, key, value, headers in records:
        added.append(append(sum(added), time_ms, key, value, headers) is not None)
    way.close(builder, sum(added))
    return builder.record_count(), added, bytes(builder._build())  # noqa: SLF001
