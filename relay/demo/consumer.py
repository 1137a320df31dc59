"""The consumer: reads the topic from its beginning and reports to the parent which events arrived when."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer

from relay.demo.child import report, run_child

if TYPE_CHECKING:
    import asyncio

TELL_INTERVAL = 0.2
"""Seconds between reports: longer than the writers' interval, so that most commits are known when an event is shown."""
WAIT_MS = 50


async def main(told: dict[str, Any], finish: asyncio.Event) -> None:
    """Say `ready`, consume until it is time to finish, and then up to the topic's end as it is then."""
    consumer = AIOKafkaConsumer(
        told["topic"],
        bootstrap_servers=told["bootstrap_servers"],
        client_id="relay-demo-consumer",
        group_id=None,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        report(ready=True)
        events: list[list[object]] = []
        tell_at = 0.0
        while not finish.is_set():
            nothing_yet = not events
            await _take(consumer, events)
            if nothing_yet:
                tell_at = time.monotonic() + TELL_INTERVAL
            elif time.monotonic() >= tell_at:
                report(arrived=events)
                events = []
        ends = await consumer.end_offsets(consumer.assignment())
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            await _take(consumer, events)
        report(arrived=events)
    finally:
        await consumer.stop()


async def _take(consumer: AIOKafkaConsumer, events: list[list[object]]) -> None:
    """Wait a moment for events and add them: order, version, rolled back, time, kind, partition, offset."""
    batches = await consumer.getmany(timeout_ms=WAIT_MS)
    now = time.monotonic()
    for records in batches.values():
        for record in records:
            event = json.loads(record.value or b"")
            events.append(
                [
                    event["order"],
                    event["version"],
                    event["rolled_back"],
                    now,
                    event["change"],
                    record.partition,
                    record.offset,
                ]
            )


if __name__ == "__main__":
    run_child(main)
