"""Counts the events that are in Kafka twice, because two owners of their lane have published them.

That happens when an owner is killed, paused or cut off after Kafka took its events and before their receipts are
committed: the next owner finds them pending. It did not see the first owner's receipts when it claimed the lane. So the
owner of a lane looks for receipts of others that were committed after its claim, and for a second one of their events.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from relay.decide.duplicates import Parts
from relay.decide.receipts import SPAN
from relay.errors import RelayError, StatementGivenUpError, connection_lost
from relay.stages.claim.ports import LaneClaim

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from relay.decide.duplicates import OthersReceipt
    from relay.stages.claim.ports import ClaimedLane, ClaimPort
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry

CLAIM_SECONDS = 90.0
"""How long after a claim a receipt may appear whose statement began before it: PostgreSQL ends those that take longer
(`relay_settings`). A statement that begins later knows of the claim, and marks its receipts as late."""


LOOK_SECONDS = 0.5
"""After so long, the next heartbeat goes on with what is left: this one waits for the look."""

QUICK_SECONDS = 0.1
"""A part that took no longer may be twice as large, after smaller ones: that is far from where one is given up."""


class Duplicates:
    """What this tenure knows of them. Each event is counted once for each place in Kafka but the first.

    It goes through the receipts of others round by round, and through each round part by part. What one look does not
    come to, the next one goes on with, so each receipt is looked at, however many there are and however slow it is.
    """

    def __init__(self, port: ClaimPort, tenure: Tenure, telemetry: Telemetry) -> None:
        self._port = port
        self._tenure = tenure
        self._telemetry = telemetry
        self._claims: dict[int, LaneClaim] = {}
        self._lately: set[LaneClaim] = set()
        """Those of which statements may be under way that had begun before, or were when they were last looked for."""
        self._parts = Parts()
        self._round_began = 0.0
        self._open = False
        """Whether this round met such a statement's receipt with events that may still be published twice."""
        self._counted: dict[tuple[int, UUID], set[int]] = {}
        self._done: set[tuple[int, UUID]] = set()
        self._told = ""

    def claimed(self, lanes: Sequence[ClaimedLane]) -> None:
        """Note what was claimed."""
        until = time.monotonic() + CLAIM_SECONDS
        for lane in lanes:
            claim = LaneClaim(lane.lane, lane.epoch, lane.snapshot.text(), lane.position, lane.newest_id, until)
            self._claims[lane.lane] = claim
            self._lately.add(claim)

    async def look(self) -> None:
        """Count what was found since the last look. That it cannot be read is told, and is no reason to stop."""
        self._claims = {lane: claim for lane, claim in self._claims.items() if self._tenure.owns(lane, claim.epoch)}
        self._lately.intersection_update(self._claims.values())
        if not self._claims:
            return
        claims = list(self._claims.values())
        deadline = time.monotonic() + LOOK_SECONDS
        # A round that was begun before has passed some receipts which others have written since.
        rounds = 1 if self._parts.between_rounds else 2
        while await self._look_at_some(claims) and time.monotonic() < deadline:
            if self._parts.between_rounds:
                rounds -= 1
                if not rounds:
                    return

    async def _look_at_some(self, claims: list[LaneClaim]) -> bool:
        """Look at the next few receipts; returns whether that could be done."""
        began = time.monotonic()
        if self._parts.between_rounds:
            self._round_began = began
            self._open = False
        highest = max(claim.newest_id for claim in claims) + SPAN - 1
        part = self._parts.next(min(claim.position for claim in claims), highest)
        lately = [claim for claim in claims if claim in self._lately]
        try:
            looked = await self._port.others_receipts(self._tenure.replica, claims, lately, self._done, part)
        except RelayError as error:
            if connection_lost(error):
                raise
            self._failed(error)
            return False
        self._count(looked.receipts)
        self._parts.looked_at(part, looked, highest, quickly=time.monotonic() - began < QUICK_SECONDS)
        if self._parts.between_rounds and not self._open:
            self._lately = {claim for claim in self._lately if claim.until > self._round_began}
        return True

    def _count(self, receipts: Sequence[OthersReceipt]) -> None:
        new = 0
        for receipt in receipts:
            place = receipt.max_id, receipt.replica
            counted = self._counted.setdefault(place, set())
            new += len(set(receipt.twice) - counted)
            counted.update(receipt.twice)
            if receipt.open:
                self._open = self._open or not receipt.late
            else:
                self._done.add(place)
                del self._counted[place]
        if new:
            self._telemetry.emit("settle.duplicates", events=new)

    def _failed(self, error: RelayError) -> None:
        if isinstance(error, StatementGivenUpError) and self._parts.given_up():
            return
        if str(error) != self._told:
            self._told = str(error)
            self._telemetry.emit("duplicates.uncounted", error=error)
