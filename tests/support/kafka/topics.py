"""Topics changed under the relay: each change is waited for until the broker itself says that it holds."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

UNKNOWN_TOPIC = 3
"""Kafka's number of the error."""


@asynccontextmanager
async def admin(bootstrap_servers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def delete_topic(bootstrap_servers: str, topic: str) -> None:
    """Delete a topic."""
    async with admin(bootstrap_servers) as client:
        await client.delete_topics([topic])

        async def gone() -> bool:
            (found,) = await client.describe_topics([topic])
            return bool(found["error_code"] == UNKNOWN_TOPIC)

        await until(f"{topic} is gone", gone)


async def alter_topic(bootstrap_servers: str, topic: str, **configs: object) -> None:
    """Change a topic's configuration: `max_message_bytes=1000` is max.message.bytes."""
    wanted = {name.replace("_", "."): str(value) for name, value in configs.items()}
    async with admin(bootstrap_servers) as client:
        answers: list[Any] = await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, wanted)])
        assert [code for answer in answers for code, *_ in answer.resources] == [0], answers

        async def holds() -> bool:
            try:
                found: list[Any] = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
            except KafkaError:
                # It asked a broker that is away.
                return False
            ((_, _, _, _, entries),) = found[0].resources
            have = {name: value for name, value, *_ in entries}
            return all(have.get(name) == value for name, value in wanted.items())

        await until(f"{topic} has {wanted}", holds)
