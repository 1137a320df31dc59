"""Asks Kafka for the limits of topics, and creates topics when the settings say so."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiokafka.errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from relay.decide.limits import TopicLimits
from relay.kafka.connections import Connections
from relay.kafka.errors import translate
from relay.kafka.options import Security, client_options
from relay.outcome import FailureKind, PublishError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relay.settings import KafkaSettings, TopicSettings


CLOSE_TIMEOUT = 1.0
"""Maximum seconds for closing a client that did not answer."""

REQUEST_LIMIT = "socket.request.max.bytes"


class Administration:
    """An admin client that is started with the first question."""

    def __init__(self, settings: KafkaSettings, topics: TopicSettings, security: Security | None = None) -> None:
        self._settings = settings
        self._topics = topics
        self._security = security or Security(settings)
        self._client: AIOKafkaAdminClient | None = None
        self._connections: Connections | None = None
        self._starting = asyncio.Lock()
        self._asked_brokers = False
        self._request_bytes: int | None = None

    async def limits(self, topic: str) -> TopicLimits:
        """Return the topic's limits. Raises PublishError when Kafka cannot be asked now."""
        # Not allowed to describe it: the broker will say.
        return limits_of(await self.configuration(topic) or {})

    async def configuration(self, topic: str) -> dict[str, str | None] | None:
        """Return the topic's configuration, None if it may not be described. Raises PublishError as `limits` does."""
        try:
            client = await self.client()
            answers: list[Any] = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        except Exception as error:
            await self._drop()
            raise translate(error) from error
        for answer in answers:
            for code, _, _, _, entries in answer.resources:
                if code == 0:
                    return {name: value for name, value, *_ in entries}
        return None

    async def request_bytes(self) -> int | None:
        """Return the bytes that every broker takes in a request; None if that is unknown and only refusals will tell.

        Reading the brokers' configuration needs a privilege that the relay needs for nothing else.
        """
        if not self._asked_brokers:
            with suppress(Exception):
                client: Any = await self.client()
                nodes = [str(broker.nodeId) for broker in client._client.cluster.brokers()]  # noqa: SLF001
                resources = [ConfigResource(ConfigResourceType.BROKER, node, {REQUEST_LIMIT: ""}) for node in nodes]
                answers: list[Any] = await client.describe_configs(resources)
                found = [
                    int(value)
                    for answer in answers
                    for code, _, _, _, entries in answer.resources
                    for name, value, *_ in entries
                    if code == 0 and name == REQUEST_LIMIT
                ]
                self._request_bytes = min(found, default=None)
            self._asked_brokers = True
        return self._request_bytes

    async def create_topic(self, topic: str) -> None:
        """Create a topic as the settings say; do nothing if the topic exists. Raises PublishError."""
        new = NewTopic(topic, self._topics.partitions, self._topics.replication)
        try:
            answer: Any = await (await self.client()).create_topics([new])
        except Exception as error:
            await self._drop()
            raise translate(error) from error
        for _, code, *_ in answer.topic_errors:
            kind = kafka_errors.for_code(code)
            if kind in (kafka_errors.TopicAuthorizationFailedError, kafka_errors.ClusterAuthorizationFailedError):
                raise PublishError(
                    FailureKind.TOPIC,
                    f"topic {topic} does not exist and may not be created; grant the relay CREATE on the topic "
                    f"{topic} or on the cluster, or create the topic",
                    kind.__name__,
                )
            if kind not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
                raise PublishError(
                    FailureKind.TOPIC,
                    f"topic {topic} does not exist and cannot be created with {self._topics.partitions} partitions "
                    f"and replication {self._topics.replication}: {kind.__name__}; "
                    "create it, or correct RELAY_TOPIC_PARTITIONS and RELAY_TOPIC_REPLICATION",
                    kind.__name__,
                )

    async def client(self) -> AIOKafkaAdminClient:
        """Return the started client. All topics ask for it at the same time when the relay starts."""
        async with self._starting:
            if self._client is None:
                client = AIOKafkaAdminClient(**await client_options(self._settings, self._security))
                connections = Connections(client._client, self._settings, self._security)  # noqa: SLF001
                try:
                    await client.start()
                except BaseException:
                    await _close(client, connections, CLOSE_TIMEOUT)
                    raise
                self._client, self._connections = client, connections
            return self._client

    async def _drop(self) -> None:
        """Drop a client that did not answer; the next question starts a new one."""
        client, self._client = self._client, None
        await _close(client, self._connections, CLOSE_TIMEOUT)

    async def close(self, timeout: float) -> None:
        """Close the client, if there is one, within `timeout` seconds."""
        await _close(self._client, self._connections, timeout)


async def _close(client: AIOKafkaAdminClient | None, connections: Connections | None, timeout: float) -> None:
    if client is not None:
        with suppress(Exception):
            async with asyncio.timeout(timeout):
                await client.close()
    if connections is not None:
        await connections.cut()


def limits_of(configuration: Mapping[str, str | None]) -> TopicLimits:
    """Return the limits of a topic with this configuration."""

    def number(name: str) -> int | None:
        text = configuration.get(name)
        return int(text) if text else None

    if configuration.get("message.timestamp.type") == "LogAppendTime":
        return TopicLimits(number("max.message.bytes"))
    # Brokers before 4.0 have one limit for both directions as well, or (before 3.6) instead.
    both = number("message.timestamp.difference.max.ms")
    before, after = (number(f"message.timestamp.{way}.max.ms") for way in ("before", "after"))
    return TopicLimits(
        number("max.message.bytes"),
        before_ms=min((each for each in (before, both) if each is not None), default=None),
        after_ms=min((each for each in (after, both) if each is not None), default=None),
    )
