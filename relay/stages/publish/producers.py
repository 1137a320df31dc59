"""Keeps a working producer: connects, watches it, replaces it. Two of them: the main one, and one for suspects.

aiokafka makes a broker's other partitions wait for the retries of one, and a refusal may cost the whole producer. So a
partition of which a batch was refused or got stuck goes through a producer beside the main one, until it works again.

`Keeper.run` alone connects and closes producers. Anybody may ask for the current one (`ready`) and have it replaced
(`discard`). What must never happen: that a discarded producer is given a batch, or closed before what it has in flight
has been waited for or given up.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from relay.outcome import PublishError
    from relay.retry import Backoff
    from relay.stages.publish.partition import Partition
    from relay.stages.publish.ports import Producer
    from relay.telemetry import Telemetry

CLOSE_TIMEOUT = 2.0
"""Seconds that closing a producer may take before it is dropped."""


class Keeper:
    """Owns the current producer; one at a time."""

    def __init__(
        self,
        *,
        name: str,
        connect: Callable[[Callable[[PublishError], None]], Awaitable[Producer]],
        backoff: Backoff,
        telemetry: Telemetry,
        replace_after: float | None = None,
        outdated: Callable[[Producer], Awaitable[None]] | None = None,
    ) -> None:
        """`connect` tries until it has a producer, and calls its argument with the error of every failed try.

        `name` tells the two keepers apart: "main" or "side". A producer is replaced after `replace_after` seconds, and
        when `outdated` returns, which means that a better one can be had.
        """
        self._replace_after = replace_after
        self._outdated = outdated or _never
        self._name = name
        self._connect = connect
        self._backoff = backoff
        self._telemetry = telemetry
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._discard = asyncio.Event()
        self._reason = ""
        self._told_reason = ""
        self._none_worked_since_a_discard = False
        self.current: Producer | None = None
        """The producer that takes batches; None while there is none."""
        self.has_connected = False
        """Whether there has been one since the process began."""

    async def run(self, quiesce: Callable[[Producer], Awaitable[None]], abandon: Callable[[Producer], None]) -> None:
        """Keep a producer until cancelled.

        A discarded producer gets no new batches; `quiesce` waits, for a bounded time, for what it has in flight, and
        `abandon` gives up the rest.
        """
        try:
            while True:
                await self._wanted.wait()
                producer = await self._connected()
                self._discard.clear()
                self._set(producer)
                died = producer.died
                discarded = asyncio.ensure_future(self._until_discarded())
                outdated = asyncio.ensure_future(self._outdated(producer))
                try:
                    ends: list[asyncio.Future[Any]] = [died, discarded, outdated]
                    await asyncio.wait(ends, timeout=self._replace_after, return_when=asyncio.FIRST_COMPLETED)
                    too_old = not died.done() and not discarded.done()
                finally:
                    discarded.cancel()
                    outdated.cancel()
                self._set(None)
                if died.done():
                    self._reason = died.result()
                else:
                    await quiesce(producer)
                abandon(producer)
                await producer.close(CLOSE_TIMEOUT)
                if not too_old:
                    self._tell_replaced()
        finally:
            if (last := self.current) is not None:
                self._set(None)
                await asyncio.shield(last.close(CLOSE_TIMEOUT))

    def want(self) -> None:
        """Have a producer connected, though nothing is to be sent yet."""
        self._wanted.set()

    async def ready(self) -> Producer:
        """Wait until there is a producer, and return it."""
        self._wanted.set()
        while self.current is None:
            await self._changed.wait()
        return self.current

    def discard(self, producer: Producer | None, reason: str) -> None:
        """Have `producer` replaced, if it is still the current one. It takes no batches from now on."""
        if producer is self.current:
            self._reason = reason
            self._discard.set()
            self._set(None)

    def works(self) -> None:
        """Take note that Kafka acknowledged a batch of the current producer: the next pause is short again."""
        self._backoff.reset()
        if self._none_worked_since_a_discard:
            self._none_worked_since_a_discard = False
            self._telemetry.emit("producer.works", producer=self._name)

    async def _until_discarded(self) -> str:
        await self._discard.wait()
        return self._reason

    def _tell_replaced(self) -> None:
        self._none_worked_since_a_discard = True
        # A batch that is refused again and again costs a producer each time: that is told once.
        first_time = self._reason != self._told_reason
        self._telemetry.emit("producer.replaced", producer=self._name, reason=self._reason, first_time=first_time)
        self._told_reason = self._reason

    def _set(self, producer: Producer | None) -> None:
        self.current = producer
        if producer is None:
            self._changed.clear()
        else:
            self.has_connected = True
            self._changed.set()

    async def _connected(self) -> Producer:
        # Producers that never get anything through are replaced with growing pauses.
        if self._backoff.failures:
            await asyncio.sleep(self._backoff.next_delay())
        else:
            self._backoff.failures = 1
        producer = await self._connect(self._tell_waiting)
        self._telemetry.emit("kafka.connected")
        return producer

    def _tell_waiting(self, error: PublishError) -> None:
        self._telemetry.emit("kafka.waiting", error=error)


async def _never(_: Producer) -> None:
    await asyncio.Event().wait()


class Pair:
    """The main producer, and one beside it for the partitions of which a batch was refused or got stuck."""

    def __init__(self, main: Keeper, side: Keeper) -> None:
        self.main = main
        self.side = side

    @property
    def metadata(self) -> Producer | None:
        """The main producer, for what it knows of topics without asking; None while there is none."""
        return self.main.current

    def of(self, partition: Partition) -> Keeper:
        """Return the keeper of the producer that the partition's batches go through."""
        return self.side if partition.suspect else self.main

    def works(self, producer: Producer) -> None:
        """Take note that Kafka acknowledged a batch of `producer`."""
        (self.side if producer is self.side.current else self.main).works()

    def uses(self, producer: Producer) -> bool:
        """Return whether `producer` is one of the two, and not discarded."""
        return producer in (self.main.current, self.side.current)

    def discard(self, producer: Producer, reason: str) -> None:
        """Have `producer` replaced, whichever of the two it is."""
        for keeper in (self.main, self.side):
            keeper.discard(producer, reason)

    def discard_both(self, reason: str) -> None:
        """Have both replaced."""
        for keeper in (self.main, self.side):
            keeper.discard(keeper.current, reason)
