"""Asks the cluster which topics exist: many in one question, and without aiokafka asking for them for ever.

aiokafka asks again, with every change of its metadata, for each topic that it was once asked for. Thousands of topics
that do not exist would be in each of these questions, and their answers are read in Python.
"""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from aiokafka.errors import NodeNotReadyError
from aiokafka.protocol.metadata import MetadataRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiokafka.client import AIOKafkaClient

MOST_NAMES = 500
"""Maximum number of topics in one question: its answer is read in some ten milliseconds."""

INTERVAL = 0.05
"""Seconds between two questions, so that callers who come one after the other share a question."""


class TopicLookup:
    """One question at a time, of one client."""

    def __init__(self, client: AIOKafkaClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._wanted: dict[str, asyncio.Future[int | Exception]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = 0.0

    async def code(self, topic: str) -> int:
        """Return Kafka's error code for the topic, 0 if it exists. Raises the error that asking met."""
        answer = self._wanted.get(topic)
        if answer is None:
            answer = self._wanted[topic] = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all())
        found = await asyncio.shield(answer)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
        for answer in self._wanted.values():
            answer.cancel()

    async def _ask_all(self) -> None:
        while self._wanted:
            await asyncio.sleep(max(0.0, self._asked_at + INTERVAL - time.monotonic()))
            self._asked_at = time.monotonic()
            asked = {name: self._wanted.pop(name) for name in list(islice(self._wanted, MOST_NAMES))}
            found: dict[str, int] | Exception
            try:
                found = await self.codes(list(asked))
            except Exception as error:  # noqa: BLE001 whoever asked hears of it
                found = error
            for name, answer in asked.items():
                if not answer.done():
                    answer.set_result(found if isinstance(found, Exception) else found.get(name, 0))

    async def codes(self, topics: Sequence[str]) -> dict[str, int]:
        """Return Kafka's error codes for topics, by topic, with one question."""
        node: Any = self._client.get_random_node()
        if node is None:
            raise NodeNotReadyError("no broker is known")
        async with asyncio.timeout(self._timeout):
            response: Any = await self._client.send(node, MetadataRequest(list(topics)))
        return {name: code for code, name, *_ in response.topics}
