"""Batches of which nobody knows whether Kafka has them are looked for before they are sent again."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from relay.decide import stuck, trouble
from relay.decide.admission import Admission
from relay.decide.limits import TopicLimits
from relay.decide.reconciling import Mode
from relay.decide.room import Room
from relay.decide.stuck import Unknown, Unnoted
from relay.outcome import Acknowledged, FailureKind, PublishError, Refused
from relay.retry import Backoff
from relay.settings import FailureSettings, PublishSettings
from relay.stages.hold.failures import Failures
from relay.stages.hold.gate import Gate
from relay.stages.publish import doubts
from relay.stages.publish import watch as watches
from relay.stages.publish.doubts import Doubts
from relay.stages.publish.faults import Faults
from relay.stages.publish.pacing import Pacing
from relay.stages.publish.pauses import Pauses
from relay.stages.publish.producers import Keeper, Pair
from relay.stages.publish.publish import Publish
from relay.stages.publish.queues import Topics
from relay.stages.publish.throttle import Throttle
from relay.stages.publish.views import obstacle_of
from relay.stages.publish.watch import Watch
from relay.stages.reconcile.ports import FoundEvent, Place, ProducerId, Trouble, TroubleKind
from relay.stages.settle.outcomes import Outcomes
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.events import event, ids
from tests.support.models.simulated_log import SimulatedKafkaReconcile, SimulatedLog
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from relay.event import PendingEvent
    from relay.outcome import BatchOutcome

TOPIC = "orders"
PLACES = [Place(TOPIC, number) for number in range(2)]
MOST_BYTES = 10_000


class Sent:
    """A batch in a producer's hands."""

    def __init__(
        self, producer: FakeProducer, events: list[PendingEvent], done: Callable[[BatchOutcome], None]
    ) -> None:
        self.ids = ids(events)
        self.done = done
        self._producer = producer
        self._events = [FoundEvent(each.id, each.event_id, each.key) for each in events]

    def arrive(self, place: Place = PLACES[0]) -> int | None:
        """Let it arrive at the broker; returns its offset, None if it is refused."""
        return self._producer.log.append(self._producer.id, place, self._events)

    def acknowledge(self, place: Place = PLACES[0]) -> None:
        base = self.arrive(place)
        assert base is not None
        self.done(Acknowledged(base))


class FakeProducer:
    """A producer whose batches, of one event each, arrive and are answered when a test says so."""

    def __init__(self, log: SimulatedLog, name: str | None) -> None:
        self.log = log
        self.id = log.take_over(name)
        self.name = name or f"producer-{self.id.id}"
        self.died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.sent: list[Sent] = []

    def known_partition_count(self, topic: str) -> int:
        """It has never been asked for any topic: those before it were."""
        return 0

    def leaderless(self, topic: str, partition: int) -> bool:
        return False

    async def limits(self, topic: str) -> TopicLimits:
        return TopicLimits(1_000)

    def pack(self, waiting: Iterable[PendingEvent], most: int, **_: object) -> SimpleNamespace:
        return SimpleNamespace(events=list(islice(waiting, min(1, most))), size=1, restamped=0)

    async def send(self, batch: Any, topic: str, partition: int, allowed: object, done: Any) -> None:
        self.sent.append(Sent(self, batch.events, done))

    async def close(self, timeout: float) -> None:
        for each in self.sent:
            each.done(Refused(PublishError(FailureKind.CLUSTER, "the producer was closed"), unknown=True))


class Notes:
    """What a process has noted of itself."""

    def __init__(self) -> None:
        self.producers: dict[str, ProducerId] = {}
        self.dismissed: list[str] = []
        self.offsets = dict.fromkeys(PLACES, 0)

    def producer_id(self, name: str) -> int | None:
        return self.producers[name].id if name in self.producers else None

    def is_fenceable(self, name: str) -> bool:
        return not name.startswith("producer-")

    def offset_of(self, topic: str, partition: int) -> int | None:
        return self.offsets.get(Place(topic, partition))

    def dismiss(self, name: str) -> None:
        self.dismissed.append(name)


class NothingNoted:
    """Notes of partitions that Kafka does not say the end of; `error` is what it says of their topics."""

    def __init__(self) -> None:
        self.error: PublishError | None = None

    def noted(self, topic: str, partition: int) -> bool:
        return False

    async def begin(self, topic: str, partitions: int) -> None:
        if self.error is not None:
            raise self.error


class Publishing:
    """A topic with two partitions."""

    def __init__(
        self, mode: Mode = Mode.AUTO, *, named: bool = True, watched: bool = False, noting: NothingNoted | None = None
    ) -> None:
        """`watched` is whether a real watch looks at it; with `noting` nothing is sent that is not noted."""
        self.log = SimulatedLog()
        self.log.make_topic(TOPIC, len(PLACES))
        self.kafka = SimulatedKafkaReconcile(self.log)
        self.notes = Notes()
        self.made: list[FakeProducer] = []
        self.happened: list[tuple[str, dict[str, Any]]] = []
        self.telemetry = telemetry = Telemetry()
        for prefix in ("reconcile.", "batches."):
            telemetry.listen(prefix, lambda told: self.happened.append((told.happening, dict(told.fields))))
        self.outcomes = Outcomes()
        self.tenure = Tenure(Room(1_000, 1_000_000))
        self.tenure.lease_ends = time.monotonic() + 600
        gate = Gate(self.outcomes)

        async def connect(_: object) -> FakeProducer:
            producer = FakeProducer(self.log, f"main-{len(self.made)}" if named else None)
            self.notes.producers[producer.name] = producer.id
            self.made.append(producer)
            return producer

        main, side = (
            Keeper(
                name=name,
                connect=cast("Any", connect),
                backoff=Backoff(lambda: 0.0, first=0.0, most=0.0),
                telemetry=telemetry,
            )
            for name in ("main", "side")
        )
        self.producers = Pair(main, side)
        self.faults = Faults(producers=self.producers, random=lambda: 0.0, telemetry=telemetry)
        watch: Any = SimpleNamespace(
            serve=lambda topics: None,
            last_acknowledged=0.0,
            acknowledged=lambda topic, partition, now: None,
            given_back=lambda topic: None,
            refused=lambda topic, error, partition: None,
            run=lambda publish: asyncio.Event().wait(),
        )
        if watched:
            watch = Watch(
                gate=gate, producers=self.producers, random=lambda: 0.0, request_timeout=0.1, telemetry=telemetry
            )
        topics = Topics(hash_keys=lambda keys: [key[0] for key in keys], random=lambda: 0.0, admission=Admission())
        self.publish = Publish(
            producers=self.producers,
            outcomes=self.outcomes,
            pauses=Pauses(topics=topics, gate=gate, telemetry=telemetry),
            throttle=Throttle(topics=topics, gate=gate, telemetry=telemetry),
            failures=Failures(
                gate=gate,
                outcomes=self.outcomes,
                settings=FailureSettings(),
                random=lambda: 0.0,
                telemetry=telemetry,
            ),
            watch=watch,
            pacing=Pacing(PublishSettings()),
            topics=Topics(hash_keys=lambda keys: [key[0] for key in keys], random=lambda: 0.0, admission=Admission()),
            faults=self.faults,
            quiesce_timeout=0.05,
            telemetry=telemetry,
            notes=cast("Any", noting),
            doubts=Doubts(
                kafka=self.kafka,
                notes=self.notes,
                mode=mode,
                most_bytes=MOST_BYTES,
                answer_seconds=0.05,
                telemetry=telemetry,
            ),
        )
        self.topic = self.publish.topics.new(TOPIC)
        self.topic.limits.take(TopicLimits(1_000), time.monotonic())
        self.partitions = self.topic.resolved(len(PLACES))
        gate.serve(self.tenure, self.publish.hand_in)
        self.publish.serve(self.tenure)

    def hand_in(self, *numbers: int, partition: int = 0) -> None:
        self.publish.hand_in([event(number, key=bytes([partition])) for number in numbers])

    async def sent(self, number: int, producer: int = 0) -> Sent:
        """Wait until this event is in the hands of a producer, by the order in which they were made."""

        async def there() -> Sent | None:
            found = [each for each in self.made[producer].sent if each.ids == [number]] if self.made[producer:] else []
            return found[0] if found else None

        found = await until(f"{number} is sent", there)
        assert found is not None
        return found

    async def settled(self, *expected: tuple[int, int]) -> None:
        """Wait until these are all that is delivered: ids and offsets."""

        async def there() -> bool:
            return self.delivered == list(expected)

        await until(f"{expected} are delivered", there)

    @property
    def delivered(self) -> list[tuple[int, int]]:
        return [(each.events[0].id, cast("Any", each).base_offset) for each in self.outcomes._waiting]

    def gave_up(self) -> list[str]:
        return [fields["reason"] for name, fields in self.happened if name == "reconcile.gave_up"]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubts, "AGAIN_AFTER", 0.02)


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Publishing]:
    """With its pumps at work."""
    publishing = Publishing(**options)
    tasks = asyncio.create_task(publishing.publish.run())
    await asyncio.sleep(0)
    for partition in publishing.partitions:
        publishing.faults.spawn(partial(publishing.publish.pump, publishing.topic, partition))
    try:
        yield publishing
    finally:
        tasks.cancel()
        with suppress(asyncio.CancelledError):
            await tasks


def discard(publishing: Publishing) -> None:
    publishing.producers.main.discard(publishing.made[0], "for a test")  # type: ignore[arg-type]


async def test_what_kafka_has_of_a_discarded_producer_is_acknowledged_and_not_sent_again() -> None:
    async with running() as publishing:
        publishing.hand_in(1, 2)
        assert (await publishing.sent(1)).arrive() == 0
        discard(publishing)
        await publishing.settled((1, 0))
        # Behind the marker.
        (await publishing.sent(2, producer=1)).acknowledge()
        await publishing.settled((1, 0), (2, 2))
        assert [each.ids for each in publishing.made[1].sent] == [[2]]
        assert publishing.notes.dismissed == ["main-0"]
        assert ("reconcile.found", {"events": 1}) in publishing.happened


async def test_what_kafka_does_not_have_is_sent_again_and_can_arrive_late_no_more() -> None:
    async with running() as publishing:
        publishing.hand_in(1, 2)
        late = await publishing.sent(1)
        discard(publishing)
        (await publishing.sent(1, producer=1)).acknowledge()
        (await publishing.sent(2, producer=1)).acknowledge()
        assert late.arrive() is None
        await publishing.settled((1, 1), (2, 2))


async def test_a_batch_is_not_taken_for_another_one_of_its_producer_that_has_no_receipt_yet() -> None:
    async with running() as publishing:
        publishing.hand_in(1, 2)
        (await publishing.sent(1)).acknowledge()
        await publishing.sent(2)
        discard(publishing)
        (await publishing.sent(2, producer=1)).acknowledge()
        await publishing.settled((1, 0), (2, 2))


async def test_its_partition_is_read_up_to_the_marker_of_the_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as publishing:
        asked: list[Any] = []
        read = publishing.kafka.read

        def asking(tails: Any, most_bytes: int) -> Any:
            asked.extend(tails)
            return read(tails, most_bytes)

        monkeypatch.setattr(publishing.kafka, "read", asking)
        publishing.hand_in(1)
        (await publishing.sent(1)).arrive()
        discard(publishing)
        await publishing.settled((1, 0))
        assert asked == [(PLACES[0], 0, {publishing.made[0].id.id: 1})]


async def test_while_a_batch_is_looked_for_its_partition_waits_and_the_others_go_on() -> None:
    async with running() as publishing:
        publishing.log.logs[PLACES[0]].led = False
        publishing.hand_in(1, 2)
        publishing.hand_in(3, partition=1)
        lost = await publishing.sent(1)
        (await publishing.sent(3)).acknowledge(PLACES[1])
        discard(publishing)
        publishing.hand_in(4, partition=1)
        (await publishing.sent(4, producer=1)).acknowledge(PLACES[1])
        assert [each.ids for each in publishing.made[1].sent] == [[4]]
        assert lost.arrive() == 0
        publishing.log.logs[PLACES[0]].led = True
        (await publishing.sent(2, producer=1)).acknowledge()
        await publishing.settled((3, 0), (4, 1), (1, 0), (2, 2))


async def test_why_a_batch_cannot_be_found_is_known_only_while_kafka_says_so() -> None:
    """With that its topic is in trouble, though no other batch be acknowledged; Kafka that is away blames no topic."""
    async with running() as publishing:
        publishing.log.logs[PLACES[0]].led = False
        publishing.hand_in(1)
        await publishing.sent(1)
        discard(publishing)

        def waits() -> str | None:
            obstacle = obstacle_of(publishing.partitions[0])
            return obstacle.waits if isinstance(obstacle, Unknown) else None

        async def said() -> bool:
            return waits() is not None

        async def silent() -> bool:
            return waits() is None

        await until("Kafka has said why", said)
        reached, publishing.kafka.fence = publishing.kafka.fence, away  # type: ignore[assignment, method-assign]
        await until("Kafka was not reached", silent)
        publishing.kafka.fence = reached  # type: ignore[method-assign]
        await until("Kafka has said why again", said)
        publishing.kafka.unfenceable = Trouble(TroubleKind.WAITS, "the coordinator does not answer")

        async def coordinator() -> bool:
            return waits() == "the coordinator does not answer"

        await until("its coordinator does not answer", coordinator)
        publishing.kafka.ends = away  # type: ignore[assignment, method-assign]
        await until("Kafka has gone meanwhile", silent)


async def test_what_waits_behind_a_lost_batch_leaves_the_room_to_others_though_nothing_else_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may have taken all the room, and the next producer has never heard of the topic."""
    for module, name in ((stuck, "STUCK_AFTER"), (trouble, "PAUSE_AFTER"), (watches, "WATCH_INTERVAL")):
        monkeypatch.setattr(module, name, 0.01)
    async with running(watched=True) as publishing:
        publishing.log.logs[PLACES[0]].led = False
        publishing.hand_in(1, 2, 3)
        (await publishing.sent(1)).done(Refused(PublishError(FailureKind.CLUSTER, "no leader"), unknown=True))

        async def paused() -> bool:
            return publishing.topic.trouble.paused

        await until("the topic is paused", paused)
        assert not publishing.partitions[0].waiting
        publishing.log.logs[PLACES[0]].led = True

        async def found_out() -> bool:
            return not publishing.partitions[0].flights

        await until("it is found out", found_out)


async def test_since_when_a_partition_cannot_be_noted_is_known_only_while_kafka_is_reached() -> None:
    noting = NothingNoted()
    async with running(noting=noting) as publishing:
        publishing.hand_in(1)

        async def unnoted() -> bool:
            return isinstance(obstacle_of(publishing.partitions[0]), Unnoted)

        async def nothing() -> bool:
            return obstacle_of(publishing.partitions[0]) is None

        await until("it cannot be noted", unnoted)
        noting.error = PublishError(FailureKind.CLUSTER, "no broker answers")
        await until("nobody says why", nothing)
        noting.error = None
        await until("it cannot be noted again", unnoted)
        assert publishing.publish.topics.withdraw()
        assert publishing.partitions[0].unnoted_since is None


async def away(*_: object) -> Any:
    """Kafka, which cannot be reached."""
    raise PublishError(FailureKind.CLUSTER, "no broker answers")


async def test_an_answer_that_does_not_say_whether_kafka_has_the_batch_is_looked_into() -> None:
    async with running() as publishing:
        publishing.hand_in(1, 2)
        lost = await publishing.sent(1)
        lost.arrive()
        lost.done(Refused(PublishError(FailureKind.TOPIC, "too few replicas after appending"), unknown=True))
        await publishing.settled((1, 0))
        await publishing.sent(2, producer=1)


async def test_a_refusal_holds_when_kafka_does_not_have_the_batch() -> None:
    async with running() as publishing:
        publishing.hand_in(1)
        error = PublishError(FailureKind.EVENT, "invalid")
        (await publishing.sent(1)).done(Refused(error, unknown=True))

        async def failed() -> bool:
            return bool(publishing.outcomes.failing(0))

        await until("the event has failed", failed)
        assert publishing.log.markers == 1


async def test_a_refusal_without_doubt_asks_kafka_nothing() -> None:
    async with running() as publishing:
        publishing.hand_in(1)
        (await publishing.sent(1)).done(Refused(PublishError(FailureKind.CLUSTER, "not now")))
        await publishing.sent(1, producer=1)
        assert publishing.log.markers == 0
        assert publishing.notes.dismissed == ["main-0"]


async def test_an_answer_that_comes_late_counts() -> None:
    async with running() as publishing:
        publishing.log.logs[PLACES[0]].led = False
        publishing.hand_in(1)
        lost = await publishing.sent(1)
        discard(publishing)

        async def is_lost() -> bool:
            return any(flight.lost for flight in publishing.partitions[0].flights)

        await until("it is looked for", is_lost)
        lost.done(Acknowledged(7))
        await publishing.settled((1, 7))


async def test_behind_a_hole_a_batch_is_sent_again_and_counted() -> None:
    async with running() as publishing:
        publishing.hand_in(1)
        lost = await publishing.sent(1)
        lost.arrive()
        publishing.log.compact(PLACES[0], 0)
        discard(publishing)
        await publishing.sent(1, producer=1)
        assert publishing.gave_up() == ["hole"]


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.REQUIRE])
async def test_without_the_right_to_read_a_batch_is_sent_again_unless_that_is_required(mode: Mode) -> None:
    async with running(mode=mode) as publishing:
        publishing.log.unreadable.add(TOPIC)
        publishing.hand_in(1)
        (await publishing.sent(1)).arrive()
        discard(publishing)
        if mode is Mode.REQUIRE:
            await asyncio.sleep(0.1)
            assert not any(each.sent for each in publishing.made[1:])
            publishing.log.unreadable.clear()
            await publishing.settled((1, 0))
        else:
            await publishing.sent(1, producer=1)
            assert publishing.gave_up() == ["rights"]


@pytest.mark.parametrize("why", ["no transactional id", "no right to it"])
async def test_a_producer_that_cannot_be_fenced_is_read_after_brokers_have_answered(why: str) -> None:
    async with running(named=why == "no right to it") as publishing:
        publishing.kafka.unfenceable = Trouble(TroubleKind.RIGHTS, "no right to the transactional id")
        publishing.hand_in(1, 2)
        lost = await publishing.sent(1)
        discard(publishing)
        assert lost.arrive() == 0
        await publishing.settled((1, 0))
        await publishing.sent(2, producer=1)
        assert publishing.gave_up() == ["unfenced"]


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.REQUIRE])
async def test_a_batch_whose_leader_lives_does_not_wait_for_ever_for_a_coordinator_unless_that_is_required(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts, "WAIT_SECONDS", 0.1)
    async with running(mode=mode) as publishing:
        publishing.kafka.unfenceable = Trouble(TroubleKind.WAITS, "the coordinator does not answer")
        publishing.hand_in(1, 2)
        lost = await publishing.sent(1)
        discard(publishing)
        assert lost.arrive() == 0
        if mode is Mode.REQUIRE:
            tries = publishing.kafka.fences + 10

            async def tried() -> bool:
                return publishing.kafka.fences >= tries

            await until("it was tried for longer than others wait", tried)
            assert publishing.delivered == []
            publishing.kafka.unfenceable = None
        await publishing.settled((1, 0))
        await publishing.sent(2, producer=1)
        assert publishing.gave_up() == ([] if mode is Mode.REQUIRE else ["unfenced"])


async def test_that_batches_wait_for_their_coordinator_is_told_and_that_they_do_no_more() -> None:
    async with running() as publishing:
        publishing.kafka.unfenceable = Trouble(TroubleKind.WAITS, "the coordinator does not answer")
        publishing.hand_in(1)
        lost = await publishing.sent(1)
        discard(publishing)
        assert lost.arrive() == 0

        async def told() -> bool:
            return any(name == "batches.unknown" for name, _ in publishing.happened)

        await until("people are told", told)
        publishing.kafka.unfenceable = None
        await publishing.settled((1, 0))

        async def known() -> bool:
            return publishing.happened[-1][0] == "batches.known"

        await until("it is known", known)


async def test_of_a_process_that_goes_on_as_another_one_nothing_is_looked_for() -> None:
    async with running() as publishing:
        publishing.log.logs[PLACES[0]].led = False
        publishing.hand_in(1)
        await publishing.sent(1)
        discard(publishing)

        async def is_lost() -> bool:
            return any(flight.lost for flight in publishing.partitions[0].flights)

        await until("it is looked for", is_lost)
        publishing.notes.producers.clear()
        publishing.publish.forget(publishing.tenure)
        publishing.publish.flights.forget_lost()
        assert not publishing.partitions[0].flights
        assert not publishing.partitions[0].waiting


async def test_another_fencer_is_no_end() -> None:
    async with running() as publishing:
        fence, failures = publishing.kafka.fence, [PublishError(FailureKind.CLUSTER, "another", "ProducerFenced")]

        async def fence_late(*arguments: Any) -> Any:
            if failures:
                raise failures.pop()
            return await fence(*arguments)

        publishing.kafka.fence = fence_late  # type: ignore[method-assign, assignment]
        publishing.hand_in(1)
        (await publishing.sent(1)).arrive()
        discard(publishing)
        await publishing.settled((1, 0))
