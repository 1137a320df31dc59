"""Sends single requests to brokers, through one client of aiokafka."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, NodeNotReadyError

from relay.kafka.connections import Connections
from relay.kafka.errors import unreachable
from relay.kafka.options import client_options
from relay.outcome import FailureKind, PublishError

if TYPE_CHECKING:
    from aiokafka.protocol.api import Request

    from relay.kafka.options import Security
    from relay.settings import KafkaSettings

CLOSE_TIMEOUT = 1.0
"""Seconds that closing a client may take."""


class UnsupportedError(KafkaError):
    """The broker does not know a request that is needed."""


class Asking:
    """A client that is connected, and what is asked through it."""

    def __init__(self, client: AIOKafkaClient, connections: Connections | None = None) -> None:
        """`connections` are closed with the client; None if the client is somebody else's."""
        self._client: Any = client
        self._connections = connections

    @classmethod
    async def connect(cls, settings: KafkaSettings, security: Security) -> Asking:
        """Connect a client of its own. Raises PublishError, which says why that cannot be done now."""
        try:
            client = AIOKafkaClient(**await client_options(settings, security))
        except Exception as error:
            raise unreachable(error) from error
        asking = cls(client, Connections(client, settings, security))
        try:
            async with asyncio.timeout(settings.request_timeout):
                await client.bootstrap()
        except BaseException as error:
            causes = asking.causes()
            await asking.close()
            if isinstance(error, Exception) and causes:
                raise PublishError(FailureKind.CLUSTER, causes, type(error).__name__) from error
            if isinstance(error, Exception):
                raise unreachable(error) from error
            raise
        return asking

    async def ask(self, node: int, request: Request[Any]) -> Any:
        """Return a broker's answer. Raises UnsupportedError, or an error of the connection: KafkaError or OSError."""
        try:
            return await self._client.send(node, request)
        except (IncompatibleBrokerVersion, NotImplementedError) as error:
            raise UnsupportedError(f"the broker does not know {type(request).__name__}") from error

    async def ask_any(self, request: Request[Any]) -> Any:
        """Return the answer of any broker: one that is away is passed over. Raises what `ask` does."""
        try:
            return await self._ask_one_of_all(request)
        except UnsupportedError:
            raise
        except (KafkaError, OSError):
            # Those that are known are all away: others may have come, or come back.
            await self._client.bootstrap()
            return await self._ask_one_of_all(request)

    async def _ask_one_of_all(self, request: Request[Any]) -> Any:
        nodes = [broker.nodeId for broker in self._client.cluster.brokers()]
        random.shuffle(nodes)
        error: KafkaError | OSError = NodeNotReadyError("no broker is known")
        for node in nodes:
            try:
                return await self.ask(node, request)
            except UnsupportedError:
                raise
            except (KafkaError, OSError) as away:
                error = away
        raise error

    def causes(self) -> str:
        """Return in one line why brokers could not be reached; empty if nothing is known."""
        return self._connections.causes() if self._connections is not None else ""

    def learn_brokers(self, metadata: Any) -> None:
        """Take over the brokers' addresses from an answer to a request for metadata."""
        self._client.cluster.update_metadata(metadata)

    def name_topic(self, topic: str) -> None:
        """Have the client ask for this topic's metadata alone: one that knows no name asks for all topics there are."""
        self._client._topics = {topic}  # noqa: SLF001 the public way asks immediately

    async def close(self) -> None:
        """Close the client, if it is its own, whatever the brokers do."""
        if self._connections is None:
            return
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._client.close()
        await self._connections.cut()
