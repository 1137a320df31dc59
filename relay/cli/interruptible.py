"""Running a coroutine that Ctrl-C may end at any moment."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, like asyncio.run. Raises KeyboardInterrupt, and only that, on Ctrl-C.

    A Ctrl-C amid the set-up or the end of an event loop leaves half a loop behind, with tracebacks from its destructor,
    so it is only noted then. By a handler and not by blocking the signal: it would go to a thread that does not block
    it, such as that of a progress bar, and interrupt us all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python handles signals in the main thread only.
        return asyncio.run(work)
    pressed = False

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True

    async def listening() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.create_task(work)
        signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(task.cancel))
        try:
            if pressed:
                task.cancel()
            return await task
        finally:
            signal.signal(signal.SIGINT, note)

    former = signal.signal(signal.SIGINT, note)
    try:
        return asyncio.run(listening())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        work.close()
        signal.signal(signal.SIGINT, former)
