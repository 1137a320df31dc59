"""Moves scheduled events into the outbox, and counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from relay.postgres.flow.statements import Statements
from relay.stages.timers.ports import Due, Moved

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID


class TimersConnection(Statements):
    """Fulfils TimersPort."""

    async def move_due(
        self,
        replica: UUID,
        lanes: Sequence[tuple[int, int]],
        *,
        at_most: int,
        put_off: Collection[int] = (),
    ) -> Moved:
        """Move what is due."""
        numbers, epochs = [lane for lane, _ in lanes], [epoch for _, epoch in lanes]
        ((*row,),) = await self._rows("move_due", replica, numbers, epochs, at_most, list(put_off))
        return Moved(*row)

    async def first_due(self, lane: int, put_off: Collection[int]) -> Due | None:
        """The event that is moved next."""
        rows = await self._rows("first_due", lane, list(put_off))
        return Due(*rows[0]) if rows else None

    async def count_scheduled(self, lanes: Sequence[int]) -> int:
        """How many are to come."""
        return cast("int", (await self._rows("count_scheduled", list(lanes)))[0][0])
