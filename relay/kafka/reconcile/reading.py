"""Reads the ends of many partitions beside one another, each forward from its own offset."""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from aiokafka.errors import KafkaError
from aiokafka.protocol.fetch import FetchRequest

from relay.kafka.reconcile.asking import UnsupportedError
from relay.kafka.reconcile.batches import Walk
from relay.kafka.reconcile.codes import OUT_OF_RANGE, UNKNOWN, trouble_of
from relay.kafka.reconcile.described import last_sequences
from relay.stages.reconcile.ports import Finished, Found, Place, Trouble, TroubleKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Sequence

    from relay.kafka.reconcile.asking import Asking
    from relay.kafka.reconcile.leaders import Leaders
    from relay.stages.reconcile.ports import Tail

PATIENCE = 5.0
"""Seconds without anything new of a partition, after which it is given up for now."""
UNSEEN = 2.0
"""Seconds at the end of a partition after which a producer's last batch is taken to lie before where reading began."""
LOOK_INTERVAL = 0.2
"""Seconds between two looks for leaders."""

WAIT_MS = 100
"""How long a broker waits for something new."""
PARTITION_BYTES = 2 << 20
"""Bytes of one partition in one answer. A record batch that is larger comes whole, if it is the first in the answer."""
ANSWER_BYTES = 8 << 20
"""Bytes of one answer."""
BROKERS = 2
"""Brokers that are asked at the same time: so many answers are in memory."""
MOST_PARTITIONS = 500
"""Maximum number of partitions in one request."""

_READ_UNCOMMITTED = 0


class Piece(NamedTuple):
    """What a broker answered for a partition."""

    place: Place
    code: int
    high_watermark: int
    fetched: bytes


class Reading:
    """Reads until each partition has ended, or makes no progress."""

    def __init__(self, asking: Asking, leaders: Leaders, tails: Sequence[Tail], most_bytes: int) -> None:
        self._asking = asking
        self._leaders = leaders
        now = time.monotonic()
        self._walks = {tail.place: Walk(tail, most_bytes) for tail in tails}
        """Those that have not ended; those that were asked for last are the last."""
        self._progressed_at = dict.fromkeys(self._walks, now)
        self._asked: set[Place] = set()
        self._undescribed = {place for place, walk in self._walks.items() if walk.unmarked}
        self._troubles: dict[Place, Trouble] = {}
        """Why the last try to read a partition got nothing."""
        self._looked_at = float("-inf")
        self._stale = True

    async def run(self) -> AsyncIterator[Found | Finished]:
        """Yield what is found, and the end of each partition.

        Raises KafkaError or OSError when no broker answers for long.
        """
        while self._walks:
            for finished in self._ended():
                yield finished
            if not self._walks:
                return
            if self._stale:
                await self._look()
            led, troubles = self._leaders.by_leader(self._walks)
            for place, trouble in troubles.items():
                self._unreadable(place, trouble)
            if not led:
                await asyncio.sleep(LOOK_INTERVAL)
            brokers = list(led.items())
            for first in range(0, len(brokers), BROKERS):
                pieces = await asyncio.gather(*(self._of_broker(*each) for each in brokers[first : first + BROKERS]))
                for piece in (each for of_broker in pieces for each in of_broker):
                    for found in self._take(piece):
                        yield found
                    # A large answer must not keep the loop from its heartbeat.
                    await asyncio.sleep(0)

    def _ended(self) -> Iterable[Finished]:
        """Return the partitions that are at their end, or that are given up, and forget them."""
        now = time.monotonic()
        for place, walk in list(self._walks.items()):
            finished = self._end_of(place, walk, now - self._progressed_at[place])
            if finished is not None:
                del self._walks[place]
                yield finished

    def _end_of(self, place: Place, walk: Walk, quiet: float) -> Finished | None:
        """Return the end of a partition of which there was nothing new for `quiet` seconds; None if it goes on."""
        waits = self._troubles.get(place)
        if walk.ended:
            trouble = walk.trouble
        elif waits is not None and waits.kind is not TroubleKind.WAITS:
            trouble = waits
        elif walk.at_end and quiet > UNSEEN:
            trouble = None
        elif quiet > PATIENCE and (waits is not None or place in self._asked):
            trouble = waits or _no_marker(place)
        else:
            return None
        return Finished(place, trouble, walk.bytes)

    async def _look(self) -> None:
        """Ask who leads the partitions."""
        await asyncio.sleep(max(0.0, self._looked_at + LOOK_INTERVAL - time.monotonic()))
        self._looked_at = time.monotonic()
        try:
            await self._leaders.look({place.topic for place in self._walks})
        except (KafkaError, OSError):
            if all(time.monotonic() - each > PATIENCE for each in self._progressed_at.values()):
                raise
            return
        self._stale = False

    def _unreadable(self, place: Place, trouble: Trouble) -> None:
        self._troubles[place] = trouble
        self._stale = True

    async def _of_broker(self, node: int, places: Collection[Place]) -> list[Piece]:
        """Return what one broker has of the partitions that it leads."""
        try:
            await self._describe(node, self._undescribed.intersection(places))
            some = [each for each in islice(places, MOST_PARTITIONS) if each not in self._undescribed]
            return await self._fetch(node, some) if some else []
        except (KafkaError, OSError) as error:
            said = f"the broker {node} does not answer ({type(error).__name__})"
            for place in places:
                self._unreadable(place, Trouble(TroubleKind.WAITS, said))
            return []

    async def _describe(self, node: int, places: Collection[Place]) -> None:
        """Learn the last sequences of producers without a marker."""
        if not places:
            return
        try:
            described = await last_sequences(self._asking, node, places)
        except UnsupportedError:
            # What can be read now is all that can be waited for.
            described = {place: {} for place in places}
        for place, found in described.items():
            if isinstance(found, int):
                self._refused(place, found)
            else:
                self._walks[place].expect(found)
                self._undescribed.discard(place)

    async def _fetch(self, node: int, places: Sequence[Place]) -> list[Piece]:
        wanted: dict[str, list[tuple[int, int, int]]] = {}
        now = time.monotonic()
        for place in places:
            if place not in self._asked:
                self._asked.add(place)
                self._progressed_at[place] = now
            # Others first next time; there may be more than one request takes.
            self._walks[place] = self._walks.pop(place)
            wanted.setdefault(place.topic, []).append((place.partition, self._walks[place].fetch_from, PARTITION_BYTES))
        request = FetchRequest(WAIT_MS, 1, ANSWER_BYTES, _READ_UNCOMMITTED, list(wanted.items()))
        answer = await self._asking.ask(node, request)
        return [
            Piece(Place(topic, partition), code, high_watermark, rest[-1] or b"")
            for topic, partitions in answer.topics
            for partition, code, high_watermark, *rest in partitions
        ]

    def _take(self, piece: Piece) -> list[Found]:
        """Take what was fetched of one partition."""
        place = piece.place
        walk = self._walks[place]
        if piece.code:
            self._refused(place, piece.code)
            return []
        self._troubles.pop(place, None)
        walk.saw_high_watermark(piece.high_watermark)
        before = walk.bytes
        found = walk.take(piece.fetched)
        if walk.bytes > before:
            self._progressed_at[place] = time.monotonic()
            # Those that got nothing first next time: Kafka fills an answer from its beginning.
            self._walks[place] = self._walks.pop(place)
        return found

    def _refused(self, place: Place, code: int) -> None:
        if code == OUT_OF_RANGE:
            self._walks[place].out_of_range()
        elif code in UNKNOWN:
            said = f"partition {place.partition} of {place.topic} is not where its leader was"
            self._unreadable(place, Trouble(TroubleKind.WAITS, said))
        else:
            self._unreadable(place, trouble_of(code, place))


def _no_marker(place: Place) -> Trouble:
    said = f"the end of partition {place.partition} of {place.topic} has not come; are enough of its replicas in sync?"
    return Trouble(TroubleKind.WAITS, said)
