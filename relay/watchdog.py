"""Watches the event loop: how late it runs what is due."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.health import Health
    from relay.telemetry import Telemetry

BUSY_INTERVAL = 0.02
"""Seconds between looks while events are under way. Short, because of a block only the part after the next look's time
is seen."""

IDLE_INTERVAL = 1.0
"""Seconds between looks at other times: each wake-up of an idle process costs 0.3 ms of CPU, for its cold caches."""

BLOCKED = 0.02
"""Seconds of delay from which on the loop counts as blocked: two scans of a busy outbox would fit in."""

STALLED = 1.0
"""Seconds of delay worth a warning: heartbeats and acknowledgements wait as long."""


async def watch_loop(health: Health, telemetry: Telemetry, busy: Callable[[], bool]) -> None:
    """Measure for ever how late the loop is; tell `telemetry`, and `health` that the loop turns."""
    clock = asyncio.get_running_loop().time
    while True:
        interval = BUSY_INTERVAL if busy() else IDLE_INTERVAL
        due = clock() + interval
        await asyncio.sleep(interval)
        now = clock()
        delay = max(0.0, now - due)
        health.loop_turned(now)
        telemetry.emit("loop.delayed", seconds=delay)
        if delay >= BLOCKED:
            telemetry.emit("loop.blocked", seconds=round(delay, 3))
        if delay >= STALLED:
            telemetry.emit("loop.stalled", seconds=round(delay, 3))
