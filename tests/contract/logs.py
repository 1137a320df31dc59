"""A Kafka to hold reconciling's port to: a real one, or the shared fake."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Protocol

from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from relay.outcome import Acknowledged
from relay.stages.reconcile.ports import FoundEvent
from tests.support.kafka.tails import enlisted, reconciling, sent
from tests.support.kafka.topics import admin, delete_topic
from tests.support.models.simulated_log import SimulatedKafkaReconcile, SimulatedLog

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from relay.event import PendingEvent
    from relay.kafka.producer import KafkaProducer
    from relay.stages.reconcile.ports import KafkaReconcilePort, Place, ProducerId
    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers


class Writer(Protocol):
    """A producer, with the id of a transactional id or one of its own."""

    name: str | None
    id: ProducerId

    async def send(self, place: Place, *events: PendingEvent) -> int | None:
        """Send one batch; returns its first offset, None if it was refused."""


class Cluster(Protocol):
    """A cluster, and the port to hold to its contract."""

    port: KafkaReconcilePort

    def make_topic(self, partitions: int = 1) -> str:
        """Create a topic; returns its name."""

    async def delete_topic(self, name: str) -> None:
        """Delete it."""

    async def delete_records(self, place: Place, before: int) -> None:
        """Delete the records below this offset."""

    async def writer(self, *, named: bool = True) -> Writer:
        """Connect a producer, with a transactional id or without."""


class SimulatedWriter:
    """A producer whose batches arrive immediately."""

    def __init__(self, log: SimulatedLog, name: str | None) -> None:
        self.name = name
        self.id = log.take_over(name)
        self._log = log

    async def send(self, place: Place, *events: PendingEvent) -> int | None:
        return self._log.append(self.id, place, [FoundEvent(each.id, each.event_id, each.key) for each in events])


class SimulatedCluster:
    """The shared fake."""

    def __init__(self) -> None:
        self._log = SimulatedLog()
        self.port: KafkaReconcilePort = SimulatedKafkaReconcile(self._log)

    def make_topic(self, partitions: int = 1) -> str:
        name = f"test-{secrets.token_hex(6)}"
        self._log.make_topic(name, partitions)
        return name

    async def delete_topic(self, name: str) -> None:
        self._log.delete_topic(name)

    async def delete_records(self, place: Place, before: int) -> None:
        self._log.delete_records(place, before)

    async def writer(self, *, named: bool = True) -> Writer:
        return SimulatedWriter(self._log, secrets.token_hex(6) if named else None)


class RealWriter:
    """A real producer."""

    def __init__(self, producer: KafkaProducer, name: str | None, id_: ProducerId) -> None:
        self._producer = producer
        self.name = name
        self.id = id_

    async def send(self, place: Place, *events: PendingEvent) -> int | None:
        outcome = await sent(self._producer, place, *events)
        return outcome.base_offset if isinstance(outcome, Acknowledged) else None


class RealCluster:
    """The session's Kafka."""

    def __init__(self, kafka: servers.Kafka, make_topic: MakeTopic, stack: AsyncExitStack) -> None:
        self._kafka = kafka
        self._make_topic = make_topic
        self._stack = stack
        self.port: KafkaReconcilePort

    async def connect(self) -> RealCluster:
        self.port = await self._stack.enter_async_context(reconciling(self._kafka))
        return self

    def make_topic(self, partitions: int = 1) -> str:
        return self._make_topic(partitions)

    async def delete_topic(self, name: str) -> None:
        await delete_topic(self._kafka.bootstrap_servers, name)

    async def delete_records(self, place: Place, before: int) -> None:
        async with admin(self._kafka.bootstrap_servers) as client:
            await client.delete_records({TopicPartition(*place): RecordsToDelete(before_offset=before)})

    async def writer(self, *, named: bool = True) -> Writer:
        name = f"outbox-{secrets.token_hex(6)}" if named else None
        async with asyncio.timeout(30):
            producer, noted = await self._stack.enter_async_context(enlisted(self._kafka, name))
        return RealWriter(producer, name, noted.producer)
