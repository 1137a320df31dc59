"""The event that cannot be read: found by halving."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relay.decide.held_back import Closed
from relay.decide.lane_scan import LaneScan
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.errors import StatementFailedError
from relay.settings import ScanSettings
from relay.stages.scan.ports import ID_MAX, ScanResult, StepResult
from relay.stages.scan.reads import LaneReads
from relay.stages.scan.scan import Scan
from relay.stages.scan.sweep import Sweep
from relay.stages.scan.unreadable import Found, Unreadable
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.events import event, events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.event import PendingEvent
    from relay.stages.scan.ports import LaneRequest, WantedEvents

LANE = 3


class Table:
    """Events of a lane, some of which cannot be read."""

    def __init__(self, *bad: int, events: int = 100) -> None:
        self.bad = bad
        self.ids = range(1, events + 1)
        self.reads = 0

    async def sweep_step(
        self, lane: int, above: int, up_to: int, max_events: int, max_bytes: int, *_: int
    ) -> StepResult:
        self.reads += 1
        within = [id_ for id_ in self.ids if above < id_ <= up_to][:max_events]
        if set(within) & set(self.bad):
            raise StatementFailedError("invalid byte sequence")
        return StepResult(Snapshot(1, 1, frozenset()), 0, 1, [], [event(id_, lane=lane) for id_ in within], [])

    async def pending_ids(self, lane: int, above: int, up_to: int, max_events: int) -> list[PendingEvent]:
        return events(*[id_ for id_ in self.ids if above < id_ <= up_to][:max_events], lane=lane)


def looking(*bad: int) -> tuple[Table, LaneScan, Unreadable, list[int]]:
    table, failed, tenure = Table(*bad), list[int](), Tenure(Room(1_000, 1_000_000))
    state = tenure.lanes[LANE] = LaneScan.take_over(LANE, 1, 0, 0, Snapshot(1, 1, frozenset()))
    return table, state, Unreadable(table, tenure, lambda _, event, why: failed.append(event.id)), failed


@pytest.mark.parametrize("bad", [1, 2, 50, 99, 100])
async def test_an_unreadable_event_is_found_in_few_reads(bad: int) -> None:
    table, state, unreadable, _ = looking(bad, 100)
    found = await unreadable.find(state, 0, ID_MAX, 1_000, 1_000)
    assert found == Found(event(bad, lane=LANE), first=bad == 1)
    assert table.reads <= 9


async def test_an_unreadable_event_is_not_the_first_while_something_before_it_was_not_taken() -> None:
    _, state, unreadable, _ = looking(3)
    for taken, first in (({1}, False), ({1, 2}, True)):
        state.taken = set(taken)
        found = await unreadable.find(state, 0, ID_MAX, 10, 1_000)
        assert found is not None
        assert found.first is first


async def test_nothing_is_found_when_each_event_can_be_read_or_none_is_there() -> None:
    _, state, unreadable, _ = looking(50)
    assert await unreadable.find(state, 0, ID_MAX, 49, 1_000) is None
    assert await unreadable.find(state, 100, ID_MAX, 49, 1_000) is None


async def test_an_unreadable_event_fails_once_and_counts_as_taken_until_that_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.stages.scan.unreadable.WAIT", 0)
    _, state, unreadable, failed = looking(1)
    for _ in range(2):
        await unreadable.fail(state, event(1, lane=LANE), StatementFailedError("invalid byte sequence"))
    assert failed == [1]
    assert state.taken == {1}


async def test_an_unreadable_event_fails_only_once_what_was_taken_before_it_is_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An earlier event of its key that comes back, or is taken by another owner, would be held behind its failure."""
    monkeypatch.setattr("relay.stages.scan.unreadable.WAIT", 0)
    _, state, unreadable, failed = looking(5)
    state.taken = {3, 4, 9}
    for settled, expected in (([3], []), ([4], [5])):
        state.settle(settled)
        await unreadable.fail(state, event(5, lane=LANE), StatementFailedError("invalid byte sequence"))
        assert failed == expected


class Port(Table):
    """A lane of which the first reads fail, though nothing in it is unreadable by the time one looks."""

    def __init__(self, failing: int) -> None:
        super().__init__(events=5)
        self.failing = failing

    async def scan(self, lanes: Sequence[LaneRequest]) -> ScanResult:
        self._fail()
        read = await super().sweep_step(lanes[0].lane, lanes[0].taken_to, ID_MAX, 5, 1_000)
        return ScanResult(read.snapshot, read.sequence_value, read.next_xid, {}, read.events)

    async def events_by_id(self, wanted: Sequence[WantedEvents]) -> list[PendingEvent]:
        raise AssertionError("nothing is read by its id")

    async def snapshot(self) -> Snapshot:
        return Snapshot(1, 1, frozenset())

    async def sweep_step(
        self, lane: int, above: int, up_to: int, max_events: int, max_bytes: int, *_: int
    ) -> StepResult:
        # A look is narrower than what the stage reads.
        if max_events == self.asked:
            self._fail()
        return await super().sweep_step(lane, above, up_to, max_events, max_bytes)

    async def new_step(self, *_: object) -> StepResult:
        raise AssertionError("not everything is known")

    gap_step = new_step

    asked = 20

    def _fail(self) -> None:
        if self.failing:
            self.failing -= 1
            raise StatementFailedError("invalid byte sequence")

    async def quiet_transactions(self, xids: Sequence[int]) -> list[int]:
        return []


def stages(failing: int) -> tuple[Tenure, Scan, Sweep, list[PendingEvent]]:
    """Scan and sweep of one lane; what they hand on."""
    tenure = Tenure(Room(1_000, 1_000_000))
    taken: list[PendingEvent] = []
    settings = ScanSettings(batch_events=Port.asked)
    port = Port(failing)
    looks = Unreadable(Table(events=5), tenure, lambda *_: pytest.fail("nothing is unreadable"))
    reads = LaneReads(tenure, taken.extend)
    scan = Scan(port=port, reads=reads, settings=settings, telemetry=Telemetry(), unreadable=looks)
    sweep = Sweep(port=port, reads=reads, settings=settings, telemetry=Telemetry(), unreadable=looks)
    return tenure, scan, sweep, taken


@pytest.mark.parametrize("failing", [1, 2])
async def test_a_read_that_failed_for_what_has_failed_since_is_made_once_more(failing: int) -> None:
    # The failure of an unreadable event was committed between a scan that met it and the look for it: the tenure ended.
    tenure, scan, _, taken = stages(failing)
    state = LaneScan.take_over(LANE, 1, 0, 0, Snapshot(1, 1, frozenset()))
    state.next_step(1)
    tenure.add_lane(state, Closed())
    if failing > 1:
        with pytest.raises(StatementFailedError):
            await scan.scan_once(scan.requests())
    else:
        assert (await scan.scan_once(scan.requests()))[0] == len(taken) == 5


@pytest.mark.parametrize("failing", [1, 2])
async def test_a_step_that_failed_for_what_has_failed_since_is_made_once_more(failing: int) -> None:
    tenure, _, sweep, taken = stages(failing)
    tenure.add_lane(LaneScan.take_over(LANE, 1, 0, 5, Snapshot(1, 1, frozenset())), Closed())
    if failing > 1:
        with pytest.raises(StatementFailedError):
            await sweep.step_all()
    else:
        assert await sweep.step_all()
        assert len(taken) == 5
