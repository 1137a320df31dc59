"""Records what became of events: receipts, failures, held rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never, cast

from asyncpg import UniqueViolationError

from relay.decide.failing import Fail, Retry
from relay.errors import StatementFailedError
from relay.postgres.flow.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from relay.decide.failing import Verdict
    from relay.event import PendingEvent
    from relay.outcome import PublishError
    from relay.stages.settle.ports import Receipts


class SettleConnection(Statements):
    """Fulfils SettlePort."""

    async def settle(self, receipts: Receipts) -> int:
        """Write receipts of events that have neither failure nor held row."""
        try:
            # As text: asyncpg takes 0.35 us of CPU for an element of an array.
            lanes, ids = _array(receipts.lanes), _array(receipts.ids)
            await self._rows("settle", lanes, ids, receipts.firsts, receipts.partitions, receipts.bases)
        except StatementFailedError as error:
            if not isinstance(error.__cause__, UniqueViolationError):
                raise
            # Another owner was there before us, or this is a repetition.
            return await self._new("settle_again", *_columns(receipts))
        return len(receipts.ids)

    async def settle_recorded(self, receipts: Receipts, recorded: Sequence[tuple[int, int]]) -> int:
        """Write receipts, and delete the failure and held rows of the events `recorded`."""
        lanes, ids = map(list, zip(*recorded, strict=True))
        return await self._new("settle_recorded", *_columns(receipts), lanes, ids)

    async def settle_checked(self, receipts: Receipts, event_ids: list[UUID]) -> int:
        """Write receipts for events that are still the ones that were read."""
        return await self._new("settle_checked", *_columns(receipts), event_ids)

    async def count_duplicates(self, receipts: Receipts) -> int:
        """How many of these are also recorded at another place in Kafka."""
        return cast("int", (await self._rows("count_duplicates", *_columns(receipts)))[0][0])

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

    async def fail(self, replica: UUID, event: PendingEvent, verdict: Verdict, error: PublishError, epoch: int) -> bool:
        """Write a failure row, if the lane is still owned."""
        wait: float | None = None
        match verdict:
            case Retry(attempts=attempts, delay=delay):
                state, wait, policy = "retrying", delay, "block"
            case Fail(attempts=attempts, policy=policy):
                state = "failed"
            case _ as never:
                assert_never(never)
        rows = await self._rows(
            "fail",
            replica,
            event.lane,
            event.id,
            event.topic,
            event.key,
            state,
            attempts,
            wait,
            error.name,
            str(error),
            policy,
            epoch,
        )
        return bool(rows[0]["owned"])

    async def _new(self, name: str, *arguments: object) -> int:
        return cast("int", (await self._rows(name, *arguments))[0]["new"])


def _array(numbers: Iterable[int]) -> str:
    """An array in PostgreSQL's text form."""
    return f"{{{','.join(map(str, numbers))}}}"


def _columns(receipts: Receipts) -> tuple[list[int], list[int], list[int], list[int]]:
    """Lane, id, partition and offset of each event."""
    return receipts.lanes, receipts.ids, *receipts.places()
