"""What a process notes of itself: in time, no more than is true, and not once others have ended it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from relay.decide.shares import Entry
from relay.outcome import FailureKind, PublishError
from relay.stages.reconcile.notes import COLD_AFTER, LOOK_UP_INTERVAL, RAISE_INTERVAL, Notes
from relay.stages.reconcile.ports import ProcessNotes, ProducerId, Trouble, TroubleKind
from relay.stages.tenure import LeaseLostError
from relay.telemetry import Telemetry
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

REPLICA = UUID(int=1)


class FakePort:
    """A NotesPort that keeps what it is told."""

    def __init__(self) -> None:
        self.process: UUID | None = None
        self.producers: dict[str, int] = {}
        self.tails: dict[str, list[int]] = {}
        self.ended = False

    async def register_noting(self, entry: Entry, former: UUID | None, notes: ProcessNotes) -> tuple[int, UUID]:
        kept = former is None or not self.ended
        self.process = notes.process if kept else notes.fresh
        self.producers = dict(notes.producers) if kept else {}
        self.ended = False
        assert entry
        return 7, self.process

    async def enlist(self, replica: UUID, producers: Mapping[str, int]) -> bool:
        assert replica == REPLICA
        self.producers |= {} if self.ended else producers
        return not self.ended

    async def dismiss(self, replica: UUID, names: Sequence[str]) -> None:
        assert replica == REPLICA
        for name in names:
            del self.producers[name]

    async def note_topics(self, replica: UUID, offsets: Mapping[str, Sequence[int]]) -> bool:
        assert replica == REPLICA
        self.tails |= {} if self.ended else {topic: list(each) for topic, each in offsets.items()}
        return not self.ended

    async def raise_tails(self, process: UUID, offsets: Mapping[str, Sequence[int]]) -> None:
        assert process == self.process
        self.tails |= {topic: list(each) for topic, each in offsets.items()}

    async def forget_topics(self, process: UUID, topics: Sequence[str]) -> None:
        assert process == self.process
        for topic in topics:
            del self.tails[topic]

    async def expire(self, replica: UUID) -> None:
        raise NotImplementedError(replica)


class FakeKafka:
    """Says where partitions end."""

    def __init__(self) -> None:
        self.answers: dict[str, list[int] | Trouble] = {}

    async def ends(self, topics: Mapping[str, int]) -> dict[str, list[int] | Trouble]:
        await asyncio.sleep(0)
        return {topic: self.answers[topic] for topic in topics if topic in self.answers}


class Noting:
    """Notes under test; time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.port = FakePort()
        self.kafka = FakeKafka()
        self.notes = Notes(
            kafka=self.kafka,  # type: ignore[arg-type]
            prefix="outbox-",
            must_fence=False,
            telemetry=Telemetry(),
            clock=lambda: self.now,
        )
        self.became: list[str] = []
        self.notes.on_ended = self.became.append

    async def register(self, former: UUID | None = None) -> None:
        await self.notes.register(self.port, Entry(REPLICA, "test", "0", 5.0, None), former)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        await self.register()
        task = asyncio.create_task(self.notes.run(self.port, REPLICA))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.notes._wake_up.set()

    async def connect(self, number: int = 4711) -> str:
        name = self.notes.name()
        assert name is not None
        await self.notes.enlist(name, ProducerId(number, 0))
        return name

    async def reads(self, topic: str, expected: list[int]) -> None:
        async def look() -> bool:
            return self.port.tails.get(topic) == expected

        await until(f"{topic} is noted with {expected}, not {self.port.tails}", look)


@pytest.fixture
def noting() -> Noting:
    return Noting()


class TestProducers:
    async def test_each_has_a_name_of_its_own_that_begins_with_prefix_and_process(self, noting: Noting) -> None:
        names = [noting.notes.name() for _ in range(2)]
        assert names == [f"outbox-{noting.notes.process}-{number}" for number in (1, 2)]

    async def test_one_that_connects_before_the_registration_is_written_with_it(self, noting: Noting) -> None:
        name = await noting.connect()
        await noting.register()
        assert noting.port.producers == {name: 4711}

    async def test_one_that_connects_later_waits_until_it_is_written(self, noting: Noting) -> None:
        async with noting.running():
            name = await noting.connect()
            assert noting.port.producers == {name: 4711}

    async def test_one_that_cannot_be_fenced_is_noted_by_its_id(self, noting: Noting) -> None:
        noting.notes.cannot_fence(Trouble(TroubleKind.RIGHTS, "no right"))
        await noting.notes.enlist(None, ProducerId(9, 0))
        await noting.register()
        assert noting.port.producers == {"producer-9": 9}

    async def test_with_require_there_is_none_that_cannot_be_fenced(self, noting: Noting) -> None:
        noting.notes._must_fence = True
        with pytest.raises(PublishError, match=r"RELAY_REPLICA_RECONCILE=require: no right") as caught:
            noting.notes.cannot_fence(Trouble(TroubleKind.RIGHTS, "no right"))
        assert caught.value.kind is FailureKind.CLUSTER

    async def test_one_that_is_dismissed_is_forgotten_when_all_that_kafka_has_by_then_has_receipts(
        self, noting: Noting
    ) -> None:
        noting.kafka.answers["orders"] = [0]
        async with noting.running():
            first, second = await noting.connect(1), await noting.connect(2)
            noting.notes.dismiss(first)

            async def forgotten(name: str) -> bool:
                return name not in noting.port.producers

            await until("one with nothing open is forgotten", partial(forgotten, first))
            await noting.notes.begin("orders", 1)
            noting.notes.acknowledged("orders", 0, 0, 5, 5)
            noting.notes.dismiss(second)
            noting.notes.acknowledged("orders", 0, 5, 3, 3)
            noting.notes.recorded("orders", 0, 0, 4)
            await asyncio.sleep(0.05)
            assert noting.port.producers == {second: 2}
            assert noting.notes.producer_id(second) == 2
            noting.notes.recorded("orders", 0, 0, 1)
            await until("its receipts are committed", partial(forgotten, second))
            assert noting.notes.producer_id(second) is None

    async def test_one_that_connects_after_the_end_must_not_be_used(self, noting: Noting) -> None:
        async with noting.running() as task:
            noting.port.ended = True
            connecting = asyncio.create_task(noting.connect())
            await asyncio.wait([task], timeout=30)
            with pytest.raises(LeaseLostError, match="taken this process for dead"):
                task.result()
            # Without a tenure nothing is sent; the next one finds that the process was ended.
            await connecting
            await noting.register(former=REPLICA)
            assert noting.port.producers == {}
            assert len(noting.became) == 1


class TestTopics:
    async def test_one_is_noted_with_its_ends_before_the_first_batch(self, noting: Noting) -> None:
        noting.kafka.answers |= {"orders": [5, 0, 7], "bills": [1]}
        async with noting.running():
            assert not noting.notes.may_send("orders", 0)
            await asyncio.gather(noting.notes.begin("orders", 3), noting.notes.begin("bills", 1))
            assert noting.port.tails == {"orders": [5, 0, 7], "bills": [1]}
            assert noting.notes.may_send("orders", 2)
            assert not noting.notes.may_send("orders", 3)

    async def test_partitions_that_were_added_are_noted_and_the_others_stay(self, noting: Noting) -> None:
        noting.kafka.answers["orders"] = [5, 0]
        async with noting.running():
            await noting.notes.begin("orders", 2)
            noting.kafka.answers["orders"] = [50, 60, 3]
            await noting.notes.begin("orders", 3)
            assert noting.port.tails == {"orders": [5, 0, 3]}

    async def test_a_partition_without_leader_is_noted_once_it_has_one(self, noting: Noting) -> None:
        noting.kafka.answers["orders"] = [5, -1]
        async with noting.running():
            await noting.notes.begin("orders", 2)
            assert (noting.notes.may_send("orders", 0), noting.notes.may_send("orders", 1)) == (True, False)
            noting.kafka.answers["orders"] = [9, 8]
            await noting.pass_time(LOOK_UP_INTERVAL)
            await noting.pass_time(RAISE_INTERVAL)
            assert not noting.notes.noted("orders", 1), "looking it up notes nothing"
            await noting.notes.begin("orders", 2)
            assert noting.port.tails["orders"][1] == 8
            assert noting.notes.may_send("orders", 1)

    async def test_a_topic_that_is_gone_is_the_topics_trouble(self, noting: Noting) -> None:
        noting.kafka.answers["orders"] = Trouble(TroubleKind.GONE, "topic orders does not exist")
        async with noting.running():
            with pytest.raises(PublishError, match="does not exist") as caught:
                await noting.notes.begin("orders", 1)
            assert caught.value.kind is FailureKind.TOPIC

    async def test_nothing_is_noted_once_others_have_ended_the_process(self, noting: Noting) -> None:
        noting.kafka.answers["orders"] = [5]
        async with noting.running() as task:
            noting.port.ended = True
            beginning = asyncio.create_task(noting.notes.begin("orders", 1))
            await asyncio.wait([task], timeout=30)
            assert not noting.notes.noted("orders", 0)
            await noting.register(former=REPLICA)
            next_tenure = asyncio.create_task(noting.notes.run(noting.port, REPLICA))
            await beginning
            assert noting.port.tails == {"orders": [5]}, "as another process"
            next_tenure.cancel()

    async def test_offsets_rise_when_receipts_are_committed_and_not_before(self, noting: Noting) -> None:
        noting.kafka.answers["orders"] = [5]
        async with noting.running():
            await noting.notes.begin("orders", 1)
            assert noting.notes.may_send("orders", 0)
            noting.notes.acknowledged("orders", 0, 10, 3, 3)
            await noting.pass_time(RAISE_INTERVAL)
            assert noting.port.tails["orders"] == [5]
            noting.notes.recorded("orders", 0, 10, 3)
            await noting.pass_time(RAISE_INTERVAL)
            await noting.reads("orders", [13])

    async def test_an_idle_partition_rises_to_its_end_and_a_busy_one_does_not(self, noting: Noting) -> None:
        noting.kafka.answers["orders"] = [5, 5, 5]
        async with noting.running():
            await noting.notes.begin("orders", 3)
            noting.notes.in_flight = lambda: {("orders", 1)}
            noting.notes.acknowledged("orders", 2, 5, 1, 1)
            noting.kafka.answers["orders"] = [90, 90, 90]
            await noting.pass_time(LOOK_UP_INTERVAL)
            await noting.pass_time(RAISE_INTERVAL)
            await noting.reads("orders", [90, 5, 5])

    async def test_a_cold_topic_is_forgotten_and_noted_again_before_the_next_batch(self, noting: Noting) -> None:
        noting.kafka.answers |= {"orders": [5], "open": [5]}
        async with noting.running():
            await noting.notes.begin("orders", 1)
            await noting.notes.begin("open", 1)
            noting.notes.acknowledged("open", 0, 5, 1, 1)
            await noting.pass_time(COLD_AFTER)

            async def forgotten() -> bool:
                return set(noting.port.tails) == {"open"}

            await until("it is forgotten", forgotten)
            assert not noting.notes.may_send("orders", 0)
            await noting.notes.begin("orders", 1)
            assert noting.notes.may_send("orders", 0)


class TestProcess:
    async def test_it_goes_on_as_another_one_when_its_former_registration_is_gone(self, noting: Noting) -> None:
        process = noting.notes.process
        await noting.connect()
        await noting.register()
        noting.port.ended = True
        await noting.register(former=uuid4())
        assert noting.notes.process == noting.port.process != process
        assert noting.port.producers == {}
        assert len(noting.became) == 1

    async def test_after_it_left_its_producers_go_on_and_its_topics_are_noted_again(self, noting: Noting) -> None:
        noting.kafka.answers["orders"] = [5]
        name = await noting.connect()
        async with noting.running():
            await noting.notes.begin("orders", 1)
        process = noting.notes.process
        noting.notes.left()
        await noting.register()
        assert noting.port.process != process
        assert noting.port.producers == {name: 4711}
        assert not noting.notes.noted("orders", 0)
        assert noting.became == []
