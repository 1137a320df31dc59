"""Reads what a topic has, as fast as one process can: whole answers, which aiokafka's code in C takes apart.

A consumer of aiokafka makes an object in Python of each record, which takes as long as all the rest. It is used here
for its connections and to ask for offsets. It has no group and commits nothing.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiokafka.errors as kafka_errors
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords

from relay.decide.verify.examine import Read
from relay.errors import RefusedError, UnreachableError
from relay.kafka.connections import Connections
from relay.kafka.errors import unreachable
from relay.kafka.options import Security, client_options
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from relay.settings import KafkaSettings

ANSWER_BYTES = 8 << 20
"""Bytes that one answer is asked to have at most."""

PATIENCE = 60.0
"""Seconds for which a partition may give nothing before the reader gives up."""

_WAIT_MS = 500
_PAUSE = 0.2
_CLOSE_TIMEOUT = 1.0
_OUT_OF_RANGE = 1
_WAITS = frozenset({3, 5, 6, 9, 56, 74, 75, 76, 77, 78, 100})
"""Codes of errors that pass: no leader, another leader, a broker that starts."""


class TopicReader:
    """Reads topics of one cluster."""

    def __init__(self, consumer: AIOKafkaConsumer, connections: Connections, settings: KafkaSettings) -> None:
        self._consumer = consumer
        self._client: Any = consumer._client  # noqa: SLF001 there is no public way to send a request
        self._connections = connections
        self._settings = settings

    async def partitions(self, topic: str) -> list[int]:
        """Return the numbers of a topic's partitions. Raises RefusedError if there is no such topic for this login."""
        # All topics are asked for: to ask for one that does not exist may create it.
        cluster = await self._asking(self._client.fetch_all_metadata())
        if topic in cluster.unauthorized_topics:
            raise _may_not_read(topic)
        found = cluster.partitions_for_topic(topic)
        if not found:
            raise RefusedError(
                f"the topic {plain(topic)} does not exist, or this login may not see it; check the name, or grant "
                "DESCRIBE and READ on the topic"
            )
        await self._asking(self._client.set_topics([topic]))
        return sorted(found)

    async def bounds(self, topic: str, partitions: list[int]) -> dict[int, tuple[int, int]]:
        """Return of each partition the first offset that it has and the one after the last."""
        asked = [TopicPartition(topic, number) for number in partitions]
        first = await self._asking(self._consumer.beginning_offsets(asked), topic)
        last = await self._asking(self._consumer.end_offsets(asked), topic)
        return {each.partition: (first[each], last[each]) for each in asked}

    async def read(
        self, topic: str, spans: Mapping[int, tuple[int, int]], answer_bytes: int = ANSWER_BYTES
    ) -> AsyncGenerator[list[Read]]:
        """Read from the first offset of each span up to before its second one, all partitions side by side.

        Raises RefusedError without the right to read, and UnreachableError if a partition gives nothing for a minute.
        """
        reading = _Reading(spans)
        while reading.left():
            found: list[Read] = []
            troubles: list[str] = []
            by_leader: dict[int | None, list[int]] = {}
            for number in reading.left():
                leader = self._client.cluster.leader_for_partition(TopicPartition(topic, number))
                by_leader.setdefault(leader if leader is not None and leader >= 0 else None, []).append(number)
            troubles += [f"partition {number} has no leader" for number in by_leader.pop(None, [])]
            for leader, numbers in by_leader.items():
                try:
                    answer = await self._client.send(leader, _request(topic, numbers, reading, answer_bytes))
                except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
                    troubles.append(self._connections.causes() or plain(error))
                    continue
                found += reading.take(topic, answer, numbers[0], troubles)
            if found:
                yield found
            if reading.out_of_range:
                bounds = await self.bounds(topic, sorted(reading.out_of_range))
                found = reading.go_on_at({number: bounds[number][0] for number in bounds})
                if found:
                    yield found
            if troubles:
                reading.check_patience(topic, troubles)
                self._client.force_metadata_update()
                await asyncio.sleep(_PAUSE)

    async def _asking(self, answer: Any, topic: str = "") -> Any:
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except kafka_errors.TopicAuthorizationFailedError as error:
            raise _may_not_read(topic or "in question") from error
        except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
            raise UnreachableError(self._connections.causes() or str(unreachable(error))) from error


class _Reading:
    """How far the partitions of a topic are read."""

    def __init__(self, spans: Mapping[int, tuple[int, int]]) -> None:
        self.next = {number: start for number, (start, _) in spans.items()}
        self._ends = {number: end for number, (_, end) in spans.items()}
        self._turn = 0
        self.out_of_range: set[int] = set()
        self._moved = time.monotonic()

    def left(self) -> list[int]:
        """Return the partitions that are not read to their end. Another one is the first in each turn.

        A broker fills an answer in the order of the question.
        """
        numbers = [number for number, at in self.next.items() if at < self._ends[number]]
        self._turn += 1
        at = self._turn % len(numbers) if numbers else 0
        return numbers[at:] + numbers[:at]

    def take(self, topic: str, answer: Any, asked_first: int, troubles: list[str]) -> list[Read]:
        """Take the records of an answer, and note what is wrong with partitions."""
        found = []
        for _, partitions in answer.topics:
            for number, code, high_watermark, *_, data in partitions:
                if code == _OUT_OF_RANGE:
                    self.out_of_range.add(number)
                elif code in _WAITS:
                    troubles.append(f"partition {number}: {kafka_errors.for_code(code).__name__}")
                elif code == kafka_errors.TopicAuthorizationFailedError.errno:
                    raise _may_not_read(topic)
                elif code:
                    raise UnreachableError(
                        f"partition {number} of the topic {plain(topic)} cannot be read: "
                        f"{kafka_errors.for_code(code).__name__}; see the broker's log"
                    )
                elif data:
                    found.append(self._parsed(topic, number, data))
                elif number == asked_first and high_watermark >= self._ends[number]:
                    # Compaction took all that there was up to the end: the first one asked for is never left out.
                    found.append(Read(number, [], self._ends[number] - self.next[number]))
                    self.next[number] = self._ends[number]
        if found:
            self._moved = time.monotonic()
        else:
            troubles.append("the broker gives no records, although the partition has more")
        return found

    def go_on_at(self, begins: Mapping[int, int]) -> list[Read]:
        """Go on where partitions begin now: retention has dropped the rest, or the topic was made again."""
        found = []
        for number, begin in begins.items():
            # One that was made again may end before our place.
            at = begin if begin > self.next[number] else self._ends[number]
            found.append(Read(number, [], max(min(at, self._ends[number]) - self.next[number], 0)))
            self.next[number] = at
        self.out_of_range.clear()
        return found

    def check_patience(self, topic: str, troubles: list[str]) -> None:
        """Raise UnreachableError if nothing has come for a minute."""
        if time.monotonic() - self._moved > PATIENCE:
            raise UnreachableError(
                f"the topic {plain(topic)} gave nothing for {PATIENCE:g} s: {troubles[0]}; try again when Kafka is well"
            )

    def _parsed(self, topic: str, number: int, data: bytes) -> Read:
        at, end = self.next[number], self._ends[number]
        records: list[Any] = []
        batches: Any = MemoryRecords(data)
        new = at
        while batches.has_next():
            batch = batches.next_batch()
            if not batch.validate_crc():
                raise UnreachableError(
                    f"partition {number} of the topic {plain(topic)} has a record batch at offset {batch.base_offset} "
                    "whose checksum is wrong: the broker's disk or the network is broken"
                )
            if not batch.is_control_batch:
                records += batch
            new = max(new, batch.next_offset)
        if records and (records[0].offset < at or records[-1].offset >= end):
            # The answer begins with the batch in which the place is; what lies behind the end came later.
            records = [record for record in records if at <= record.offset < end]
        self.next[number] = new
        return Read(number, records, min(new, end) - at)


def _request(topic: str, numbers: list[int], reading: _Reading, answer_bytes: int) -> FetchRequest:
    each = max(answer_bytes // len(numbers), 64 << 10)
    return FetchRequest(
        max_wait_time=_WAIT_MS,
        min_bytes=1,
        max_bytes=answer_bytes,
        isolation_level=0,
        topics=[(topic, [(number, reading.next[number], each) for number in numbers])],
    )


def _may_not_read(topic: str) -> RefusedError:
    return RefusedError(f"this login may not read the topic {plain(topic)}; grant it READ and DESCRIBE on the topic")


@asynccontextmanager
async def topic_reader(settings: KafkaSettings) -> AsyncIterator[TopicReader]:
    """Connect, and close at the end. Raises UnreachableError, which says why Kafka cannot be reached."""
    security = Security(settings)
    try:
        options = await client_options(settings, security)
    except kafka_errors.KafkaError as error:
        raise UnreachableError(str(unreachable(error))) from error
    consumer = AIOKafkaConsumer(**options, group_id=None, enable_auto_commit=False)
    connections = Connections(consumer._client, settings, security)  # noqa: SLF001
    try:
        try:
            async with asyncio.timeout(settings.request_timeout):
                await consumer.start()
        except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
            raise UnreachableError(connections.causes() or str(unreachable(error))) from error
        yield TopicReader(consumer, connections, settings)
    finally:
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await consumer.stop()
        await connections.cut()
