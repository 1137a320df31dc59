"""`relay run`."""

from __future__ import annotations

import asyncio
import gc
import signal
from typing import NoReturn

import click


@click.command(name="run")
def command() -> None:
    """Relay events from PostgreSQL to Kafka until stopped.

    SIGTERM and SIGINT drain: the relay takes no new events, publishes and settles those it took, and releases its
    lanes. A second signal, or the end of RELAY_STOP_GRACE, stops it immediately; events that were under way are
    delivered again later.
    """
    # Until the service listens: nothing is held yet. As process 1 of a container, a signal that nobody handles would
    # be ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)

    # Imported here: other commands need no Kafka client.
    from relay.kafka.connect import check_files
    from relay.run.service import Service
    from relay.settings import OldName, Settings
    from relay.telemetry import Telemetry
    from relay.telemetry.logs import configure

    old_names: list[OldName] = []
    settings = Settings.load(on_old_name=old_names.append)
    check_files(settings.kafka)
    telemetry = Telemetry(configure(settings.log))
    for each in old_names:
        telemetry.emit("settings.old_name", warning=str(each))

    _spare_the_collector()

    async def main() -> None:
        await Service(settings, telemetry).run()

    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)


def _spare_the_collector() -> None:
    """Events come and go by the thousand and are in no cycles: looking through them for some took a quarter of the CPU.

    The threshold is above what a full buffer holds, so that a collection is due to what really piles up.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
