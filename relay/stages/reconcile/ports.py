"""What reconciling asks of PostgreSQL and Kafka, and the words that cross these edges."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from relay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from uuid import UUID

    from relay.decide.shares import Entry


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class ProducerId(NamedTuple):
    """Under which Kafka knows a producer, and how often that id was taken over."""

    id: int
    epoch: int


class TroubleKind(Enum):
    """Why a partition could not be fenced, or not be read to the end; it decides what is done about it."""

    WAITS = "waits"
    """It may work later: no leader, too few replicas in sync, no answer in time."""
    RIGHTS = "rights"
    """READ on the topic, or WRITE on the transactional id, is missing."""
    HOLE = "hole"
    """Records between where reading began and the end are gone, or the offsets are not those of this topic."""
    BYTES = "bytes"
    """It was read up to the limit."""
    GONE = "gone"
    """There is no such topic or partition: nothing in it can be found or repeated."""
    UNSUPPORTED = "unsupported"
    """The cluster has no transactions for us: no coordinator, or not Kafka."""


class Trouble(NamedTuple):
    """Why something could not be done."""

    kind: TroubleKind
    said: str
    """For people, with what to do; plain text, no secret."""


class Fenced(NamedTuple):
    """What became of a fence."""

    producer: ProducerId
    """Whose markers they are: control batches with this id and epoch. Behind them the leader refuses lower epochs."""
    unfenced: Mapping[Place, Trouble]
    """The partitions that most likely got no marker."""


class UnfenceableError(RelayError):
    """No partition could be fenced, or no transactional id can be used."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.said)
        self.trouble = trouble


class Tail(NamedTuple):
    """What to read of one partition."""

    place: Place
    begin: int
    """Offset of the first record that may matter."""
    ends: Mapping[int, int | None]
    """By producer id, whose batches are wanted, the epoch of the marker up to which to read, all of them being waited
    for. None where there is no marker: then up to the last sequence that the partition's leader knows of the producer
    (KIP-664); if it knows none, there is nothing to wait for."""


class FoundEvent(NamedTuple):
    """A record that a relay wrote."""

    id: int
    event_id: UUID
    key: bytes | None


class Found(NamedTuple):
    """Consecutive records of one record batch of a wanted producer, all at `begin` or above."""

    place: Place
    base_offset: int
    """Of the first one; the others follow."""
    events: Sequence[FoundEvent | None]
    """None for a record without the relay's two headers. Relays write those behind the headers that the writer of the
    event chose, which may have the same names: the last `outbox-event-id` and the last `outbox-id` are the relay's."""


class Finished(NamedTuple):
    """The end of one partition, of which no more comes."""

    place: Place
    trouble: Trouble | None
    """Why the end was not reached: what was found before holds nevertheless."""
    bytes: int
    """How much of the partition was read."""


class Enlistment(Protocol):
    """What connecting a producer asks of this process's own notes: under which name, and whether it may be used."""

    def name(self) -> str | None:
        """Return a transactional id that was never used before; None if the producer is to have none."""

    def cannot_fence(self, trouble: Trouble) -> None:
        """Take note that no producer id can be had with a transactional id: connect the producer without one.

        Raises PublishError if it must not be, so that connecting is tried again.
        """

    async def enlist(self, name: str | None, producer: ProducerId) -> None:
        """Write down the producer, without a name if it has no transactional id; no batch may be sent before.

        Raises PublishError when this process was given up by the others meanwhile: the producer must not be used.
        """


class KafkaReconcilePort(Protocol):
    """What reconciling needs of Kafka. Every method raises PublishError of kind CLUSTER when Kafka cannot be reached.

    It has connections of its own, opened when needed and kept for some seconds.
    """

    async def ends(self, topics: Mapping[str, int]) -> dict[str, list[int] | Trouble]:
        """Return for each topic the end of each of its first so many partitions: where the next record will be.

        -1 for a partition that has no leader now. Many topics at once take few requests.
        """

    async def fence(self, name: str, places: Collection[Place], seconds: float) -> Fenced:
        """End an empty transaction of the transactional id `name` over all of these partitions, within `seconds`.

        Partitions of topics that are gone are left out, and returned as such. More than 1,000 go in several
        transactions. Raises UnfenceableError when none could be fenced.
        """

    async def can_fence(self, name: str, seconds: float) -> bool:
        """Return whether the transactional id `name`, never used before, gets a producer id within `seconds`."""

    def read(self, tails: Sequence[Tail], most_bytes: int) -> AsyncIterator[Found | Finished]:
        """Read partitions beside one another, each from its `begin` in order, up to its end or its first hole.

        A hole: a batch of anybody begins above the expected offset, or has not as many records as it has offsets. At
        most about `most_bytes` of each. What cannot be read now is tried for some seconds. Each partition is finished
        once. Ends with the last one; may be given up (`aclose`) at any time.
        """

    async def close(self) -> None:
        """Close what is open."""


class ProcessNotes(NamedTuple):
    """What a process that registers has noted of itself."""

    process: UUID
    producers: Mapping[str, int]
    fresh: UUID
    """The process that it is from now on if others have ended it."""


class DeadReplica(NamedTuple):
    """A replica whose lease is over, and which the others have ended: it can begin nothing new."""

    replica: UUID
    process: UUID
    name: str
    producers: Mapping[str, int]
    """Transactional ids of its producers and the producer id of each; for one without, `producer-` and that id."""
    tails: Mapping[str, Sequence[int]]
    """By topic, an offset of each partition: every record of this process below it has its receipt."""


class ReconcilePort(Protocol):
    """What reconciling needs of PostgreSQL.

    Every method raises PostgresLostError when the connection is gone or the server gave up the statement, and
    StatementFailedError when the server refused it for any other reason.
    """

    async def dead(self) -> list[UUID]:
        """Return the replicas whose lease is over, that own lanes, and that nobody is at work on."""

    async def end(self, replica: UUID, by: UUID) -> DeadReplica | None:
        """End a replica whose lease is over, as `by`; None if it is gone, or somebody else is at work on it."""

    async def still_at_work(self, replica: UUID, by: UUID, waits_for: str | None) -> bool:
        """Keep others from beginning, too; False if it is gone, or somebody else has taken it up.

        People see what it `waits_for`; None leaves what they see.
        """

    async def settle_found(self, publisher: UUID, topic: str, found: Sequence[Found]) -> int:
        """Write receipts for those found events of a topic whose id, event_id, topic and lane are still an event's.

        As the publisher would have written them: one row for each record batch or part of it. Failure and held rows
        go in the same transaction. Returns how many are new.
        """

    async def wake_others(self) -> None:
        """Have everybody who listens look at the lanes at once. Only a hint: it may be lost."""

    def close(self) -> None:
        """Close the connection at once."""

    async def let_go(self, replica: UUID, by: UUID, waits_for: str | None) -> None:
        """Let others try: Kafka cannot be asked now. People see what it `waits_for`; None leaves what they see."""

    async def forget(self, replica: UUID) -> None:
        """Take an ended replica off the list, with all that it had noted: its lanes are free."""


class NotesPort(Protocol):
    """What noting for others needs of PostgreSQL. It raises what ReconcilePort does."""

    async def register_noting(self, entry: Entry, former: UUID | None, notes: ProcessNotes) -> tuple[int, UUID]:
        """Enter a replica in place of `former`; returns the transaction's xid, and the process that it is now.

        That is another one, without producers, if the former registration is gone or was ended by others.
        """

    async def enlist(self, replica: UUID, producers: Mapping[str, int]) -> bool:
        """Note producers, by their names; False if others have ended the replica."""

    async def dismiss(self, replica: UUID, names: Sequence[str]) -> None:
        """Note that these producers have nothing on its way any more."""

    async def note_topics(self, replica: UUID, offsets: Mapping[str, Sequence[int]]) -> bool:
        """Note topics that it may publish to, at least one, with an offset for each partition.

        False, and nothing is noted, if others have ended the replica.
        """

    async def raise_tails(self, process: UUID, offsets: Mapping[str, Sequence[int]]) -> None:
        """Raise the offsets of topics, at least one."""

    async def forget_topics(self, process: UUID, topics: Sequence[str]) -> None:
        """Note that it does not publish to these topics any more."""

    async def expire(self, replica: UUID) -> None:
        """End the replica's lease: it leaves without having settled everything."""
