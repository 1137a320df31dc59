"""What a claim brings with it when other stages work meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from relay.decide.room import Room
from relay.keys import LANES
from relay.settings import ReplicaSettings
from relay.stages.claim.claim import Claim
from relay.stages.claim.totals import Totals
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.models.simulated_connection import SimulatedConnection
from tests.support.models.simulated_postgres import SimulatedPostgres
from tests.support.relay.between import Between

if TYPE_CHECKING:
    from relay.stages.claim.ports import ClaimPort


async def test_a_failure_that_another_lane_records_during_a_claim_is_not_forgotten() -> None:
    tenure = Tenure(Room(10, 10_000))
    port = Between(SimulatedConnection(SimulatedPostgres(LANES)), "has_failures")

    async def fail() -> None:
        tenure.has_failures = True

    claim = Claim(
        port=cast("ClaimPort", port),
        tenure=tenure,
        on_claimed=lambda: None,
        settings=ReplicaSettings(name="test"),
        totals=Totals(),
        telemetry=Telemetry(),
    )
    await claim.register(None)
    port.after = fail
    await claim.beat()
    assert sorted(tenure.lanes) == list(range(LANES))
    assert tenure.has_failures


def test_the_totals_of_a_replica_are_what_was_told_since_its_process_began() -> None:
    telemetry, totals = Telemetry(), Totals()
    totals.listen_to(telemetry)
    for duplicates in (0, 3, 2):
        telemetry.emit("settle.duplicates", events=duplicates)
    telemetry.emit("lease.lost", reason="expired")
    assert (totals.duplicates, totals.leases_lost) == (5, 1)
