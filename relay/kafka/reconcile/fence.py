"""Fences a transactional id: ends an empty transaction over all partitions to which its producer may have written.

Kafka writes a marker into each of them, which no consumer sees. Behind it the partition's leader refuses every batch of
a lower epoch, also one that was on its way for any time, and one of a producer that had never written there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import aiokafka.errors as kafka

from relay.kafka.reconcile.transactions import Transactions
from relay.stages.reconcile.ports import Fenced, Place, Trouble, TroubleKind, UnfenceableError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from relay.kafka.reconcile.asking import Asking
    from relay.kafka.reconcile.leaders import Leaders
    from relay.stages.reconcile.ports import ProducerId

MOST_PARTITIONS = 1_000
"""Maximum number of partitions of one transaction: the coordinator keeps all their names in one record."""

MARKER_SECONDS = 2.0
"""Seconds to wait for the markers of a transaction. Those of partitions with a leader are written in milliseconds, and
reading waits for them anyway."""


class Fence:
    """One fence."""

    def __init__(self, asking: Asking, leaders: Leaders, name: str) -> None:
        self._leaders = leaders
        self._name = name
        self._transactions = Transactions(asking, name)
        self._unfenced: dict[Place, Trouble] = {}

    async def place(self, places: Collection[Place], seconds: float) -> Fenced:
        """Place a marker into each of these partitions, within `seconds`.

        Raises UnfenceableError when the transactional id cannot be used, PublishError when another replica takes it
        over meanwhile, and KafkaError or OSError when Kafka cannot be asked for the partitions.
        """
        producer: ProducerId | None = None
        # A marker for a partition without leader is not written: Kafka 4.3.1 forgets it and says that all is well
        # (KAFKA-20734), and others let no further transaction of this id begin until it is.
        by_leader, self._unfenced = self._leaders.by_leader(places)
        left = list(chunks([each for led in by_leader.values() for each in led]))
        try:
            async with asyncio.timeout(seconds):
                producer = await self._transactions.begin()
                while left:
                    await self._mark(producer, left[0])
                    del left[0]
        except TimeoutError as error:
            said = f"Kafka has not fenced {self._name} in time ({self._transactions.waits_for})"
            if producer is None:
                raise UnfenceableError(Trouble(TroubleKind.WAITS, said)) from error
            self._unfenced |= dict.fromkeys(
                (each for chunk in left for each in chunk), Trouble(TroubleKind.WAITS, said)
            )
        return Fenced(producer, self._unfenced)

    async def _mark(self, producer: ProducerId, places: Sequence[Place]) -> None:
        """End one transaction over these partitions, and wait until its markers are written."""
        wanted = set(places)
        while wanted and (faults := await self._transactions.add(producer, wanted)):
            self._unfenced |= {place: _fault(place, code) for place, code in faults.items()}
            wanted -= faults.keys()
        if wanted:
            await self._transactions.abort(producer)
            with suppress(TimeoutError):
                async with asyncio.timeout(MARKER_SECONDS):
                    # To an abort that it has begun Kafka answers that a transaction is under way, and to one that it
                    # has ended that all is well.
                    await self._transactions.abort(producer)
            # A broker may have gone meanwhile, whose partitions hold up none of the others.
            await self._leaders.look({place.topic for place in wanted})
            self._unfenced |= self._leaders.by_leader(wanted)[1]


def chunks(places: Sequence[Place]) -> Iterator[Sequence[Place]]:
    """Yield the partitions of one transaction after the other."""
    for first in range(0, len(places), MOST_PARTITIONS):
        yield places[first : first + MOST_PARTITIONS]


def _fault(place: Place, code: int) -> Trouble:
    if code == kafka.TopicAuthorizationFailedError.errno:
        return Trouble(TroubleKind.RIGHTS, f"no right to write to topic {place.topic}; grant the relay WRITE on it")
    return Trouble(TroubleKind.GONE, f"topic {place.topic} has no partition {place.partition}")
