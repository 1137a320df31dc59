"""Rows that PostgreSQL refuses: found by halving, set aside, and tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relay.decide.failing import Fail
from relay.decide.lane_scan import LaneScan
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.errors import PostgresLostError, StatementFailedError
from relay.outcome import FailureKind, PublishError
from relay.stages.settle.outcomes import Delivered, Failed, Held, Outcomes, halves
from relay.stages.settle.unrecorded import MOST_SUSPECTS, Unrecorded
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.events import event, events

if TYPE_CHECKING:
    from relay.stages.settle.outcomes import EventOutcome

LANE = 3


def refusal(*, about_data: bool = False) -> StatementFailedError:
    error = StatementFailedError("refused")
    error.about_data = about_data
    return error


class Bench:
    """Records of one lane, and tables that refuse some ids."""

    def __init__(self, *refused: int, about_data: bool = False) -> None:
        self.refused = set(refused)
        self.about_data = about_data
        self.written: list[int] = []
        self.statements = 0
        self.tenure = Tenure(Room(1_000, 1_000_000))
        self.state = self.tenure.lanes[LANE] = LaneScan.take_over(LANE, 1, 0, 0, Snapshot(1, 1, frozenset()))
        self.outcomes = Outcomes()
        self.unrecorded = Unrecorded(self.outcomes, self.tenure, Telemetry())

    async def write(self, outcomes: list[EventOutcome]) -> None:
        self.statements += 1
        ids = [each.id for record in outcomes for each in record.events]
        if self.refused.intersection(ids):
            raise refusal(about_data=self.about_data)
        self.written += ids

    async def record(self, *outcomes: EventOutcome) -> list[int]:
        for record in outcomes:
            self.state.taken.update(each.id for each in record.events)
            self.outcomes.add(record)
        taken = await self.outcomes.take(10_000)
        aside = await self.unrecorded.record(taken, self.write)
        self.outcomes.settled(taken, but=aside)
        return [record.events[0].id for record in aside]

    def delivery(self, first: int, count: int) -> Delivered:
        return Delivered(self.tenure, events(*range(first, first + count), lane=LANE), 0, 1_000 + first)

    def failure(self, id_: int) -> Failed:
        error = PublishError(FailureKind.EVENT, "too large")
        return Failed(self.tenure, [event(id_, lane=LANE)], Fail(1, "block"), error)


def test_halves_keep_each_event_s_place_in_kafka() -> None:
    bench = Bench()
    parts: list[EventOutcome] = [bench.delivery(1, 5), bench.delivery(6, 1)]
    found: dict[int, int] = {}
    while parts:
        group = [parts.pop()]
        if (split := halves(group)) is None:
            (record,) = group
            assert isinstance(record, Delivered)
            found[record.events[0].id] = record.base_offset
        else:
            parts += [*split[0], *split[1]]
    assert found == {id_: 1_000 + id_ for id_ in range(1, 7)}
    unknown = halves([bench.delivery(1, 2)._replace(base_offset=-1)])
    assert unknown is not None
    assert [record.base_offset for part in unknown for record in part if isinstance(record, Delivered)] == [-1, -1]


async def test_the_one_that_is_refused_is_found_in_few_statements_and_the_others_are_recorded_in_order() -> None:
    bench = Bench(333)
    assert await bench.record(bench.delivery(1, 200), bench.delivery(201, 300)) == [333]
    assert bench.written == [id_ for id_ in range(1, 501) if id_ != 333]
    assert bench.statements <= 2 * 10 + 1
    assert bench.state.aside == 1
    assert [record.events[0].id for record in bench.outcomes.aside] == [333]


async def test_nobody_waits_for_what_is_set_aside_and_a_held_lane_is_not_opened_over_it() -> None:
    bench = Bench(2)
    await bench.record(Held(bench.tenure, events(1, 2, 3, lane=LANE)))
    await bench.outcomes.wait_idle()
    assert bench.outcomes.holding(LANE)
    assert bench.state.unsettled == 3 - 1, "its lane could not be given back"
    bench.refused.clear()
    bench.unrecorded.end()
    assert await bench.record() == []
    assert not bench.outcomes.holding(LANE)
    assert bench.state.aside == 0


async def test_rows_are_not_to_blame_when_all_of_them_are_refused() -> None:
    bench = Bench(*range(1, 101))
    with pytest.raises(StatementFailedError):
        await bench.record(bench.delivery(1, 100))
    assert bench.statements <= 8 + 2 * MOST_SUSPECTS
    with pytest.raises(StatementFailedError):
        await Bench(1).record(bench.delivery(1, 1))


async def test_a_single_one_is_to_blame_if_the_error_can_only_be_about_its_data() -> None:
    bench = Bench(1, about_data=True)
    assert await bench.record(bench.delivery(1, 1)) == [1]


async def test_a_failure_that_is_refused_is_set_aside_whatever_the_error() -> None:
    bench = Bench(1, 2)
    assert await bench.record(bench.failure(1), bench.failure(2)) == [1, 2]
    assert bench.outcomes.failing(LANE)


async def test_a_failure_that_is_refused_is_found_among_others_that_are_recorded_in_order() -> None:
    bench = Bench(33)
    assert await bench.record(*(bench.failure(id_) for id_ in range(1, 101))) == [33]
    assert bench.written == [id_ for id_ in range(1, 101) if id_ != 33]
    assert bench.statements <= 2 * 7 + 1


async def test_a_failure_is_dropped_once_its_lane_is_another_s_and_a_receipt_is_not() -> None:
    bench = Bench(1, 2, about_data=True)
    bench.tenure.room.add(LANE, [event(1, lane=LANE), event(2, lane=LANE)])
    await bench.record(bench.failure(1))
    await bench.record(bench.delivery(2, 1))
    del bench.tenure.lanes[LANE]
    bench.unrecorded.end()
    assert [type(record) for record in await bench.outcomes.take(10)] == [Delivered]
    assert not bench.outcomes.failing(LANE)
    assert bench.tenure.room.events == 1


async def test_a_lane_that_went_and_came_back_does_not_wait_for_what_was_set_aside_in_its_former_stay() -> None:
    bench = Bench(5, 6)
    assert await bench.record(bench.failure(5)) == [5]
    assert await bench.record(bench.delivery(6, 1), bench.delivery(7, 1)) == [6]
    former = bench.state
    bench.state = bench.tenure.lanes[LANE] = LaneScan.take_over(LANE, 2, 4, 4, Snapshot(1, 1, frozenset()))
    bench.unrecorded.end()
    assert (former.aside, bench.state.aside, bench.state.unsettled) == (0, 0, 0)
    # The lane takes 5 anew and decides on it anew; what Kafka has of 6 gets its receipt.
    assert [[event.id for event in outcome.events] for outcome in await bench.outcomes.take(10)] == [[6]]


async def test_a_lost_connection_is_not_looked_into() -> None:
    bench = Bench()

    async def lost(outcomes: list[EventOutcome]) -> None:
        bench.statements += 1
        raise PostgresLostError("lost")

    bench.outcomes.add(bench.delivery(1, 100))
    with pytest.raises(PostgresLostError):
        await bench.unrecorded.record(await bench.outcomes.take(100), lost)
    assert bench.statements == 1
