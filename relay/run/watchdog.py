"""Watches the event loop: measures how late it runs what is due."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.run.health import Health
    from relay.telemetry import Telemetry

BUSY_INTERVAL = 0.005
"""Seconds between looks while events are under way. Short, because of a block only the part after the next look's time
is seen, and because what the loop does before that time is no part of it."""

IDLE_INTERVAL = 1.0
"""Seconds between looks at other times: each wake-up of an idle process costs 0.3 ms of CPU, for its cold caches."""

BLOCKED = 0.02
"""Seconds of delay that count as too long: two scans of a busy outbox would fit in."""

STALLED = 1.0
"""Seconds of delay that are worth a warning: heartbeats and acknowledgements are as late."""


async def watch_loop(
    health: Health, telemetry: Telemetry, busy: Callable[[], bool], each_second: Callable[[], None]
) -> None:
    """Measure for ever how late the loop is; tell `telemetry`, and `health` that the loop turns.

    `each_second` is called about once a second: an idle process is woken up no more often for it.

    Late by its own work, which is this program's fault, or late because its thread did not run: on a machine with too
    few cores, or under a CPU limit, nothing that it does would help. In a long interval it may have worked a little
    before it was late.
    """
    clock = asyncio.get_running_loop().time
    tell_at = 0.0
    while True:
        interval = BUSY_INTERVAL if busy() else IDLE_INTERVAL
        due, worked = clock() + interval, time.thread_time()
        await asyncio.sleep(interval)
        now, worked = clock(), time.thread_time() - worked
        delay = max(0.0, now - due)
        health.loop_turned(now)
        if now >= tell_at:
            tell_at = now + IDLE_INTERVAL
            each_second()
        telemetry.emit("loop.delayed", seconds=delay)
        if delay >= BLOCKED and worked >= max(BLOCKED, interval / 10):
            telemetry.emit("loop.blocked", seconds=round(delay, 3))
        elif delay >= BLOCKED:
            telemetry.emit("loop.starved", seconds=round(delay, 3))
        if delay >= STALLED:
            telemetry.emit("loop.stalled", seconds=round(delay, 3), worked=round(worked, 3))
