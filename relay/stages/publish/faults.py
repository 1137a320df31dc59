"""The tasks of publish, and the door by which a fault in one of them ends the tenure.

A fault in what one partition or topic needs must not end the process: the others go on, and a restart would have
forgotten what is in Kafka's hands. So a task that fails is begun again after a little while.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.errors import describe
from relay.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from relay.stages.publish.producers import Pair
    from relay.telemetry import Telemetry


class Faults:
    """Keeps tasks running until the service ends, whatever goes wrong in them."""

    def __init__(self, *, producers: Pair, random: Callable[[], float], telemetry: Telemetry) -> None:
        self._producers = producers
        self._random = random
        self._telemetry = telemetry
        self._tasks: asyncio.TaskGroup | None = None
        self._fault: Exception | None = None
        self._faulty = asyncio.Event()

    async def run(self, *works: Callable[[], Awaitable[None]]) -> None:
        """Do `works` and what is spawned meanwhile, until cancelled. A fault in `works` harms no event."""
        async with asyncio.TaskGroup() as self._tasks:
            for work in works:
                self._start(work, self._tell)

    def spawn(self, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Do work that events depend on: a fault in it ends the tenure."""
        return self._start(work, self.end_tenure)

    def end_tenure(self, error: Exception) -> None:
        """Report a fault in the way of the current tenure's events. What is in flight lands, or is given up."""
        self._tell(error)
        self._fault = error
        self._faulty.set()
        self._producers.discard_both("a fault in the relay itself")

    def forget(self) -> None:
        """Begin with a tenure: faults that ended former ones do not concern it."""
        self._fault = None
        self._faulty.clear()

    async def wait(self) -> None:
        """Wait for a fault in the way of the current tenure's events, and raise it.

        The events may be stuck or lost from memory. The next tenure reads them again.
        """
        await self._faulty.wait()
        if self._fault is not None:
            raise self._fault

    def _start(self, work: Callable[[], Awaitable[None]], failed: Callable[[Exception], None]) -> asyncio.Task[None]:
        if self._tasks is None:
            raise RuntimeError("publish is not running")
        backoff = Backoff(self._random, first=0.5, most=30.0)
        return self._tasks.create_task(_keep_running(work, failed, backoff))

    def _tell(self, error: Exception) -> None:
        self._telemetry.emit("publish.fault", error=describe(error))


async def _keep_running(
    work: Callable[[], Awaitable[None]], failed: Callable[[Exception], None], backoff: Backoff
) -> None:
    """Do `work`. After an error that it should have dealt with itself, tell `failed`, wait, and begin again."""
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 whatever it is
            failed(error)
            await asyncio.sleep(backoff.next_delay())
        else:
            return
