"""Looks in Kafka for record batches of which nobody knows whether Kafka has them, before they are sent again.

A producer was discarded before Kafka answered, or an answer came that does not say. Such a batch stays in flight, as a
*lost* flight, so that nothing is sent to its partition, and other partitions go on through the next producer. The
discarded producer is fenced over the partitions of its lost flights, and these are read from the noted offsets up to
the fence. What is found is acknowledged, late; what is not found is refused, and sent again.

What must never happen: that a batch which may be in Kafka is sent again before that, and that a partition waits here
whose process was taken over by others, who find out themselves.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple, Protocol

from relay.decide import reconciling
from relay.decide.reconciling import Mode
from relay.outcome import Acknowledged, PublishError, Refused
from relay.stages.reconcile.ports import Finished, Place, Tail, Trouble, TroubleKind, UnfenceableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.outcome import BatchOutcome
    from relay.stages.publish.partition import Flight, Partition
    from relay.stages.publish.ports import Producer
    from relay.stages.reconcile.ports import Found, KafkaReconcilePort
    from relay.telemetry import Telemetry

FENCE_SECONDS = 5.0
"""Seconds that fencing a producer over a few partitions may take. Until then nobody knows that they have to wait, and
what waits for them may take the room of others."""

WAIT_SECONDS = 30.0
"""Seconds for which a batch waits for its producer to be fenced, before its partition is read without. Its leader may
live while the coordinator of the transactional id does not."""

AGAIN_AFTER = 2.0
"""Seconds between tries."""


class Noted(Protocol):
    """What this process has noted of itself."""

    def producer_id(self, name: str) -> int | None:
        """Return the id of a producer that is noted; None if it is not, or was another process's."""

    def offset_of(self, topic: str, partition: int) -> int | None:
        """Return the offset below which all of this process has its receipts; None if the partition is not noted."""

    def is_fenceable(self, name: str) -> bool:
        """Return whether the producer has a transactional id."""

    def dismiss(self, name: str) -> None:
        """Take a producer off the notes, all of whose batches were answered."""


class Lost(NamedTuple):
    """A flight of a discarded producer."""

    partition: Partition
    flight: Flight

    @property
    def place(self) -> Place:
        """Where it was sent."""
        return Place(self.partition.topic, self.partition.number)

    @property
    def open(self) -> bool:
        """Whether it is still not known what became of it."""
        return self.flight.lost is not None and self.flight in self.partition.flights

    def waits(self, trouble: Trouble | None) -> None:
        """Note why Kafka does not say now what became of it; None if Kafka was not reached."""
        if self.flight.lost is not None:
            self.flight.lost.waits = trouble.said if trouble is not None else None


class Doubts:
    """Finds out what became of lost flights."""

    def __init__(
        self,
        *,
        kafka: KafkaReconcilePort,
        notes: Noted,
        mode: Mode,
        most_bytes: int,
        answer_seconds: float,
        telemetry: Telemetry,
    ) -> None:
        """`most_bytes` of each partition are read; brokers answer within `answer_seconds` what reaches them."""
        self._kafka = kafka
        self._notes = notes
        self._mode = mode
        self._most_bytes = most_bytes
        self._answer_seconds = answer_seconds
        self._telemetry = telemetry

    def can_look(self, producer: Producer) -> bool:
        """Return whether it can be found out what became of this producer's batches."""
        return producer.name is not None and self._notes.producer_id(producer.name) is not None

    async def look(self, producer: Producer, lost: Sequence[Lost], ended: Callable[[Lost, BatchOutcome], None]) -> None:
        """Find out what became of each of the flights; `ended` hears of it.

        Ends when all is known, or others find it out.
        """
        name = producer.name
        if name is None:
            raise ValueError("nobody took note of the producer")
        begins = {each.place: self._notes.offset_of(*each.place) for each in lost}
        until = time.monotonic() + WAIT_SECONDS
        waited = False
        while (id_ := self._notes.producer_id(name)) is not None and (left := [each for each in lost if each.open]):
            said: dict[Place, Trouble] = {}
            try:
                must_fence = self._mode is Mode.REQUIRE or time.monotonic() < until
                tails, unfenced = await self._fence(name, id_, begins, left, said, must_fence=must_fence)
                if unfenced is not None and not waited:
                    # Without a fence, a batch may arrive for as long as brokers answer.
                    waited = True
                    self._gave_up("", -1, "unfenced", unfenced)
                    await asyncio.sleep(self._answer_seconds)
                    continue
                said |= await self._read(tails, left, ended)
            except UnfenceableError as error:
                said = {each.place: error.trouble for each in left}
                self._telemetry.emit("batches.unknown", error=error)
            except PublishError as error:
                said = {}
                self._telemetry.emit("batches.unknown", error=error)
            if left := [each for each in left if each.open]:
                await self._note(left, said)
                await asyncio.sleep(AGAIN_AFTER)
        for each in lost:
            if each.open:
                # Of this process others find out what it has published.
                ended(each, not_there(each))
        self._telemetry.emit("batches.known")
        self._notes.dismiss(name)

    async def _note(self, lost: Sequence[Lost], said: dict[Place, Trouble]) -> None:
        """Note what Kafka said of each: nothing, if it has gone meanwhile, for then it is not its topic's trouble."""
        if said:
            try:
                await self._kafka.ends({topic: number + 1 for topic, number in sorted(said)})
            except PublishError:
                said = {}
        for each in lost:
            each.waits(said.get(each.place))

    async def _fence(
        self,
        name: str,
        id_: int,
        begins: dict[Place, int | None],
        lost: Sequence[Lost],
        said: dict[Place, Trouble],
        *,
        must_fence: bool,
    ) -> tuple[list[Tail], Trouble | None]:
        """Return what to read of each partition, and why the producer cannot be fenced, if it cannot.

        Raises UnfenceableError if that may work later, and it `must_fence`. A partition that has no marker yet is not
        among them; why not is `said` of it.
        """
        places = {each.place for each in lost}
        epoch: int | None = None
        unfenced: Trouble | None = None
        waiting: set[Place] = set()
        unmarked: set[Place] = set()
        if not self._notes.is_fenceable(name):
            unfenced = Trouble(TroubleKind.UNSUPPORTED, f"{name} has no transactional id")
        else:
            try:
                fenced = await self._kafka.fence(name, places, FENCE_SECONDS)
            except UnfenceableError as error:
                if must_fence and reconciling.fate(error.trouble.kind.value, self._mode).again:
                    raise
                unfenced = error.trouble
            else:
                waiting = {place for place, trouble in fenced.unfenced.items() if trouble.kind is TroubleKind.WAITS}
                said |= {place: fenced.unfenced[place] for place in waiting}
                # Without the right to write there it is read as it is.
                unmarked = fenced.unfenced.keys() - waiting
                if fenced.producer.id == id_:
                    epoch = fenced.producer.epoch
                else:
                    # It is another producer that was fenced.
                    unfenced = Trouble(TroubleKind.UNSUPPORTED, f"Kafka has forgotten the transactional id {name}")
        tails = [
            Tail(place, begin, {id_: None if place in unmarked else epoch})
            for place in sorted(places - waiting)
            if (begin := begins[place]) is not None
        ]
        return tails, unfenced

    async def _read(
        self, tails: list[Tail], lost: Sequence[Lost], ended: Callable[[Lost, BatchOutcome], None]
    ) -> dict[Place, Trouble]:
        """Read, and settle what is found out; return why the rest is not."""
        said: dict[Place, Trouble] = {}
        found: dict[Place, list[Found]] = {}
        async with aclosing(self._kafka.read(tails, self._most_bytes)) as reading:  # type: ignore[type-var]
            async for each in reading:
                if not isinstance(each, Finished):
                    found.setdefault(each.place, []).append(each)
                elif (trouble := self._finished(each, found.pop(each.place, []), lost, ended)) is not None:
                    said[each.place] = trouble
        return said

    def _finished(
        self,
        finished: Finished,
        found: list[Found],
        lost: Sequence[Lost],
        ended: Callable[[Lost, BatchOutcome], None],
    ) -> Trouble | None:
        """Settle the flights of a partition that was read; return why it is to be read again, if it is."""
        place, trouble, _ = finished
        if trouble is not None:
            fate = reconciling.fate(trouble.kind.value, self._mode)
            if fate.again:
                return trouble
            if fate.gave_up is not None:
                self._gave_up(*place, fate.gave_up.value, trouble)
        for each in [each for each in lost if each.place == place and each.open]:
            base = where(each.flight, found)
            if base is not None:
                self._telemetry.emit("reconcile.found", events=len(each.flight.events))
            ended(each, Acknowledged(base) if base is not None else not_there(each))
        return None

    def _gave_up(self, topic: str, partition: int, reason: str, trouble: Trouble) -> None:
        self._telemetry.emit("reconcile.gave_up", topic=topic, partition=partition, reason=reason, error=trouble.said)


def where(flight: Flight, found: Sequence[Found]) -> int | None:
    """Return the offset of the flight's record batch; None if it is not among those that were found."""
    wanted = [(event.id, event.event_id) for event in flight.events]
    for batch in found:
        if [(event.id, event.event_id) for event in batch.events if event is not None] == wanted:
            return batch.base_offset
    return None


def not_there(lost: Lost) -> Refused:
    """Return the outcome of a flight that Kafka does not have: its refusal, of which there is no doubt now."""
    if lost.flight.lost is None:
        raise ValueError("the flight is not lost")
    refused = lost.flight.lost.refused
    return Refused(refused.error, refused.culprits, refused.producer_intact)
