"""What a partition remembers between a refusal and the next try."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import pytest

from relay.event import PendingEvent
from relay.outcome import FailureKind, PublishError
from relay.retry import Backoff
from relay.stages.partition import Partition

EVENT = PendingEvent(0, 1, UUID(int=1), "orders", b"k", b"x", None, None, 0, 2)
REFUSAL = PublishError(FailureKind.EVENT, "too large")


async def test_after_its_pause_a_refused_partition_may_send_however_early_the_loops_timer_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # uvloop's timers count whole milliseconds and fire up to 1.3 ms before their time (measured): one that wakes
    # the partition and then finds by the clock that it is too early leaves it asleep for ever.
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda _, callback, *arguments: loop.call_soon(callback, *arguments))
    partition = Partition("orders", 0, Backoff(lambda: 0.0))
    partition.waiting.append(EVENT)
    assert partition.may_send("producer", time.monotonic())

    partition.refused(REFUSAL)
    assert not partition.may_send("producer", time.monotonic())

    partition.wake_up.clear()
    await partition.wake_up.wait()
    assert partition.may_send("producer", time.monotonic())
