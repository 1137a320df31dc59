"""One connection of the flow, and the named statements that are run on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from relay.decide.held_back import BlockedKey
from relay.postgres.connect import EventRow
from relay.postgres.errors import running
from relay.postgres.sql import query

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from relay.event import PendingEvent


class Statements:
    """Runs statements of `sql/queries`; what a stage needs of a connection is a subclass, with a method for each.

    A method's limits, units and errors stand at the stage's port, which it fulfils.
    """

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self._fetch = connection.fetch

    async def sequence_value(self) -> int:
        """The last event id that was taken from the sequence; 0 when none was."""
        return cast("int", (await self._rows("sequence_value"))[0][0])

    async def _rows(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        # asyncpg keeps the statement prepared for as long as the connection lives: the text is constant.
        with running(name):
            return cast("list[asyncpg.Record]", await self._fetch(query(name, self._schema), *arguments))

    async def _events(self, name: str, *arguments: object) -> list[PendingEvent]:
        """Rows of a statement whose first ten columns are an event's."""
        with running(name):
            return cast(
                "list[PendingEvent]",
                await self._fetch(query(name, self._schema), *arguments, record_class=EventRow),
            )


class FailureStatements(Statements):
    """What both the claiming and the resuming of a lane ask about its failures."""

    async def blocking(self, lanes: Sequence[int]) -> list[BlockedKey]:
        """The keys behind a failure that is not resolved."""
        return [BlockedKey(*row) for row in await self._rows("blocking", lanes)]

    async def has_failures(self, lanes: Sequence[int]) -> bool:
        """Whether there is a failure that may have to be acted on."""
        return cast("bool", (await self._rows("has_failures", lanes))[0][0])
