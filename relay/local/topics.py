"""Creates topics on a broker that can be written to when the call returns."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from relay.local.errors import LocalServerError

if TYPE_CHECKING:
    from collections.abc import Mapping

READY_SECONDS = 20.0


async def create_topic(
    bootstrap_servers: str,
    topic: str,
    *,
    partitions: int = 1,
    configs: Mapping[str, object] | None = None,
    exist_ok: bool = False,
) -> None:
    """Create a topic with one replica and wait until all its partitions have a leader.

    `configs` are topic configs such as {"max.message.bytes": 1000}. With `exist_ok` an existing topic is left as it
    is. Raises aiokafka's error if the broker refuses.
    """
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, client_id="relay-local")
    await admin.start()
    try:
        wanted = {name: str(value) for name, value in (configs or {}).items()}
        answer = await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=wanted)])
        for name, code, *message in answer.topic_errors:
            error = for_code(code)
            if code and not (exist_ok and error is TopicAlreadyExistsError):
                raise error(f"topic {name}: {message[0] if message else ''}")
        await _wait_for_leaders(admin, topic)
    finally:
        await admin.close()


async def _wait_for_leaders(admin: Any, topic: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        (found,) = await admin.describe_topics([topic])
        if not found["error_code"] and all(
            not each["error_code"] and each["leader"] >= 0 for each in found["partitions"]
        ):
            return
        if time.monotonic() > deadline:
            raise LocalServerError(f"topic {topic} has no leader after {READY_SECONDS:.0f} s: {found}")
        await asyncio.sleep(0.02)
