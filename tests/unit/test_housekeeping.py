"""Housekeeping goes on when PostgreSQL gives up one of its statements."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from asyncpg import exceptions as pg

from relay.errors import PostgresLostError, StatementGivenUpError
from relay.postgres.errors import translated
from relay.settings import SegmentSettings
from relay.stages.housekeeping import Housekeeping
from relay.telemetry import Telemetry


class Chores:
    """Fail with an error as often as a test says, one after the other."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.done: list[str] = []
        self.enough = asyncio.Event()

    def _do(self, chore: str) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.done.append(chore)

    async def ensure_segments(self, ids_per_segment: int, ahead: int) -> list[str]:
        self._do("ensure_segments")
        return []

    async def prune(self, retention: float) -> list[str]:
        self._do("prune")
        return []

    async def forget_replayed(self, retention: float) -> bool:
        self._do("forget_replayed")
        if len(self.done) >= 4:
            self.enough.set()
        return False


def housekeeping(chores: Chores) -> Housekeeping:
    return Housekeeping(chores, SegmentSettings(check_interval=0.001), Telemetry())


async def test_a_statement_that_is_given_up_is_put_off_and_the_others_are_done() -> None:
    chores = Chores(StatementGivenUpError("canceling statement due to statement timeout"))
    running = asyncio.create_task(housekeeping(chores).run())
    async with asyncio.timeout(5):
        await chores.enough.wait()
    assert chores.done[:4] == ["prune", "forget_replayed", "ensure_segments", "prune"]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_lost_connection_ends_it() -> None:
    with pytest.raises(PostgresLostError):
        await housekeeping(Chores(PostgresLostError("the connection was lost"))).run()


@pytest.mark.parametrize("error", [pg.QueryCanceledError("statement timeout"), pg.DeadlockDetectedError("deadlock")])
def test_a_statement_that_is_given_up_is_told_from_a_lost_connection(error: Exception) -> None:
    with pytest.raises(StatementGivenUpError, match="gave up a statement"), translated():
        raise error
    with pytest.raises(PostgresLostError) as lost, translated():
        raise pg.AdminShutdownError("ended")
    assert not isinstance(lost.value, StatementGivenUpError)
