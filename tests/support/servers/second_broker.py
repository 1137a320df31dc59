"""A second Kafka broker, for what a single one cannot have: too few replicas in sync."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from relay.local import KafkaServer
from relay.local.ports import HOST
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = 1, 2


class SecondBroker(KafkaServer):
    """Joins the cluster of a running KafkaServer; not a controller, so that the first goes on without it."""

    def __init__(self, folder: Path, first: KafkaServer) -> None:
        super().__init__(folder, version=first.version)
        self._first = first

    def _configuration(self, data: Path) -> Path:
        own = f"PLAINTEXT://{HOST}:{self.port()}"
        self.properties = {
            "process.roles": "broker",
            "node.id": SECOND,
            "controller.quorum.voters": f"{FIRST}@{HOST}:{self._first.port('controller')}",
            "listeners": own,
            "advertised.listeners": own,
        }
        return super()._configuration(data)

    def _new_cluster_id(self) -> str:
        return self._first._cluster_id()


async def create_topic_on(
    first: KafkaServer, topic: str, *brokers: list[int], partitions: int = 4, configs: dict[str, str] | None = None
) -> None:
    """A topic that these brokers have, led by the first of them; returns when all of them are in sync.

    Of several lists the partitions take one each, in turn; then all have the same length.
    """
    assignments = {partition: brokers[partition % len(brokers)] for partition in range(partitions)}
    admin = AIOKafkaAdminClient(bootstrap_servers=first.bootstrap_servers)
    await admin.start()
    try:
        wanted = NewTopic(topic, -1, -1, replica_assignments=assignments, topic_configs=configs)
        answer: Any = await admin.create_topics([wanted])
        assert [code for _, code, *_ in answer.topic_errors] == [0], answer
        await in_sync(first, topic, len(brokers[0]), admin)
    finally:
        await admin.close()


async def in_sync(first: KafkaServer, topic: str, replicas: int, admin: AIOKafkaAdminClient | None = None) -> None:
    """Wait until every partition of the topic has so many replicas in sync."""
    if admin is None:
        admin = AIOKafkaAdminClient(bootstrap_servers=first.bootstrap_servers)
        await admin.start()
        try:
            await in_sync(first, topic, replicas, admin)
        finally:
            await admin.close()
        return
    client = admin

    async def look() -> bool:
        try:
            (found,) = await client.describe_topics([topic])
        except KafkaError:
            # It asked the broker that is away.
            return False
        partitions = found["partitions"]
        return bool(partitions) and all(len(each["isr"]) == replicas for each in partitions)

    await until(f"{replicas} replicas of {topic} in sync", look)
