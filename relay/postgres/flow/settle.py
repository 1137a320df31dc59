"""Records what became of events: receipts, failures, held rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never, cast

from relay.decide.failing import Fail, Retry
from relay.decide.receipts import LEFT_OUT, receipt_rows
from relay.postgres.flow.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from relay.decide.failing import Verdict
    from relay.event import PendingEvent
    from relay.outcome import PublishError
    from relay.stages.settle.ports import FailedEvent, Receipts


class SettleConnection(Statements):
    """Fulfils SettlePort."""

    async def settle(self, receipts: Receipts) -> int:
        """Write receipts of events that have neither failure nor held row."""
        return await self._new("settle", *_rows(receipts))

    async def settle_recorded(self, receipts: Receipts, recorded: Sequence[tuple[int, int]]) -> int:
        """Write receipts, and delete the failure and held rows of the events `recorded`."""
        lanes, ids = map(list, zip(*recorded, strict=True))
        return await self._new("settle_recorded", *_rows(receipts), lanes, ids)

    async def settle_checked(self, receipts: Receipts, event_ids: list[UUID]) -> int:
        """Write receipts for events that are still the ones that were read.

        In two statements, as an id can only come to belong to another event while the server is away.
        """
        rows = await self._rows("still_the_same", receipts.lanes, receipts.ids, event_ids)
        same = {row[0] for row in rows}
        known = receipts._replace(ids=[id_ if id_ in same else LEFT_OUT for id_ in receipts.ids])
        recorded = [(lane, id_) for lane, id_ in zip(receipts.lanes, receipts.ids, strict=True) if id_ in same]
        # The places that are left out are counted with the others of their rows.
        return min(await self.settle_recorded(known, recorded), len(recorded)) if recorded else 0

    async def hold(self, replica: UUID, events: Sequence[PendingEvent], epochs: dict[int, int]) -> int | None:
        """Write held rows, if the lanes are still owned."""
        rows = await self._rows(
            "hold",
            replica,
            [event.lane for event in events],
            [event.id for event in events],
            [event.topic for event in events],
            [event.key for event in events],
            list(epochs),
            list(epochs.values()),
        )
        return cast("int", rows[0]["new"]) if rows[0]["owned"] == len(epochs) else None

    async def fail(self, replica: UUID, failures: Sequence[FailedEvent], epochs: dict[int, int]) -> bool:
        """Write failure rows, if the lanes are still owned."""
        rows = [(*_place(failure.event), *_judged(failure.verdict), *_told(failure.error)) for failure in failures]
        columns = map(list, zip(*rows, strict=True))
        written = await self._rows("fail", replica, *columns, list(epochs), list(epochs.values()))
        return bool(written[0]["owned"] == len(epochs))

    async def _new(self, name: str, *arguments: object) -> int:
        return cast("int", (await self._rows(name, *arguments))[0]["new"])


def _place(event: PendingEvent) -> tuple[int, int, str, bytes | None]:
    return event.lane, event.id, event.topic, event.key


def _judged(verdict: Verdict) -> tuple[str, int, float | None, str]:
    """State, attempts, seconds until the next one, policy."""
    match verdict:
        case Retry(attempts=attempts, delay=delay):
            return "retrying", attempts, delay, "block"
        case Fail(attempts=attempts, policy=policy):
            return "failed", attempts, None, policy
        case _ as never:
            assert_never(never)


def _told(error: PublishError) -> tuple[str, str]:
    return error.name, str(error)


def _rows(receipts: Receipts) -> tuple[list[int], list[int], list[int], list[int], list[bytes], UUID, Sequence[int]]:
    """The columns of the receipts' rows, who published the events, and the lanes that it is to own."""
    highest: list[int] = []
    lowest: list[int] = []
    bases: list[int] = []
    partitions: list[int] = []
    places: list[bytes] = []
    for ids, partition, base in receipts.runs():
        for row in receipt_rows(ids, base):
            highest.append(row.max_id)
            lowest.append(row.min_id)
            bases.append(row.base_offset)
            partitions.append(partition)
            places.append(row.ids)
    return highest, lowest, bases, partitions, places, receipts.publisher, receipts.owned
