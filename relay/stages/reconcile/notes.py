"""What this process notes of itself, so that others can find out what it had published when it ends without a word.

Its producers, before they are used, and the topics that it publishes to, before the first batch, with an offset for
each partition: every record of this process below it has its receipt (`relay.decide.tails`). The offsets are raised
once a second. Nothing is noted of an event.

Outlives tenures, as what is in Kafka's hands does. `run` writes, on a connection of the current tenure; what has to be
written meanwhile waits for the next one. What must never happen: that a batch is sent by a producer, or to a
partition, that is not noted; and that this process goes on under its name once others have ended it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from uuid import uuid4

from relay.decide.tails import Tail
from relay.outcome import FailureKind, PublishError
from relay.stages.reconcile.ports import ProcessNotes, Trouble, TroubleKind
from relay.stages.tenure import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from uuid import UUID

    from relay.decide.shares import Entry
    from relay.stages.reconcile.ports import KafkaReconcilePort, NotesPort, ProducerId
    from relay.telemetry import Telemetry

RAISE_INTERVAL = 1.0
"""Seconds between statements that raise offsets: what a take-over reads is older than the last one."""

LOOK_UP_INTERVAL = 10.0
"""Seconds between looks for the ends of partitions in which nothing of this process is under way. Others may write to
them all the time, and a take-over would read all of that."""

COLD_AFTER = 60.0
"""Seconds without a batch after which a topic is noted no longer: a take-over fences and reads all that are."""

ENDED = "others have taken this process for dead and are asking Kafka for what it had published"

UNNAMED = "producer-"
"""Begins what a producer without a transactional id is noted under."""

_KINDS = {TroubleKind.RIGHTS: FailureKind.TOPIC, TroubleKind.GONE: FailureKind.TOPIC}


def name_of(producer_id: int) -> str:
    """Under what a producer without a transactional id is noted."""
    return f"{UNNAMED}{producer_id}"


class Notes:
    """The notes of this process. An Enlistment for its producers."""

    def __init__(
        self,
        *,
        kafka: KafkaReconcilePort,
        prefix: str,
        must_fence: bool,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`prefix` begins the transactional ids of its producers; `must_fence`: it has none that cannot be fenced."""
        self._kafka = kafka
        self._prefix = prefix
        self._must_fence = must_fence
        self._telemetry = telemetry
        self._clock = clock
        self._number = 0
        self.process: UUID = uuid4()
        self.on_ended: Callable[[str], None] = lambda _: None
        """Told why, when this process goes on as another one: its producers are not to be used any more."""
        self._producers: dict[str, int] = {}
        self._tails: dict[str, list[Tail]] = {}
        self._used: dict[str, float] = {}
        """When a batch was last sent to the topic (monotonic seconds)."""
        self._risen: set[str] = set()
        self._wanted: dict[str, tuple[int, asyncio.Future[None]]] = {}
        self._unwritten: dict[str, int] = {}
        self._dismissed: set[str] = set()
        self._leaving: dict[str, list[Callable[[], bool]]] = {}
        """Producers that were discarded, and what tells of each partition whether receipts have to be committed first:
        until then, others would have to look for batches of theirs."""
        self._written = asyncio.Condition()
        self._wake_up = asyncio.Event()
        self._serving = False

    # What connecting a producer asks.

    def name(self) -> str | None:
        """A transactional id that was never used before."""
        self._number += 1
        return f"{self._prefix}{self.process}-{self._number}"

    def cannot_fence(self, trouble: Trouble) -> None:
        """Go on without fences, or wait until there can be one."""
        self._telemetry.emit("reconcile.unfenced", error=trouble.said)
        if self._must_fence:
            raise PublishError(FailureKind.CLUSTER, f"RELAY_REPLICA_RECONCILE=require: {trouble.said}", "Unfenceable")

    async def enlist(self, name: str | None, producer: ProducerId) -> None:
        """Note a producer."""
        if name is not None:
            self._telemetry.emit("reconcile.fenced")
        name = name or name_of(producer.id)
        process = self.process
        self._producers[name] = self._unwritten[name] = producer.id
        self._wake_up.set()
        # Without a tenure, the next registration writes it. Nothing is sent before.
        async with self._written:
            await self._written.wait_for(lambda: name not in self._unwritten or not self._serving)
        if process != self.process:
            raise PublishError(FailureKind.CLUSTER, ENDED, "ProcessEnded")

    def producer_id(self, name: str) -> int | None:
        """The id of a producer that is noted; None if it is not, or was another process's."""
        return self._producers.get(name)

    def is_fenceable(self, name: str) -> bool:
        """Whether the producer has a transactional id."""
        return not name.startswith(UNNAMED)

    def offset_of(self, topic: str, partition: int) -> int | None:
        """The offset below which all of this process has its receipts; None if the partition is not noted."""
        tail = self._tail(topic, partition)
        return tail.offset if tail is not None else None

    def dismiss(self, name: str) -> None:
        """Take note that a producer was discarded, and that all of its batches were answered."""
        if name in self._producers:
            self._leaving[name] = [tail.awaiting() for tails in self._tails.values() for tail in tails if tail.open]
            self._wake_up.set()

    # What publishing asks and tells.

    def may_send(self, topic: str, partition: int) -> bool:
        """Whether the partition is noted. If so, a batch is sent to it now."""
        tail = self._tail(topic, partition)
        if tail is None or tail.offset < 0:
            return False
        tail.sent += 1
        self._used[topic] = self._clock()
        return True

    def noted(self, topic: str, partition: int) -> bool:
        """Whether the partition is noted."""
        tail = self._tail(topic, partition)
        return tail is not None and tail.offset >= 0

    async def begin(self, topic: str, partitions: int) -> None:
        """Have a topic noted with so many partitions, but for those that have no leader now.

        Raises PublishError when Kafka does not say where they end.
        """
        known, future = self._wanted.get(topic, (0, None))
        if future is None or future.done():
            future = asyncio.get_running_loop().create_future()
        self._wanted[topic] = (max(partitions, known), future)
        self._wake_up.set()
        await asyncio.shield(future)

    def acknowledged(self, topic: str, partition: int, begin: int, records: int, to_record: int) -> None:
        """Kafka has a batch, with `to_record` records that get a receipt."""
        if (tail := self._tail(topic, partition)) is not None:
            before = tail.offset
            tail.acknowledged(begin, records, to_record)
            if tail.offset != before:
                self._risen.add(topic)

    def recorded(self, topic: str, partition: int, begin: int, events: int) -> None:
        """Receipts are committed. Less than none: they could not be written after all."""
        if (tail := self._tail(topic, partition)) is not None and tail.recorded(begin, events):
            self._risen.add(topic)
        if self._leaving:
            self._wake_up.set()

    # What the tenure asks and tells.

    async def register(self, port: NotesPort, entry: Entry, former: UUID | None) -> int:
        """Put the process on the list, in place of its `former` registration; returns the transaction's xid."""
        written = dict(self._producers)
        xid, process = await port.register_noting(entry, former, ProcessNotes(self.process, written, uuid4()))
        if process != self.process:
            self._become(process)
            self.on_ended(ENDED)
        else:
            await self._enlist(port, entry.replica, written)
        # From here on a producer that connects waits until it is written.
        self._serving = True
        return xid

    def renew(self, reason: str, *, sends_more: bool) -> None:
        """Go on as another process, because others have to find out what this one has published.

        If it sends nothing more, its producers may wait for answers until the others fence them.
        """
        self._become(uuid4())
        if sends_more:
            self.on_ended(reason)

    def left(self) -> None:
        """Take note that the process is off the list, with nothing to lose. Its producers go on."""
        self.process = uuid4()
        self._forget_tails()

    async def run(self, port: NotesPort, replica: UUID) -> None:
        """Write down what has to be, for the registration `replica`, until cancelled.

        Raises LeaseLostError when others have ended it.
        """
        next_raise = next_look = 0.0
        try:
            while True:
                self._wake_up.clear()
                await self._write(port, replica)
                now = self._clock()
                if self._risen and now >= next_raise:
                    next_raise = now + RAISE_INTERVAL
                    await self._raise(port)
                if now >= next_look:
                    next_look = now + LOOK_UP_INTERVAL
                    await self._look_up()
                    await self._forget_cold(port)
                await self._wait((next_raise if self._risen else next_look) - self._clock())
        finally:
            self._serving = False
            async with self._written:
                self._written.notify_all()

    async def _write(self, port: NotesPort, replica: UUID) -> None:
        if self._unwritten:
            await self._enlist(port, replica, {})
        self._let_leave()
        if self._dismissed:
            names = sorted(self._dismissed)
            await port.dismiss(replica, names)
            self._dismissed.difference_update(names)
        if self._wanted:
            await self._begin(port, replica)

    def _let_leave(self) -> None:
        """Have producers taken off the list that nobody would have to look for."""
        for name in [name for name, awaiting in self._leaving.items() if not any(each() for each in awaiting)]:
            del self._leaving[name]
            del self._producers[name]
            if self._unwritten.pop(name, None) is None:
                self._dismissed.add(name)

    async def _enlist(self, port: NotesPort, replica: UUID, written: dict[str, int]) -> None:
        """Note producers that are neither noted nor among those that were just `written`."""
        new = {name: id_ for name, id_ in self._unwritten.items() if name not in written}
        if new:
            _check(await port.enlist(replica, new))
        async with self._written:
            for name in [*new, *written]:
                self._unwritten.pop(name, None)
            self._written.notify_all()

    async def _begin(self, port: NotesPort, replica: UUID) -> None:
        """Note the topics that somebody waits for."""
        wanted, self._wanted = self._wanted, {}
        try:
            ends = await self._kafka.ends({topic: partitions for topic, (partitions, _) in wanted.items()})
            offsets: dict[str, list[int]] = {}
            for topic in wanted:
                found = ends.get(topic, [])
                if isinstance(found, list) and found:
                    # What is noted already was used: it stays.
                    known = [tail.offset for tail in self._tails.get(topic, ())]
                    known += found[len(known) :]
                    offsets[topic] = [
                        end if offset < 0 else offset for offset, end in zip(known, found, strict=False)
                    ] + known[len(found) :]
            if offsets:
                _check(await port.note_topics(replica, offsets))
        except PublishError as error:
            _fail([future for _, future in wanted.values()], error)
            return
        except BaseException:
            # The next tenure begins with them.
            self._wanted = {**wanted, **self._wanted}
            raise
        for topic, (_, future) in wanted.items():
            if topic in offsets:
                tails = self._tails.setdefault(topic, [])
                tails += [Tail(offset) for offset in offsets[topic][len(tails) :]]
                for tail, offset in zip(tails, offsets[topic], strict=True):
                    tail.offset = max(tail.offset, offset)
                self._used[topic] = self._clock()
                _done(future)
            else:
                trouble = ends.get(topic)
                if not isinstance(trouble, Trouble):
                    trouble = Trouble(TroubleKind.WAITS, f"Kafka does not say where topic {topic} ends")
                kind = _KINDS.get(trouble.kind, FailureKind.CLUSTER)
                _fail([future], PublishError(kind, trouble.said, "TailUnknown"))

    async def _raise(self, port: NotesPort) -> None:
        risen, self._risen = self._risen, set()
        offsets = {topic: [tail.offset for tail in self._tails[topic]] for topic in risen if topic in self._tails}
        if offsets:
            await port.raise_tails(self.process, offsets)

    async def _look_up(self) -> None:
        """Raise the offsets of partitions of which nothing is under way to where they end."""
        now = self._clock()
        in_use = {topic: len(tails) for topic, tails in self._tails.items() if now - self._used[topic] < COLD_AFTER}
        sent = {topic: [tail.sent for tail in self._tails[topic]] for topic in in_use}
        in_flight = self.in_flight()
        try:
            ends = await self._kafka.ends(in_use) if in_use else {}
        except PublishError:
            return
        for topic, found in ends.items():
            if not isinstance(found, list):
                continue
            for number, (tail, end) in enumerate(zip(self._tails.get(topic, ()), found, strict=False)):
                before = sent[topic][number]
                # Where nothing is noted nothing was sent.
                if tail.offset >= 0 and (topic, number) not in in_flight and tail.looked_up(end, before):
                    self._risen.add(topic)

    in_flight: Callable[[], Collection[tuple[str, int]]] = staticmethod(lambda: ())
    """Returns the partitions that have a batch in a producer's hands. To be set by whoever knows."""

    async def _forget_cold(self, port: NotesPort) -> None:
        """Let go of topics that had no batch for a while. The next one has them noted again."""
        now = self._clock()
        busy = {topic for topic, _ in self.in_flight()}
        cold = [
            topic
            for topic, tails in self._tails.items()
            if now - self._used[topic] >= COLD_AFTER and topic not in busy and not any(tail.open for tail in tails)
        ]
        for topic in cold:
            del self._tails[topic], self._used[topic]
        if cold:
            await port.forget_topics(self.process, cold)

    def _become(self, process: UUID) -> None:
        self.process = process
        self._forget_tails()
        self._producers.clear()
        self._unwritten.clear()
        self._dismissed.clear()
        self._leaving.clear()

    def _forget_tails(self) -> None:
        self._tails.clear()
        self._used.clear()
        self._risen.clear()

    def _tail(self, topic: str, partition: int) -> Tail | None:
        tails = self._tails.get(topic)
        return tails[partition] if tails is not None and partition < len(tails) else None

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake_up.wait()
        except TimeoutError:
            return


def _check(noted: bool) -> None:
    if not noted:
        raise LeaseLostError(ENDED)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(futures: Collection[asyncio.Future[None]], error: PublishError) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
            # Whoever waited may be gone.
            future.exception()
