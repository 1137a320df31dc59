"""The scan's loop: when it looks, what it asks for, and what ends the tenure."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from relay.decide.held_back import Closed
from relay.decide.lane_scan import LaneScan
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.settings import ScanSettings
from relay.stages.scan.ports import ScanResult
from relay.stages.scan.reads import LaneReads
from relay.stages.scan.scan import Scan
from relay.stages.tenure import SequenceWentBackError, Tenure, TenureLostError
from relay.telemetry import Telemetry
from tests.support.events import event, events, ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.event import PendingEvent
    from relay.stages.scan.ports import LaneRequest, WantedEvents

Answer = ScanResult


def answer(*found: PendingEvent, xmax: int = 50, value: int = 0) -> Answer:
    return ScanResult(Snapshot(xmax, xmax, frozenset()), value, xmax, {}, list(found))


class FakePort:
    """Answers in turn, then with nothing; keeps what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[Sequence[LaneRequest]] = []
        self.wanted: list[list[WantedEvents]] = []
        self.looks = 0
        self.meanwhile: Callable[[], object] = lambda: None

    async def scan(self, lanes: Sequence[LaneRequest]) -> ScanResult:
        self.asked.append(lanes)
        self.meanwhile()
        last = self._answers[0] if len(self._answers) == 1 else answer()
        return self._answers.pop(0) if self._answers else last

    async def events_by_id(self, wanted: Sequence[WantedEvents]) -> list[PendingEvent]:
        self.wanted.append(list(wanted))
        return [event(id_, lane=each.lane) for each in wanted for id_ in each.ids]

    async def snapshot(self) -> Snapshot:
        """Of the next answer, which is used up if it has nothing to scan."""
        self.looks += 1
        self.meanwhile()
        following = self._answers[0] if self._answers else answer()
        if self._answers and not following.events:
            self._answers.pop(0)
        return following.snapshot


class Scanning:
    """A scan of two lanes whose take-over is done, that notes its pauses instead of making them."""

    def __init__(self, *answers: Answer, max_events: int = 100) -> None:
        self.port = FakePort(*answers)
        self.tenure = Tenure(Room(max_events, 1 << 30))
        self.taken: list[PendingEvent] = []
        self.pauses: list[float] = []
        for lane in (3, 5):
            state = LaneScan.take_over(lane, 1, 0, 0, Snapshot(40, 40, frozenset()))
            state.next_step(1)
            self.tenure.add_lane(state, Closed())
        settings = ScanSettings(batch_events=20, busy_interval=0.005, idle_interval=0.1)
        self.now = 0.0
        self.reads = LaneReads(self.tenure, self.taken.extend, clock=lambda: self.now)
        self.scan = Scan(
            port=self.port, reads=self.reads, settings=settings, telemetry=Telemetry(), clock=lambda: self.now
        )

    async def run(self, pauses: int) -> list[float]:
        """Let the loop run for so many pauses; returns them."""

        async def note(seconds: float) -> None:
            self.pauses.append(seconds)
            if len(self.pauses) == pauses:
                self.tenure.drain_begun.set()

        self.scan._pause = note  # type: ignore[method-assign]
        async with asyncio.timeout(30):
            await self.scan.run()
        return self.pauses

    async def once(self) -> None:
        await self.scan.scan_once(self.scan.requests())


class TestPace:
    async def test_it_backs_off_when_nothing_comes_and_is_quick_again_when_something_does(self) -> None:
        idle = [answer()] * 6
        scanning = Scanning(*idle, answer(event(1, lane=3), xmax=51), answer(xmax=51))
        assert await scanning.run(8) == [0.01, 0.02, 0.04, 0.08, 0.1, 0.1, 0.005, 0.01]
        assert ids(scanning.taken) == [1]

    async def test_scans_that_take_long_are_no_more_than_half_of_the_time(self) -> None:
        scanning = Scanning(*[answer(event(number, lane=3), xmax=50 + number) for number in (1, 2, 3)])
        durations = iter([0.001, 0.03, 0.4])

        def take_time() -> None:
            scanning.now += next(durations)

        scanning.port.meanwhile = take_time
        assert await scanning.run(3) == pytest.approx([0.005, 0.03, 0.1])

    async def test_it_does_not_pause_while_there_is_more_that_fits(self) -> None:
        full = events(*range(1, 11), lane=3)
        scanning = Scanning(answer(*full), answer(*events(*range(11, 16), lane=3)))
        await scanning.run(1)
        assert len(scanning.port.asked) == 2
        assert ids(scanning.taken) == list(range(1, 16))

    async def test_lanes_without_room_are_not_asked_for(self) -> None:
        scanning = Scanning(answer(), max_events=20)
        scanning.tenure.room.add(5, events(*range(100, 106), lane=5))
        assert await scanning.run(1) == [0.01]
        assert [[request.lane for request in asked] for asked in scanning.port.asked] == [[3]]

    async def test_the_pause_ends_when_a_lane_that_has_more_has_room_for_it(self) -> None:
        """Or the lane of a hot key, and the last one of a backlog, would go on at the pace of an idle relay."""
        scanning = Scanning()
        scanning.tenure.room.add(5, events(*range(100, 150), lane=5))
        scanning.tenure.lanes[3].exhausted = True
        pausing = asyncio.create_task(scanning.scan._pause(60))
        scanning.tenure.leave_room({5: (10, 100)})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not pausing.done(), "with 40 of 100 it still holds more than half of what it may"
        scanning.tenure.leave_room({5: (40, 400)})
        await asyncio.wait_for(pausing, 30)

    async def test_the_pause_ends_when_a_lane_that_could_not_be_looked_at_has_room(self) -> None:
        """It may have more by now, though it had not when it was last read."""
        scanning = Scanning()
        for lane in (3, 5):
            scanning.tenure.lanes[lane].exhausted = True
        scanning.tenure.room.add(5, events(*range(100, 150), lane=5))
        pausing = asyncio.create_task(scanning.scan._pause(60))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not pausing.done()
        scanning.tenure.leave_room({5: (50, 500)})
        await asyncio.wait_for(pausing, 30)

    async def test_a_lane_that_fills_its_room_is_waited_for_and_the_others_are_not_asked_again(self) -> None:
        scanning = Scanning(answer(*events(*range(1, 11), lane=3)), answer(*events(*range(11, 21), lane=3)))
        assert len(await scanning.run(1)) == 1
        assert len(scanning.port.asked) == 2
        assert [request.lane for request in scanning.scan.requests()] == [5]

    async def test_receipts_do_not_end_the_pause_when_no_lane_has_more(self) -> None:
        scanning = Scanning(answer(event(1, lane=3)), answer())
        await scanning.once()
        await scanning.once()
        pausing = asyncio.create_task(scanning.scan._pause(60))
        await asyncio.sleep(0)
        scanning.tenure.leave_room({3: (1, 10)})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not pausing.done()
        scanning.reads.look_at_once()
        await asyncio.wait_for(pausing, 30)

    async def test_a_wake_up_while_nothing_can_be_asked_for_does_not_keep_the_loop_busy(self) -> None:
        scanning = Scanning()
        for lane in (3, 5):
            scanning.tenure.room.add(lane, events(*range(50), lane=lane))
        scanning.reads.look_at_once()
        running = asyncio.create_task(scanning.scan.run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert scanning.port.asked == []
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    async def test_a_wake_up_during_a_scan_is_not_lost(self) -> None:
        scanning = Scanning()
        scanning.port.meanwhile = scanning.reads.look_at_once
        await scanning.once()
        await asyncio.wait_for(scanning.scan._pause(60), 30)

    async def test_the_batch_is_shared_among_the_lanes_that_are_asked_for(self) -> None:
        scanning = Scanning()
        assert [request.fresh.events for request in scanning.scan.requests()] == [10, 10]
        scanning.tenure.lanes[5].releasing = True
        assert [request.fresh.events for request in scanning.scan.requests()] == [20]

    async def test_a_lane_that_has_more_gets_most_of_the_batch(self) -> None:
        scanning = Scanning()
        scanning.tenure.lanes[5].exhausted = True
        assert [request.fresh.events for request in scanning.scan.requests()] == [15, 5]
        scanning.tenure.lanes[3].exhausted = True
        assert [request.fresh.events for request in scanning.scan.requests()] == [10, 10]

    async def test_a_lane_that_has_more_gets_most_of_the_room(self) -> None:
        scanning = Scanning(max_events=54)
        assert [request.fresh.events for request in scanning.scan.requests()] == [10, 10]
        scanning.tenure.room.add(0, events(*range(24), lane=0))
        assert [request.fresh.events for request in scanning.scan.requests()] == [7, 7]
        scanning.tenure.lanes[5].exhausted = True
        assert [request.fresh.events for request in scanning.scan.requests()] == [10, 1]


class TestStragglers:
    """What a scan meets at or below the highest id that was taken."""

    async def test_those_that_are_known_are_not_read_at_all(self) -> None:
        first = answer(*events(1, 2, 3, lane=3))
        scanning = Scanning(first, answer(xmax=51)._replace(swept={3: [1, 2, 3]}))
        for _ in range(2):
            await scanning.once()
        assert scanning.port.wanted == []
        assert ids(scanning.taken) == [1, 2, 3]

    async def test_the_others_are_read_by_their_ids_and_go_before_anything_fresh_of_their_lane(self) -> None:
        second = answer(*events(5, 6, lane=3), event(9, lane=5), xmax=51)._replace(swept={3: [4, 2, 1]})
        scanning = Scanning(answer(*events(1, 4, lane=3)), second)
        for _ in range(2):
            await scanning.once()
        assert [(each.lane, each.ids) for (each,) in scanning.port.wanted] == [(3, [2])]
        assert ids(scanning.taken) == [1, 4, 2, 5, 6, 9]

    async def test_no_more_of_them_are_read_than_there_is_room_for(self) -> None:
        many = list(range(1, 40))
        scanning = Scanning(answer(event(50, lane=3)), answer(event(51, lane=3), xmax=51)._replace(swept={3: many}))
        for _ in range(2):
            await scanning.once()
        assert ids(scanning.taken) == [50, *range(1, 11)]
        assert scanning.port.wanted[0][0].ids == list(range(1, 11))

    async def test_those_of_a_lane_that_is_given_back_meanwhile_are_not_taken(self) -> None:
        """The second statement takes a while, too."""
        scanning = Scanning(answer(event(5, lane=3)), answer(xmax=51)._replace(swept={3: [2]}))
        await scanning.once()
        read = scanning.port.events_by_id

        async def give_back(wanted: Sequence[WantedEvents]) -> list[PendingEvent]:
            scanning.tenure.lanes[3].releasing = True
            return await read(wanted)

        scanning.port.events_by_id = give_back  # type: ignore[method-assign]
        await scanning.once()
        assert ids(scanning.taken) == [5]


class TestWhenNothingHappens:
    """While no transaction ends nothing can become visible, and to know that costs less than a scan."""

    async def test_two_scans_with_the_same_snapshot_are_followed_by_looks_at_the_snapshot(self) -> None:
        scanning = Scanning(*[answer()] * 5)
        await scanning.run(5)
        assert (len(scanning.port.asked), scanning.port.looks) == (2, 3)

    async def test_a_snapshot_that_has_changed_is_followed_by_a_scan_at_once(self) -> None:
        scanning = Scanning(answer(), answer(), answer(event(1, lane=3), xmax=51), answer(xmax=51))
        assert len(await scanning.run(3)) == 3
        assert scanning.port.looks == 1
        assert ids(scanning.taken) == [1]

    async def test_a_database_in_which_others_write_is_scanned(self) -> None:
        scanning = Scanning(*[answer(xmax=50 + number) for number in range(6)])
        await scanning.run(6)
        assert (len(scanning.port.asked), scanning.port.looks) == (6, 0)

    async def test_a_wake_up_is_followed_by_a_scan(self) -> None:
        scanning = Scanning(answer(), answer(), answer(event(1, lane=3), xmax=51))
        for _ in range(2):
            await scanning.once()
        scanning.reads.look_at_once()
        assert not await scanning.scan.nothing_new()
        assert scanning.port.looks == 0

    async def test_a_lane_that_was_claimed_meanwhile_is_scanned(self) -> None:
        scanning = Scanning(answer(), answer(), answer())
        for _ in range(2):
            await scanning.once()

        def claim() -> None:
            state = LaneScan.take_over(7, 1, 0, 0, Snapshot(40, 40, frozenset()))
            state.next_step(1)
            scanning.tenure.add_lane(state, Closed())

        scanning.port.meanwhile = claim
        assert not await scanning.scan.nothing_new()

    async def test_what_was_found_out_about_quiet_transactions_is_for_a_scan(self) -> None:
        scanning = Scanning(answer(), answer(), answer())
        for _ in range(2):
            await scanning.once()
        scanning.reads.found_quiet([45], 9)
        assert not await scanning.scan.nothing_new()
        assert scanning.port.looks == 0

    async def test_a_lane_whose_events_wait_for_room_is_scanned(self) -> None:
        scanning = Scanning(answer(), answer(), answer())
        for _ in range(2):
            await scanning.once()
        scanning.tenure.lanes[5].exhausted = False
        assert not await scanning.scan.nothing_new()
        assert scanning.port.looks == 0

    async def test_transaction_ids_that_go_back_end_the_tenure(self) -> None:
        scanning = Scanning(answer(), answer(), answer(xmax=49))
        for _ in range(2):
            await scanning.once()
        with pytest.raises(TenureLostError, match="went back from 50 to 49"):
            await scanning.scan.nothing_new()


class TestWhatEndsTheTenure:
    """Rule 9: nothing that was read with it is handed on."""

    async def test_transaction_ids_that_go_back(self) -> None:
        scanning = Scanning(answer(xmax=60), answer(event(1, lane=3), xmax=59))
        await scanning.once()
        with pytest.raises(TenureLostError, match="went back from 60 to 59"):
            await scanning.once()
        assert scanning.taken == []

    async def test_a_sequence_that_goes_back(self) -> None:
        scanning = Scanning(answer(value=9), answer(event(1, lane=3), value=8))
        await scanning.once()
        with pytest.raises(SequenceWentBackError, match="from 9 to 8"):
            await scanning.once()
        assert scanning.taken == []

    async def test_but_not_a_value_that_another_connection_has_overtaken_meanwhile(self) -> None:
        scanning = Scanning(answer(event(1, lane=3), value=8))
        scanning.port.meanwhile = lambda: scanning.tenure.saw_sequence(12, 0)
        await scanning.once()
        assert ids(scanning.taken) == [1]
        assert scanning.tenure.sequence_value == 12

    async def test_events_that_do_not_come_in_the_order_of_their_ids(self) -> None:
        """The statement's order rests on its plan."""
        scanning = Scanning(answer(*events(2, 1, lane=3)))
        with pytest.raises(TenureLostError, match="id 1 after 2"):
            await scanning.once()
        assert scanning.taken == []


async def test_a_scan_that_comes_back_while_draining_takes_nothing() -> None:
    scanning = Scanning(answer(event(1, lane=3)))
    scanning.port.meanwhile = scanning.tenure.drain_begun.set
    await scanning.once()
    assert scanning.taken == []
    assert scanning.tenure.lanes[3].taken_to == 0
