"""What a replica notes of itself, and what the others do about one that ended without handing over its lanes."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from relay.decide.receipted import ReceiptedIds
from relay.decide.receipts import LEFT_OUT, SPAN, receipt_rows
from relay.keys import lane_of_key
from relay.postgres import connect
from relay.postgres.flow.statements import Statements
from relay.stages.reconcile.ports import DeadReplica

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from uuid import UUID

    import asyncpg

    from relay.decide.shares import Entry
    from relay.settings import PostgresSettings
    from relay.stages.reconcile.ports import Found, FoundEvent, ProcessNotes

NO_LANE: list[int] = []
"""The receipts are nothing special: nobody else owns the lanes before they are written."""


TRIES = 3
"""Times that receipts are written which another one may be writing at the same moment."""


class NotesConnection(Statements):
    """Fulfils NotesPort."""

    async def register_noting(self, entry: Entry, former: UUID | None, notes: ProcessNotes) -> tuple[int, UUID]:
        """Enter the replica."""
        rows = await self._rows(
            "register_noting",
            entry.replica,
            entry.name,
            entry.version,
            entry.lease,
            former,
            entry.waiting,
            notes.process,
            json.dumps(dict(notes.producers)),
            notes.fresh,
        )
        return int(rows[0]["xid"]), rows[0]["process"]

    async def enlist(self, replica: UUID, producers: Mapping[str, int]) -> bool:
        """Note producers."""
        return bool(await self._rows("enlist", replica, json.dumps(dict(producers))))

    async def dismiss(self, replica: UUID, names: Sequence[str]) -> None:
        """Forget producers."""
        await self._rows("dismiss", replica, names)

    async def note_topics(self, replica: UUID, offsets: Mapping[str, Sequence[int]]) -> bool:
        """Note topics."""
        return bool(await self._rows("note_topics", replica, list(offsets), _arrays(offsets)))

    async def raise_tails(self, process: UUID, offsets: Mapping[str, Sequence[int]]) -> None:
        """Raise offsets."""
        await self._rows("raise_tails", process, list(offsets), _arrays(offsets))

    async def forget_topics(self, process: UUID, topics: Sequence[str]) -> None:
        """Forget topics."""
        await self._rows("forget_topics", process, topics)

    async def expire(self, replica: UUID) -> None:
        """End the lease."""
        await self._rows("expire", replica)


class ReconcileConnection(Statements):
    """Fulfils ReconcilePort, on a connection for as long as there is something to do.

    Its methods may be called at the same time: that it is still at work is shown while it works.
    """

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        super().__init__(connection, schema)
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    async def open(cls, settings: PostgresSettings) -> ReconcileConnection:
        """Connect. Raises PostgresLostError when waiting may help."""
        connection = await connect.open_connection(
            await connect.dsn_of(settings), settings.connect_timeout, "outbox-relay reconcile"
        )
        return cls(connection, settings.schema_name)

    async def dead(self) -> list[UUID]:
        """Replicas that ended without handing over."""
        return [row["id"] for row in await self._rows("dead_replicas")]

    async def end(self, replica: UUID, by: UUID) -> DeadReplica | None:
        """End one of them."""
        rows = await self._rows("end_replica", replica, by)
        if not rows:
            return None
        process = rows[0]["process"]
        # Complete: what is noted from now on is refused.
        tails = {row["topic"]: row["offsets"] for row in await self._rows("tails_of", process)}
        return DeadReplica(replica, process, rows[0]["name"], json.loads(rows[0]["producers"]), tails)

    async def still_at_work(self, replica: UUID, by: UUID, waits_for: str | None) -> bool:
        """Show that it is being worked on."""
        return bool(await self._rows("still_at_work", replica, by, waits_for))

    async def settle_found(self, publisher: UUID, topic: str, found: Sequence[Found]) -> int:
        """Write receipts for found events that have none yet.

        In several statements, as an id can only come to belong to another event while the server is away.
        """
        events = {event.id: event for each in found for event in each.events if event is not None}
        if not events:
            return 0
        ids = list(events)
        lanes = [_lane(event) for event in events.values()]
        event_ids = [event.event_id for event in events.values()]
        rows = await self._rows("found_events", lanes, ids, event_ids, topic, min(ids), max(ids))
        known = {row[0] for row in rows}
        recorded = [(lane, id_) for lane, id_ in zip(lanes, ids, strict=True) if id_ in known]
        if not recorded:
            return 0
        new = 0
        # A second time only if the publisher is alive after all, and writes some of them in this very moment.
        for _ in range(TRIES):
            open_ = known - await self._receipted(known)
            if not open_:
                break
            columns = _columns(found, open_)
            rows = await self._rows(
                "settle_recorded", *columns, publisher, NO_LANE, *map(list, zip(*recorded, strict=True))
            )
            new += len(open_)
        return new

    async def _receipted(self, ids: set[int]) -> set[int]:
        """Return those of the ids that have a receipt."""
        found: set[int] = set()
        receipted = ReceiptedIds()
        for some in _close_together(ids):
            rows = await self._rows("receipts_between", some[0], some[-1])
            found |= receipted.named(some, rows[0]["receipts"] or b"")
        return found

    async def wake_others(self) -> None:
        """Have everybody who listens look at the lanes at once."""
        await self._rows("lanes_wake_up")

    async def let_go(self, replica: UUID, by: UUID, waits_for: str | None) -> None:
        """Let others try."""
        await self._rows("let_go", replica, by, waits_for)

    async def forget(self, replica: UUID) -> None:
        """Take it off the list."""
        await self._rows("forget_ended", replica)

    def close(self) -> None:
        """Close the connection at once."""
        connect.drop(self._connection)

    async def _rows(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        async with self._one_at_a_time:
            return await super()._rows(name, *arguments)


def _arrays(offsets: Mapping[str, Sequence[int]]) -> list[str]:
    """Each an array of PostgreSQL as text: there are no arrays of arrays of different lengths."""
    return ["{" + ",".join(map(str, each)) + "}" for each in offsets.values()]


def _close_together(ids: Collection[int]) -> Iterator[list[int]]:
    """Yield the ids in order, in groups within which a look at all receipts is worth it."""
    some: list[int] = []
    for id_ in sorted(ids):
        if some and id_ - some[-1] > SPAN:
            yield some
            some = []
        some.append(id_)
    yield some


def _lane(event: FoundEvent) -> int:
    return lane_of_key(event.key if event.key is not None else event.event_id.bytes)


def _columns(found: Sequence[Found], known: set[int]) -> tuple[list[int], list[int], list[int], list[int], list[bytes]]:
    """The columns of the receipts' rows, without events that are not `known`; each event is named once."""
    highest: list[int] = []
    lowest: list[int] = []
    bases: list[int] = []
    partitions: list[int] = []
    places: list[bytes] = []
    named: set[int] = set()
    for each in found:
        ids = [event.id if event is not None and event.id in known else LEFT_OUT for event in each.events]
        ids = [id_ if id_ not in named else LEFT_OUT for id_ in ids]
        named.update(ids)
        for row in receipt_rows(ids, each.base_offset):
            highest.append(row.max_id)
            lowest.append(row.min_id)
            bases.append(row.base_offset)
            partitions.append(each.place.partition)
            places.append(row.ids)
    return highest, lowest, bases, partitions, places
