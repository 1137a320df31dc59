"""Asks Kafka what this relay may do with topics, and how these are configured. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from relay.kafka.asked import AskOperations, DescribeTransactionalId
from relay.kafka.errors import translate

if TYPE_CHECKING:
    from relay.kafka.administration import Administration

UNKNOWN_TOPIC, UNAUTHORIZED_TOPIC, UNAUTHORIZED_CLUSTER, UNAUTHORIZED_ID = 3, 29, 31, 53
"""Kafka's error codes."""

READ, WRITE = 3, 4
"""The numbers of operations in Kafka's protocol, and of their bits."""


class TopicSeen(NamedTuple):
    """A topic as Kafka shows it to this relay."""

    name: str
    exists: bool
    """False as well for a topic that the relay may not see: then `writable` is False."""
    writable: bool
    readable: bool = True
    partitions: int = 0
    configuration: dict[str, str | None] | None = None
    """None if the relay may not see it."""
    creatable: bool = False
    """Whether a topic that does not exist may be created."""


class Permissions:
    """Asks about topics, one after the other."""

    def __init__(self, administration: Administration, partitions: int, replication: int) -> None:
        """`partitions` and `replication` are those of a topic that would be created."""
        self._administration = administration
        self._partitions, self._replication = partitions, replication

    async def look(self, topic: str) -> TopicSeen:
        """Ask about a topic. Raises PublishError if Kafka cannot be asked."""
        try:
            return await self._look(topic)
        except Exception as error:
            raise translate(error) from error

    async def _look(self, topic: str) -> TopicSeen:
        client: Any = await self._administration.client()
        node = client._client.get_random_node()  # noqa: SLF001
        answer: Any = await client._client.send(node, AskOperations([topic]))  # noqa: SLF001
        ((code, _, _, partitions, operations),) = answer.topics
        if code == UNKNOWN_TOPIC:
            return TopicSeen(topic, exists=False, writable=True, creatable=await self._creatable(client, topic))
        if code == UNAUTHORIZED_TOPIC:
            return TopicSeen(topic, exists=False, writable=False)
        may = {each: bool(operations >> each & 1) for each in (READ, WRITE)}
        configuration = await self._configuration(client, topic)
        return TopicSeen(topic, True, may[WRITE], may[READ], len(partitions), configuration)

    async def transactional(self, name: str) -> bool:
        """Ask whether the transactional id `name` may be used. Raises PublishError if Kafka cannot be asked."""
        try:
            client: Any = await self._administration.client()
            node = client._client.get_random_node()  # noqa: SLF001
            answer: Any = await client._client.send(node, DescribeTransactionalId(name))  # noqa: SLF001
        except Exception as error:
            raise translate(error) from error
        # Any other answer, as that there is none, is given to those alone who may ask.
        return all(code != UNAUTHORIZED_ID for code, *_ in answer.states)

    async def _configuration(self, client: Any, topic: str) -> dict[str, str | None] | None:
        for answer in await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]):
            for code, _, _, _, entries in answer.resources:
                if code == 0:
                    return {name: value for name, value, *_ in entries}
        return None

    async def _creatable(self, client: Any, topic: str) -> bool:
        answer: Any = await client.create_topics(
            [NewTopic(topic, self._partitions, self._replication)], validate_only=True
        )
        return all(code not in (UNAUTHORIZED_TOPIC, UNAUTHORIZED_CLUSTER) for _, code, *_ in answer.topic_errors)
