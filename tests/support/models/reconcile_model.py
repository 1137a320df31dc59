"""A replica that is killed or paused at any step, its bytes that arrive at any later one, and the real take-over.

The owner notes and publishes as `Notes` and publish do, with the real `Tail`; the others run the real `Reconcile`.
Kafka is a list of record batches for each partition, and an epoch that the leader knows of each producer; PostgreSQL is
a few dicts. Nothing else can happen to anybody but what a `Fate` says. A `mutant` is one mistake; each must be noticed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from relay.decide.reconciling import Mode
from relay.decide.room import Room
from relay.decide.tails import Tail
from relay.retry import Backoff
from relay.stages.reconcile.ports import (
    DeadReplica,
    Fenced,
    Finished,
    Found,
    FoundEvent,
    Place,
    ProducerId,
    Trouble,
    TroubleKind,
)
from relay.stages.reconcile.reconcile import Reconcile
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.models.simulated_postgres import Violation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Generator, Iterator, Mapping, Sequence

    from relay.stages.reconcile.ports import Tail as WantedTail

TOPIC, DEAD_LETTERS = "orders", "orders.dead-letter"
REPLICA, PROCESS, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)
PARTITION_OF = {1: 0, 2: 0, 3: 1, 4: 0, 5: 0, 6: 1, 7: 1, 8: 1, 9: 2}
"""Events and the partition of each; those of one partition are of one key, in order. 9 goes to one added later."""
FOREIGN = 99
"""The producer id of somebody else."""

MUTANTS = (
    "read before the fence",
    "read to the high watermark",
    "raise before the commit",
    "raise past a doubt",
    "start at the last receipt",
    "send before the topic is noted",
    "use a producer without asking",
    "match without the topic",
    "match records of any producer",
    "match behind a hole",
    "read the partitions of keys only",
    "lanes are free with the lease",
    "unregister in a drain that is cut short",
    "fence without the last partition",
    "forget an owner",
)
"""What is done wrong."""


_SILENT = Telemetry()


class Fate(NamedTuple):
    """What happens to the owner, and around it."""

    stopped_at: int
    """The owner's step before which it is killed or paused."""
    arrives_at: int = -1
    """The step of the take-over at which arrives what is on the wire; -1: when all is over."""
    wakes: bool = False
    """It was paused, and goes on when all is over."""
    compacted: bool = False
    """A record was compacted away for a later one of its key."""
    lags: bool = False
    """What the owner wrote last is not on a follower yet when the take-over begins."""


class Batch(NamedTuple):
    """Records in a row; a marker has none."""

    base: int
    events: tuple[int, ...]
    producer: ProducerId
    marker: bool = False


@dataclass
class World:
    """Kafka, PostgreSQL and the wire between the owner and Kafka."""

    mutant: str | None
    fate: Fate
    log: dict[Place, list[Batch]] = field(default_factory=dict)
    epochs: dict[tuple[Place, int], int] = field(default_factory=dict)
    ids: dict[str, ProducerId] = field(default_factory=dict)
    wire: list[tuple[Place, tuple[int, ...], ProducerId]] = field(default_factory=list)
    row: bool = True
    ended: bool = False
    lease: bool = True
    producers: dict[str, int] = field(default_factory=dict)
    tails: dict[str, list[int]] = field(default_factory=dict)
    receipts: dict[int, tuple[Place, int]] = field(default_factory=dict)
    steps: int = 0
    """Of the take-over."""

    def is_(self, mutant: str) -> bool:
        return self.mutant == mutant

    def end(self, place: Place) -> int:
        batches = self.log.get(place, [])
        return batches[-1].base + max(1, len(batches[-1].events)) if batches else 0

    def append(
        self, place: Place, events: tuple[int, ...], producer: ProducerId, *, marker: bool = False
    ) -> int | None:
        """Returns the offset; None if the leader knows a higher epoch of the producer."""
        if self.epochs.get((place, producer.id), 0) > producer.epoch:
            return None
        self.epochs[place, producer.id] = producer.epoch
        base = self.end(place)
        self.log.setdefault(place, []).append(Batch(base, events, producer, marker))
        return base

    def arrive(self) -> None:
        """What is on the wire reaches the leader."""
        for place, events, producer in self.wire:
            self.append(place, events, producer)
        self.wire.clear()

    def init(self, name: str) -> ProducerId:
        """InitProducerId."""
        before = self.ids.get(name)
        self.ids[name] = ProducerId(len(self.ids) + 1, 0) if before is None else before._replace(epoch=before.epoch + 1)
        return self.ids[name]

    def tick(self) -> None:
        """One step of the take-over."""
        if self.steps == self.fate.arrives_at:
            self.arrive()
        self.steps += 1


class Refused(Exception):  # noqa: N818 how an owner's life may end
    """The owner was told that it is none any more."""


class Owner:
    """What it does, step by step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tails: dict[Place, Tail] = {}
        self.number = 0
        self.name = ""
        self.producer = ProducerId(0, 0)

    def life(self) -> Iterator[None]:
        """Each `yield` is a place at which it may be killed, or paused for as long as one likes."""
        yield from self.connect()
        yield from self.note({TOPIC: 2})
        yield from self.publish((1, 2))
        yield from self.publish((3,))
        # Somebody else has copied event 4, before it was there, from another outbox with the same ids.
        self.world.append(Place(TOPIC, 0), (4,), ProducerId(FOREIGN, 0))
        yield from self.publish((4,), settle=False)
        yield from self.publish((5,), settle=False)
        # Events 4 and 5 settle together.
        yield from self.settle((4,), self.place_of(4))
        yield from self.settle((5,), self.place_of(5))
        yield from self.doubt((6,))
        yield from self.connect()
        yield from self.publish((7,))
        # Event 8 was refused: its letter is in Kafka, and its failure is not recorded yet.
        yield from self.note({DEAD_LETTERS: 1})
        yield from self.send(Place(DEAD_LETTERS, 0), (8,))
        yield from self.note({TOPIC: 3})
        yield from self.publish((9,), settle=False)
        yield
        # A drain that is cut short.
        if self.world.is_("unregister in a drain that is cut short"):
            self.world.row = False
        yield

    def connect(self) -> Iterator[None]:
        self.number += 1
        self.name = f"{PROCESS}-{self.number}"
        yield
        self.producer = self.world.init(self.name)
        yield
        self._ask()
        self.world.producers[self.name] = self.producer.id

    def note(self, topics: dict[str, int]) -> Iterator[None]:
        if self.world.is_("send before the topic is noted"):
            # It is noted when there is time for it.
            for topic, count in topics.items():
                self._note_in_memory(topic, count)
            return
        for topic, count in topics.items():
            yield
            ends = self._note_in_memory(topic, count)
            yield
            self._ask()
            self.world.tails[topic] = ends

    def publish(self, events: tuple[int, ...], *, settle: bool = True) -> Iterator[None]:
        place = Place(TOPIC, PARTITION_OF[events[0]])
        base = yield from self.send(place, events)
        self.tails[place].acknowledged(base, len(events), len(events))
        if settle:
            yield from self.settle(events, (place, base))

    def send(self, place: Place, events: tuple[int, ...]) -> Generator[None, None, int]:
        yield
        sent = (place, events, self.producer)
        self.world.wire.append(sent)
        yield
        # If it was paused meanwhile, its bytes may have arrived without it.
        arrived = sent not in self.world.wire
        base = self.place_of(events[0])[1] if arrived else self.world.append(*sent)
        if not arrived:
            self.world.wire.remove(sent)
        while base is None or base < 0:
            if not self.world.is_("use a producer without asking"):
                raise Refused
            self.producer = self.world.init(self.name)
            base = self.world.append(place, events, self.producer)
        yield
        return base

    def settle(self, events: tuple[int, ...], at: tuple[Place, int]) -> Iterator[None]:
        place, base = at
        early = self.world.is_("raise before the commit")
        if early:
            yield from self._raise(place, base, len(events))
        yield
        for number, event in enumerate(events):
            self.world.receipts.setdefault(event, (place, base + number))
        yield
        if not early:
            yield from self._raise(place, base, len(events))

    def doubt(self, events: tuple[int, ...]) -> Iterator[None]:
        """A producer is discarded before it was answered."""
        place = Place(TOPIC, PARTITION_OF[events[0]])
        yield
        self.world.append(place, events, self.producer)
        if not self.world.is_("raise past a doubt"):
            self.tails[place].doubt()
        yield

    def place_of(self, event: int) -> tuple[Place, int]:
        """Where a record of ours is; -1 if it is not."""
        place = Place(TOPIC, PARTITION_OF[event])
        for batch in self.world.log.get(place, []):
            if event in batch.events and batch.producer.id == self.producer.id:
                return place, batch.base + batch.events.index(event)
        return place, -1

    def _raise(self, place: Place, base: int, events: int) -> Iterator[None]:
        self.tails[place].recorded(base, events)
        yield
        if self.world.row and place.topic in self.world.tails:
            self.world.tails[place.topic][place.partition] = self.tails[place].offset

    def _note_in_memory(self, topic: str, count: int) -> list[int]:
        for number in range(count):
            place = Place(topic, number)
            self.tails.setdefault(place, Tail(self.world.end(place)))
        return [self.tails[Place(topic, number)].offset for number in range(count)]

    def _ask(self) -> None:
        if self.world.ended or not self.world.row:
            if self.world.is_("use a producer without asking"):
                return
            raise Refused


class Outbox:
    """A ReconcilePort."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def dead(self) -> list[UUID]:
        self.world.tick()
        return [REPLICA] if self.world.row else []

    async def end(self, replica: UUID, by: UUID) -> DeadReplica | None:
        assert replica != by
        world = self.world
        world.tick()
        if not world.row:
            return None
        world.ended = True
        tails = {topic: list(offsets) for topic, offsets in world.tails.items()}
        if world.is_("start at the last receipt"):
            for place, offset in world.receipts.values():
                if place.topic in tails:
                    tails[place.topic][place.partition] = max(tails[place.topic][place.partition], offset + 1)
        if world.is_("read the partitions of keys only"):
            tails = {topic: offsets[:1] for topic, offsets in tails.items()}
        return DeadReplica(REPLICA, PROCESS, "dead", dict(world.producers), tails)

    async def still_at_work(self, replica: UUID, by: UUID, waits_for: str | None) -> bool:
        assert replica != by
        return True

    async def settle_found(self, publisher: UUID, topic: str, found: Sequence[Found]) -> int:
        assert publisher == REPLICA
        self.world.tick()
        new = 0
        for each in found:
            for number, event in enumerate(each.events):
                if event is None or event.id in self.world.receipts:
                    continue
                if topic == TOPIC or self.world.is_("match without the topic"):
                    self.world.receipts[event.id] = (each.place, each.base_offset + number)
                    new += 1
        return new

    async def wake_others(self) -> None:
        self.world.tick()

    async def let_go(self, replica: UUID, by: UUID, waits_for: str | None) -> None:
        assert replica != by

    async def forget(self, replica: UUID) -> None:
        assert replica == REPLICA
        self.world.tick()
        self.world.row = False

    def close(self) -> None:
        pass


class Kafka:
    """A KafkaReconcilePort."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.late: list[tuple[Place, ProducerId]] = []

    async def ends(self, topics: Mapping[str, int]) -> dict[str, list[int] | Trouble]:
        raise NotImplementedError(topics)

    async def can_fence(self, name: str, seconds: float) -> bool:
        raise NotImplementedError(name)

    async def fence(self, name: str, places: Collection[Place], seconds: float) -> Fenced:
        assert seconds
        self.world.tick()
        producer = self.world.init(name)
        self.world.tick()
        for place in sorted(places)[: -1 if self.world.is_("fence without the last partition") else None]:
            if self.world.is_("read before the fence"):
                self.late.append((place, producer))
            else:
                self.world.append(place, (), producer, marker=True)
                self.world.tick()
        return Fenced(producer, {})

    async def read(self, tails: Sequence[WantedTail], most_bytes: int) -> AsyncIterator[Found | Finished]:
        assert most_bytes
        for tail in tails:
            self.world.tick()
            for each in self._read(tail):
                yield each
                self.world.tick()
        for place, producer in self.late:
            self.world.append(place, (), producer, marker=True)

    def _read(self, tail: WantedTail) -> Iterator[Found | Finished]:
        expected = tail.begin
        trouble = None
        batches = self.world.log.get(tail.place, [])
        if self.world.is_("read to the high watermark") and self.world.fate.lags:
            batches = [batch for batch in batches if not batch.marker][:-1]
        for batch in list(batches):
            if batch.base + max(1, len(batch.events)) <= tail.begin:
                continue
            if batch.base > expected and not self.world.is_("match behind a hole"):
                trouble = Trouble(TroubleKind.HOLE, "a hole")
                break
            expected = batch.base + max(1, len(batch.events))
            wanted = batch.producer.id in tail.ends or self.world.is_("match records of any producer")
            if batch.events and wanted:
                events = [FoundEvent(event, UUID(int=event), None) for event in batch.events]
                skipped = max(0, tail.begin - batch.base)
                yield Found(tail.place, batch.base + skipped, events[skipped:])
        yield Finished(tail.place, trouble, 1)

    async def close(self) -> None:
        pass


async def play(mutant: str | None, fate: Fate) -> bool:
    """One life of the owner, and what follows; False if the owner's life has no such step. Raises Violation."""
    world = World(mutant, fate)
    owner = Owner(world)
    life = owner.life()
    for _ in range(fate.stopped_at):
        if next(life, StopIteration) is StopIteration:
            return False
    world.lease = False
    if fate.compacted:
        _compact(world)
    early = mutant in ("lanes are free with the lease", "forget an owner") or not world.row
    if early:
        _publish_the_rest(world)
    if mutant != "forget an owner":
        await _take_over(world)
    if not early:
        _publish_the_rest(world)
    world.arrive()
    if fate.wakes:
        try:
            for _ in life:
                pass
        except Refused:
            pass
    _check(world)
    return True


async def _take_over(world: World) -> None:
    port = Outbox(world)
    reconcile = Reconcile(
        connect=lambda: _returns(port),
        kafka=Kafka(world),
        tenure=Tenure(Room(1, 1)),
        mode=Mode.AUTO,
        most_bytes=1 << 30,
        request_timeout=0.0,
        can_publish=lambda: True,
        backoff=Backoff(lambda: 0.0, first=0.0, most=0.0),
        telemetry=_SILENT,
    )
    await reconcile.once()


async def _returns(port: Outbox) -> Outbox:
    return port


def _publish_the_rest(world: World) -> None:
    """The next owner publishes what has no receipt, in order."""
    for event, number in PARTITION_OF.items():
        if event not in world.receipts:
            place = Place(TOPIC, number)
            base = world.append(place, (event,), ProducerId(1_000, 0))
            assert base is not None
            world.receipts[event] = (place, base)


def _compact(world: World) -> None:
    """Of partition 0 only the last record of the key stays, as far as compaction may have come."""
    place = Place(TOPIC, 0)
    ours = [batch for batch in world.log.get(place, []) if batch.producer.id != FOREIGN and batch.events]
    world.log[place] = [batch for batch in world.log.get(place, []) if batch not in ours[:-1]]


def _check(world: World) -> None:
    ours = {place: [b for b in batches if b.producer.id != FOREIGN] for place, batches in world.log.items()}
    published = [
        (event, place, batch.base + number)
        for place, batches in ours.items()
        if place.topic == TOPIC
        for batch in batches
        for number, event in enumerate(batch.events)
    ]
    events = [event for event, _, _ in published]
    if not world.fate.compacted:
        if len(events) != len(set(events)):
            raise Violation(f"published twice: {published}")
        if set(events) != set(PARTITION_OF):
            raise Violation(f"lost: {sorted(set(PARTITION_OF) - set(events))}")
        if set(published) != {(event, *at) for event, at in world.receipts.items()}:
            raise Violation(f"receipts {world.receipts} of {published}")
    for number in set(PARTITION_OF.values()):
        of_key = [event for event, place, _ in published if place.partition == number]
        if of_key and of_key[-1] != max(event for event, at in PARTITION_OF.items() if at == number):
            raise Violation(f"the key's last word is {of_key[-1]}: {of_key}")
        if not world.fate.compacted and of_key != sorted(of_key):
            raise Violation(f"out of order: {of_key}")


def fates() -> Iterator[Fate]:
    """All that is tried."""
    for stopped_at in range(60):
        for arrives_at in (-1, *range(0, 20, 2)):
            yield Fate(stopped_at, arrives_at)
            yield Fate(stopped_at, arrives_at, wakes=True)
        yield Fate(stopped_at, compacted=True)
        yield Fate(stopped_at, lags=True)
