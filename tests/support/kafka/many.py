"""What must be true of a topic and its outbox, as `tests.support.promises` has it, for millions of events.

Of each record only its id and a hash stay in memory, 24 bytes in all.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from tests.support.kafka.consumer import each_record
from tests.support.postgres.receipts import DELIVERIES

if TYPE_CHECKING:
    import asyncpg

NOTHING = -1
AT_A_TIME = 5_000


class Checked(NamedTuple):
    """What a topic shows."""

    events: int
    """Committed events of the topic."""
    repeats: int
    """Records of events that were in the topic already."""


async def check_many(connection: asyncpg.Connection, bootstrap_servers: str, topic: str) -> Checked:
    """Check that every event is in Kafka as it was written, in order, and where its receipt says."""
    highest = await connection.fetchval("SELECT coalesce(max(id), 0) FROM outbox.event")
    seen = _Seen(highest)
    async for record in each_record(bootstrap_servers, topic):
        seen.take(record.partition, record.offset, record.headers, record.key, record.value)
    async with connection.transaction(readonly=True):
        events = await _check_nothing_lost(connection, topic, seen)
        await _check_receipts(connection, seen)
    return Checked(events, seen.repeats)


class _Seen:
    """The records, in order per partition."""

    def __init__(self, highest: int) -> None:
        self.repeats = 0
        self.content = array("q", [0]) * (highest + 1)
        """A hash of the record of each event id; 0 where there is none."""
        self.ids: dict[int, array[int]] = {}
        """By partition, the event id at each offset."""
        self._last: dict[bytes, tuple[int, int]] = {}
        """The partition of each key, and the last number in it."""

    def take(
        self, partition: int, offset: int, headers: dict[str, str], key: bytes | None, value: bytes | None
    ) -> None:
        id_, event_id = int(headers["outbox-id"]), headers["outbox-event-id"]
        assert key is not None
        assert value is not None
        ids = self.ids.setdefault(partition, array("q"))
        # A marker has an offset, too.
        ids.extend([NOTHING] * (offset - len(ids)))
        ids.append(id_)
        content = _hash(event_id, key, value)
        if self.content[id_]:
            assert self.content[id_] == content, f"two records of id {id_} differ"
            self.repeats += 1
            return
        self.content[id_] = content
        number = int(value.split(maxsplit=1)[0])
        where, last = self._last.get(key, (partition, 0))
        assert (where, last + 1) == (partition, number), f"{number} of {key!r} behind {last}, at {partition}/{offset}"
        self._last[key] = partition, number


async def _check_nothing_lost(connection: asyncpg.Connection, topic: str, seen: _Seen) -> int:
    """Exactly the committed events are there. Returns how many they are."""
    events = lost = 0
    of_topic = "SELECT id, event_id::text, key, payload FROM outbox.event WHERE topic = $1"
    async for id_, event_id, key, payload in connection.cursor(of_topic, topic, prefetch=AT_A_TIME):
        events += 1
        lost += seen.content[id_] != _hash(event_id, key, payload)
    pending = await connection.fetchval("SELECT count(*) FROM outbox.pending")
    assert lost == 0, f"{lost} of {events} events lost, or changed on the way; {pending} have no receipt"
    there = sum(map(bool, seen.content))
    assert there == events, f"{there - events} records that nobody committed"
    return events


async def _check_receipts(connection: asyncpg.Connection, seen: _Seen) -> None:
    """Every event has a receipt, and its partition and offset point at that event."""
    wrong = 0
    receipted = bytearray(len(seen.content))
    places = f"SELECT id, kafka_partition, kafka_offset FROM {DELIVERIES}"
    async for id_, partition, offset in connection.cursor(places, prefetch=AT_A_TIME):
        ids = seen.ids.get(partition, ())
        wrong += not (0 <= offset < len(ids) and ids[offset] == id_)
        receipted[id_] = 1
    missing = sum(bool(content) and not receipted[id_] for id_, content in enumerate(seen.content))
    assert (wrong, missing) == (0, 0), f"{wrong} receipts point at another event, {missing} are missing"


def _hash(event_id: str, key: bytes, value: bytes) -> int:
    return hash((event_id, key, value)) or 1
