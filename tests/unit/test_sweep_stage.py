"""The sweep's loop: when it ends, and what it asks while there is nothing to do."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from relay.decide.held_back import Closed
from relay.decide.lane_scan import LaneScan
from relay.decide.reach import Reach
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.errors import StatementFailedError
from relay.settings import ScanSettings
from relay.stages.scan.ports import ScanResult, StepResult
from relay.stages.scan.reads import LaneReads
from relay.stages.scan.sweep import TURN_STEPS, Sweep
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.events import event

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from relay.event import PendingEvent
    from relay.stages.scan.ports import WantedEvents

SNAPSHOT = Snapshot(40, 40, frozenset())


class Port:
    """An outbox without events."""

    def __init__(self) -> None:
        self.steps = 0
        self.lanes: list[int] = []
        self.after_steps: Callable[[], None] = lambda: None
        self.looks: list[list[int]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.gaps: list[list[int]] = []
        self.read: list[list[int]] = []
        self.failing = False
        self.new_steps = 0

    async def scan(self, _lanes: Sequence[object]) -> ScanResult:
        raise AssertionError("no scan was asked for")

    async def snapshot(self) -> Snapshot:
        raise AssertionError("no scan was asked for")

    async def sweep_step(self, lane: int, *_: int) -> StepResult:
        self.steps += 1
        self.lanes.append(lane)
        self.after_steps()
        return StepResult(SNAPSHOT, 0, SNAPSHOT.xmax, [], [], [])

    async def new_step(
        self, lane: int, above: int, up_to: int, most: int, _bytes: int, new: Callable[[Collection[int]], list[int]]
    ) -> StepResult:
        self.new_steps += 1
        self._read()
        ids = new(range(above + 1, up_to + 1))
        return StepResult(SNAPSHOT, 0, SNAPSHOT.xmax, [], [event(id_, lane=lane) for id_ in ids[:most]], ids[most:])

    async def gap_step(self, _lane: int, ids: Sequence[int], *_: int) -> StepResult:
        self.gaps.append(list(ids))
        self._read()
        return StepResult(SNAPSHOT, 0, SNAPSHOT.xmax, [], [event(id_, lane=0) for id_ in ids], [])

    async def events_by_id(self, wanted: Sequence[WantedEvents]) -> list[PendingEvent]:
        self.read.append([id_ for each in wanted for id_ in each.ids])
        self._read()
        return [event(id_, lane=each.lane) for each in wanted for id_ in each.ids]

    def _read(self) -> None:
        if self.failing:
            self.failing = False
            raise StatementFailedError("invalid byte sequence")

    async def quiet_transactions(self, xids: Sequence[int]) -> list[int]:
        self.looks.append(sorted(xids))
        self.meanwhile()
        return list(xids)


@pytest.fixture
def _fails_when_stuck() -> Iterator[None]:
    """Ends a test that never lets go of the event loop: no timeout of asyncio's could."""

    def stuck(*_: object) -> None:
        raise AssertionError("the loop is stuck")

    before = signal.signal(signal.SIGALRM, stuck)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_fails_when_stuck")
@pytest.mark.parametrize("claimed", [False, True], ids=["no-lane", "a-lane"])
async def test_a_drain_that_begins_right_after_lanes_were_claimed_ends_it(claimed: bool) -> None:
    # Nobody takes note of a long sweep any more then: it was waited for in a loop that never let go of the event loop.
    tenure = Tenure(Room(100, 1 << 20))
    if claimed:
        tenure.add_lane(LaneScan.take_over(3, 1, 0, 10, SNAPSHOT), Closed())
    port = Port()
    settings, telemetry = ScanSettings(), Telemetry()
    reads = LaneReads(tenure, lambda _: None)
    sweep = Sweep(port=port, reads=reads, settings=settings, telemetry=telemetry)
    reads.lane_needs_sweep()
    tenure.drain_begun.set()
    await sweep.run()
    assert port.steps == 0


def in_long_sweeps(tenure: Tenure, **steps: int) -> None:
    """Let lanes be in sweeps of so many steps of 10 ids."""
    for lane, number in enumerate(steps.values()):
        tenure.add_lane(LaneScan.take_over(lane, 1, 0, number * 10, SNAPSHOT), Closed())


class UntilSwept(Sweep):
    """The stage, which drains once there is nothing to sweep."""

    async def _wait_for_work(self) -> None:
        self._tenure.drain_begun.set()


async def run_until_swept(tenure: Tenure, port: Port) -> list[int]:
    """Run the stage until no lane is in a long sweep; returns the lanes that took steps, in order."""
    settings, telemetry = ScanSettings(sweep_step_ids=10), Telemetry()
    reads = LaneReads(tenure, lambda _: None)
    await UntilSwept(port=port, reads=reads, settings=settings, telemetry=telemetry).run()
    return port.lanes


@pytest.mark.usefixtures("_fails_when_stuck")
async def test_a_lane_takes_its_steps_in_a_row_so_that_it_waits_for_no_other_lanes_sweep() -> None:
    tenure, port = Tenure(Room(100, 1 << 20)), Port()
    in_long_sweeps(tenure, first=3, second=2)
    assert await run_until_swept(tenure, port) == [0, 0, 0, 1, 1]


async def test_a_lane_whose_sweep_is_longer_than_a_turn_lets_the_others_go_on_meanwhile() -> None:
    tenure, port = Tenure(Room(100, 1 << 20)), Port()
    in_long_sweeps(tenure, first=TURN_STEPS + 2, second=2)
    assert await run_until_swept(tenure, port) == [0] * TURN_STEPS + [1] * 2 + [0] * 2


async def test_a_turn_is_over_once_its_lane_goes_back() -> None:
    """So it is when the lane has to wait for what is before an event that cannot be read: the others need not."""
    tenure, port = Tenure(Room(100, 1 << 20)), Port()
    in_long_sweeps(tenure, first=5, second=2)

    async def go_back(lane: int, *_: int) -> StepResult:
        port.lanes.append(lane)
        state = tenure.lanes[lane]
        if port.lanes == [0, 0]:
            assert state.sweep is not None
            state.sweep.snapshot = Snapshot(39, 40, frozenset({39}))
        return StepResult(SNAPSHOT, 0, SNAPSHOT.xmax, [], [], [])

    port.sweep_step = go_back  # type: ignore[method-assign]
    assert await run_until_swept(tenure, port) == [0, 0, 1, 1, *[0] * 5]


async def test_a_turn_is_over_once_its_lane_is_given_back_or_has_no_room() -> None:
    tenure, port = Tenure(Room(100, 1 << 20)), Port()
    in_long_sweeps(tenure, first=5, second=2)

    def give_back() -> None:
        tenure.lanes[0].releasing = True

    port.after_steps = give_back
    settings, telemetry = ScanSettings(sweep_step_ids=10), Telemetry()
    reads = LaneReads(tenure, lambda _: None)
    sweep = Sweep(port=port, reads=reads, settings=settings, telemetry=telemetry)
    assert await sweep._turn(tenure.lanes[0], TURN_STEPS)
    assert port.lanes == [0]
    assert not await sweep._turn(tenure.lanes[0], TURN_STEPS)

    del tenure.lanes[0]
    full = [event(n, lane=1, key=None, size=1) for n in range(1, 101)]
    tenure.room.add(1, full)
    assert not await sweep._turn(tenure.lanes[1], TURN_STEPS)
    assert port.lanes == [0]


async def test_transactions_are_looked_at_between_the_turns_of_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long sweeps may take a while, and what holds no event is to hold nothing up meanwhile."""
    monkeypatch.setattr("relay.stages.scan.sweep.QUIET_CHECK_INTERVAL", 0.0)
    tenure, port = Tenure(Room(100, 1 << 20)), Port()
    in_long_sweeps(tenure, first=2, second=2)
    waiting = tenure.lanes[1].sweep
    assert waiting is not None
    waiting.snapshot = Snapshot(39, 40, frozenset({39}))
    at: list[int] = []
    port.meanwhile = lambda: at.append(port.steps)
    await run_until_swept(tenure, port)
    assert at[:1] == [2]


@pytest.mark.parametrize("failing", [False, True])
async def test_what_a_step_has_no_room_for_is_read_by_its_ids_and_not_looked_for_again(failing: bool) -> None:
    """Each step went through the same ids again: new events waited 12 s behind a commit of 200,000, and 0.1 s since."""
    tenure, port = Tenure(Room(100, 1 << 20)), Port()
    state = LaneScan.take_over(0, 1, 0, 10, SNAPSHOT)
    tenure.add_lane(state, Closed())
    taken: list[PendingEvent] = []

    async def step(_lane: int, above: int, *_: int) -> StepResult:
        port.steps += 1
        found = list(range(above + 1, 10))
        return StepResult(SNAPSHOT, 0, SNAPSHOT.xmax, [], [event(found[0], lane=0)], found[1:])

    port.sweep_step = step  # type: ignore[method-assign, assignment]
    port.failing = failing
    settings, telemetry = ScanSettings(sweep_step_ids=10, batch_events=4), Telemetry()
    sweep = Sweep(port=port, reads=LaneReads(tenure, taken.extend), settings=settings, telemetry=telemetry)
    while state.sweep is not None:
        await sweep.step_all()
    assert [each.id for each in taken] == list(range(1, 10))
    # What could not be read is looked for by a step, which finds out what the matter is.
    assert port.steps == (2 if failing else 1)
    assert port.read == ([[2, 3, 4, 5], [3, 4, 5, 6], [7, 8, 9]] if failing else [[2, 3, 4, 5], [6, 7, 8, 9]])


@pytest.mark.parametrize("failing", [False, True])
async def test_where_all_ids_but_a_few_are_known_a_step_asks_for_these(failing: bool) -> None:
    tenure, port = Tenure(Room(1_000, 1 << 20)), Port()
    state = LaneScan.take_over(0, 1, 0, 0, SNAPSHOT)
    tenure.add_lane(state, Closed())
    taken: list[PendingEvent] = []
    settings, telemetry = ScanSettings(sweep_step_ids=10), Telemetry()
    sweep = Sweep(port=port, reads=LaneReads(tenure, taken.extend), settings=settings, telemetry=telemetry)
    await sweep.step_all()
    state.absorb(
        SNAPSHOT, [], [], [event(id_, lane=0) for id_ in range(1, 101) if id_ not in (7, 60)], Reach(99, 9_999)
    )
    state.start_long_sweep(SNAPSHOT, 0)
    port.failing = failing
    while state.sweep is not None:
        await sweep.step_all()
    assert port.gaps == [[7, 60]]
    assert port.steps == (10 if failing else 0), "the tables are asked if something cannot be read"
    assert [each.id for each in taken] == ([] if failing else [7, 60])


@pytest.mark.parametrize("failing", [False, True])
async def test_where_many_are_not_known_a_step_reads_its_range_and_does_not_ask_what_is_settled(failing: bool) -> None:
    tenure, port = Tenure(Room(1_000, 1 << 20)), Port()
    state = LaneScan.take_over(0, 1, 0, 0, SNAPSHOT)
    tenure.add_lane(state, Closed())
    taken: list[PendingEvent] = []
    settings, telemetry = ScanSettings(sweep_step_ids=10), Telemetry()
    sweep = Sweep(port=port, reads=LaneReads(tenure, taken.extend), settings=settings, telemetry=telemetry)
    await sweep.step_all()
    known = [5, 15, 30]
    state.absorb(SNAPSHOT, [], [], [event(id_, lane=0) for id_ in known], Reach(99, 9_999))
    state.known.note()
    state.known._ids.clear()
    state.start_long_sweep(SNAPSHOT, 0)
    port.failing = failing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relay.stages.scan.sweep.MOST_GAPS", 2)
        while state.sweep is not None:
            await sweep.step_all()
    assert (port.new_steps, port.steps, port.gaps) == ((1, 3, []) if failing else (3, 0, []))
    assert [each.id for each in taken] == ([] if failing else [id_ for id_ in range(1, 30) if id_ not in known])


async def test_the_end_of_a_take_overs_sweep_wakes_those_up_who_wait_for_it() -> None:
    """What is due in the lane has waited for it, and would wait for seconds more."""
    tenure = Tenure(Room(100, 1 << 20))
    state = LaneScan.take_over(3, 1, 0, 10, SNAPSHOT)
    tenure.add_lane(state, Closed())
    port = Port()
    settings, telemetry = ScanSettings(), Telemetry()
    reads = LaneReads(tenure, lambda _: None)
    sweep = Sweep(port=port, reads=reads, settings=settings, telemetry=telemetry)
    await sweep.step_all()
    assert not tenure.resume_wake_up.is_set()
    await sweep.step_all()
    assert state.taken_over
    assert tenure.resume_wake_up.is_set()
    tenure.resume_wake_up.clear()
    state.start_long_sweep(SNAPSHOT, 0)
    while state.sweep is not None:
        await sweep.step_all()
    assert not tenure.resume_wake_up.is_set()


async def test_an_idle_database_is_not_asked_again_and_again_about_the_same_transactions() -> None:
    tenure = Tenure(Room(100, 1 << 20))
    state = LaneScan.take_over(3, 1, 0, 0, SNAPSHOT)
    tenure.add_lane(state, Closed())
    port = Port()
    settings, telemetry = ScanSettings(), Telemetry()
    reads = LaneReads(tenure, lambda _: None)
    sweep = Sweep(port=port, reads=reads, settings=settings, telemetry=telemetry)
    for now in range(5):
        await sweep.look_for_quiet_transactions(float(now))
    assert port.looks == [], "nothing runs"

    # A transaction of somebody else, as long as it may last.
    state.snapshot = Snapshot(41, 45, frozenset({41, 44}))
    for now in range(5, 10):
        await sweep.look_for_quiet_transactions(float(now))
    assert port.looks == [[41, 44]]
    assert reads.take_quiet() == {41: 0, 44: 0}
    tenure.saw_sequence(7, 0)
    for now in range(10, 15):
        await sweep.look_for_quiet_transactions(float(now))
    assert port.looks == [[41, 44]] * 2
    assert reads.take_quiet() == {41: 7, 44: 7}


async def test_what_is_found_while_a_scan_is_under_way_is_for_the_next_one() -> None:
    tenure = Tenure(Room(100, 1 << 20))
    state = LaneScan.take_over(3, 1, 0, 0, SNAPSHOT)
    state.snapshot = Snapshot(41, 45, frozenset({41}))
    tenure.add_lane(state, Closed())
    port = Port()
    settings, telemetry = ScanSettings(), Telemetry()
    reads = LaneReads(tenure, lambda _: None)
    sweep = Sweep(port=port, reads=reads, settings=settings, telemetry=telemetry)

    def take_what_was_found() -> None:
        reads.take_quiet()

    port.meanwhile = take_what_was_found
    for now in range(3):
        await sweep.look_for_quiet_transactions(float(now))
    assert reads.take_quiet() == {41: 0}
