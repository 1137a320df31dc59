"""Keeps a working producer: connects, watches it, replaces it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

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
        connect: Callable[[Callable[[PublishError], None]], Awaitable[Producer]],
        backoff: Backoff,
        telemetry: Telemetry,
        *,
        name: str,
    ) -> None:
        self._connect = connect
        self._name = name
        self._backoff = backoff
        self._telemetry = telemetry
        self._discard = asyncio.Event()
        self._reason = ""
        self._told = ""
        self._discarded = False
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self.current: Producer | None = None

    async def run(self, quiesce: Callable[[Producer], Awaitable[None]], abandon: Callable[[Producer], None]) -> None:
        """Keep a producer until cancelled.

        A producer to be discarded gets no new batches; `quiesce` waits, bounded, for what it has in flight, and
        `abandon` gives up the rest.
        """
        try:
            while True:
                await self._wanted.wait()
                producer = await self._connected()
                self._discard.clear()
                self._set(producer)
                died: asyncio.Future[Any] = producer.died
                discard: asyncio.Future[Any] = asyncio.ensure_future(self._discard.wait())
                try:
                    await asyncio.wait([died, discard], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    discard.cancel()
                self._set(None)
                if died.done():
                    self._reason = died.result()
                else:
                    await quiesce(producer)
                abandon(producer)
                await producer.close(CLOSE_TIMEOUT)
                self._tell()
        finally:
            if (last := self.current) is not None:
                self._set(None)
                await asyncio.shield(last.close(CLOSE_TIMEOUT))

    def want(self) -> None:
        """Connect, though nothing is to be sent yet."""
        self._wanted.set()

    async def ready(self) -> Producer:
        """The current producer, waiting until there is one."""
        self._wanted.set()
        while self.current is None:
            await self._changed.wait()
        return self.current

    def discard(self, producer: object, reason: str) -> None:
        """`producer` must not be used any more, if it is still the current one."""
        if producer is self.current:
            self._reason = reason
            self._discard.set()
            self._set(None)

    def works(self) -> None:
        """A batch was acknowledged."""
        self._backoff.reset()
        if self._discarded:
            self._discarded = False
            self._telemetry.emit("producer.works", producer=self._name)

    def _tell(self) -> None:
        self._discarded = True
        # A batch that is refused again and again costs a producer each time: that is told once.
        first_time = self._reason != self._told
        self._telemetry.emit("producer.replaced", producer=self._name, reason=self._reason, first_time=first_time)
        self._told = self._reason

    def _set(self, producer: Producer | None) -> None:
        self.current = producer
        if producer is None:
            self._changed.clear()
        else:
            self._changed.set()

    async def _connected(self) -> Producer:
        # A producer that never got anything through is replaced at a slackening pace.
        if self._backoff.failures:
            await asyncio.sleep(self._backoff.next_delay())
        else:
            self._backoff.failures = 1
        producer = await self._connect(self._waiting)
        self._telemetry.emit("kafka.connected")
        return producer

    def _waiting(self, error: PublishError) -> None:
        self._telemetry.emit("kafka.waiting", error=error)


class Pair:
    """The main producer, and one beside it for the partitions that a batch was refused of or got stuck in."""

    def __init__(self, main: Keeper, side: Keeper) -> None:
        self.main = main
        self.side = side

    @property
    def metadata(self) -> Producer | None:
        """The main producer, for what it knows of topics without asking; None while there is none."""
        return self.main.current

    def of(self, partition: Partition) -> Keeper:
        """The one that a partition's batches go through."""
        return self.side if partition.suspect else self.main

    def works(self, producer: object) -> None:
        """A batch was acknowledged through it."""
        (self.side if producer is self.side.current else self.main).works()

    def uses(self, producer: object) -> bool:
        """Whether it is one of the two, and not discarded."""
        return producer in (self.main.current, self.side.current)

    def discard(self, producer: object, reason: str) -> None:
        """Replace it, whichever of the two it is."""
        for keeper in (self.main, self.side):
            keeper.discard(producer, reason)

    def discard_both(self, reason: str) -> None:
        """Replace both."""
        for keeper in (self.main, self.side):
            keeper.discard(keeper.current, reason)
