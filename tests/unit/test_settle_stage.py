"""What settling leaves behind in memory."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from relay.decide.lane_scan import LaneScan
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.keys import LANES
from relay.settings import SettleSettings
from relay.stages.settle import settle as module
from relay.stages.settle.outcomes import Delivered, Held, Outcomes
from relay.stages.settle.settle import Settle
from relay.stages.tenure import LeaseLostError, Tenure
from relay.telemetry import Telemetry
from tests.support.events import event, events
from tests.support.models.simulated_connection import SimulatedConnection
from tests.support.models.simulated_postgres import SimulatedPostgres

if TYPE_CHECKING:
    from relay.stages.settle.outcomes import EventOutcome
    from relay.stages.settle.ports import Receipts, SettlePort

LANE = 3


class Noting(SimulatedConnection):
    """Notes how many receipts were written at once."""

    def __init__(self, postgres: SimulatedPostgres) -> None:
        super().__init__(postgres)
        self.written: list[int] = []

    async def settle(self, receipts: Receipts) -> int:
        self.written.append(len(receipts.ids))
        return await super().settle(receipts)


def owned_by(tenure: Tenure) -> Noting:
    """An outbox whose lane LANE the tenure owns."""
    postgres = SimulatedPostgres(LANES)
    postgres.lanes[LANE].owner, postgres.lanes[LANE].epoch = tenure.replica, 1
    tenure.lanes[LANE] = LaneScan.take_over(LANE, 1, 0, 0, Snapshot(1, 1, frozenset()))
    return Noting(postgres)


def settle_on(port: SettlePort, tenure: Tenure, outcomes: Outcomes | None = None) -> Settle:
    """The stage on this outbox."""
    return Settle(
        port=port,
        outcomes=outcomes or Outcomes(),
        tenure=tenure,
        settings=SettleSettings(),
        telemetry=Telemetry(),
    )


async def test_the_attempts_of_a_failed_event_are_forgotten_when_it_is_published() -> None:
    tenure = Tenure(Room(1_000, 1_000_000))
    settle = settle_on(owned_by(tenure), tenure)
    state = tenure.lanes[LANE]
    retried, other = event(5, lane=LANE), event(6, lane=LANE)
    for each in (retried, other):
        state.resuming.add(each.id)
        tenure.attempts[LANE, each.id] = 2
    tenure.room.add(LANE, [retried, other])
    await settle.record([Delivered(tenure, [retried], 0, 100)])
    assert tenure.attempts == {(LANE, 6): 2}


async def test_nothing_is_held_back_in_a_lane_that_is_not_owned() -> None:
    """Lanes that are not owned went unmentioned: if none was, nothing was compared, and the rows were written."""
    tenure = Tenure(Room(1_000, 1_000_000))
    port = owned_by(tenure)
    settle = settle_on(port, tenure)
    await settle.record([Held(tenure, [event(5, lane=LANE)])])
    for lanes in ([LANE + 1], [LANE, LANE + 1]):
        with pytest.raises(LeaseLostError, match=f"one of the lanes \\[.*{LANE + 1}\\] has another owner"):
            await settle.record([Held(tenure, [event(6, lane=lane) for lane in lanes])])
    assert list(port.postgres.held) == [(LANE, 5)]


async def test_little_is_written_at_intervals_and_much_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what had to be left, because it is of another kind, does not wait once more."""
    pauses: list[float] = []
    outcomes, tenure = Outcomes(), Tenure(Room(160, 1_000_000))
    port = owned_by(tenure)
    much = events(*range(10, 20), lane=LANE)
    batches: list[list[EventOutcome]] = [
        [Delivered(tenure, [event(1, lane=LANE)], 0, 0), Delivered(tenure, [event(2, lane=LANE)], 0, 1)],
        [Delivered(tenure, much, 0, 2)],
        [Held(tenure, [event(4, lane=LANE)]), Delivered(tenure, [event(5, lane=LANE)], 0, 9)],
        [],
    ]
    coming = iter(batches)

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        for record in () if outcomes.waiting else next(coming):
            outcomes.add(record)
        await asyncio.sleep(0)

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=note))
    # On a slow machine it would be over before the next look.
    monkeypatch.setattr(module, "INTERVAL", 60.0)
    settling = asyncio.create_task(settle_on(port, tenure, outcomes).run())
    async with asyncio.timeout(30):
        while len(pauses) < 5:  # noqa: ASYNC110 it is told by nothing else
            await asyncio.sleep(0)
    settling.cancel()
    assert port.written == [2, 10, 1]
    assert [pause > 0 for pause in pauses] == [False, True, False, False, True]
    assert max(pauses) <= 60
