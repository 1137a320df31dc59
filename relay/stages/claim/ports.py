"""What claiming asks of PostgreSQL, and the words that cross this edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from uuid import UUID

    from relay.decide.duplicates import Looked, Part
    from relay.decide.held_back import BlockedKey, PausedTopic
    from relay.decide.lane_scan import LanePosition
    from relay.decide.shares import LaneRow, LiveReplica
    from relay.decide.snapshot import Snapshot


class Report(NamedTuple):
    """What a replica shows of itself to people, with each renewal of its lease."""

    releasing: list[int]
    """The lanes that it is giving back."""
    duplicates: int
    """Events that it found to be delivered twice, since the process began."""
    leases_lost: int
    """Times that its lease ran out, since the process began."""
    topics: Mapping[str, Mapping[str, str]]
    """What it tells of topics: {"trouble": error} of one that takes no events, {"limit": rate} of one that would go
    faster; of some, if there are many."""


class Renewal(NamedTuple):
    """PostgreSQL's answer to a renewal that came in time."""

    xid: int
    """The renewal's transaction: a rung of the ladder."""
    open_replays: bool
    """Whether a replay of delivered events is under way."""


class ClaimedLane(NamedTuple):
    """A lane that was just claimed, with what its scan starts from."""

    lane: int
    epoch: int
    """The number of this ownership: it grows by one with each claim of the lane."""
    position: int
    """Everything up to this id is settled, and nothing new can appear there."""
    highest_settled: int
    """The highest id with a receipt, a failure or a held row; 0 when the lane has none."""
    snapshot: Snapshot
    """In which `highest_settled` was read, after the claim."""
    newest_id: int
    """The last id that anybody had taken by then."""


class LaneClaim(NamedTuple):
    """What was known of a lane when it was claimed."""

    lane: int
    epoch: int
    snapshot: str
    position: int
    newest_id: int
    """The highest id that anybody had taken by then: a former owner can have published none above it."""
    until: float
    """Monotonic seconds: until then receipts may appear whose statement began before the claim."""


class ClaimPort(Protocol):
    """What claiming needs of PostgreSQL.

    What writes to lanes is fenced: it changes nothing in a lane that the replica does not own at the epoch given. Every
    method raises PostgresLostError when the connection is gone or the server gave up the statement, and
    StatementFailedError when the server refused it for any other reason.
    """

    async def sequence_value(self) -> int:
        """Return the last event id that was taken from the sequence; 0 when none was."""

    async def register(
        self, replica: UUID, name: str, version: str, lease: float, former: UUID | None, waiting: str | None
    ) -> int:
        """Enter the replica with a lease of `lease` seconds; the lanes of `former`, which it replaces, are free then.

        `waiting` is why it cannot publish yet, if it cannot. Returns the xid of the transaction.
        """

    async def take_part(self, replica: UUID) -> None:
        """Show that the replica, which was waiting, can publish: the others leave its share of the lanes to it."""

    async def renew(self, replica: UUID, lease: float, report: Report) -> Renewal | None:
        """Extend the lease to `lease` seconds from now, and show the report; None when it had run out already."""

    async def live_replicas(self) -> list[LiveReplica]:
        """Return the replicas whose lease runs, in the order of their claim to one lane more."""

    async def lanes(self) -> list[LaneRow]:
        """Return all lanes with their owners, and with what people want of them."""

    async def paused_topics(self) -> list[PausedTopic]:
        """Return the topics whose events people want held back now, in the order of their names."""

    async def claim(self, replica: UUID, seen: Sequence[LaneRow]) -> list[ClaimedLane]:
        """Claim those of the lanes `seen` that are still at the epoch they were seen at, and that nobody parked since.

        Rows that another transaction has locked are left out: the result may be shorter than `seen`, and empty.
        """

    async def others_receipts(
        self,
        replica: UUID,
        claims: Sequence[LaneClaim],
        lately: Sequence[LaneClaim],
        known: Collection[tuple[int, UUID]],
        part: Part,
    ) -> Looked:
        """Look at `part` of the receipts of other registrations that were committed after the claims of their lanes.

        Late ones, and for claims made `lately` those of statements that had begun before. Not the `known` ones, which
        are given by highest id and registration. Raises StatementGivenUpError if it takes too long.
        """

    async def blocking(self, lanes: Sequence[int]) -> list[BlockedKey]:
        """Return the keys in these lanes that stand behind a failure that is not resolved."""

    async def held_topics(self, lanes: Sequence[int]) -> list[tuple[int, str]]:
        """Return (lane, topic) of every topic that has held rows in these lanes."""

    async def has_failures(self, lanes: Sequence[int]) -> bool:
        """Return whether these lanes have a failure that is not discarded, so that it may have to be acted on."""

    async def advance_positions(self, replica: UUID, positions: Sequence[LanePosition]) -> None:
        """Raise the positions of lanes, at least one. A position that is higher already stays."""

    async def release(self, replica: UUID, positions: Sequence[LanePosition]) -> None:
        """Give lanes back, at least one, and raise their positions."""

    async def drain(self, replica: UUID) -> None:
        """Show that the replica takes nothing more, so that the others count its lanes as theirs."""

    async def unregister(self, replica: UUID) -> None:
        """Take the replica off the list: its lanes are free."""

    async def wake_others(self) -> None:
        """Have everybody who listens look at the lanes at once. Only a hint: it may be lost."""
