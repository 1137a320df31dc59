"""The replay stage on a fake PostgreSQL and a fake Kafka: how much it has under way, and when it steps back."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from relay.decide.lane_scan import LaneScan
from relay.decide.republishing import MOST_EVENTS, ReplayRequest
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.errors import PostgresLostError, UnreachableError
from relay.event import PendingEvent
from relay.keys import LANES
from relay.retry import Backoff
from relay.settings import BufferSettings, PublishSettings
from relay.stages.publish.line import withdrawn
from relay.stages.republish.origin import Republished
from relay.stages.republish.republish import LOOK_INTERVAL, Republish
from relay.stages.settle.outcomes import Delivered, Outcomes
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.events import event
from tests.support.models.simulated_connection import SimulatedConnection
from tests.support.models.simulated_postgres import Replay, SimulatedPostgres
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from relay.event import PendingEvent
    from relay.stages.republish.ports import Landed

EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
REPLAYED = (3, 4)
LAST_ID = 2_000


class ReplayTables(SimulatedConnection):
    """Events of two lanes with every id up to 2,000, all delivered, and a replay of them."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__(SimulatedPostgres(LANES))
        events = [
            event(id_, lane=lane, key=b"%d" % (id_ % 5))._replace(event_id=uuid4())
            for lane in REPLAYED
            for id_ in range(1, LAST_ID + 1)
        ]
        self.postgres.have(*events)
        for lane in REPLAYED:
            runs = [{(lane, event.id): (0, event.id)} for event in events if event.lane == lane]
            self.postgres.settle(uuid4(), runs, [])
        positions = {lane: 0 if lane in REPLAYED else LAST_ID for lane in range(LANES)}
        self.request = ReplayRequest(7, "orders", None, EARLIEST, LATEST, rate, LAST_ID, positions)
        self.replay = self.postgres.replays[7] = Replay(self.request)
        self.reads = 0
        self.connections = 0
        self.closed = 0
        self.refuse_connections = 0
        self.break_next = False
        self.while_reading: Callable[[], None] = lambda: None

    @property
    def receipts(self) -> list[tuple[int, int]]:
        """Of the replay."""
        return list(self.replay.settled)

    def cancel(self) -> None:
        self.replay.finished = True

    async def connect(self) -> ReplayTables:
        if self.refuse_connections:
            self.refuse_connections -= 1
            raise UnreachableError("too many clients, or the password was changed")
        self.connections += 1
        return self

    async def events_to_replay(
        self, request: ReplayRequest, lane: int, above: int, up_to: int, max_events: int, max_bytes: int
    ) -> list[PendingEvent]:
        self.reads += 1
        found = await super().events_to_replay(request, lane, above, up_to, max_events, max_bytes)
        self.while_reading()
        return found

    async def settle_replayed(self, action: int, landed: Sequence[Landed[object]]) -> None:
        if self.break_next:
            self.break_next = False
            raise PostgresLostError("the statement was given up")
        await super().settle_replayed(action, landed)

    def close(self) -> None:
        self.closed += 1


class Bench:
    """A stage with two lanes. `kafka` has what it handed in; `acknowledge` lets some of it land."""

    def __init__(
        self,
        tables: ReplayTables,
        buffer: BufferSettings | None = None,
        publish: PublishSettings | None = None,
    ) -> None:
        self.tables = tables
        self.tenure = Tenure(Room(20_000, 1 << 25))
        self.tenure.lease_ends = float("inf")
        for number in REPLAYED:
            state = LaneScan.take_over(number, 1, 0, 0, Snapshot.parse("10:10:"))
            self.tenure.lanes[number] = state
            lane = tables.postgres.lanes[number]
            lane.owner, lane.epoch = self.tenure.replica, 1
        self.kafka: list[PendingEvent] = []
        self.republished = Republished()
        self.telemetry = Telemetry()
        self.stage = Republish(
            connect=tables.connect,
            tenure=self.tenure,
            republished=self.republished,
            hand_in=self.kafka.extend,
            withdraw=self.withdraw,
            buffer=buffer or BufferSettings(),
            publish=publish or PublishSettings(),
            backoff=Backoff(random.random, first=0.001),
            telemetry=self.telemetry,
        )

    def withdraw(self, which: Callable[[PendingEvent], bool]) -> list[PendingEvent]:
        leaving = [event for event in self.kafka if which(event)]
        self.kafka[:] = [event for event in self.kafka if not which(event)]
        return withdrawn(leaving)

    def land(self, events: list[PendingEvent]) -> None:
        """Kafka has these; nothing of them is to be recorded as of events that a scan took."""
        outcomes = Outcomes()
        outcomes.acknowledged(Delivered(self.tenure, events, 0, 0), with_origins=True)
        assert not outcomes.waiting

    def acknowledge(self, number: int | None = None) -> list[PendingEvent]:
        events = self.kafka[:number]
        del self.kafka[:number]
        self.land(events)
        return events

    async def handed_in(self, number: int) -> None:
        """Wait until so many events are with Kafka and the stage has come to rest."""

        async def reached() -> bool:
            return len(self.kafka) == number

        await until(f"{number} events handed in", reached)
        reads = self.tables.reads
        await asyncio.sleep(0.05)
        assert (len(self.kafka), self.tables.reads) == (number, reads), "the stage did not come to rest"


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    """The stage, running and woken."""
    task = asyncio.create_task(bench.stage.run())
    bench.tenure.replay_may_be_open()
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_no_more_is_under_way_than_a_lane_may_have() -> None:
    bench = Bench(ReplayTables())
    async with running(bench):
        await bench.handed_in(2 * MOST_EVENTS)
        # A read costs the same for few as for many: it goes on when half is free.
        bench.acknowledge(2 * MOST_EVENTS - 40)
        await bench.handed_in(2 * MOST_EVENTS)


async def test_a_small_buffer_and_a_limited_rate_leave_less_under_way() -> None:
    bench = Bench(ReplayTables(), BufferSettings(max_events=160))
    async with running(bench):
        await bench.handed_in(2 * 160 // 2 // 4)
    bench = Bench(ReplayTables(), publish=PublishSettings(events_per_second=80))
    async with running(bench):
        await bench.handed_in(2 * 80 // 2 // 4)
    bench = Bench(ReplayTables(), publish=PublishSettings(bytes_per_second=800))
    async with running(bench):
        await bench.handed_in(2 * 800 // 2 // 4 // 10)


async def test_everything_is_handed_in_once_and_in_id_order_and_then_the_connection_is_closed() -> None:
    bench = Bench(ReplayTables())
    seen: list[tuple[int, int]] = []
    async with running(bench):

        async def closed() -> bool:
            seen.extend((event[0], event[1]) for event in bench.acknowledge())
            return bool(bench.tables.closed)

        await until("the replay is over", closed, 10, interval=0.001)
    for lane in (3, 4):
        assert [id_ for number, id_ in seen if number == lane] == list(range(1, 2_001))
    assert (bench.tables.connections, sorted(bench.tables.receipts)) == (1, sorted(seen))
    assert bench.tenure.lanes[3].unsettled == 0
    assert bench.telemetry.value("replays_open") == 0


async def test_hints_that_anybody_may_send_cost_few_connections() -> None:
    tables = ReplayTables()
    tables.cancel()
    bench = Bench(tables)
    async with running(bench):
        begun = time.monotonic()
        for _ in range(100):
            bench.tenure.replay_may_be_open()
            await asyncio.sleep(0.001)
        assert 1 <= tables.connections <= 1 + (time.monotonic() - begun) / LOOK_INTERVAL


async def test_a_replay_takes_nothing_while_live_events_need_the_room() -> None:
    bench = Bench(ReplayTables())
    full = [event(id_, lane=3) for id_ in range(19_000)]
    bench.tenure.room.add(3, full)
    async with running(bench):
        await bench.handed_in(MOST_EVENTS)
        assert {event[0] for event in bench.kafka} == {4}
        bench.tenure.leave_room({3: (19_000, 190_000)})
        await bench.handed_in(2 * MOST_EVENTS)


async def test_a_replay_takes_nothing_for_a_paused_topic() -> None:
    bench = Bench(ReplayTables())
    bench.tenure.troubled.add("orders")
    async with running(bench):
        await bench.handed_in(0)
        bench.tenure.troubled.clear()
        await bench.handed_in(2 * MOST_EVENTS)


@pytest.mark.parametrize(("paused", "goes"), [("orders", True), ("repair", False)])
async def test_a_replay_to_another_topic_goes_there_and_waits_for_that_one_alone(paused: str, goes: bool) -> None:
    tables = ReplayTables()
    tables.request = tables.replay.request = replace(tables.request, to_topic="repair")
    bench = Bench(tables)
    bench.tenure.troubled.add(paused)
    async with running(bench):
        await bench.handed_in(2 * MOST_EVENTS if goes else 0)
        bench.tenure.troubled.clear()
        await bench.handed_in(2 * MOST_EVENTS)
    assert {each.topic for each in bench.kafka} == {"repair"}
    assert json.loads(bench.kafka[0].headers or "")["outbox-replay-topic"] == "orders"


async def test_what_waits_of_a_lane_that_is_given_back_is_taken_back_and_what_is_in_flight_is_settled() -> None:
    bench = Bench(ReplayTables())
    async with running(bench):
        await bench.handed_in(2 * MOST_EVENTS)
        in_flight = [event for event in bench.kafka if event[0] == 3][:10]
        bench.kafka[:] = [event for event in bench.kafka if event not in in_flight]
        bench.tenure.lanes[3].releasing = True
        bench.republished.changed.set()
        await bench.handed_in(MOST_EVENTS)
        assert {event[0] for event in bench.kafka} == {4}
        assert bench.tenure.lanes[3].unsettled == 10
        bench.land(in_flight)

        async def settled() -> bool:
            return not bench.tenure.lanes[3].unsettled

        await until("what was in flight is settled", settled)


async def test_a_drain_takes_back_everything_that_waits() -> None:
    bench = Bench(ReplayTables())
    async with running(bench):
        await bench.handed_in(2 * MOST_EVENTS)
        bench.tenure.drain_begun.set()
        bench.republished.changed.set()
        await bench.handed_in(0)
        assert [state.unsettled for state in bench.tenure.lanes.values()] == [0, 0]


async def test_a_cancelled_replay_is_taken_back() -> None:
    bench = Bench(ReplayTables())
    async with running(bench):
        await bench.handed_in(2 * MOST_EVENTS)
        bench.tables.cancel()

        async def closed() -> bool:
            return bool(bench.tables.closed)

        await until("the connection is closed", closed)
        assert bench.kafka == []
        assert bench.republished.idle


async def test_the_share_of_a_rate_is_that_of_the_lanes_that_are_left() -> None:
    tables = ReplayTables(rate=1_000.0)
    tables.request.positions.update(dict.fromkeys(range(6), 0))
    bench = Bench(tables)
    async with running(bench):

        async def started() -> bool:
            return bool(bench.stage._allowances)

        await until("the replay is taken up", started)
        assert bench.stage._allowances[7].share == 2 / 6
        # Others have finished theirs.
        tables.request.positions.update(dict.fromkeys((0, 1, 2, 5), 2_000))

        async def all_of_it() -> bool:
            return bench.stage._allowances[7].share == 1.0

        await until("the share is all of it", all_of_it)


async def test_without_a_connection_the_tenure_goes_on_and_the_stage_tries_again() -> None:
    tables = ReplayTables()
    tables.refuse_connections = 3
    bench = Bench(tables)
    async with running(bench):
        await bench.handed_in(2 * MOST_EVENTS)


async def test_what_came_back_is_handed_in_again_and_what_is_still_in_flight_above_it_is_not() -> None:
    bench = Bench(ReplayTables())
    async with running(bench):
        await bench.handed_in(2 * MOST_EVENTS)
        in_flight = [event for event in bench.kafka if event[0] == 3 and event[1] > 200]
        back = [event for event in bench.kafka if event[0] == 3 and 50 <= event[1] < 60]
        bench.kafka[:] = [event for event in bench.kafka if event not in [*in_flight, *back]]
        withdrawn(back)
        seen = [(event[0], event[1]) for event in bench.acknowledge()]

        async def all_of_them() -> bool:
            seen.extend((event[0], event[1]) for event in bench.acknowledge())
            return len(seen) >= 4_000 - len(in_flight)

        await until("all others are handed in", all_of_them, 10, interval=0.001)
        assert len(seen) == len(set(seen)) == 4_000 - len(in_flight)
        bench.land(in_flight)

        async def closed() -> bool:
            return bool(bench.tables.closed)

        await until("the replay is over", closed)
        assert not bench.kafka


async def test_what_comes_back_during_a_read_goes_before_what_was_read() -> None:
    """A topic is paused at any moment: going on above what came back would leave it out, or let it be overtaken."""
    bench = Bench(ReplayTables())
    turns = 0

    def pull_everything() -> None:
        nonlocal turns
        turns += 1
        if turns % 3 == 0:
            bench.withdraw(lambda _: True)

    bench.tables.while_reading = pull_everything
    seen: list[tuple[int, int]] = []
    async with running(bench):

        async def closed() -> bool:
            seen.extend((event[0], event[1]) for event in bench.acknowledge(50))
            return bool(bench.tables.closed)

        await until("the replay is over", closed, 120, interval=0.001)
    for lane in (3, 4):
        assert [id_ for number, id_ in seen if number == lane] == list(range(1, 2_001))


async def test_a_connection_that_is_lost_is_made_again_and_nothing_is_repeated() -> None:
    bench = Bench(ReplayTables())
    async with running(bench):
        await bench.handed_in(2 * MOST_EVENTS)
        bench.tables.break_next = True
        seen = [(event[0], event[1]) for event in bench.acknowledge()]

        async def closed() -> bool:
            seen.extend((event[0], event[1]) for event in bench.acknowledge())
            return bench.tables.closed == 2

        await until("the replay is over", closed, 10, interval=0.001)
    assert bench.tables.connections == 2
    assert len(seen) == len(set(seen)) == 4_000
    assert sorted(set(bench.tables.receipts)) == sorted(seen)


async def test_receipts_that_could_not_be_written_are_written_by_the_next_tenure() -> None:
    tables = ReplayTables()
    bench = Bench(tables)
    async with running(bench):
        await bench.handed_in(2 * MOST_EVENTS)
    # PostgreSQL is lost, and the flights land meanwhile.
    landed = bench.acknowledge()
    after = Bench(tables)
    after.republished = bench.republished
    after.stage._republished = bench.republished
    tables.cancel()
    task = asyncio.create_task(after.stage.run())
    try:

        async def written() -> bool:
            return len(tables.receipts) == len(landed)

        await until("the receipts are there, without a wake-up", written)
    finally:
        task.cancel()
        await asyncio.wait([task])
