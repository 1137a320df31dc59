"""The stage that moves scheduled events: what it asks, when, and what it does about errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from relay.decide.held_back import Closed
from relay.decide.lane_scan import LaneScan
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.errors import PostgresLostError, StatementFailedError, StatementGivenUpError
from relay.settings import TimersSettings
from relay.stages.tenure import Tenure
from relay.stages.timers.ports import Due, Moved
from relay.stages.timers.timers import PUT_OFF, Timers
from relay.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

NOTHING = Moved(0, 0, None)


class Script:
    """A port that answers as told, then that nothing is there."""

    def __init__(self, *answers: Moved | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.scheduled = 0
        self.counted = 0
        self.first: Due | None = None

    async def move_due(
        self,
        replica: UUID,
        lanes: Sequence[tuple[int, int]],
        *,
        at_most: int,
        put_off: Collection[int] = (),
    ) -> Moved:
        asked = {"lanes": list(lanes), "at_most": at_most, "put_off": sorted(put_off)}
        self.asked.append(asked)
        answer = self.answers.pop(0) if self.answers else NOTHING
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def first_due(self, lane: int, put_off: Collection[int]) -> Due | None:
        return self.first

    async def count_scheduled(self, lanes: Sequence[int]) -> int:
        self.counted += 1
        return self.scheduled


class Stage:
    """The stage with two lanes, its port, and a clock that stands."""

    def __init__(self, *answers: Moved | Exception) -> None:
        self.port = Script(*answers)
        self.now = 100.0
        self.scanned_ago = 0.0
        self.hints = 0
        self.telemetry = Telemetry()
        self.tenure = Tenure(Room(100, 1 << 20))
        for lane in (3, 5):
            self.own(lane)
        self.saw(10)
        self.timers = Timers(
            port=self.port,
            tenure=self.tenure,
            since_scan=lambda: self.scanned_ago,
            on_moved=self.hint,
            settings=TimersSettings(),
            telemetry=self.telemetry,
            clock=lambda: self.now,
        )

    def own(self, lane: int) -> None:
        state = LaneScan.take_over(lane, 7, 0, 0, Snapshot.parse("1:1:"))
        self.tenure.add_lane(state, Closed())

    def saw(self, xmax: int) -> None:
        self.tenure.saw_statement(Snapshot.parse(f"{xmax}:{xmax}:"), sequence_value=0, next_xid=xmax, before=0)

    def hint(self) -> None:
        self.hints += 1

    async def steps(self, *seconds: float) -> int:
        """Let so much time pass before each step; returns how often the port was asked."""
        before = len(self.port.asked)
        for each in seconds:
            self.now += each
            await self.timers.step()
        return len(self.port.asked) - before


async def test_in_an_idle_outbox_it_asks_once_in_a_while() -> None:
    stage = Stage()
    assert await stage.steps(0) == 1
    assert stage.port.asked[0]["lanes"] == [(3, 7), (5, 7)]
    assert await stage.steps(*[0.2] * 20) == 0
    assert await stage.steps(*[0.2] * 10) == 1
    assert stage.port.counted == 0


async def test_the_end_of_a_transaction_makes_it_ask() -> None:
    stage = Stage()
    await stage.steps(0)
    stage.saw(11)
    assert await stage.steps(0.1) == 0
    assert await stage.steps(0.1, 0.2, 0.2) == 1


async def test_while_the_scan_does_not_look_it_asks_by_itself() -> None:
    stage = Stage()
    await stage.steps(0)
    stage.scanned_ago = 3.0
    assert await stage.steps(0.2, 0.2) == 2


async def test_it_asks_when_the_first_is_due_and_has_the_scan_look() -> None:
    stage = Stage(Moved(0, 0, 1.0), Moved(3, 0, None))
    assert await stage.steps(0, 0.9) == 1
    assert stage.hints == 0
    assert await stage.steps(0.1) == 1
    assert stage.hints == 1
    assert stage.telemetry.value("scheduled_moved_total") == 3


async def test_a_lane_that_was_claimed_is_looked_at_at_once_and_one_that_is_given_back_is_not() -> None:
    stage = Stage(NOTHING)
    await stage.steps(0)
    stage.own(9)
    stage.tenure.lanes[3].give_back(True)
    assert await stage.steps(0.01) == 1
    assert stage.port.asked[-1]["lanes"] == [(5, 7), (9, 7)]


async def test_without_lanes_nothing_is_asked() -> None:
    stage = Stage(Moved(0, 0, -5.0))
    await stage.steps(0)
    assert stage.telemetry.value("scheduled_overdue_seconds") == 5.0
    for lane in (3, 5):
        stage.tenure.remove_lane(lane)
    assert await stage.steps(1, 10) == 0
    assert stage.timers.idle_for() == pytest.approx(0.2)
    assert stage.telemetry.value("scheduled_overdue_seconds") == 0


async def test_the_gauges_say_how_many_are_to_come_and_how_late_the_first_one_is() -> None:
    stage = Stage(Moved(0, 0, 60.0), Moved(0, 2, -7.0), NOTHING)
    assert stage.telemetry.value("scheduled_events") == 0
    assert stage.telemetry.value("scheduled_overdue_seconds") == 0
    stage.port.scheduled = 12
    await stage.steps(0)
    assert stage.telemetry.value("scheduled_events") == 12
    await stage.steps(5)
    assert stage.telemetry.value("scheduled_overdue_seconds") == 7.0
    assert stage.port.counted == 1
    await stage.steps(5)
    assert stage.telemetry.value("scheduled_events") == 0
    assert stage.telemetry.value("scheduled_overdue_seconds") == 0


async def test_an_event_that_is_not_taken_is_put_off_alone_and_tried_again() -> None:
    refused = StatementFailedError("the statement move_due failed: event_size (SQLSTATE 23514)")
    refused.about_data = True
    stage = Stage(*[refused] * 5, Moved(1, 0, None))
    stage.port.first = Due(77, "orders")
    await stage.steps(0)
    assert [each["at_most"] for each in stage.port.asked[:7]] == [500, 500, 62, 7, 1, 1, 8]
    assert [each["put_off"] for each in stage.port.asked[3:6]] == [[], [], [77]]
    assert stage.telemetry.value("scheduled_put_off_total") == 1
    assert stage.telemetry.value("scheduled_moved_total") == 1
    stage.saw(11)
    await stage.steps(1)
    assert stage.port.asked[-1]["put_off"] == [77]
    await stage.steps(PUT_OFF)
    assert stage.port.asked[-1]["put_off"] == []


class Refusing(Script):
    """A port that has events which are due, in one lane, and takes all of them but these."""

    def __init__(self, events: int, refused: Collection[int]) -> None:
        super().__init__()
        self.due = list(range(events))
        self.refused = refused

    def _next(self, put_off: Collection[int]) -> list[int]:
        return [event for event in self.due if event not in put_off]

    async def move_due(
        self, replica: UUID, lanes: Sequence[tuple[int, int]], *, at_most: int, put_off: Collection[int] = ()
    ) -> Moved:
        await super().move_due(replica, lanes, at_most=at_most, put_off=put_off)
        taken = self._next(put_off)[:at_most] if (3, 7) in lanes else []
        if any(event in self.refused for event in taken):
            refused = StatementFailedError("the statement move_due failed: event_size (SQLSTATE 23514)")
            refused.about_data = True
            raise refused
        self.due = [event for event in self.due if event not in taken]
        return Moved(len(taken), 0, -1.0 if self._next(put_off) else None)

    async def first_due(self, lane: int, put_off: Collection[int]) -> Due | None:
        return Due(self._next(put_off)[0], "orders")


@pytest.mark.parametrize("refused", [{0}, {499}, {250, 251}, {7, 300}])
async def test_events_that_are_not_taken_cost_the_others_few_statements(refused: set[int]) -> None:
    stage = Stage()
    stage.port = stage.timers._port = Refusing(500, refused)
    await stage.steps(0)
    assert stage.port.due == sorted(refused)
    assert stage.telemetry.value("scheduled_put_off_total") == len(refused)
    assert len(stage.port.asked) < 60


async def test_any_other_error_is_waited_out() -> None:
    stage = Stage(StatementGivenUpError("a lock"), StatementFailedError("unknown"), NOTHING)
    assert await stage.steps(0, 0.01) == 1
    assert await stage.steps(0.3, 0.5) == 2
    assert stage.telemetry.value("scheduled_put_off_total") == 0


async def test_a_lost_connection_ends_the_tenure() -> None:
    stage = Stage(PostgresLostError("gone"))
    with pytest.raises(PostgresLostError):
        await stage.steps(0)


async def test_a_drain_ends_it() -> None:
    stage = Stage()
    stage.tenure.begin_drain()
    await stage.timers.run()
    assert stage.port.asked == []
