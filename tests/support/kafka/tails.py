"""Producers whose ids can be fenced, and what is read of them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from relay.kafka.producer import KafkaProducer
from relay.kafka.reconcile.reconcile import KafkaReconcile
from relay.settings.flow import TopicSettings
from relay.settings.servers import KafkaSettings
from relay.stages.reconcile.ports import Finished, Found, FoundEvent, Place, Tail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from relay.event import PendingEvent
    from relay.outcome import BatchOutcome
    from relay.stages.reconcile.ports import KafkaReconcilePort, ProducerId, Trouble
    from tests.support.servers import shared as servers

SECONDS = 20.0
MOST_BYTES = 1 << 30


class Noted:
    """Notes which producer was connected, and whether it can be fenced."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self.troubles: list[Trouble] = []
        self.enlisted: list[tuple[str | None, ProducerId]] = []

    def name(self) -> str | None:
        return self._name

    def cannot_fence(self, trouble: Trouble) -> None:
        self.troubles.append(trouble)

    async def enlist(self, name: str | None, producer: ProducerId) -> None:
        self.enlisted.append((name, producer))

    @property
    def producer(self) -> ProducerId:
        """The producer that was connected last."""
        return self.enlisted[-1][1]


def settings_of(kafka: servers.Kafka, **more: Any) -> KafkaSettings:
    """Settings that reach this Kafka."""
    given = {"bootstrap_servers": kafka.bootstrap_servers, "record_batch_bytes": 1 << 20, **more}
    return KafkaSettings(**given)


@asynccontextmanager
async def enlisted(kafka: servers.Kafka, name: str | None, **more: Any) -> AsyncIterator[tuple[KafkaProducer, Noted]]:
    """A producer with the id of a transactional id, closed at the end."""
    noted = Noted(name)
    producer = await KafkaProducer.connect(settings_of(kafka, **more), TopicSettings(), enlistment=noted)
    try:
        yield producer, noted
    finally:
        await producer.close(2)


@asynccontextmanager
async def reconciling(kafka: servers.Kafka, **more: Any) -> AsyncIterator[KafkaReconcile]:
    """The adapter, closed at the end."""
    port = KafkaReconcile(settings_of(kafka, **more))
    try:
        yield port
    finally:
        await port.close()


async def sent(producer: KafkaProducer, place: Place, *events: PendingEvent) -> BatchOutcome:
    """Send one batch, and wait for its outcome."""
    assert await producer.partition_count(place.topic)
    answered: asyncio.Future[BatchOutcome] = asyncio.get_running_loop().create_future()
    batch = producer.pack(list(events), len(events), None)
    assert len(batch.events) == len(events)
    await producer.send(batch, place.topic, place.partition, lambda: True, answered.set_result)
    async with asyncio.timeout(SECONDS):
        return await answered


async def read(
    port: KafkaReconcilePort,
    begins: Mapping[Place, int],
    ends: Mapping[int, int | None],
    most_bytes: int = MOST_BYTES,
) -> tuple[dict[Place, list[tuple[int, FoundEvent | None]]], dict[Place, Finished]]:
    """What is found of each partition, with its offsets, and the end of each."""
    found: dict[Place, list[tuple[int, FoundEvent | None]]] = {place: [] for place in begins}
    ended: dict[Place, Finished] = {}
    async with asyncio.timeout(SECONDS):
        async for each in port.read([Tail(place, begin, ends) for place, begin in begins.items()], most_bytes):
            if isinstance(each, Found):
                assert each.place not in ended
                found[each.place] += enumerate(each.events, each.base_offset)
            else:
                assert each.place not in ended
                ended[each.place] = each
    assert ended.keys() == begins.keys()
    return found, ended


def as_found(events: Sequence[PendingEvent], base: int = 0) -> list[tuple[int, FoundEvent | None]]:
    """What `read` has to find of events."""
    return [(base + at, FoundEvent(each.id, each.event_id, each.key)) for at, each in enumerate(events)]
