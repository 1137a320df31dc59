"""A quick look: some record batches, chosen at random, are compared with the table."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from relay.admin.verification import Verified
from relay.decide.verify.examine import Examiner, Wanted
from relay.decide.verify.ids import ranges
from relay.decide.verify.places import Places
from relay.errors import RefusedError
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from random import Random

    from relay.admin.verification import TopicReader
    from relay.decide.verify.examine import Bounds
    from relay.decide.verify.places import ReceiptRow
    from relay.postgres.admin.verify import VerifyReads

_BATCH_BYTES = 1
"""What an answer is asked to have at most: Kafka gives the whole batch in which the offset is, however large."""

_GAP = 1_000


async def verify_sample(
    reads: VerifyReads,
    reader: TopicReader,
    *,
    topic: str | None,
    number: int,
    rate: float | None,
    compacted: Callable[[str], Awaitable[bool | None]],
    random: Random,
    report: Callable[[int, int], None],
) -> list[Verified]:
    """Compare `number` receipts, chosen at random, with what Kafka has at their places; of any topic if none is given.

    Repeats, and records that are no events, are found only beside what was chosen. Raises as `verify` does.
    """
    chosen = await _choose(reads, topic, number, random)
    done = 0
    found: list[Verified] = []
    for name, receipts in sorted(chosen.items()):
        began = time.monotonic()
        examiner = Examiner()
        try:
            bounds = await reader.bounds(name, await reader.partitions(name))
        except RefusedError as error:
            if topic is not None:
                raise
            found.append(Verified(name, 0, examiner.found, 0.0, [f"not compared: {error}"]))
            continue
        is_compacted = await compacted(name)
        # In the order of their places, so that the order of events can be compared, too.
        for receipt in sorted(receipts, key=lambda each: (each.kafka_partition, each.base_offset)):
            await _compare(reads, reader, examiner, name, receipt, bounds, compacted=bool(is_compacted))
            done += 1
            report(done, sum(map(len, chosen.values())))
            if rate:
                await asyncio.sleep(max(0.0, began + examiner.records / rate - time.monotonic()))
        examiner.settle_late(lambda _: False)
        remarks = [f"a sample: {len(receipts):,} record batches"]
        found.append(Verified(name, examiner.records, examiner.found, time.monotonic() - began, remarks))
    return found


async def _choose(reads: VerifyReads, topic: str | None, number: int, random: Random) -> dict[str, list[ReceiptRow]]:
    """Choose receipts: for each, an id at random, and the first receipt from there on."""
    horizon = await reads.horizon()
    chosen: dict[str, dict[tuple[int, int, int], ReceiptRow]] = {}
    for _ in range(number):
        from_id = random.randint(horizon.lowest_id, max(horizon.newest_id, horizon.lowest_id))
        sampled = await reads.sample(from_id, topic, horizon.now) or await reads.sample(0, topic, horizon.now)
        if sampled is not None:
            row = sampled.receipt
            chosen.setdefault(sampled.topic, {})[row.max_id, row.kafka_partition, row.base_offset] = row
    if not chosen:
        of_topic = "" if topic is None else f" of the topic {plain(topic)}"
        raise RefusedError(f"no receipt{of_topic} was found: there is nothing to compare")
    return {name: list(rows.values()) for name, rows in chosen.items()}


async def _compare(
    reads: VerifyReads,
    reader: TopicReader,
    examiner: Examiner,
    topic: str,
    receipt: ReceiptRow,
    bounds: Bounds,
    *,
    compacted: bool,
) -> None:
    ids = sorted(id_ for id_, _ in receipt.events())
    if not ids:
        return
    events = await reads.events(topic, ranges(ids, _GAP))
    places = Places([receipt])
    partition, start = receipt.kafka_partition, receipt.base_offset
    begin, end = bounds.get(partition, (0, 0))
    span = max(start, begin), min(start + len(receipt.ids) // 4, end)
    if span[0] < span[1]:
        async for answer in reader.read(topic, {partition: span}, _BATCH_BYTES):
            for each in answer:
                named = examiner.sort_out(partition, each.records)
                examiner.judge(partition, named, events, places, pruned=lambda _: True, start=span[0])
    absent = examiner.missing(_wanted(ids, events), places)
    later = await reads.later([event.id for event in absent], topic) if absent and compacted else set()
    for event in absent:
        examiner.judge_missing(event, places, bounds, compacted=compacted and (event.tombstone or event.id in later))


def _wanted(ids: Sequence[int], events: Mapping[int, Sequence[Any]]) -> list[Wanted]:
    """Return the events as they should be in Kafka. Those that were dropped meanwhile are not asked for."""
    return [Wanted(id_, events[id_][2], events[id_][3] is None) for id_ in ids if id_ in events]
