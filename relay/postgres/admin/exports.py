"""Reads events for an export, in parts that fit into memory, each part by a statement of its own.

One statement for all of it, behind a cursor, would keep a snapshot for hours: VACUUM could clean up nowhere in the
database, and no segment could be dropped. In parts, nothing waits for an export.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from relay.decide.verify.places import UNKNOWN_PLACE, ReceiptRow, partition_and_offset
from relay.errors import BusyError
from relay.postgres.admin.reads import like, read_in_time
from relay.postgres.admin.replays import Horizon

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
    from datetime import datetime

    import asyncpg

WINDOW = 25_000
"""Ids that are looked through at once."""

PART_BYTES = 3 << 20
"""Bytes of events that are read at once; one event may have more."""

PART_EVENTS = 5_000

NO_UUID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class ExportFilter:
    """Which events are meant; None means any. `*` in the topic stands for any characters."""

    topic: str | None = None
    key: bytes | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Both are about when an event was written, by the server's clock."""

    def arguments(self) -> list[object]:
        """Return the parameters $3 to $6 of the statements."""
        return [None if self.topic is None else like(self.topic), self.key, self.since, self.until]


class Delivery(NamedTuple):
    """Where an event is in Kafka, and since when. The offset is -1 if Kafka did not say."""

    partition: int
    offset: int
    delivered_at: datetime


class Part(NamedTuple):
    """Some events, in id order."""

    events: Sequence[Any]
    """Rows of the statement `export_events`, or of `export_scheduled`."""
    deliveries: dict[int, Delivery]
    up_to: int
    """All events that match with ids up to this one have been read."""


class ExportReads:
    """What an export reads, through one connection; no method leaves a transaction open."""

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def horizon(self) -> Horizon:
        """Read the server's time, and which ids there are."""
        return Horizon(**(await self._read("replay_horizon"))[0])

    async def first_id(self, states: frozenset[str]) -> int:
        """Return an id below which no event has one of these states."""
        row = (await self._read("export_from"))[0]
        starts = [row["pending"]] if "pending" in states else []
        if states - {"pending"} and row["unresolved"] is not None:
            starts.append(row["unresolved"])
        return min(starts, default=2**63 - 1)

    async def events(self, wanted: ExportFilter, after: int, newest: int, *, unresolved: bool) -> AsyncGenerator[Part]:
        """Read the events that match with after < id <= newest; `unresolved`: only with a failure, or held back."""
        filter_ = [*wanted.arguments(), unresolved]
        above = after
        while above < newest:
            up_to = min(above + WINDOW, newest)
            rows = await self._read("export_sizes", above, up_to, *filter_)
            for group in groups([tuple(row) for row in rows]):
                events = await self._read("export_events", above, group, *filter_)
                receipts = await self._read("export_receipts", above, group)
                yield Part(events, _deliveries(receipts), group)
                above = group
            if not rows:
                following = (await self._read("export_next", up_to))[0]["id"]
                up_to = newest if following is None else max(min(following - 1, newest), up_to)
            yield Part([], {}, up_to)
            above = up_to

    async def scheduled(self, wanted: ExportFilter, after: UUID) -> AsyncGenerator[Part]:
        """Read the scheduled events that match with higher event_ids than `after`."""
        filter_ = wanted.arguments()
        while True:
            rows = await self._read("export_scheduled_sizes", after, PART_EVENTS, *filter_)
            if not rows:
                return
            for group in groups([tuple(row) for row in rows]):
                yield Part(await self._read("export_scheduled", after, group, *filter_), {}, 0)
                after = group

    async def _read(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        rows = await read_in_time(self._connection, self._schema, name, *arguments, limits="verify_session")
        if rows is None:
            raise BusyError("PostgreSQL took too long to read events; see `relay status` and try again")
        return rows


def groups(sizes: Iterable[tuple[Any, int]]) -> Iterator[Any]:
    """Yield the last id of each group of events, given as pairs (id, bytes), that can be read at once."""
    last, events, total = None, 0, 0
    for id_, size in sizes:
        if events and (total + size > PART_BYTES or events == PART_EVENTS):
            yield last
            events, total = 0, 0
        last, events, total = id_, events + 1, total + size
    if events:
        yield last


def _deliveries(rows: Iterable[asyncpg.Record]) -> dict[int, Delivery]:
    found: dict[int, Delivery] = {}
    for row in rows:
        *receipt, delivered_at = row
        receipt_row = ReceiptRow(*receipt)
        for id_, place in receipt_row.events():
            partition, offset = partition_and_offset(place) if place != UNKNOWN_PLACE else (row[3], -1)
            found[id_] = Delivery(partition, offset, delivered_at)
    return found
