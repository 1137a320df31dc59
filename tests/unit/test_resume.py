"""Held events go on when nothing stands before them, and not a moment sooner."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import pytest

from relay.decide.failing import Fail
from relay.decide.held_back import Closed
from relay.decide.ladder import Ladder
from relay.decide.lane_scan import LaneScan
from relay.decide.reach import Reach
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.keys import LANES
from relay.outcome import FailureKind, PublishError
from relay.settings import ScanSettings
from relay.stages.hold.resume import Resume
from relay.stages.settle.outcomes import Failed, Held, Outcomes
from relay.stages.tenure import Tenure
from tests.support import events
from tests.support.models.simulated_connection import SimulatedConnection
from tests.support.models.simulated_postgres import Failed as FailureRow
from tests.support.models.simulated_postgres import SimulatedPostgres

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.decide.held_back import BlockedKey
    from relay.event import EventTuple, PendingEvent

T = TypeVar("T")

LANE = 3
QUIET = Snapshot(1, 1, frozenset())
WIDE = Reach(1_000, 1_000_000)


def event(id_: int, key: bytes = b"k", topic: str = "t") -> EventTuple:
    return events.event(id_, lane=LANE, key=key, topic=topic, size=1)


class Tables(SimulatedConnection):
    """The failures and held events of one lane, and what happens while they are read."""

    def __init__(self) -> None:
        super().__init__(SimulatedPostgres(LANES))
        self.while_reading: list[Callable[[], object]] = []
        """After a statement, before its answer."""
        self.while_blocking: Callable[[], None] = lambda: None
        self.finished = 0

    def have_held(self, *held: PendingEvent) -> None:
        self.postgres.have(*held)
        self.postgres.hold(held)

    def have_failed(self, *failed: PendingEvent, state: str = "failed") -> None:
        self.postgres.have(*failed)
        for each in failed:
            self.postgres.failures[each.lane, each.id] = FailureRow(each.topic, each.key, state, 1)

    def forget(self, id_: int) -> None:
        """The event's failure and held row go, as with its receipt."""
        self.postgres.settle(UUID(int=0), [], [(LANE, id_)])

    def finish_replays_soon(self) -> None:
        self.finished += 1

    async def has_failures(self, lanes: Sequence[int]) -> bool:
        return self._read(await super().has_failures(lanes))

    async def blocking(self, lanes: Sequence[int]) -> list[BlockedKey]:
        self.while_blocking()
        return await super().blocking(lanes)

    async def held_events(
        self, lane: int, above: int, max_events: int, max_bytes: int, paused: Sequence[str]
    ) -> list[PendingEvent]:
        return self._read(await super().held_events(lane, above, max_events, max_bytes, paused))

    def _read(self, answer: T) -> T:
        if self.while_reading:
            self.while_reading.pop(0)()
        return answer


class Setting:
    """One lane with key k of topic t closed, and a resume stage on it."""

    def __init__(self, highest_settled: int = 0) -> None:
        self.tables = Tables()
        self.outcomes = Outcomes()
        self.tenure = Tenure(Room(1_000, 1_000_000))
        self.state = LaneScan.take_over(LANE, 1, 0, highest_settled, QUIET)
        if not highest_settled:
            assert self.state.next_step(1_000) is None
        self.closed = Closed(keys=[("t", b"k")])
        self.tenure.add_lane(self.state, self.closed)
        self.handed_in: list[int] = []
        self.resume = Resume(
            port=self.tables,
            tenure=self.tenure,
            outcomes=self.outcomes,
            hand_in=lambda events: self.handed_in.extend(each.id for each in events),
            try_anew=lambda _: None,
            settings=ScanSettings(busy_interval=0.001),
            replays_may_be_over=self.tables.finish_replays_soon,
        )

    def take(self, event: PendingEvent) -> None:
        """As a scan does."""
        self.state.taken.add(event.id)
        self.tenure.room.add(LANE, [event])

    async def one_turn(self) -> list[int]:
        """As the loop does; returns all that was handed in so far."""
        await self.resume.resume_failures()
        for state in await self.resume._openable():
            await self.resume.resume_held(state)
        return self.handed_in

    async def one_pass(self) -> None:
        await self.resume.resume_held(self.state)


async def test_held_events_go_on_in_order_and_their_key_is_open_afterwards() -> None:
    setting = Setting()
    setting.tables.have_held(event(7), event(5), event(6))
    await setting.one_pass()
    assert setting.handed_in == [5, 6, 7]
    assert not setting.closed.holds_back("t", b"k")


async def test_what_is_under_way_is_not_handed_in_again() -> None:
    setting = Setting()
    setting.tables.have_held(event(5))
    await setting.one_pass()
    setting.closed.close_key("t", b"k")
    await setting.one_pass()
    assert setting.handed_in == [5]


async def test_a_blocked_key_stays_closed_and_its_events_held() -> None:
    setting = Setting()
    setting.tables.have_failed(event(1))
    setting.tables.have_held(event(5), event(6, b"other"))
    await setting.one_pass()
    assert setting.handed_in == [6]
    assert setting.closed.holds_back("t", b"k")


async def test_the_end_of_a_replay_is_recorded_once_when_the_last_of_its_events_is_settled() -> None:
    setting = Setting()
    setting.tables.have_failed(event(5), event(6), state="replaying")
    await setting.resume.resume_failures()
    assert setting.handed_in == [5, 6]
    await setting.resume.resume_failures()
    setting.tables.forget(5)
    setting.state.settle([5])
    await setting.resume.resume_failures()
    assert setting.tables.finished == 0
    setting.tables.forget(6)
    setting.state.settle([6])
    for _ in range(2):
        await setting.resume.resume_failures()
    assert setting.tables.finished == 1


async def test_nothing_is_resumed_behind_a_failure_that_is_not_written_yet() -> None:
    """46 of 3,000 events overtook a failed one of their key before this was looked at."""
    setting = Setting()
    setting.tables.have_held(event(6))
    error = PublishError(FailureKind.EVENT, "too large")
    setting.outcomes.add(Failed(setting.tenure, [event(5)], Fail(1, "block"), error))
    await setting.one_pass()
    assert setting.handed_in == []
    assert setting.closed.holds_back("t", b"k")


async def test_a_key_released_half_way_through_a_pass_waits_for_the_next() -> None:
    setting = Setting()
    setting.tables.have_failed(event(1))
    setting.tables.have_held(event(5), event(6, b"other"), event(9))
    # The pass goes by event 5, which is blocked; then the failure is resolved.
    setting.tables.while_reading = [setting.tables.postgres.failures.clear]
    await setting.one_pass()
    assert setting.handed_in == [6]
    assert setting.closed.holds_back("t", b"k")
    await setting.one_pass()
    assert setting.handed_in == [6, 5, 9]
    assert not setting.closed.holds_back("t", b"k")


async def test_a_key_that_fails_during_a_pass_is_closed_at_once() -> None:
    setting = Setting()
    setting.tables.have_held(event(5), event(6))
    setting.tables.while_reading = [lambda: setting.closed.close_key("t", b"k")]
    await setting.one_pass()
    assert setting.handed_in == []
    assert setting.closed.holds_back("t", b"k")


async def test_a_straggler_held_back_behind_the_pass_is_found_before_its_key_opens() -> None:
    setting = Setting()
    setting.tables.have_held(event(50, b"other"))
    straggler = event(5)

    def hold_back() -> None:
        setting.closed.note_held([straggler])
        setting.tables.have_held(straggler)

    # Held back while the pass reads above 50 already.
    setting.tables.while_reading = [lambda: None, hold_back]
    await setting.one_pass()
    assert setting.handed_in == [50, 5]
    assert not setting.closed.holds_back("t", b"k")


@pytest.mark.parametrize("when", ["before the pass", "while it reads"])
async def test_nothing_is_resumed_before_an_earlier_event_of_its_key_whose_held_row_is_not_committed(when: str) -> None:
    """Event 5 was in flight when its topic was paused, and event 6 held; then 5 came back, and the topic is resumed."""
    setting = Setting()
    setting.tables.have_held(event(6), event(7, b"other"))
    record = Held(setting.tenure, [event(5)])

    def hold_back() -> None:
        setting.outcomes.add(record)
        setting.closed.note_held([event(5)])

    def commit() -> None:
        setting.tables.have_held(event(5))
        setting.outcomes.settled([record])

    if when == "before the pass":
        hold_back()
        await setting.one_pass()
        assert setting.handed_in == []
        commit()
        await setting.one_pass()
        assert setting.handed_in == [5, 6, 7]
    else:
        setting.tables.while_reading = [hold_back, lambda: None, commit]
        await setting.one_pass()
        assert setting.handed_in == [7, 5, 6]
    assert not setting.closed.holds_back("t", b"k")


async def test_a_key_does_not_open_while_an_event_of_it_is_being_held_back() -> None:
    setting = Setting()
    record = Held(setting.tenure, [event(5)])
    setting.outcomes.add(record)
    await setting.one_pass()
    assert setting.closed.holds_back("t", b"k")
    setting.tables.have_held(event(5))
    setting.outcomes.settled([record])
    await setting.one_pass()
    assert setting.handed_in == [5]
    assert not setting.closed.holds_back("t", b"k")


@pytest.mark.parametrize("rows", ["failed", "held"])
async def test_nothing_of_a_lane_is_resumed_before_the_sweep_of_its_take_over_is_over(rows: str) -> None:
    """Event 5 was in flight when the last owner was killed, and event 6 of its key had failed or was held by then."""
    setting = Setting(highest_settled=6)
    setting.tenure.expect_failures()
    if rows == "failed":
        setting.tables.have_failed(event(6), state="replaying")
    else:
        setting.tables.have_held(event(6))
    assert await setting.one_turn() == []
    assert setting.tenure.has_failures, "nobody looks again once the sweep is over"
    assert setting.state.next_step(1_000) == (0, 6)
    swept = setting.state.absorb_step(QUIET, 6, [event(5)], [], [6], WIDE, Ladder())
    setting.handed_in += [each.id for each in swept]
    assert await setting.one_turn() == [5]
    assert setting.state.next_step(1_000) is None
    assert await setting.one_turn() == [5, 6]


async def test_a_sweep_after_that_of_the_take_over_is_no_reason_to_wait() -> None:
    setting = Setting()
    setting.tables.have_held(event(5))
    setting.state.start_long_sweep(QUIET, 0)
    assert await setting.one_turn() == [5]


async def test_a_lane_that_was_given_back_and_claimed_again_during_the_look_waits_for_its_new_sweep() -> None:
    setting = Setting()
    setting.tables.have_held(event(6))

    def claim_again() -> None:
        setting.tenure.remove_lane(LANE)
        setting.tenure.add_lane(LaneScan.take_over(LANE, 3, 0, 6, QUIET), Closed(keys=[("t", b"k")]))

    setting.tables.while_blocking = claim_again
    assert await setting.one_turn() == []


async def test_the_stage_looks_less_and_less_often_while_nothing_happens_and_soon_again_when_woken_up() -> None:
    setting = Setting()
    pauses: list[float] = []

    async def note(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 7:
            setting.tenure.drain_begun.set()
        return len(pauses) == 5

    setting.resume._woken_up_within = note  # type: ignore[method-assign]
    await setting.resume.run()
    assert pauses == [0.5, 1.0, 2.0, 4.0, 4.0, 0.5, 1.0]


async def test_a_failure_that_is_recorded_during_the_look_for_any_is_looked_at_again() -> None:
    setting = Setting()
    setting.tenure.expect_failures()

    def fail() -> None:
        """As settle does, whose commit the look's snapshot does not have."""
        if not setting.tenure.has_failures:
            setting.tenure.expect_failures()
            setting.tenure.failure_may_be_due()

    setting.tables.while_reading = [fail]
    await setting.resume.resume_failures()
    assert setting.tenure.has_failures
    assert setting.tenure.resume_wake_up.is_set()
    await setting.resume.resume_failures()
    assert not setting.tenure.has_failures, "it goes on asking though there is nothing to ask for"


async def test_an_event_that_is_settled_while_its_held_row_is_read_is_not_handed_in_again() -> None:
    """The read's snapshot still has the row, but the event is not under way any more when the answer is there."""
    setting = Setting()
    setting.tables.have_held(event(5))
    await setting.one_pass()
    setting.closed.close_key("t", b"k")

    def settle() -> None:
        setting.tables.forget(5)
        setting.state.settle([5])

    setting.tables.while_reading = [settle]
    await setting.one_pass()
    assert setting.handed_in == [5]
    assert not setting.closed.holds_back("t", b"k")


async def test_a_held_row_that_is_read_before_settle_hears_of_its_commit_is_read_again() -> None:
    """Handed in at once, the event would be taken for settled when the hold is, and its row outlive its receipt."""
    setting = Setting()
    taken = event(5)
    setting.take(taken)
    record = Held(setting.tenure, [taken])
    seen: list[list[int]] = []

    def hold_back() -> None:
        setting.outcomes.add(record)
        setting.closed.note_held([taken])
        setting.tables.have_held(taken)

    def settle() -> None:
        setting.state.settle([5])
        setting.outcomes.settled([record])

    def look() -> None:
        seen.append(list(setting.handed_in))

    setting.tables.while_reading = [hold_back, look, look, settle]
    await setting.one_pass()
    assert seen == [[], []]
    assert setting.handed_in == [5]
    assert setting.state.resuming == {5}
    assert not setting.closed.holds_back("t", b"k")


async def test_a_failure_that_is_read_before_settle_hears_of_its_commit_is_read_again() -> None:
    setting = Setting()
    setting.take(event(5))
    setting.tables.have_failed(event(5), state="replaying")
    await setting.resume.resume_failures()
    assert setting.handed_in == []
    setting.state.settle([5])
    await setting.resume.resume_failures()
    assert setting.handed_in == [5]
