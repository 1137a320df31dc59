"""Work that nothing counts, before rounds that are compared: a broker that was just started is slow for minutes.

For its first three minutes it takes two to three times the CPU per event of later. A number of events says little about
that: while draining, 50,000 are done within a second.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tests.bench.arrivals import Arrivals
from tests.bench.committing import by_pgbench

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.place import Place

    Command = TypeVar("Command", bound=Callable[..., Any])

SECONDS = 180.0
QUICK_SECONDS = 10.0
"""For a first look."""
BACKLOG = 50_000
RATE = 1_000
STEADY_SECONDS = 5.0
"""A turn is a backlog and so many seconds at the rate: both are measured, and a broker handles them differently."""
LOOK_INTERVAL = 0.5
LONGEST = 300.0
"""Seconds in which a backlog must be drained."""


def warmed(command: Command) -> Command:
    """Add the option of the benchmarks that warm the broker up, passed on as `warm_up`."""
    return click.option(
        "--warm-up", default=SECONDS, show_default=True, help="Seconds of work that nothing counts, before the rounds."
    )(command)


async def warm_up(place: Place) -> None:
    """Relay backlogs and single events in turn, to a consumer, for the seconds that the place was given."""
    until = time.monotonic() + place.warm_up_seconds
    if not place.warm_up_seconds:
        return
    topic = await place.topic()
    with tempfile.TemporaryDirectory(prefix="bench-warm-up-") as folder:
        async with Arrivals(place, topic, Path(folder)) as consumer:
            while (left := until - time.monotonic()) > 0:
                consumer.check()
                await _turn(place, topic, min(STEADY_SECONDS, left))


async def _turn(place: Place, topic: str, seconds: float) -> None:
    async with place.outbox(topic) as outbox, place.relay(outbox) as relay:
        await outbox.fill(BACKLOG)
        async with asyncio.timeout(LONGEST):
            while await relay.settled() < BACKLOG:
                relay.check()
                await asyncio.sleep(LOOK_INTERVAL)
        await by_pgbench(outbox.dsn, outbox.insert, RATE)(seconds)
