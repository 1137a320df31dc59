"""Waiting for events instead of for time: every wait has something it waits for, and a bound."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Result = TypeVar("Result")

LOOK_INTERVAL = 0.02


async def until(
    what: str, look: Callable[[], Awaitable[Result]], timeout: float = 30.0, interval: float = LOOK_INTERVAL
) -> Result:
    """Look until the answer is true (not 0, not empty) and return it; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := await look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        await asyncio.sleep(interval)
    return answer
