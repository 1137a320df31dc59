"""What a claim brings with it when other stages work meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.settings import ReplicaSettings
from relay.stages.claim.claim import Claim
from relay.stages.claim.ports import ClaimedLane
from relay.stages.claim.totals import Totals
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.decide.closed import BlockedKey
    from relay.decide.shares import LaneRow
    from relay.stages.claim.ports import ClaimPort


class Tables:
    """One free lane without failures, and what happens while it is looked at."""

    def __init__(self, while_looking: Callable[[], None]) -> None:
        self.while_looking = while_looking

    async def claim(self, *_: Any) -> list[ClaimedLane]:
        return [ClaimedLane(3, 1, 0, 0, Snapshot(1, 1, frozenset()))]

    async def blocking(self, lanes: Sequence[int]) -> list[BlockedKey]:
        return []

    async def held_topics(self, lanes: Sequence[int]) -> list[tuple[int, str]]:
        return []

    async def has_failures(self, lanes: Sequence[int]) -> bool:
        self.while_looking()
        return False


async def test_a_failure_that_another_lane_records_during_a_claim_is_not_forgotten() -> None:
    tenure = Tenure(Room(10, 10_000))

    def fail() -> None:
        tenure.has_failures = True

    port = cast("ClaimPort", Tables(fail))
    no_lanes: list[LaneRow] = []
    claim = Claim(
        port=port,
        tenure=tenure,
        on_claimed=lambda: None,
        settings=ReplicaSettings(),
        totals=Totals(),
        telemetry=Telemetry(),
    )
    await claim._claim(no_lanes)
    assert sorted(tenure.lanes) == [3]
    assert tenure.has_failures


def test_the_totals_of_a_replica_are_what_was_told_since_its_process_began() -> None:
    telemetry, totals = Telemetry(), Totals()
    totals.listen_to(telemetry)
    for duplicates in (0, 3, 2):
        telemetry.emit("settle.done", events=10, duplicates=duplicates, seconds=0.1)
    telemetry.emit("lease.lost", reason="expired")
    assert (totals.duplicates, totals.leases_lost) == (5, 1)
