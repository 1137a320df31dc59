"""Who commits the events whose way to a consumer is measured, and when each COMMIT came back."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from tests.bench.pgbench import Pgbench

PAYLOAD_BYTES = 500
KEYS = 1_000

Commit: TypeAlias = Callable[[float], Awaitable[dict[str, float]]]
"""Commits events for so many seconds; returns when COMMIT came back (Unix time, seconds) by the events' names.

The gaps between events are exponentially distributed, and the same in each round. The name of an event is the first
word of its payload.
"""
Insert: TypeAlias = Callable[[str, str], str]
"""The INSERT of an event, given SQL for its key and its payload, both text."""
Write: TypeAlias = Callable[[str, bytes], Awaitable[float]]
"""Writes one event, given the key and the payload; returns from when on its consumer waits for it (Unix time)."""

SCRIPT = """
\\set number :number + 1
\\set order random(0, {last_key})
BEGIN;
{insert};
COMMIT;
"""


def by_pgbench(dsn: str, insert: Insert, rate: float) -> Commit:
    """`rate` events a second, a transaction each, at the least cost for the machine that is measured on."""
    key = "'order-' || lpad(:order::text, 30, '0')"
    payload = f"rpad(:client_id::text || '-' || :number::text || ' ', {PAYLOAD_BYTES}, 'x')"
    script = SCRIPT.format(last_key=KEYS - 1, insert=insert(key, payload))

    async def commit(seconds: float) -> dict[str, float]:
        with tempfile.TemporaryDirectory(prefix="bench-commits-") as folder:
            pgbench = Pgbench(Path(folder), dsn, script, seconds, rate, {"number": "0"}, note_each=True)
            async with pgbench:
                await pgbench.ended()
                return pgbench.ends()

    return commit


def by_calls(clients: Sequence[Write], rate: float) -> Commit:
    """`rate` events a second by calls, of each client in turn with itself and beside the others."""

    async def commit(seconds: float) -> dict[str, float]:
        committed: dict[str, float] = {}
        async with asyncio.TaskGroup() as writing:
            for number, write in enumerate(clients):
                writing.create_task(_write(write, number, rate / len(clients), seconds, committed))
        return committed

    return commit


async def _write(write: Write, client: int, rate: float, seconds: float, committed: dict[str, float]) -> None:
    gaps = random.Random(client)
    due = begin = time.monotonic()
    number = 0
    while (due := due + gaps.expovariate(rate)) < begin + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        name = f"{client}-{number}"
        payload = f"{name} ".encode().ljust(PAYLOAD_BYTES, b"x")
        committed[name] = await write(f"order-{number % KEYS:030}", payload)
        number += 1
