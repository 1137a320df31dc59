"""Registers the replica, renews its lease, claims and releases lanes, and hears wake-ups."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from relay.decide.duplicates import Looked, SeenLane, SeenReceipt, delivered_twice
from relay.decide.held_back import PausedTopic
from relay.decide.receipted import numbers
from relay.decide.receipts import SPAN
from relay.decide.shares import LaneRow, LiveReplica
from relay.decide.snapshot import Snapshot
from relay.errors import StatementGivenUpError
from relay.postgres.errors import running
from relay.postgres.flow.statements import FailureStatements
from relay.postgres.sql import query
from relay.stages.claim.ports import ClaimedLane, Renewal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from uuid import UUID

    from relay.decide.duplicates import Part
    from relay.decide.lane_scan import LanePosition
    from relay.stages.claim.ports import LaneClaim, Report

REPLAY_WAKE_UP = "replay"
"""Payload of the notification that somebody asked for, or cancelled, a replay of delivered events."""

LANES_WAKE_UP = "lanes"
"""Payload of the notification that a replica came, goes, or gave lanes back, or that a person wants something of them.
Only statements that are rare send it: a NOTIFY takes a lock that all senders share."""


DUPLICATES_TIMEOUT = 1.0
"""Seconds for a part of a look for duplicates: heartbeats wait for it."""


class ControlConnection(FailureStatements):
    """Fulfils ClaimPort, and hears wake-ups."""

    async def register(
        self, replica: UUID, name: str, version: str, lease: float, former: UUID | None, waiting: str | None
    ) -> int:
        """Enter the replica."""
        return int((await self._rows("register", replica, name, version, lease, former, waiting))[0][0])

    async def take_part(self, replica: UUID) -> None:
        """Show that it can publish."""
        await self._rows("take_part", replica)

    async def renew(self, replica: UUID, lease: float, report: Report) -> Renewal | None:
        """Extend the lease and show the report."""
        rows = await self._rows("renew", replica, lease, *report[:-1], json.dumps(report.topics))
        return Renewal(int(rows[0]["xid"]), rows[0]["open_replays"]) if rows else None

    async def live_replicas(self) -> list[LiveReplica]:
        """Replicas with a running lease."""
        return [LiveReplica(*row) for row in await self._rows("live_replicas")]

    async def lanes(self) -> list[LaneRow]:
        """All lanes."""
        return [LaneRow(*row) for row in await self._rows("lanes")]

    async def paused_topics(self) -> list[PausedTopic]:
        """What people paused."""
        return [PausedTopic(*row) for row in await self._rows("paused_topics")]

    async def claim(self, replica: UUID, seen: Sequence[LaneRow]) -> list[ClaimedLane]:
        """Claim those of `seen` that nobody claimed or parked since."""
        rows = await self._rows("claim", replica, [row.lane for row in seen], [row.epoch for row in seen])
        claimed = {row["lane"]: (row["epoch"], row["position"]) for row in rows}
        highest = await self._rows("highest_settled", sorted(claimed))
        return [
            ClaimedLane(row["lane"], *claimed[row["lane"]], row["id"], Snapshot.parse(row["snapshot"]), row["newest"])
            for row in highest
        ]

    async def others_receipts(
        self,
        replica: UUID,
        claims: Sequence[LaneClaim],
        lately: Sequence[LaneClaim],
        known: Collection[tuple[int, UUID]],
        part: Part,
    ) -> Looked:
        """A part of the receipts of other registrations that the claims did not see."""
        made = list(dict.fromkeys((claim.snapshot, claim.newest_id) for claim in claims))
        snapshots, newest = map(list, zip(*made, strict=True))
        here = [place for place in known if part.after[0] <= place[0] <= part.up_to]
        highest, publishers = map(list, zip(*here, strict=True)) if here else ([], [])
        arguments = [
            replica,
            snapshots,
            newest,
            [claim.lane for claim in claims],
            *_range(claims, part),
            *_range(lately, part),
            *part.after,
            highest,
            publishers,
            part.receipts,
            part.places,
            part.ids,
        ]
        with running("delivered_twice"):
            try:
                rows = await self._fetch(query("delivered_twice", self._schema), *arguments, timeout=DUPLICATES_TIMEOUT)
            except TimeoutError as error:
                raise StatementGivenUpError("looking for duplicates took too long and was given up") from error
        number = {claim.lane: made.index((claim.snapshot, claim.newest_id)) + 1 for claim in claims}
        newest_id = {claim.lane: claim.newest_id for claim in claims}
        lanes: list[SeenLane] = []
        receipts: list[SeenReceipt] = []
        more = False
        for row in rows:
            lane, position = row["lane"], row["position"]
            if lane is None:
                receipts.append(SeenReceipt(*row[2:11]))
            else:
                more = more or row["more"]
                ids = numbers("q", row["ids"] or b"")
                lanes.append(SeenLane(lane, number[lane], newest_id[lane], position, ids))
        return Looked(delivered_twice(lanes, receipts), more)

    async def held_topics(self, lanes: Sequence[int]) -> list[tuple[int, str]]:
        """The topics with held rows: (lane, topic)."""
        return [(row[0], row[1]) for row in await self._rows("held_topics", lanes)]

    async def advance_positions(self, replica: UUID, positions: Sequence[LanePosition]) -> None:
        """Raise positions."""
        await self._rows("advance_positions", replica, *map(list, zip(*positions, strict=True)))

    async def release(self, replica: UUID, positions: Sequence[LanePosition]) -> None:
        """Give lanes back."""
        await self._rows("release", replica, *map(list, zip(*positions, strict=True)))

    async def drain(self, replica: UUID) -> None:
        """Show that the replica takes nothing more."""
        await self._rows("drain", replica)

    async def unregister(self, replica: UUID) -> None:
        """Take the replica off the list."""
        await self._rows("unregister", replica)

    async def wake_others(self) -> None:
        """Have everybody who listens look at the lanes at once."""
        await self._rows("lanes_wake_up")

    async def listen(
        self, on_wake_up: Callable[[], None], on_replay: Callable[[], None], on_lanes: Callable[[], None]
    ) -> None:
        """Call `on_wake_up` for every wake-up that a writer sends with `outbox.wake_up()`, `on_replay` for a person's
        request to replay delivered events, `on_lanes` when lanes were given back (by ourselves, too: whether somebody
        claims them has to be watched), a replica came or goes, or a person wants something of lanes."""
        hearers = {REPLAY_WAKE_UP: on_replay, LANES_WAKE_UP: on_lanes}

        def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            hearers.get(str(payload), on_wake_up)()

        with running("listen"):
            await self._connection.add_listener(self._schema, hear)


def _range(claims: Sequence[LaneClaim], part: Part) -> tuple[int, int]:
    """Above and up to which highest id the receipts of others for these claims are, in this part; none for no claim."""
    lowest = min((claim.position for claim in claims), default=0)
    highest = max((claim.newest_id + SPAN - 1 for claim in claims), default=lowest)
    return max(lowest, part.after[0] - 1), min(highest, part.up_to)
