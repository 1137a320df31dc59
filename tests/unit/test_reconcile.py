"""The take-over of a replica that ended: what follows from what Kafka can and cannot do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from relay.decide.reconciling import Mode
from relay.decide.room import Room
from relay.outcome import FailureKind, PublishError
from relay.retry import Backoff
from relay.run.health import Health
from relay.settings import HealthSettings
from relay.stages.reconcile import reconcile
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
    UnfenceableError,
)
from relay.stages.reconcile.reconcile import Reconcile
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from relay.stages.reconcile.ports import Tail

DEAD = DeadReplica(
    UUID(int=1), UUID(int=2), "dead", {"outbox-p-1": 7, "producer-9": 9}, {"orders": [10, 20, -1], "bills": [0]}
)
FENCEABLE = DEAD._replace(producers={"outbox-p-1": 7})
ORDERS_0, ORDERS_1, BILLS = Place("orders", 0), Place("orders", 1), Place("bills", 0)


class FakePort:
    """A ReconcilePort with one replica that ended."""

    def __init__(self, dead: DeadReplica) -> None:
        self.there: DeadReplica | None = dead
        self.settled: list[tuple[str, int]] = []
        self.done: list[str] = []
        self.shown: list[str | None] = []
        """What people see of why its lanes wait."""
        self.on_shown: Callable[[], None] = lambda: None

    async def dead(self) -> list[UUID]:
        return [self.there.replica] if self.there else []

    async def end(self, replica: UUID, by: UUID) -> DeadReplica | None:
        assert replica != by
        self.done.append("end")
        return self.there

    async def still_at_work(self, replica: UUID, by: UUID, waits_for: str | None) -> bool:
        assert replica != by
        self.done.append("still at work")
        self.shown.append(waits_for)
        self.on_shown()
        return True

    async def settle_found(self, publisher: UUID, topic: str, found: Sequence[Found]) -> int:
        assert publisher == DEAD.replica
        self.settled += [(topic, event.id) for each in found for event in each.events if event is not None]
        return sum(len(each.events) for each in found)

    async def wake_others(self) -> None:
        self.done.append("wake others")

    async def let_go(self, replica: UUID, by: UUID, waits_for: str | None) -> None:
        assert replica != by
        self.done.append("let go")
        self.shown.append(waits_for)

    async def forget(self, replica: UUID) -> None:
        assert replica == DEAD.replica
        self.done.append("forget")
        self.there = None

    def close(self) -> None:
        self.done.append("close")


class FakeKafka:
    """A KafkaReconcilePort that says what it was told to say, call by call; the last answer for ever."""

    def __init__(self) -> None:
        self.fences: list[Fenced | Exception] = [Fenced(ProducerId(7, 3), {})]
        self.troubles: list[dict[Place, Trouble]] = [{}]
        self.asked: list[Sequence[Tail]] = []

    async def ends(self, topics: Mapping[str, int]) -> dict[str, list[int] | Trouble]:
        raise NotImplementedError(topics)

    async def can_fence(self, name: str, seconds: float) -> bool:
        raise NotImplementedError(name)

    async def fence(self, name: str, places: Collection[Place], seconds: float) -> Fenced:
        assert (name, bool(places), seconds > 0) == ("outbox-p-1", True, True)
        answer = self.fences.pop(0) if len(self.fences) > 1 else self.fences[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def read(self, tails: Sequence[Tail], most_bytes: int) -> AsyncIterator[Found | Finished]:
        assert most_bytes
        self.asked.append(tails)
        troubles = self.troubles.pop(0) if len(self.troubles) > 1 else self.troubles[0]
        for tail in tails:
            if tail.place not in troubles:
                yield Found(tail.place, tail.begin, [FoundEvent(tail.begin + 1, UUID(int=1), None)])
            yield Finished(tail.place, troubles.get(tail.place), 100)

    async def close(self) -> None:
        pass


class TakeOver:
    """A stage under test."""

    def __init__(self, dead: DeadReplica = DEAD, mode: Mode = Mode.AUTO) -> None:
        self.port = FakePort(dead)
        self.kafka = FakeKafka()
        self.telemetry = Telemetry()
        self.health = Health(HealthSettings(), 0.0)
        self.health.listen_to(self.telemetry)
        self.tenure = Tenure(Room(1, 1))
        self.stage = Reconcile(
            connect=self._connect,
            kafka=self.kafka,
            tenure=self.tenure,
            mode=mode,
            most_bytes=1 << 20,
            request_timeout=0.0,
            can_publish=lambda: True,
            backoff=Backoff(lambda: 0.0, first=0.0, most=0.0),
            telemetry=self.telemetry,
        )

    async def _connect(self) -> FakePort:
        return self.port

    def gave_up(self, reason: str) -> float:
        return self.telemetry.value("reconcile_gave_up_total", reason=reason) or 0


async def test_every_partition_that_was_noted_is_read_from_its_offset_to_the_marker_and_then_the_row_goes() -> None:
    over = TakeOver()
    await over.stage.once()
    (tails,) = over.kafka.asked
    assert {tail.place: tail.begin for tail in tails} == {ORDERS_0: 10, ORDERS_1: 20, BILLS: 0}
    assert {frozenset(tail.ends.items()) for tail in tails} == {frozenset({(7, 3), (9, None)})}
    assert sorted(over.port.settled) == [("bills", 1), ("orders", 11), ("orders", 21)]
    assert over.port.done == ["end", "forget", "wake others", "close"]
    assert over.telemetry.value("reconcile_found_events_total") == 3
    assert over.telemetry.value("reconcile_bytes_total") == 300
    assert over.gave_up("unfenced") == 1, "producer-9 had no name"


async def test_off_and_a_replica_that_published_nothing_ask_kafka_nothing() -> None:
    for over in (TakeOver(mode=Mode.OFF), TakeOver(DEAD._replace(tails={})), TakeOver(DEAD._replace(producers={}))):
        await over.stage.once()
        assert over.kafka.asked == []
        assert over.port.there is None


async def test_what_works_later_is_tried_again_alone() -> None:
    over = TakeOver(FENCEABLE)
    over.kafka.troubles = [{ORDERS_1: Trouble(TroubleKind.WAITS, "no leader")}, {}]
    await over.stage.once()
    assert [tail.place for tail in over.kafka.asked[1]] == [ORDERS_1]
    assert over.port.there is None
    assert over.gave_up("waited") == 0


async def test_while_lanes_wait_for_partitions_people_see_why() -> None:
    over = TakeOver(FENCEABLE)
    one = {ORDERS_1: Trouble(TroubleKind.WAITS, "partition 1 of orders has no leader")}
    two = one | {BILLS: Trouble(TroubleKind.WAITS, "partition 0 of bills has no leader")}
    over.kafka.troubles = [two, two, one, {}]
    over.port.on_shown = lambda: seen.append(over.health.lanes_wait())
    seen: list[str | None] = []
    held_up: list[object] = []
    over.telemetry.listen("reconcile.held_up", lambda told: held_up.append(told.fields))

    await over.stage.once()

    both, last = "partition 0 of bills has no leader (and 1 more)", "partition 1 of orders has no leader"
    assert over.port.shown == [both, last]
    assert held_up == [{"replica": "dead", "error": both}, {"replica": "dead", "error": last}]
    assert seen == [f"replica dead: {both}", f"replica dead: {last}"]
    assert over.health.lanes_wait() is None, "they are free"
    assert over.health.ready(0.0) == TakeOver().health.ready(0.0), "this one does what it can"


async def test_a_producer_that_cannot_be_fenced_in_time_is_said_to_be_waited_for() -> None:
    over = TakeOver(FENCEABLE)
    without = Fenced(ProducerId(7, 3), {ORDERS_1: Trouble(TroubleKind.WAITS, "no marker")})
    over.kafka.fences = [without, Fenced(ProducerId(7, 4), {})]
    await over.stage.once()
    assert over.port.shown == ["no marker"]


async def test_a_partition_without_marker_is_not_read_yet() -> None:
    over = TakeOver(FENCEABLE)
    without = Fenced(ProducerId(7, 3), {ORDERS_1: Trouble(TroubleKind.WAITS, "no leader")})
    over.kafka.fences = [without, Fenced(ProducerId(7, 4), {})]
    await over.stage.once()
    assert [len(tails) for tails in over.kafka.asked] == [2, 1]
    assert over.kafka.asked[1][0].ends == {7: 4}


async def test_lanes_do_not_wait_for_ever_for_a_partition_without_leader_but_with_require_they_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconcile, "WAIT_SECONDS", 0.0)
    over = TakeOver(FENCEABLE)
    over.kafka.troubles = [{ORDERS_1: Trouble(TroubleKind.WAITS, "no leader")}]
    await over.stage.once()
    assert over.port.there is None
    assert over.gave_up("waited") == 1

    strict = TakeOver(FENCEABLE, Mode.REQUIRE)
    strict.kafka.troubles = [{ORDERS_1: Trouble(TroubleKind.WAITS, "no leader")}] * 5 + [{}]
    await strict.stage.once()
    assert len(strict.kafka.asked) == 6
    assert strict.gave_up("waited") == 0


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(TroubleKind.HOLE, "hole"), (TroubleKind.BYTES, "bytes"), (TroubleKind.RIGHTS, "rights"), (TroubleKind.GONE, "")],
)
async def test_what_will_not_come_back_is_given_up_and_counted(kind: TroubleKind, reason: str) -> None:
    over = TakeOver(FENCEABLE)
    over.kafka.troubles = [{ORDERS_1: Trouble(kind, "said")}]
    await over.stage.once()
    assert over.port.there is None
    assert len(over.kafka.asked) == 1
    assert over.gave_up(reason) == (1 if reason else 0)


async def test_without_a_right_to_fence_it_is_read_without() -> None:
    over = TakeOver(FENCEABLE)
    over.kafka.fences = [UnfenceableError(Trouble(TroubleKind.RIGHTS, "no right"))]
    await over.stage.once()
    assert over.kafka.asked[0][0].ends == {7: None}
    assert over.gave_up("unfenced") == 1
    assert over.port.there is None


async def test_a_fence_that_kafka_gave_another_producer_id_is_none() -> None:
    over = TakeOver(FENCEABLE)
    over.kafka.fences = [Fenced(ProducerId(4711, 0), {})]
    await over.stage.once()
    assert over.kafka.asked[0][0].ends == {7: None}
    assert over.gave_up("unfenced") == 1


async def test_while_kafka_is_away_lanes_wait_others_may_try_and_it_is_tried_again() -> None:
    over = TakeOver(FENCEABLE)
    away = PublishError(FailureKind.CLUSTER, "Kafka is away")
    over.kafka.fences = [
        away,
        away,
        UnfenceableError(Trouble(TroubleKind.WAITS, "no coordinator")),
        over.kafka.fences[0],
    ]
    over.tenure.reconcile_may_be_due()
    running = asyncio.create_task(over.stage.run())

    async def gone() -> bool:
        return over.port.there is None

    await until("it is done", gone)
    running.cancel()
    assert over.port.done.count("let go") == 3
    assert over.port.shown == ["Kafka is away", "Kafka is away", "no coordinator"]
    assert over.health.lanes_wait() is None
    assert over.port.done.count("forget") == 1


async def test_it_shows_that_it_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "AT_WORK_INTERVAL", 0.001)
    over = TakeOver(FENCEABLE)
    over.kafka.troubles = [{ORDERS_1: Trouble(TroubleKind.WAITS, "no leader")}] * 20 + [{}]
    over.stage._backoff = Backoff(lambda: 1.0, first=0.005, most=0.005)
    await over.stage.once()
    assert "still at work" in over.port.done
