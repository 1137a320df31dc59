"""Asks where partitions end, many of them at once."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError
from aiokafka.protocol.offset import OffsetRequest, OffsetResetStrategy

from relay.kafka.reconcile.codes import UNKNOWN, trouble_of
from relay.kafka.reconcile.leaders import Leaders, by_topic
from relay.stages.reconcile.ports import Place, Trouble, TroubleKind

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from relay.kafka.reconcile.asking import Asking

PATIENCE = 2.0
"""Seconds to go on asking for partitions whose leader has just changed. Without a leader nothing can be sent either."""
BACKOFF = 0.1
"""Seconds between two tries."""

MOST_PARTITIONS = 1_000
"""Maximum number of partitions in one request."""

_CONSUMER = -1
_READ_UNCOMMITTED = 0


NO_ANSWER = -1
"""In the place of an end that cannot be had now."""


async def ends(asking: Asking, leaders: Leaders, topics: Mapping[str, int]) -> dict[str, list[int] | Trouble]:
    """Return the end of each of the first so many partitions of each topic, or why the topic cannot be asked for.

    NO_ANSWER for a partition that has no leader now. It is the end for consumers: what a follower has not got yet lies
    above. Raises KafkaError or OSError when no broker answers.
    """
    wanted = {Place(topic, partition) for topic, count in topics.items() for partition in range(count)}
    found: dict[Place, int] = {}
    troubles: dict[Place, Trouble] = {}
    until = time.monotonic() + PATIENCE
    while left := wanted - found.keys():
        await leaders.look({topic for topic, _ in left})
        led, troubles = leaders.by_leader(left)
        for node, places in led.items():
            for first in range(0, len(places), MOST_PARTITIONS):
                some = places[first : first + MOST_PARTITIONS]
                for place, answer in (await _ends_of(asking, node, some)).items():
                    if isinstance(answer, Trouble):
                        troubles[place] = answer
                    else:
                        found[place] = answer
        lasting = {each.topic for each, trouble in troubles.items() if trouble.kind is not TroubleKind.WAITS}
        if time.monotonic() > until or all(each.topic in lasting for each in wanted - found.keys()):
            break
        await asyncio.sleep(BACKOFF)
    lasting_troubles = {
        place.topic: troubles[place]
        for place in wanted - found.keys()
        if place in troubles and troubles[place].kind is not TroubleKind.WAITS
    }
    return {
        topic: lasting_troubles.get(topic) or [found.get(Place(topic, number), NO_ANSWER) for number in range(count)]
        for topic, count in topics.items()
    }


async def _ends_of(asking: Asking, node: int, places: Collection[Place]) -> dict[Place, int | Trouble]:
    wanted = [
        (topic, [(partition, OffsetResetStrategy.LATEST) for partition in partitions])
        for topic, partitions in by_topic(places).items()
    ]
    try:
        answer = await asking.ask(node, OffsetRequest(_CONSUMER, _READ_UNCOMMITTED, wanted))
    except (KafkaError, OSError) as error:
        said = f"the broker {node} does not answer ({type(error).__name__})"
        return dict.fromkeys(places, Trouble(TroubleKind.WAITS, said))
    return {
        Place(topic, partition): offset if not code else _trouble(code, Place(topic, partition))
        for topic, partitions in answer.topics
        for partition, code, _, offset in partitions
    }


def _trouble(code: int, place: Place) -> Trouble:
    if code in UNKNOWN:
        return Trouble(
            TroubleKind.WAITS, f"the leader of partition {place.partition} of {place.topic} has just changed"
        )
    return trouble_of(code, place)
