"""Table against topic: whether each delivered event is in Kafka where its receipt says, as it was written, in order."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from relay.admin.ahead import ahead
from relay.admin.late_events import late_by_decision
from relay.admin.times import absolute, option_of
from relay.decide.verify.examine import Examiner, LaterKeys
from relay.decide.verify.ids import ranges
from relay.decide.verify.places import UNKNOWN_PLACE, Places, partition_and_offset
from relay.errors import InvalidRequestError, RefusedError
from relay.keys import key_text
from relay.postgres.admin.verify import ALWAYS
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
    from datetime import datetime, timedelta

    from relay.decide.verify.examine import Bounds, Read, Seen, Wanted
    from relay.decide.verify.findings import Findings
    from relay.postgres.admin.replays import Horizon
    from relay.postgres.admin.verify import VerifyReads

WINDOW = 50_000
"""Ids that are read from the table at once."""

_GAP = 200
"""Ids between two ranges of a look at the table: to read so many that are not needed costs less than a range."""

_SPARSE = 64
"""From so many ids for each record on, receipts are looked up one by one."""


class TopicReader(Protocol):
    """Reads topics. Its methods raise RefusedError without the right to, and UnreachableError."""

    async def partitions(self, topic: str) -> list[int]:
        """Return the numbers of a topic's partitions."""

    async def bounds(self, topic: str, partitions: list[int]) -> Bounds:
        """Return of each partition the first offset that it has and the one after the last."""

    def read(self, topic: str, spans: Bounds, answer_bytes: int = ...) -> AsyncGenerator[list[Read]]:
        """Read the spans of offsets; an answer has at most about `answer_bytes` bytes."""


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What a person wants compared."""

    topic: str
    key: bytes | None = None
    since: datetime | timedelta | None = None
    """Only events delivered at or after that."""
    rate: float | None = None
    """Records a second, at most."""


class Verified(NamedTuple):
    """What was found."""

    topic: str
    records: int
    found: Findings
    seconds: float
    remarks: list[str]


@dataclass(slots=True)
class _Scope:
    """What is compared, fixed when it begins."""

    horizon: Horizon
    since: datetime | None
    spans: Bounds
    lowest: int
    """No event with a lower id is meant."""
    kept: list[tuple[int, int]]
    compacted: bool = False

    def pruned(self, id_: int) -> bool:
        """Whether the table does not keep an event with this id any more."""
        return bool(self.kept) and id_ < self.kept[-1][1] and not any(low <= id_ < high for low, high in self.kept)

    def windows(self, *, descending: bool) -> Iterator[tuple[int, int]]:
        """Yield the ranges of ids (above, up to) that the table has."""
        newest = self.horizon.newest_id
        top = self.kept[-1][1] if self.kept else self.lowest
        spans = [(low - 1, high - 1) for low, high in self.kept] + [(top - 1, newest)]
        found = [
            (start, min(start + WINDOW, up_to, newest))
            for above, up_to in spans
            for start in range(max(above, self.lowest - 1), min(up_to, newest), WINDOW)
        ]
        return reversed(found) if descending else iter(found)


async def verify(
    reads: VerifyReads,
    reader: TopicReader,
    request: VerifyRequest,
    *,
    compacted: Callable[[str], Awaitable[bool | None]],
    report: Callable[[int, int], None],
) -> Verified:
    """Compare a topic with the table. `report` hears offsets done and all offsets.

    `compacted` tells whether Kafka removes records of a topic that have a later one of their key; None if that is not
    known. Raises RefusedError, InvalidRequestError, BusyError and UnreachableError.
    """
    began = time.monotonic()
    scope = await _scope(reads, reader, request)
    is_compacted = await compacted(request.topic)
    scope.compacted = bool(is_compacted)
    examiner = Examiner(key=request.key)
    done, total = 0, sum(end - start for start, end in scope.spans.values())
    report(0, total)
    async for answer in ahead(reader.read(request.topic, scope.spans)):
        await _examine(reads, examiner, request.topic, scope, answer)
        done += sum(each.passed for each in answer)
        report(done, total)
        if request.rate:
            await asyncio.sleep(max(0.0, began + examiner.records / request.rate - time.monotonic()))
    await _look_for_missing(reads, reader, examiner, request, scope)
    await late_by_decision(reads, examiner)
    remarks = _remarks(request, scope, is_compacted)
    return Verified(request.topic, examiner.records, examiner.found, time.monotonic() - began, remarks)


async def _scope(reads: VerifyReads, reader: TopicReader, request: VerifyRequest) -> _Scope:
    horizon = await reads.horizon()
    since = None if request.since is None else absolute(request.since, horizon.now)
    if since is not None and since >= horizon.now:
        raise InvalidRequestError(f"--since ({option_of(since)}) is not before now, by PostgreSQL's clock")
    if horizon.kept_since is None:
        raise RefusedError("no event has been delivered: there is nothing to compare")
    # After the horizon: what was delivered until then lies before the ends.
    bounds = await reader.bounds(request.topic, await reader.partitions(request.topic))
    scope = _Scope(horizon, since, bounds, horizon.lowest_id, await reads.kept())
    if since is not None or request.key is not None:
        await _narrow(reads, request, scope)
    return scope


async def _narrow(reads: VerifyReads, request: VerifyRequest, scope: _Scope) -> None:
    """Leave out partitions, and offsets at their beginning, in which there is nothing of what is meant."""
    starts: dict[int, int] = {}
    lowest: int | None = None
    for above, up_to in scope.windows(descending=False):
        rows = await reads.receipts(above, up_to, *_times(scope))
        if not rows:
            continue
        places = Places(rows)
        wanted = await reads.wanted(request.topic, request.key, above, up_to)
        for event in wanted:
            for partition, offset in _known(places, event.id):
                starts[partition] = min(offset, starts.get(partition, offset))
            if lowest is None and event.id in places:
                lowest = event.id
    if lowest is None:
        of_key = "" if request.key is None else f" of key {key_text(request.key)}"
        when = "" if scope.since is None else f" since {option_of(scope.since)}"
        raise RefusedError(
            f"the topic {plain(request.topic)} has no events{of_key} that were delivered{when} and are kept: there is "
            "nothing to compare"
        )
    scope.lowest = lowest
    scope.spans = {
        partition: (max(begin, starts[partition]) if scope.since is not None else begin, end)
        for partition, (begin, end) in scope.spans.items()
        if partition in starts
    }


async def _examine(reads: VerifyReads, examiner: Examiner, topic: str, scope: _Scope, answer: list[Read]) -> None:
    named: list[tuple[int, list[Seen]]] = [
        (each.partition, examiner.sort_out(each.partition, each.records)) for each in answer
    ]
    ids = sorted({record[1] for _, records in named for record in records})
    if not ids:
        return
    events = await reads.events(topic, ranges(ids, _GAP))
    if ids[-1] - ids[0] < _SPARSE * len(ids):
        places = Places(await reads.receipts(ids[0] - 1, ids[-1]))
    else:
        places = Places(await reads.receipts_of(ids))
    # After the events: what is missing among them may have been dropped just now.
    scope.kept = await reads.kept()
    for partition, records in named:
        start = scope.spans[partition][0]
        examiner.judge(partition, records, events, places, pruned=scope.pruned, start=start)


async def _look_for_missing(
    reads: VerifyReads, reader: TopicReader, examiner: Examiner, request: VerifyRequest, scope: _Scope
) -> None:
    """Compare all receipts with what was found, the newest first: in a compacted topic they replace others."""
    bounds = await reader.bounds(request.topic, await reader.partitions(request.topic))
    position = await reads.position() if scope.since is None else 0
    scope.kept = await reads.kept()
    later = LaterKeys()
    for above, up_to in scope.windows(descending=True):
        rows = await reads.receipts(above, up_to, *_times(scope))
        if not rows and above >= position:
            continue
        places = Places(rows)
        wanted = await reads.wanted(request.topic, request.key, above, up_to)
        absent = {event.id for event in examiner.missing(wanted, places)}
        for event in sorted(wanted, reverse=True) if scope.compacted else wanted:
            known = _known(places, event.id)
            if event.id in absent and not _came_later(known, scope.spans, bounds):
                gone = scope.compacted and (event.tombstone or _replaced(event, known, later))
                examiner.judge_missing(event, places, bounds, compacted=gone)
            if scope.compacted and event.key is not None:
                for partition, _ in known:
                    later.add(partition, event.key)
        if suspects := [event.id for event in wanted if event.id not in places and event.id <= position]:
            for id_ in await reads.unsettled(suspects):
                examiner.found.find("unsettled", "the relay has passed it", id_=id_)


def _replaced(event: Wanted, known: list[tuple[int, int]], later: LaterKeys) -> bool:
    return event.key is not None and any((partition, event.key) in later for partition, _ in known)


def _came_later(known: list[tuple[int, int]], read: Bounds, bounds: Bounds) -> bool:
    """Whether it lies behind the part that was read. The server's clock may have been set back."""
    return any(
        partition in read and partition in bounds and read[partition][1] <= offset < bounds[partition][1]
        for partition, offset in known
    )


def _known(places: Places, id_: int) -> list[tuple[int, int]]:
    return [partition_and_offset(place) for place in places.all_of(id_) if place != UNKNOWN_PLACE]


def _times(scope: _Scope) -> tuple[datetime, datetime]:
    return scope.since or ALWAYS[0], scope.horizon.now


def _remarks(request: VerifyRequest, scope: _Scope, compacted: bool | None) -> list[str]:
    told = []
    if compacted is None:
        told.append(
            "this login may not read the topic's configuration (DESCRIBE_CONFIGS): if the topic is compacted, records "
            "that were replaced count as lost"
        )
    kept = scope.horizon.kept_since
    if scope.horizon.pruned and kept is not None and (scope.since is None or scope.since < kept):
        told.append(f"the outbox keeps receipts since {option_of(kept)}; what was delivered before was not compared")
    if request.key is not None:
        told.append("only records of the key were compared")
    return told
