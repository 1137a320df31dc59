"""`relay run`."""

from __future__ import annotations

import asyncio
import gc

import click


@click.command(name="run")
def command() -> None:
    """Relay events from PostgreSQL to Kafka until stopped.

    SIGTERM and SIGINT drain: the relay takes no new events, publishes and settles those it took, and releases its
    lanes. A second signal, or the end of RELAY_STOP_GRACE, stops it immediately; events that were under way are
    delivered again later.
    """
    # Imported here: other commands need no Kafka client.
    from relay.kafka.connect import check_files
    from relay.run.service import Service
    from relay.run.slow import slow_steps_told
    from relay.settings import OldName, Settings, Warned
    from relay.telemetry import Telemetry
    from relay.telemetry.logs import configure

    warnings: list[Warned] = []
    settings = Settings.load(on_warning=warnings.append)
    check_files(settings.kafka)
    telemetry = Telemetry(configure(settings.log))
    for each in warnings:
        if isinstance(each, OldName):
            telemetry.emit("settings.old_name", warning=str(each))
        else:
            telemetry.emit("settings.unsafe", warning=str(each))

    _spare_the_collector()

    async def main() -> None:
        await Service(settings, telemetry).run()

    async def debugged() -> None:
        with slow_steps_told(telemetry, settings.loop.slow_callback):
            await main()

    if settings.loop.debug:
        # uvloop does not tell which callbacks were slow.
        asyncio.run(debugged(), debug=True)
        return
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())


def _spare_the_collector() -> None:
    """Events come and go by the thousand and are in no cycles: looking through them for some took a quarter of the CPU.

    The threshold is above what a full buffer holds, so that a collection is due to what really piles up.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
