"""Knows which broker leads which partition, for many topics, and never has a topic made by asking for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from aiokafka.protocol.metadata import MetadataRequest

from relay.kafka.lookup import MOST_NAMES
from relay.stages.reconcile.ports import Place, Trouble, TroubleKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from relay.kafka.reconcile.asking import Asking

_UNKNOWN_TOPIC, _UNAUTHORIZED_TOPIC = 3, 29
"""Kafka's error codes."""


class Leaders:
    """What the last answers said of topics and their partitions."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._codes: dict[str, int] = {}
        self._leaders: dict[str, dict[int, int]] = {}

    async def look(self, topics: Collection[str]) -> None:
        """Ask for these topics. Raises KafkaError or OSError."""
        names = sorted(topics)
        for first in range(0, len(names), MOST_NAMES):
            some = names[first : first + MOST_NAMES]
            answer = await self._asking.ask_any(MetadataRequest(some, allow_auto_topic_creation=False))
            for code, topic, _, partitions in answer.topics:
                self._codes[topic] = code
                self._leaders[topic] = {number: leader for _, number, leader, *_ in partitions}
                if not code:
                    self._asking.name_topic(topic)
            self._asking.learn_brokers(answer)
            await asyncio.sleep(0)

    def of(self, place: Place) -> int | Trouble:
        """Return the broker that leads a partition of a topic that was looked for, or why none can be asked."""
        topic, partition = place
        code = self._codes.get(topic, _UNKNOWN_TOPIC)
        if code == _UNAUTHORIZED_TOPIC:
            said = f"no right to see topic {topic}; grant the relay READ, WRITE and DESCRIBE on it"
            return Trouble(TroubleKind.RIGHTS, said)
        if code == _UNKNOWN_TOPIC:
            return Trouble(TroubleKind.GONE, f"topic {topic} does not exist")
        leader = self._leaders.get(topic, {}).get(partition)
        if leader is None and not code:
            return Trouble(TroubleKind.GONE, f"topic {topic} has no partition {partition}")
        if leader is None or leader < 0:
            return Trouble(TroubleKind.WAITS, f"partition {partition} of {topic} has no leader")
        return leader

    def by_leader(self, places: Iterable[Place]) -> tuple[dict[int, list[Place]], dict[Place, Trouble]]:
        """Return the partitions of each broker, and those that none can be asked for."""
        led: dict[int, list[Place]] = defaultdict(list)
        troubles: dict[Place, Trouble] = {}
        for place in places:
            leader = self.of(place)
            if isinstance(leader, Trouble):
                troubles[place] = leader
            else:
                led[leader].append(place)
        return led, troubles


def by_topic(places: Iterable[Place]) -> dict[str, list[int]]:
    """Return the partitions of each topic."""
    grouped: dict[str, list[int]] = defaultdict(list)
    for topic, partition in places:
        grouped[topic].append(partition)
    return grouped
