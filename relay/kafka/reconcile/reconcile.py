"""Fulfils what reconciling needs of Kafka, through one client that is opened when it is needed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError

from relay.kafka.errors import translate
from relay.kafka.options import Security
from relay.kafka.reconcile import ends
from relay.kafka.reconcile.asking import Asking
from relay.kafka.reconcile.fence import Fence
from relay.kafka.reconcile.leaders import Leaders
from relay.kafka.reconcile.reading import Reading
from relay.kafka.reconcile.transactions import new_producer_id
from relay.stages.reconcile.ports import UnfenceableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from relay.settings import KafkaSettings
    from relay.stages.reconcile.ports import Fenced, Finished, Found, Place, Tail, Trouble

KEPT = 10.0
"""Seconds for which an unused client is kept. An owner asks every ten seconds where its idle partitions end."""


class KafkaReconcile:
    """The adapter of KafkaReconcilePort. Several questions may be asked at the same time."""

    def __init__(self, settings: KafkaSettings, security: Security | None = None) -> None:
        """`security` is shared with the producers of the process."""
        self._settings = settings
        self._security = security or Security(settings)
        self._asking: Asking | None = None
        self._users = 0
        self._opening = asyncio.Lock()
        self._closing: asyncio.TimerHandle | None = None
        self._closed: set[asyncio.Task[None]] = set()

    async def ends(self, topics: Mapping[str, int]) -> dict[str, list[int] | Trouble]:
        """Return for each topic the end of each of its first so many partitions, or why it cannot be had."""
        async with self._used() as asking:
            return await ends.ends(asking, Leaders(asking), topics)

    async def fence(self, name: str, places: Collection[Place], seconds: float) -> Fenced:
        """End an empty transaction of the transactional id `name` over all of these partitions, within `seconds`."""
        async with self._used() as asking:
            leaders = Leaders(asking)
            await leaders.look({place.topic for place in places})
            return await Fence(asking, leaders, name).place(places, seconds)

    async def can_fence(self, name: str, seconds: float) -> bool:
        """Return whether the transactional id `name`, never used before, gets a producer id within `seconds`."""
        async with self._used() as asking:
            try:
                await new_producer_id(asking, name, seconds)
            except UnfenceableError:
                return False
            return True

    async def read(self, tails: Sequence[Tail], most_bytes: int) -> AsyncIterator[Found | Finished]:
        """Read partitions beside one another, each from its `begin` in order, up to its end or its first hole."""
        async with self._used() as asking:
            async for each in Reading(asking, Leaders(asking), tails, most_bytes).run():
                yield each

    async def close(self) -> None:
        """Close the client, whatever Kafka does."""
        self._stay_open()
        asking, self._asking = self._asking, None
        if asking is not None:
            await asking.close()
        if self._closed:
            await asyncio.wait(self._closed)

    @asynccontextmanager
    async def _used(self) -> AsyncIterator[Asking]:
        """The client, for as long as it is used. Errors of Kafka are translated."""
        self._stay_open()
        self._users += 1
        try:
            async with self._opening:
                if self._asking is None:
                    self._asking = await Asking.connect(self._settings, self._security)
                asking = self._asking
            yield asking
        except (KafkaError, OSError, TimeoutError) as error:
            # The next question finds out where the brokers are.
            self._drop()
            raise translate(error) from error
        finally:
            self._users -= 1
            if not self._users:
                self._closing = asyncio.get_running_loop().call_later(KEPT, self._drop)

    def _stay_open(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None

    def _drop(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            closed = asyncio.get_running_loop().create_task(asking.close())
            self._closed.add(closed)
            closed.add_done_callback(self._closed.discard)
