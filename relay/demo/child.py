"""The child's end of its conversation with the demo (see `children`): JSON lines in and out, and a lifeline."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

FINISH = "finish"


def report(**content: object) -> None:
    """Write one report to the parent."""
    try:
        sys.stdout.write(json.dumps(content, separators=(",", ":")) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _orphaned()


def run_child(main: Callable[[dict[str, Any], asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run `main` with the parent's instructions, and an event that is set when it is time to finish."""
    told = json.loads(sys.stdin.readline())

    async def with_lifeline() -> None:
        finish = asyncio.Event()
        # A thread, because it must notice the parent's end also when the loop hangs.
        lifeline = threading.Thread(target=_listen, args=(asyncio.get_running_loop(), finish), daemon=True)
        lifeline.start()
        await main(told, finish)

    try:
        import uvloop
    except ImportError:
        asyncio.run(with_lifeline())
    else:
        uvloop.run(with_lifeline())
    # Not by the interpreter's own end, which would wait for the thread that holds stdin.
    os._exit(0)


def _listen(loop: asyncio.AbstractEventLoop, finish: asyncio.Event) -> None:
    for line in sys.stdin:
        if line.strip() == FINISH:
            loop.call_soon_threadsafe(finish.set)
    _orphaned()


def _orphaned() -> None:
    """End the process immediately: the parent is gone, and open transactions end with their connections."""
    os._exit(1)
