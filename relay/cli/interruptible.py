"""Running a coroutine that Ctrl-C may end at any moment."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, like asyncio.run. Raises KeyboardInterrupt, and only that, on Ctrl-C.

    A Ctrl-C amid the set-up of an event loop leaves half a loop behind, with tracebacks from its destructor, so it is
    held back until the loop handles it.
    """

    async def listening() -> T:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        # A held-back signal is handled here: the loop then cancels us at the first wait.
        return await work

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return asyncio.run(listening())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        work.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
