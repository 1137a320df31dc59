"""A Kafka to hold the producer's port to: a real one, or the shared fake."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Protocol, cast

from relay.kafka.producer import KafkaProducer
from relay.settings.flow import TopicSettings
from relay.settings.servers import KafkaSettings
from tests.support.models.simulated_kafka import SimulatedKafka, SimulatedProducer

if TYPE_CHECKING:
    from relay.event import PendingEvent
    from relay.outcome import BatchOutcome
    from relay.stages.publish.ports import Producer
    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers

TIMEOUT = 30.0


class Cluster(Protocol):
    """A cluster, and a producer that is connected to it."""

    producer: Producer

    def make_topic(self, partitions: int = 1, max_bytes: int | None = None) -> str:
        """Create a topic, whose record batches may have so many bytes; returns its name."""

    async def answer(self, outcome: asyncio.Future[BatchOutcome]) -> BatchOutcome:
        """Let Kafka answer until this outcome is there."""


async def sent(
    cluster: Cluster,
    topic: str,
    events: list[PendingEvent],
    *,
    partition: int = 0,
    allowed: bool = True,
    max_bytes: int | None = None,
) -> BatchOutcome:
    """Send one batch of all of the events, and wait for its outcome."""
    outcome: asyncio.Future[BatchOutcome] = asyncio.get_running_loop().create_future()
    batch = cluster.producer.pack(events, len(events), max_bytes, (0, 2**63 - 1))
    assert batch.events == events
    await cluster.producer.send(batch, topic, partition, lambda: allowed, outcome.set_result)
    return await cluster.answer(outcome)


class RealCluster:
    """The session's Kafka."""

    def __init__(self, producer: KafkaProducer, make_topic: MakeTopic) -> None:
        self.producer: Producer = producer
        self._make_topic = make_topic

    @classmethod
    async def connect(cls, kafka: servers.Kafka, make_topic: MakeTopic) -> RealCluster:
        settings: dict[str, Any] = {"bootstrap_servers": kafka.bootstrap_servers, "record_batch_bytes": 1 << 20}
        return cls(await KafkaProducer.connect(KafkaSettings(**settings), TopicSettings()), make_topic)

    def make_topic(self, partitions: int = 1, max_bytes: int | None = None) -> str:
        return self._make_topic(partitions, **({"max.message.bytes": max_bytes} if max_bytes else {}))

    async def answer(self, outcome: asyncio.Future[BatchOutcome]) -> BatchOutcome:
        async with asyncio.timeout(TIMEOUT):
            return await outcome


class SimulatedCluster:
    """The shared fake, which answers when it is asked to."""

    def __init__(self) -> None:
        self._kafka = SimulatedKafka(lambda events: None)
        self._simulated = SimulatedProducer(self._kafka)
        self.producer = cast("Producer", self._simulated)

    def make_topic(self, partitions: int = 1, max_bytes: int | None = None) -> str:
        name = f"test-{secrets.token_hex(6)}"
        self._kafka.topics[name] = partitions
        self._kafka.limit = max_bytes
        return name

    async def answer(self, outcome: asyncio.Future[BatchOutcome]) -> BatchOutcome:
        while not outcome.done():
            for partition in self._simulated.unanswered():
                self._simulated.land(partition)
        return outcome.result()
