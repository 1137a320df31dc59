"""For developers: names what made the event loop slow, and where it was meanwhile.

asyncio's debug mode says which task or callback took too long, and where it was made. Where its time went is in the
stack of the loop's thread while it is busy, at which another thread looks.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from relay.telemetry import Telemetry

FRAMES = 12
"""Number of frames of the stack that are told, the innermost ones."""


@contextmanager
def slow_steps_told(telemetry: Telemetry, seconds: float) -> Iterator[None]:
    """Tell, in the body, which steps of the running loop take more than `seconds`, once each."""
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = seconds
    telemetry.emit("loop.debug", slow_callback=seconds)
    watch = _Watch(loop, telemetry, seconds)
    watch.start()
    try:
        yield
    finally:
        watch.stop()


class _Watch:
    """A thread that looks at the loop's thread whenever the loop has not turned for too long."""

    def __init__(self, loop: asyncio.AbstractEventLoop, telemetry: Telemetry, seconds: float) -> None:
        self._loop, self._telemetry, self._seconds = loop, telemetry, seconds
        self._of = threading.get_ident()
        self._turned_at = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="slow steps", daemon=True)

    def start(self) -> None:
        self._turn()
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()
        self._thread.join()

    def _turn(self) -> None:
        self._turned_at = time.monotonic()
        self._timer = self._loop.call_later(self._seconds / 4, self._turn)

    def _look(self) -> None:
        told = 0.0
        while not self._ended.wait(self._seconds / 4):
            turned_at = self._turned_at
            # Between two turns lies a quarter of that time, in which the loop may sleep.
            if time.monotonic() - turned_at < self._seconds * 1.25 or told == turned_at:
                continue
            told = turned_at
            frame = sys._current_frames().get(self._of)  # noqa: SLF001 the way that Python documents
            if frame is not None and not self._ended.is_set():
                where = _stack(frame)
                self._loop.call_soon_threadsafe(self._tell, turned_at, where)

    def _tell(self, turned_at: float, where: str) -> None:
        self._telemetry.emit("loop.slow", seconds=round(time.monotonic() - turned_at, 3), where=where)


def _stack(frame: FrameType) -> str:
    frames = traceback.extract_stack(frame)[-FRAMES:]
    return " > ".join(f"{each.filename}:{each.lineno} {each.name}" for each in frames)
