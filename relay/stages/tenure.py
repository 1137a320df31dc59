"""What a replica knows for as long as its connections to PostgreSQL live.

Any lost connection ends the tenure (DESIGN, section 4, rule 9): after a crash with asynchronous commits, or the
promotion of a lagging standby, ids and xids are used again, and what memory says is wrong. The next tenure starts
from the tables, as at a take-over. Batches that are in Kafka's hands when it ends are settled later, checked
against their event_id.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from uuid import uuid4

from relay.decide.ladder import Ladder

if TYPE_CHECKING:
    from uuid import UUID

    from relay.decide.lane_scan import LaneScan
    from relay.stages.buffer import Buffer


class Tenure:
    """The ladder, the owned lanes and the lease of one registration."""

    def __init__(self, buffer: Buffer) -> None:
        self.replica: UUID = uuid4()
        self.buffer = buffer
        self.ladder = Ladder()
        self.lanes: dict[int, LaneScan] = {}
        self.sequence_value = 0
        """The sequence's last value as the last *finished* statement saw it: what a rung may be built on."""
        self.lease_ends = 0.0
        """Monotonic seconds; counted from when the renewal was *sent*, so never later than the database's."""
        self.drain_begun = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Tenure replica={self.replica} lanes={sorted(self.lanes)} {self.ladder!r}>"

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken any more."""
        return self.drain_begun.is_set()

    def holds_lease(self) -> bool:
        """Whether the lease is certain to be running."""
        return time.monotonic() < self.lease_ends

    def saw_sequence(self, value: int, before: int) -> None:
        """A finished statement read the sequence; when it was sent, `sequence_value` was `before`.

        A value behind that means that ids are used again. Behind `sequence_value` as it is now means nothing:
        another connection's statement began later and was answered sooner.
        """
        if value < before:
            raise SequenceWentBackError(before, value)
        self.sequence_value = max(self.sequence_value, value)

    def owns(self, lane: int, epoch: int) -> bool:
        """Whether the lane is still owned at this epoch."""
        state = self.lanes.get(lane)
        return state is not None and state.epoch == epoch

    def share_room(self) -> None:
        """Share the buffer's room among the lanes that are owned now."""
        self.buffer.share_among(len(self.lanes))

    def wanted_xids(self) -> set[int]:
        """Transactions and snapshot bounds that a lane's next start or position still depends on."""
        wanted: set[int] = set()
        for state in self.lanes.values():
            for snapshot in (state.snapshot, state.sweep.snapshot if state.sweep else None):
                if snapshot is not None:
                    wanted.add(snapshot.xmax)
                    wanted |= snapshot.running
        return wanted


class TenureLostError(Exception):
    """This tenure must not go on; the next one starts from the tables."""


class SequenceWentBackError(TenureLostError):
    """The id sequence is behind what was seen before: a crash or a fail-over took commits back."""

    def __init__(self, before: int, now: int) -> None:
        super().__init__(f"the id sequence went back from {before} to {now}: a crash or fail-over took ids back")


class LeaseLostError(TenureLostError):
    """The lease ran out, or somebody else owns a lane that was ours."""
