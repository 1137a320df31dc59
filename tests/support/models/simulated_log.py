"""Kafka as far as reconciling can tell: partitions as lists of record batches, and the epochs that leaders know.

Every method of the port stops at an Instant before each thing that it does, so that a schedule decides what happens
meanwhile: late batches, another fencer, a deleted topic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from relay.outcome import FailureKind, PublishError
from relay.stages.reconcile.ports import (
    Fenced,
    Finished,
    Found,
    FoundEvent,
    Place,
    ProducerId,
    Trouble,
    TroubleKind,
    UnfenceableError,
)
from tests.support.models.simulated_connection import Instant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from relay.stages.reconcile.ports import Tail

BATCH_BYTES = 100
"""Bytes of every batch."""


@dataclass(eq=False)
class Batch:
    """A record batch in a log, or a marker."""

    base: int
    producer: ProducerId
    events: list[FoundEvent | None]
    """Of a marker: empty."""
    records: int = 0
    """How many of its records are left; compaction takes some."""

    @property
    def end(self) -> int:
        return self.base + max(1, len(self.events))

    @property
    def whole(self) -> bool:
        return self.records == len(self.events)


@dataclass(eq=False)
class Log:
    """One partition."""

    batches: list[Batch] = field(default_factory=list)
    epochs: dict[int, int] = field(default_factory=dict)
    """By producer id: batches of a lower epoch are refused."""
    start: int = 0
    end: int = 0
    led: bool = True
    """Whether there is a leader."""


class SimulatedLog:
    """A cluster. What producers hand over is appended or refused when the caller says so."""

    def __init__(self) -> None:
        self.logs: dict[Place, Log] = {}
        self.names: dict[str, ProducerId] = {}
        """The transactional ids that were used, and what each stands for now."""
        self.unreadable: set[str] = set()
        """Topics that may not be read."""
        self.markers = 0
        """How many were written."""
        self._next_producer = 1_000

    def make_topic(self, name: str, partitions: int = 1) -> None:
        for number in range(partitions):
            self.logs[Place(name, number)] = Log()

    def delete_topic(self, name: str) -> None:
        for place in [place for place in self.logs if place.topic == name]:
            del self.logs[place]

    def take_over(self, name: str | None) -> ProducerId:
        """What InitProducerId does: a new producer id, or the next epoch of one."""
        if name is not None and name in self.names:
            producer, epoch = self.names[name]
            taken = ProducerId(producer, epoch + 1)
        else:
            self._next_producer += 1
            taken = ProducerId(self._next_producer, 0)
        if name is not None:
            self.names[name] = taken
        return taken

    def append(self, producer: ProducerId, place: Place, events: Sequence[FoundEvent | None]) -> int | None:
        """Append a batch, whenever it was sent; returns its offset, None if the leader refuses it."""
        log = self.logs.get(place)
        if log is None or producer.epoch < log.epochs.get(producer.id, 0):
            return None
        log.epochs[producer.id] = producer.epoch
        batch = Batch(log.end, producer, list(events), len(events))
        log.batches.append(batch)
        log.end = batch.end
        return batch.base

    def delete_records(self, place: Place, before: int) -> None:
        log = self.logs[place]
        log.start = before
        log.batches = [batch for batch in log.batches if batch.end > before]

    def compact(self, place: Place, offset: int) -> None:
        """Take away one record."""
        for batch in self.logs[place].batches:
            if batch.base <= offset < batch.end:
                batch.records -= 1

    def mark(self, producer: ProducerId, place: Place) -> None:
        log = self.logs[place]
        log.epochs[producer.id] = producer.epoch
        log.batches.append(Batch(log.end, producer, []))
        log.end += 1
        self.markers += 1


class SimulatedKafkaReconcile:
    """The shared fake of KafkaReconcilePort."""

    def __init__(self, cluster: SimulatedLog) -> None:
        self.cluster = cluster
        self.unfenceable: Trouble | None = None
        """Why no transactional id can be used, if none can."""
        self.fences = 0
        """How often somebody tried to fence."""

    async def ends(self, topics: Mapping[str, int]) -> dict[str, list[int] | Trouble]:
        await Instant()
        answer: dict[str, list[int] | Trouble] = {}
        for topic, count in topics.items():
            places = [Place(topic, number) for number in range(count)]
            troubles = [trouble for trouble in map(self._trouble, places) if trouble is not None]
            lasting = [trouble for trouble in troubles if trouble.kind is not TroubleKind.WAITS]
            ends = [-1 if self._trouble(place) else self.cluster.logs[place].end for place in places if not lasting]
            answer[topic] = lasting[0] if lasting else ends
        return answer

    async def can_fence(self, name: str, seconds: float) -> bool:
        await Instant()
        if self.unfenceable is None:
            self.cluster.take_over(name)
        return self.unfenceable is None

    async def fence(self, name: str, places: Collection[Place], seconds: float) -> Fenced:
        await Instant()
        self.fences += 1
        if self.unfenceable is not None:
            raise UnfenceableError(self.unfenceable)
        producer = self.cluster.take_over(name)
        unfenced: dict[Place, Trouble] = {}
        for place in places:
            await Instant()
            if self.cluster.names[name] != producer:
                raise PublishError(FailureKind.CLUSTER, f"another replica has taken over {name}", "ProducerFenced")
            trouble = self._trouble(place)
            if trouble is not None:
                unfenced[place] = trouble
            else:
                self.cluster.mark(producer, place)
        await Instant()
        return Fenced(producer, unfenced)

    async def read(self, tails: Sequence[Tail], most_bytes: int) -> AsyncIterator[Found | Finished]:
        left = {tail.place: (tail, tail.begin, 0) for tail in tails}
        waited = dict.fromkeys(left, False)
        while left:
            for place, (tail, at, size) in list(left.items()):
                await Instant()
                step = self._step(tail, at, size, most_bytes)
                if step is None and not waited[place]:
                    waited[place] = True
                    continue
                found, ended, at, size = step or (None, Finished(place, _waits("no marker"), size), at, size)
                left[place] = (tail, at, size)
                if found is not None:
                    yield found
                if ended is not None:
                    del left[place]
                    yield ended

    async def close(self) -> None:
        await Instant()

    def _step(
        self, tail: Tail, at: int, size: int, most_bytes: int
    ) -> tuple[Found | None, Finished | None, int, int] | None:
        """Read one batch, or find that there is nothing more to read; None if the end has not come yet."""
        place = tail.place
        trouble = self._trouble(place)
        if trouble is None and place.topic in self.cluster.unreadable:
            trouble = Trouble(TroubleKind.RIGHTS, f"no right to read topic {place.topic}")
        if trouble is not None:
            return None if trouble.kind is TroubleKind.WAITS else (None, Finished(place, trouble, size), at, size)
        log = self.cluster.logs[place]
        if not log.start <= at <= log.end:
            return None, Finished(place, _hole(place, at), size), at, size
        if self._reached(tail, log, at):
            return None, Finished(place, None, size), at, size
        if size >= most_bytes:
            return None, Finished(place, Trouble(TroubleKind.BYTES, "the limit"), size), at, size
        batch = next((each for each in log.batches if each.end > at), None)
        if batch is None:
            return None
        if batch.base > at or not batch.whole:
            return None, Finished(place, _hole(place, at), size), at, size
        found = None
        if batch.producer.id in tail.ends and batch.events:
            found = Found(place, max(at, batch.base), batch.events[max(0, at - batch.base) :])
        return found, None, batch.end, size + BATCH_BYTES

    def _reached(self, tail: Tail, log: Log, at: int) -> bool:
        """Whether every marker lies below `at`; without markers, whether that is the end."""
        for producer, epoch in tail.ends.items():
            if epoch is None and at < log.end:
                return False
            if epoch is not None and not any(
                not each.events
                and each.producer.id == producer
                and each.producer.epoch >= epoch
                and tail.begin <= each.base < at
                for each in log.batches
            ):
                return False
        return True

    def _trouble(self, place: Place) -> Trouble | None:
        log = self.cluster.logs.get(place)
        if log is None:
            return Trouble(TroubleKind.GONE, f"topic {place.topic} does not exist")
        return None if log.led else _waits(f"partition {place.partition} of {place.topic} has no leader")


def _waits(said: str) -> Trouble:
    return Trouble(TroubleKind.WAITS, said)


def _hole(place: Place, at: int) -> Trouble:
    return Trouble(TroubleKind.HOLE, f"partition {place.partition} of {place.topic} from offset {at} on")
