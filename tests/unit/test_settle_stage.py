"""What settling leaves behind in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from relay.decide.lane_scan import LaneScan
from relay.decide.snapshot import Snapshot
from relay.settings import SettleSettings
from relay.stages.buffer import Buffer
from relay.stages.records import Delivery, Records
from relay.stages.settle import Settle, Written
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.events import event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.stages.settle import Receipts, SettlePort

LANE = 3


class Tables:
    """Takes receipts."""

    async def settle_recorded(self, receipts: Receipts, recorded: Sequence[tuple[int, int]]) -> Written:
        return Written(len(receipts.ids), 0)


async def test_the_attempts_of_a_failed_event_are_forgotten_when_it_is_published() -> None:
    tenure = Tenure(Buffer(1_000, 1_000_000))
    state = tenure.lanes[LANE] = LaneScan.take_over(LANE, 1, 0, 0, Snapshot(1, 1, frozenset()))
    retried, other = event(5, lane=LANE), event(6, lane=LANE)
    for each in (retried, other):
        state.resuming.add(each.id)
        tenure.attempts[LANE, each.id] = 2
    tenure.buffer.add(LANE, [retried, other])
    settle = Settle(cast("SettlePort", Tables()), Records(), tenure, SettleSettings(), Telemetry())
    await settle._record([Delivery(tenure, [retried], 0, 100)])
    assert tenure.attempts == {(LANE, 6): 2}
