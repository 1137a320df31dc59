"""Topics that do not exist, asked for together: each by itself would take a task's time every few seconds."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING
from zlib import crc32

from relay.outcome import PublishError

if TYPE_CHECKING:
    from relay.stages.publish.producers import Keeper

FEW = 32
"""Number of missing topics that are asked for one by one, each at its own pace, which is quick at first."""

ASKED_EVERY = 10.0
"""Seconds within which all of the others are asked for once."""

LONGEST = 120.0
"""Seconds, on average, after which each of the others is asked for by itself as well: that may also create it."""

MOST_NAMES = 250
"""Maximum number of topics in one question."""


class Missing:
    """Wakes the tasks that wait for a topic when somebody has created it."""

    def __init__(self, main: Keeper) -> None:
        self._main = main
        self._waiting: dict[str, asyncio.Event] = {}
        self._asking: asyncio.Task[None] | None = None
        self._alone = 0

    async def wait(self, topic: str, delay: float) -> None:
        """Wait until it is worth asking for the topic: `delay` seconds or, if many are missing, until it exists."""
        if self._alone < FEW:
            self._alone += 1
            try:
                await asyncio.sleep(delay)
            finally:
                self._alone -= 1
            return
        found = self._waiting[topic] = asyncio.Event()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        try:
            # Each at its own time, so that they do not ask together.
            async with asyncio.timeout(LONGEST * (0.5 + crc32(topic.encode()) % 1_000 / 1_000)):
                await found.wait()
        except TimeoutError:
            return
        finally:
            self._waiting.pop(topic, None)

    async def _ask(self) -> None:
        while self._waiting:
            names = list(self._waiting)
            parts = [names[first : first + MOST_NAMES] for first in range(0, len(names), MOST_NAMES)]
            for part in parts:
                await asyncio.sleep(ASKED_EVERY / len(parts))
                with suppress(PublishError):
                    for name in await (await self._main.ready()).existing(part):
                        if (found := self._waiting.get(name)) is not None:
                            found.set()
