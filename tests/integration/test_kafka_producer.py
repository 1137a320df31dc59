"""The Kafka adapter on a real broker: what arrives, what is answered, and that every wait has an end."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from aiokafka.record.memory_records import MemoryRecords

from relay.event import EventTuple, PendingEvent
from relay.kafka.producer import KafkaProducer
from relay.local import create_topic
from relay.local.ports import HOST, free_port
from relay.outcome import Acknowledged, BatchOutcome, FailureKind, PublishError, Refused
from relay.settings.flow import TopicSettings
from relay.settings.servers import KafkaSettings
from tests.support.kafka.consumer import read_topic
from tests.support.servers import shared as servers
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.local import KafkaServer
    from tests.conftest import MakeTopic

CREATED = 1_700_000_000_123
ALL = 10_000


@pytest.mark.slow
async def test_a_record_is_the_event_that_it_was(kafka: servers.Kafka, topic: str) -> None:
    written = event(7, key=b"\x00key", payload=b"\xff\x00payload", headers={"traceparent": "00-é"}, kind="order.paid")
    async with connected(kafka) as producer:
        assert await published(producer, topic, [written]) == [Acknowledged(0)]

    (record,) = await read_topic(kafka.bootstrap_servers, topic)
    assert (record.key, record.value, record.timestamp) == (b"\x00key", b"\xff\x00payload", CREATED)
    assert record.headers == {
        "outbox-event-id": str(written.event_id),
        "outbox-id": "7",
        "outbox-type": "order.paid",
        "traceparent": "00-é",
    }


async def test_the_relays_own_headers_come_last_whatever_a_writer_has_written(kafka: servers.Kafka, topic: str) -> None:
    """A consumer that takes the last header of a name, as `lastHeader` and `dict` do, must find the relay's."""
    theirs = {"outbox-id": "999", "outbox-event-id": "mine", "outbox-type": "theirs", "z": "y"}
    written = event(7, headers=theirs, kind="paid")
    async with connected(kafka) as producer:
        batch = producer.pack([written], 1, None)
        records = MemoryRecords(bytes(batch.builder._build())).next_batch()
    assert records is not None
    (packed,) = [dict(record.headers) for record in records]
    assert packed == {
        "outbox-id": b"7",
        "outbox-event-id": str(written.event_id).encode(),
        "outbox-type": b"paid",
        "z": b"y",
    }


async def test_no_key_no_payload_and_empty_ones_are_told_apart(kafka: servers.Kafka, topic: str) -> None:
    pairs = [(None, None), (b"", b""), (b"k", None), (None, b"x")]
    async with connected(kafka) as producer:
        await published(producer, topic, [event(i, key=key, payload=value) for i, (key, value) in enumerate(pairs)])

    records = await read_topic(kafka.bootstrap_servers, topic)
    assert [(record.key, record.value) for record in records] == pairs
    assert all(record.headers.keys() == {"outbox-event-id", "outbox-id"} for record in records)


async def test_the_time_of_publishing_can_be_the_records_time(kafka: servers.Kafka, topic: str) -> None:
    before = time.time_ns() // 1_000_000
    async with connected(kafka, timestamp="published") as producer:
        await published(producer, topic, [event(1), event(2)])

    for record in await read_topic(kafka.bootstrap_servers, topic):
        assert before <= record.timestamp <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_batches_are_acknowledged_with_the_offset_of_their_first_event(
    kafka: servers.Kafka, topic: str, compression: str
) -> None:
    async with connected(kafka, compression=compression) as producer:
        events = [event(i, key=b"k%d" % (i % 7), payload=b"x" * i) for i in range(500)]
        assert await published(producer, topic, events[:300]) == [Acknowledged(0)]
        assert await published(producer, topic, events[300:]) == [Acknowledged(300)]

    records = await read_topic(kafka.bootstrap_servers, topic)
    assert [(record.offset, record.id, record.key, record.value) for record in records] == [
        (i, i, each.key, each.payload) for i, each in enumerate(events)
    ]


async def test_a_batch_takes_what_fits_and_leaves_the_rest_in_order(kafka: servers.Kafka) -> None:
    async with connected(kafka, record_batch_bytes=16_384) as producer:
        waiting = [event(i, payload=b"x" * 1_000) for i in range(40)]
        sizes = []
        while waiting:
            batch = producer.pack(waiting, ALL, None)
            assert batch.events == waiting[: len(batch.events)]
            del waiting[: len(batch.events)]
            sizes.append(len(batch.events))
        assert 14 <= sizes[0] == sizes[1] <= 16
        assert sum(sizes) == 40

        too_large = [event(1, payload=b"x" * 100_000), event(2)]
        assert [each.id for each in producer.pack(too_large, ALL, None).events] == [1]
        three = producer.pack([event(i) for i in range(10)], 3, None)
        assert [each.id for each in three.events] == [0, 1, 2]
        assert three.size == sum(each.size for each in three.events) > 0


async def test_the_largest_event_that_the_outbox_takes_goes_through(kafka: servers.Kafka, topic: str) -> None:
    async with connected(kafka) as producer:
        headers = {"name": "x" * 500_000}
        written = event(1, payload=secrets.token_bytes(1_000_000 - 500_013 - 1), headers=headers)
        assert await published(producer, topic, [written]) == [Acknowledged(0)]
    assert len(await read_topic(kafka.bootstrap_servers, topic)) == 1


async def test_a_record_batch_that_the_topic_does_not_take_is_the_events_fault_and_not_in_kafka(
    kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    topic = make_topic(1, **{"max.message.bytes": 1_000})
    async with connected(kafka) as producer:
        assert await producer.partition_count(topic) == 1
        assert (await producer.limits(topic)).max_bytes == 1_000
        (refused,) = await published(producer, topic, [event(1, payload=b"x" * 2_000)])
        assert isinstance(refused, Refused)
        assert refused.error.kind is FailureKind.EVENT
        assert "raise max.message.bytes" in str(refused.error)
        assert not producer.died.done()
    assert await read_topic(kafka.bootstrap_servers, topic) == []


async def test_the_broker_names_the_events_at_fault_and_the_producer_goes_on_without_a_gap(
    kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    topic = make_topic(1, **{"cleanup.policy": "compact"})
    async with connected(kafka) as producer:
        for first in (0, 10):
            # Before the first acknowledgement, when the broker knows no sequence yet, and after it.
            bad = [event(first + i, key=None if i in (1, 3) else b"k") for i in range(5)]
            (refused,) = await published(producer, topic, bad)
            assert isinstance(refused, Refused)
            assert refused.error.kind is FailureKind.EVENT
            assert sorted(refused.culprits) == [1, 3]
            assert "Compacted topic cannot accept message without key" in str(refused.culprits[1])
            assert refused.producer_intact
            good = [event(first + i) for i in range(5)]
            assert await published(producer, topic, good) == [Acknowledged(first // 2)]
    records = await read_topic(kafka.bootstrap_servers, topic)
    assert [record.id for record in records] == [*range(5), *range(10, 15)]


@pytest.mark.parametrize("after", [False, True], ids=["handed over before the refusal", "handed over right after it"])
async def test_what_was_handed_over_behind_a_refused_batch_is_not_taken_before_it(
    kafka: servers.Kafka,
    make_topic: MakeTopic,
    monkeypatch: pytest.MonkeyPatch,
    after: bool,
) -> None:
    """Its sequence number is free again: the broker would take the batch behind it."""
    topic = make_topic(1, **{"cleanup.policy": "compact"})
    async with connected(kafka) as producer:
        assert await published(producer, topic, [event(0)]) == [Acknowledged(0)]
        outcomes: dict[int, BatchOutcome] = {}

        async def send(number: int, key: bytes | None) -> None:
            batch = producer.pack([event(number, key=key)], ALL, None)
            await producer.send(batch, topic, 0, always, partial(outcomes.__setitem__, number))

        take_back = producer._refusals.take_back
        late: list[asyncio.Task[None]] = []

        def taken_back(*arguments: Any) -> None:
            take_back(*arguments)
            # Publish has not been told yet.
            late.append(asyncio.ensure_future(send(2, b"k")))

        if after:
            monkeypatch.setattr(producer._refusals, "take_back", taken_back)
        await send(1, None)
        if not after:
            await send(2, b"k")

        async def both_ended() -> bool:
            return len(outcomes) == 2

        await until("both have an outcome", both_ended)
        behind = outcomes[2]
        assert isinstance(behind, Refused)
        assert (behind.error.kind, behind.producer_intact) == (FailureKind.CLUSTER, True)
        assert await published(producer, topic, [event(3)]) == [Acknowledged(1)]
        assert not producer.died.done()
    assert [record.id for record in await read_topic(kafka.bootstrap_servers, topic)] == [0, 3]


async def test_a_batch_that_was_sent_before_and_is_refused_now_leaves_its_producer_unfit(
    kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    """The broker may have it from the first time: what its sequence numbers stand for, nobody knows."""
    topic = make_topic(1, **{"cleanup.policy": "compact"})
    async with connected(kafka) as producer:
        batch = producer.pack([event(1, key=None)], ALL, None)
        sender: Any = producer._producer._sender
        send_once = sender._send_produce_req

        async def send(node: int, batches: dict[Any, Any]) -> None:
            for each in batches.values():
                each.times_sent = 1
            await send_once(node, batches)

        sender._send_produce_req = send
        assert await producer.partition_count(topic)
        answered: asyncio.Future[BatchOutcome] = asyncio.get_running_loop().create_future()
        await producer.send(batch, topic, 0, always, answered.set_result)
        refused = await answered
        assert isinstance(refused, Refused)
        assert (refused.error.kind, refused.producer_intact) == (FailureKind.EVENT, False)


async def test_a_time_that_the_topic_does_not_take_is_said_of_each_event_and_is_none_of_its_faults(
    kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    topic = make_topic(1, **{"message.timestamp.before.max.ms": 600_000})
    now = time.time_ns() // 1_000_000
    written = [event(0), event(1, created_ms=now), event(2)]
    async with connected(kafka) as producer:
        (refused,) = await published(producer, topic, written)
        assert isinstance(refused, Refused)
        assert (refused.error.kind, sorted(refused.culprits)) == (FailureKind.TIME, [0, 2])
        limits = await producer.limits(topic)
        assert (limits.before_ms, limits.after_ms) == (600_000, 3_600_000)
        batch = producer.pack(written, ALL, None, (now - 500_000, now + 500_000))
        assert batch.restamped == 2
        answered: asyncio.Future[BatchOutcome] = asyncio.get_running_loop().create_future()
        await producer.send(batch, topic, 0, always, answered.set_result)
        assert await answered == Acknowledged(0)
    first, second, third = await read_topic(kafka.bootstrap_servers, topic)
    assert second.timestamp == now
    assert "outbox-created-at" not in second.headers
    for record in (first, third):
        assert abs(record.timestamp - now) < 60_000
        assert record.headers["outbox-created-at"] == str(CREATED)


async def test_a_missing_topic_is_the_topics_fault_within_bounded_time_until_it_is_made(kafka: servers.Kafka) -> None:
    topic = f"missing-{secrets.token_hex(6)}"
    async with connected(kafka) as producer:
        for _ in range(2):
            async with asyncio.timeout(10):
                with pytest.raises(PublishError, match=f"topic {topic} does not exist; create it") as raised:
                    await producer.partition_count(topic)
            assert raised.value.kind is FailureKind.TOPIC
            assert producer.known_partition_count(topic) == 0
            producer.forget_topic(topic)

        await create_topic(kafka.bootstrap_servers, topic, partitions=3)
        assert await producer.partition_count(topic) == 3
        assert producer.known_partition_count(topic) == 3


@pytest.mark.slow
async def test_batches_behind_one_that_is_not_acknowledged_wait_and_arrive_in_order(
    fragile_kafka: KafkaServer,
) -> None:
    topic = f"test-{secrets.token_hex(6)}"
    await create_topic(fragile_kafka.bootstrap_servers, topic)
    async with connected(fragile_kafka, request_timeout=3) as producer:
        assert await published(producer, topic, [event(0)]) == [Acknowledged(0)]
        await asyncio.to_thread(servers.pause, fragile_kafka)
        outcomes: dict[int, BatchOutcome] = {}
        sending = []
        for number in range(1, 4):
            batch = producer.pack([event(number)], ALL, None)
            done = lambda outcome, number=number: outcomes.__setitem__(number, outcome)  # noqa: E731
            sending.append(asyncio.create_task(producer.send(batch, topic, 0, always, done)))
            # Longer than the time after which aiokafka gives up waiting for the partition's place.
            await asyncio.wait([sending[-1]], timeout=4.5 if number == 3 else 0.2)
        assert [task.done() for task in sending] == [True, True, False]
        assert outcomes == {}

        await asyncio.to_thread(fragile_kafka.resume)
        async with asyncio.timeout(30):
            await asyncio.gather(*sending)

        async def all_answered() -> bool:
            return len(outcomes) == 3

        await until("all are answered", all_answered)
    assert outcomes == {number: Acknowledged(number) for number in range(1, 4)}
    records = await read_topic(fragile_kafka.bootstrap_servers, topic)
    assert [(record.offset, record.id) for record in records] == [(number, number) for number in range(4)]


async def test_a_queued_batch_that_may_not_be_sent_any_more_is_refused_and_those_of_others_go_on(
    fragile_kafka: KafkaServer,
) -> None:
    topic = f"test-{secrets.token_hex(6)}"
    await create_topic(fragile_kafka.bootstrap_servers, topic, partitions=2)
    async with connected(fragile_kafka) as producer:
        await published(producer, topic, [event(0)])
        await asyncio.to_thread(servers.pause, fragile_kafka)
        outcomes: dict[int, BatchOutcome] = {}
        allowed = {1: True, 2: True, 3: True}
        # The first is on the wire when the permission of the other two is looked at.
        for number, partition in ((1, 0), (2, 0), (3, 1)):
            await producer.send(
                producer.pack([event(number)], ALL, None),
                topic,
                partition,
                partial(allowed.__getitem__, number),
                partial(outcomes.__setitem__, number),
            )
            await asyncio.sleep(0.1)
        allowed |= {1: False, 2: False}
        await asyncio.to_thread(fragile_kafka.resume)

        async def all_ended() -> bool:
            return len(outcomes) == 3

        await until("all have an outcome", all_ended)
    assert outcomes[1] == Acknowledged(1)
    assert isinstance(outcomes[2], Refused)
    assert "the lease was over before the batch was sent" in str(outcomes[2].error)
    assert outcomes[3] == Acknowledged(0)
    assert {record.id for record in await read_topic(fragile_kafka.bootstrap_servers, topic)} == {0, 1, 3}


async def test_closing_is_bounded_when_the_broker_does_not_answer(fragile_kafka: KafkaServer) -> None:
    topic = f"test-{secrets.token_hex(6)}"
    await create_topic(fragile_kafka.bootstrap_servers, topic)
    outcomes: list[BatchOutcome] = []
    async with connected(fragile_kafka) as producer:
        assert (await producer.limits(topic)).max_bytes
        await published(producer, topic, [event(0)])
        await asyncio.to_thread(servers.pause, fragile_kafka)
        await producer.send(producer.pack([event(1)], ALL, None), topic, 0, always, outcomes.append)
        await producer.send(producer.pack([event(2)], ALL, None), topic, 0, always, outcomes.append)
        began = time.monotonic()
        await producer.close(0.5)
        assert time.monotonic() - began < 10
        assert producer.died.done()
    assert not any(isinstance(outcome, Acknowledged) for outcome in outcomes)


async def test_connecting_ends_in_bounded_time_with_what_to_check(fragile_kafka: KafkaServer) -> None:
    nobody = f"{HOST}:{free_port()}"
    with pytest.raises(PublishError, match=f"^{nobody}: nothing listens on this port; start the broker") as raised:
        await KafkaProducer.connect(KafkaSettings(bootstrap_servers=nobody), TopicSettings())
    assert raised.value.kind is FailureKind.CLUSTER

    await asyncio.to_thread(servers.pause, fragile_kafka)
    settings = KafkaSettings(bootstrap_servers=fragile_kafka.bootstrap_servers, request_timeout=0.5)
    async with asyncio.timeout(20):
        with pytest.raises(PublishError) as raised:
            await KafkaProducer.connect(settings, TopicSettings())
    assert raised.value.kind is FailureKind.CLUSTER
    assert fragile_kafka.bootstrap_servers.rpartition(":")[2] in str(raised.value)


def event(
    number: int,
    *,
    key: bytes | None = b"k",
    payload: bytes | None = b"",
    headers: dict[str, str] | None = None,
    kind: str | None = None,
    created_ms: int = CREATED,
) -> PendingEvent:
    """An event as a scan returns it."""
    text = json.dumps(headers) if headers else "{}"
    size = len(key or b"") + len(payload or b"") + len(text)
    return EventTuple(0, number, uuid4(), "any", key, payload, text, kind, created_ms, size)


def always() -> bool:
    """Permission to send."""
    return True


async def published(producer: KafkaProducer, topic: str, events: list[PendingEvent]) -> list[BatchOutcome]:
    """Send events to partition 0 of a topic one batch after the other; returns the outcomes of the batches."""

    async def topic_is_known() -> int:
        # On a busy machine, the metadata of a new topic may come later than the producer waits for it.
        with suppress(PublishError):
            return await producer.partition_count(topic)
        return 0

    await until("the producer knows the topic", topic_is_known)
    outcomes: list[BatchOutcome] = []
    async with asyncio.timeout(20):
        while events:
            answered: asyncio.Future[BatchOutcome] = asyncio.get_running_loop().create_future()
            batch = producer.pack(events, ALL, None)
            events = events[len(batch.events) :]
            await producer.send(batch, topic, 0, always, answered.set_result)
            outcomes.append(await answered)
    return outcomes


@asynccontextmanager
async def connected(kafka: servers.Kafka, **settings: Any) -> AsyncIterator[KafkaProducer]:
    """A producer, closed at the end."""
    given = {"bootstrap_servers": kafka.bootstrap_servers, "record_batch_bytes": 1 << 20, **settings}
    producer = await KafkaProducer.connect(KafkaSettings(**given), TopicSettings())
    try:
        yield producer
    finally:
        await producer.close(2)
