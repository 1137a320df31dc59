"""What publish does with events that do not fit, and what it tells the origins of those that no scan took."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from relay.decide.admission import Admission
from relay.decide.held_back import PausedTopic
from relay.decide.limits import ANY_TIME, TopicLimits
from relay.decide.room import Room
from relay.decide.topic_rates import Pace, Rate
from relay.event import with_origin
from relay.outcome import Acknowledged, FailureKind, PublishError, Refused
from relay.settings import FailureSettings, PublishSettings
from relay.stages.hold.failures import Failures
from relay.stages.hold.gate import Gate
from relay.stages.publish.faults import Faults
from relay.stages.publish.pacing import Pacing
from relay.stages.publish.pauses import Pauses
from relay.stages.publish.publish import Publish
from relay.stages.publish.queues import Topics
from relay.stages.publish.throttle import Throttle
from relay.stages.settle.outcomes import Delivered, Failed, Held, Outcomes
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.events import event, ids
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from relay.event import PendingEvent
    from relay.outcome import BatchOutcome
    from relay.stages.publish.partition import Partition
    from relay.stages.publish.producers import Pair
    from relay.stages.publish.watch import Watch

MAX_BYTES = 1_000
TOO_LARGE = 2_000


class FakeProducer:
    """Takes batches, of one event unless a test says otherwise, and lets a test answer them."""

    def __init__(self) -> None:
        self.most = 1
        self.sent: list[tuple[list[int], Callable[[BatchOutcome], None]]] = []

    async def limits(self, topic: str) -> TopicLimits:
        return TopicLimits(MAX_BYTES)

    def pack(
        self, waiting: Iterable[PendingEvent], most: int, max_bytes: int | None, times: tuple[int, int]
    ) -> SimpleNamespace:
        return SimpleNamespace(events=list(islice(waiting, min(self.most, most))), size=1, restamped=0)

    async def send(
        self, batch: Any, topic: str, partition: int, allowed: object, done: Callable[[BatchOutcome], None]
    ) -> None:
        self.sent.append((ids(batch.events), done))


class Publishing:
    """One partition of one topic, on which events 1 and 2 are acknowledged, so that two batches may be in flight."""

    def __init__(self) -> None:
        self.producer = FakeProducer()
        self.outcomes = Outcomes()
        self.tenure = Tenure(Room(1_000, 1_000_000))
        self.tenure.lease_ends = time.monotonic() + 600
        self.telemetry = telemetry = Telemetry()
        gate = Gate(self.outcomes)
        failures = Failures(
            gate=gate, outcomes=self.outcomes, settings=FailureSettings(), random=random.random, telemetry=telemetry
        )
        watch = SimpleNamespace(
            serve=lambda topics: None,
            last_acknowledged=0.0,
            acknowledged=lambda topic, partition, now: None,
            given_back=lambda topic: None,
            refused=lambda topic, error, partition: None,
        )
        producers = cast("Pair", self._producers())
        self.faults = Faults(producers=producers, random=random.random, telemetry=telemetry)
        topics = Topics(hash_keys=lambda keys: [0] * len(keys), random=random.random, admission=Admission())
        self.publish = Publish(
            producers=producers,
            outcomes=self.outcomes,
            failures=failures,
            watch=cast("Watch", watch),
            pauses=Pauses(topics=topics, gate=gate, telemetry=telemetry),
            pacing=Pacing(PublishSettings()),
            throttle=Throttle(topics=topics, gate=gate, telemetry=telemetry),
            topics=topics,
            faults=self.faults,
            quiesce_timeout=1.0,
            telemetry=telemetry,
        )
        self.topic = self.publish.topics.new("orders")
        self.topic.limits.take(TopicLimits(MAX_BYTES), time.monotonic())
        (self.partition,) = self.topic.resolved(1)
        gate.serve(self.tenure, self.publish.hand_in)
        self.publish.serve(self.tenure)

    def _producers(self) -> SimpleNamespace:
        async def ready() -> FakeProducer:
            return self.producer

        keeper = SimpleNamespace(ready=ready, current=self.producer)

        def of(partition: Partition) -> SimpleNamespace:
            return keeper

        return SimpleNamespace(
            main=keeper,
            side=keeper,
            of=of,
            works=lambda producer: None,
            uses=lambda producer: True,
            discard=lambda producer, reason: None,
        )

    async def sent(self, *expected: int) -> Callable[[BatchOutcome], None]:
        """Wait until this batch is in flight; returns what hears of its outcome."""

        async def there() -> list[Callable[[BatchOutcome], None]]:
            return [done for sent, done in self.producer.sent if sent == list(expected)]

        return (await until(f"{expected} are sent", there))[-1]

    async def recorded(self) -> list[object]:
        """All that is to be recorded by now."""
        await asyncio.sleep(0)
        return [(type(each), ids(each.events)) for each in self.outcomes._waiting]


@pytest.fixture
async def publishing() -> AsyncIterator[Publishing]:
    async with running() as publishing:
        yield publishing


@asynccontextmanager
async def running() -> AsyncIterator[Publishing]:
    """With its pump at work."""
    publishing = Publishing()
    pump = partial(publishing.publish.pump, publishing.topic, publishing.partition)
    tasks = asyncio.create_task(publishing.faults.run(pump))
    try:
        publishing.publish.hand_in([event(1), event(2)])
        (await publishing.sent(1))(Acknowledged(0))
        (await publishing.sent(2))(Acknowledged(1))
        publishing.outcomes._waiting.clear()
        yield publishing
    finally:
        tasks.cancel()
        with suppress(asyncio.CancelledError):
            await tasks


@pytest.mark.parametrize("why", ["too large", "named by the broker"])
async def test_an_event_that_is_not_sent_fails_only_when_nothing_of_its_partition_is_in_flight(
    publishing: Publishing, why: str
) -> None:
    culprit = event(4, size=TOO_LARGE if why == "too large" else 10)
    if why == "named by the broker":
        publishing.partition.condemned.append((culprit, PublishError(FailureKind.EVENT, "invalid")))
    publishing.publish.hand_in([event(3), culprit, event(5)])
    answer = await publishing.sent(3)
    for _ in range(10):
        await asyncio.sleep(0)
    assert await publishing.recorded() == []
    answer(Acknowledged(2))

    async def failed() -> bool:
        return bool(publishing.outcomes.failing(0))

    await until("the event has failed", failed)
    assert await publishing.recorded() == [(Delivered, [3]), (Held, [5]), (Failed, [4])]


async def test_what_the_broker_names_fails_together_and_the_others_go_in_one_batch(publishing: Publishing) -> None:
    line = [event(number, key=b"%d" % number) for number in range(3, 11)]
    publishing.producer.most = len(line)
    publishing.publish.hand_in(list(line))
    answer = await publishing.sent(*range(3, 11))
    named = PublishError(FailureKind.EVENT, "invalid")
    answer(Refused(named, dict.fromkeys((0, 2, 4, 6), named), producer_intact=True))
    await publishing.sent(4, 6, 8, 10)
    assert await publishing.recorded() == [(Failed, [number]) for number in (3, 5, 7, 9)]


async def test_an_event_behind_one_in_flight_that_is_refused_is_held_back_and_does_not_fail(
    publishing: Publishing,
) -> None:
    publishing.publish.hand_in([event(3), event(4, size=TOO_LARGE)])
    answer = await publishing.sent(3)
    answer(Refused(PublishError(FailureKind.UNKNOWN, "who knows")))
    for _ in range(10):
        await asyncio.sleep(0)
    assert await publishing.recorded() == [(Held, [4]), (Failed, [3])]


async def test_what_changes_while_limits_are_read_is_looked_at_before_a_batch_is_sent(publishing: Publishing) -> None:
    reading, read = asyncio.Event(), asyncio.Event()

    async def times_for(*_: object) -> tuple[int, int]:
        if publishing.partition.flights:
            reading.set()
            await read.wait()
        return ANY_TIME

    publishing.topic.limits.times_for = times_for  # type: ignore[assignment]
    publishing.publish.hand_in([event(3), event(4, key=b"another")])
    answer = await publishing.sent(3)
    await reading.wait()
    error = PublishError(FailureKind.EVENT, "invalid")
    answer(Refused(error, culprits={0: error}, producer_intact=True))
    read.set()
    await publishing.sent(4)
    assert await publishing.recorded() == [(Failed, [3])]
    assert [sent for sent, _ in publishing.producer.sent] == [[1], [2], [3], [4]]


class Heard:
    """An origin that notes what it hears of its events."""

    def __init__(self, *, exempt: bool = False) -> None:
        self.exempt = exempt
        self.told: list[tuple[str, int]] = []

    def acknowledged(self, event: PendingEvent, _partition: int, offset: int) -> None:
        self.told.append((f"at {offset}", event.id))

    def refused(self, event: PendingEvent, _error: PublishError) -> None:
        self.told.append(("refused", event.id))

    def withdrawn(self, event: PendingEvent) -> None:
        self.told.append(("withdrawn", event.id))


@pytest.fixture
def origin() -> Heard:
    return Heard()


async def test_an_origin_hears_that_kafka_has_its_event_and_no_receipt_is_written_of_it(
    publishing: Publishing, origin: Heard
) -> None:
    publishing.publish.hand_in_with_origins([with_origin(event(3), origin)])
    publishing.publish.hand_in([event(4)])
    (await publishing.sent(3))(Acknowledged(7))
    (await publishing.sent(4))(Acknowledged(8))
    assert origin.told == [("at 7", 3)]
    assert await publishing.recorded() == [(Delivered, [4])]


async def test_an_origin_hears_that_its_event_was_refused_and_nothing_fails(
    publishing: Publishing, origin: Heard
) -> None:
    publishing.publish.hand_in_with_origins([with_origin(event(3), origin)])
    (await publishing.sent(3))(Refused(PublishError(FailureKind.EVENT, "invalid"), producer_intact=True))
    assert origin.told == [("refused", 3)]
    assert await publishing.recorded() == []


async def test_an_origin_hears_at_the_end_of_a_tenure_that_its_events_were_withdrawn(
    publishing: Publishing, origin: Heard
) -> None:
    publishing.topic.unresolve()
    publishing.publish.hand_in_with_origins([with_origin(event(3), origin)])
    publishing.publish.forget(publishing.tenure)
    assert origin.told == [("withdrawn", 3)]


async def test_an_origin_hears_of_an_event_in_flight_that_is_refused_after_its_tenure(
    publishing: Publishing, origin: Heard
) -> None:
    publishing.publish.hand_in_with_origins([with_origin(event(3), origin)])
    answer = await publishing.sent(3)
    publishing.publish.forget(publishing.tenure)
    answer(Refused(PublishError(FailureKind.CLUSTER, "away")))
    assert origin.told == [("withdrawn", 3)]


@pytest.mark.parametrize("exempt", [False, True])
async def test_only_events_of_an_exempt_origin_go_to_a_topic_that_is_not_allowed(
    publishing: Publishing, *, exempt: bool
) -> None:
    origin = Heard(exempt=exempt)
    publishing.topic.refusal = PublishError(FailureKind.EVENT, "no event may go there")
    publishing.topic.wanted = True
    publishing.publish.hand_in_with_origins([with_origin(event(3), origin)])
    if exempt:
        (await publishing.sent(3))(Acknowledged(7))

    async def heard() -> bool:
        return bool(origin.told)

    await until("the origin has heard", heard)
    assert origin.told == [("at 7", 3) if exempt else ("refused", 3)]


async def test_the_metrics_of_a_topic_are_there_at_zero_with_its_first_event(publishing: Publishing) -> None:
    # One to which no event may go: nothing is asked of Kafka.
    publishing.publish.hand_in([event(3, topic="__bills")])
    assert publishing.telemetry.value("published_events_total", topic="__bills") == 0.0


async def test_the_age_of_delivered_events_is_observed_but_not_of_those_that_are_published_again(
    publishing: Publishing,
) -> None:
    before = publishing.telemetry.value("delivery_seconds_count")
    assert before == 2
    origin = SimpleNamespace(delivered=lambda *_: None, acknowledged=lambda *_: None)
    publishing.publish.hand_in_with_origins([with_origin(event(3), cast("Any", origin))])
    (await publishing.sent(3))(Acknowledged(2))
    publishing.publish.hand_in([event(4)])
    (await publishing.sent(4))(Acknowledged(3))
    assert publishing.telemetry.value("delivery_seconds_count") == before + 1


PAUSED = [PausedTopic("orders", 60.0, 1e9, "a test", "me")]


async def test_what_waits_for_a_topic_that_people_pause_is_held_and_what_is_in_flight_lands(
    publishing: Publishing,
) -> None:
    publishing.publish.hand_in([event(3), event(4), event(5)])
    answers = [await publishing.sent(3), await publishing.sent(4)]
    publishing.publish.pauses.obey(PAUSED)
    publishing.publish.pauses.obey(PAUSED)
    for offset, answer in enumerate(answers, 2):
        answer(Acknowledged(offset))
    assert await publishing.recorded() == [(Held, [5]), (Delivered, [3]), (Delivered, [4])]
    assert publishing.telemetry.value("paused_topics", topic="orders") == 1
    publishing.publish.pauses.obey([])
    assert publishing.telemetry.value("paused_topics", topic="orders") == 0
    assert publishing.tenure.paused == set()
    assert publishing.tenure.resume_wake_up.is_set()


@pytest.mark.parametrize("kind", list(FailureKind))
async def test_what_comes_back_refused_while_people_have_paused_its_topic_is_not_sent_again(
    publishing: Publishing, kind: FailureKind
) -> None:
    publishing.producer.most = 2
    publishing.publish.hand_in([event(3), event(4)])
    answer = await publishing.sent(3, 4)
    publishing.publish.pauses.obey(PAUSED)
    answer(Refused(PublishError(kind, "who knows"), producer_intact=True))
    assert await publishing.recorded() == [(Held, [3, 4])]
    assert publishing.partition.idle


async def test_what_does_not_come_by_the_gate_is_held_back_from_a_topic_that_people_paused(
    publishing: Publishing, origin: Heard
) -> None:
    publishing.publish.pauses.obey(PAUSED)
    publishing.publish.hand_in_with_origins([with_origin(event(3), origin)])
    publishing.publish.hand_in([event(4)])
    assert origin.told == [("withdrawn", 3)]
    assert await publishing.recorded() == [(Held, [4])]


async def test_a_pause_is_told_once_and_again_when_it_is_another_one(publishing: Publishing) -> None:
    told: list[tuple[str, object]] = []
    publishing.telemetry.listen("pause.", lambda heard: told.append((heard.happening, heard.fields.get("reason"))))
    (pause,) = PAUSED
    for asked in ([pause], [pause._replace(seconds=50)], [pause._replace(reason="another")], [], []):
        publishing.publish.pauses.obey(asked)
    assert told == [("pause.began", "a test"), ("pause.began", "another"), ("pause.ended", None)]


async def test_what_comes_for_a_limited_topic_beyond_what_may_wait_is_held_and_goes_on_when_half_has_gone(
    publishing: Publishing, origin: Heard
) -> None:
    publishing.topic.pace = Pace(Rate(events=1e9), 2, 1_000)
    assert not publishing.tenure.resume_wake_up.is_set()
    line = [event(number, key=b"%d" % number) for number in range(3, 8)]
    publishing.publish.hand_in(list(line))
    publishing.publish.hand_in_with_origins([with_origin(event(8), origin)])
    assert publishing.tenure.paused == {"orders"}
    assert await publishing.recorded() == [(Held, [5, 6, 7])]
    assert origin.told == [("withdrawn", 8)]
    assert publishing.telemetry.value("limited_events_total", topic="orders") == 4
    for number in (3, 4):
        (await publishing.sent(number))(Acknowledged(number))
    assert publishing.tenure.paused == set()
    assert publishing.tenure.resume_wake_up.is_set()


async def test_a_limited_topic_sends_no_more_than_its_rate_and_others_do_not_wait(publishing: Publishing) -> None:
    publishing.topic.pace = Pace(Rate(events=1.0), 100, 10_000)
    publishing.producer.most = 100
    line = [event(number, key=b"%d" % number) for number in range(3, 8)]
    publishing.publish.hand_in(list(line))
    (await publishing.sent(3))(Acknowledged(3))
    assert publishing.topic.pace.delay(time.monotonic()) > 0.5
    assert [sent for sent, _ in publishing.producer.sent] == [[1], [2], [3]]
    assert ids(list(publishing.partition.waiting)) == [4, 5, 6, 7]


async def test_a_topic_whose_events_left_otherwise_has_room_again(publishing: Publishing) -> None:
    publishing.topic.pace = Pace(Rate(events=1.0), 1, 10_000)
    publishing.topic.pace.charge(1_000, 0, time.monotonic())
    publishing.publish.hand_in([event(3), event(4)])
    assert publishing.tenure.throttled == {"orders"}
    publishing.publish.topics.withdraw()
    looking = asyncio.create_task(publishing.publish._throttle.run())

    async def open_again() -> bool:
        return not publishing.tenure.throttled

    await until("it is open again", open_again)
    looking.cancel()
