"""Work that goes on for as long as the service runs, whatever goes wrong in it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from relay.retry import Backoff


async def keep_running(
    work: Callable[[], Awaitable[None]], failed: Callable[[Exception], None], backoff: Backoff
) -> None:
    """Do `work`; after each error that it should have dealt with itself tell `failed`, wait a little, and do it again.

    A fault in what one partition or topic needs must not end the process: the others go on, and a restart would have
    forgotten what is in Kafka's hands.
    """
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 whatever it is
            failed(error)
            await asyncio.sleep(backoff.next_delay())
        else:
            return
