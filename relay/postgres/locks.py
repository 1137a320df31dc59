"""Who holds the locks that a change to the tables needs: sessions, and prepared transactions, which have none."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyncpg.exceptions import LockNotAvailableError

from relay.errors import HeldUpError
from relay.postgres.sql import query

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeVar

    import asyncpg

    Result = TypeVar("Result")

ATTEMPTS = 10
PAUSE = 0.2
"""Seconds between attempts to lock the tables, for those who were kept waiting to get on."""

LASTING = 1.0
"""Seconds from which on a transaction is worth naming, and not worth making writers wait for."""

MOST_NAMED = 5

HOUSEKEEPING = "outbox-relay housekeeping"
"""Application name of the connections that make and drop segments. A replica does not wait for another one with this
name: the work is being done."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A transaction that holds locks."""

    pid: int | None
    gid: str | None
    """Of a prepared transaction."""
    role: str | None
    application: str
    seconds: float | None
    """Age of the transaction; None if the role may not see it."""
    holder: str
    """A text that identifies the transaction."""

    def __str__(self) -> str:
        """Who it is, for people."""
        age = "" if self.seconds is None else f", {self.seconds:.0f} s old"
        if self.pid is None:
            return f"the prepared transaction {self.gid!r} (role {self.role}{age})"
        application = f", application {self.application!r}" if self.application else ""
        return f"the session with pid {self.pid} (role {self.role}{application}{age})"


def tables_of(schema: str) -> list[str]:
    """The tables that writers and relays use, for `holders`."""
    names = ("event", "receipt", "delivery", "former_delivery", "failure", "held", "lane", "replica", "migration")
    return [f"{schema}.{table}" for table in names]


async def holders(connection: asyncpg.Connection, tables: Sequence[str], strong: Sequence[str] = ()) -> list[Holder]:
    """Who holds any lock on `tables`, or one on `strong` that keeps those from being changed."""
    return [Holder(**row) for row in await connection.fetch(query("lock_holders"), tables, strong)]


async def patiently(
    connection: asyncpg.Connection,
    what: str,
    work: Callable[[], Awaitable[Result]],
    tables: Sequence[str],
    strong: Sequence[str] = (),
    attempts: int = ATTEMPTS,
) -> Result | None:
    """Do what gives up when it has waited for a lock for a moment, so that writers do not queue up behind it.

    None when another replica is at it. Raises HeldUpError, which names who stands in the way: without trying if that is
    a transaction that lasts, else after some tries.
    """
    await refuse_while_held(connection, what, tables, strong)
    for attempt in range(attempts):
        if attempt:
            await asyncio.sleep(PAUSE)
        with suppress(LockNotAvailableError):
            return await work()
    found = await holders(connection, tables, strong)
    others = [each for each in found if each.application != HOUSEKEEPING]
    if found and not others:
        return None
    raise held_up(what, others)


async def refuse_while_held(
    connection: asyncpg.Connection, what: str, tables: Sequence[str], strong: Sequence[str] = ()
) -> None:
    """Raise HeldUpError if transactions that last hold locks on the tables: asking for ours would keep writers waiting.

    Those whose age we may not know last if they are there after a second look.
    """
    found = [
        each
        for each in await holders(connection, tables, strong)
        if each.application != HOUSEKEEPING and (each.seconds is None or each.seconds >= LASTING)
    ]
    if any(each.seconds is None for each in found):
        await asyncio.sleep(LASTING)
        still = {each.holder for each in await holders(connection, tables, strong)}
        found = [each for each in found if each.holder in still]
    if found:
        raise held_up(what, found)


def held_up(what: str, by: Sequence[Holder]) -> HeldUpError:
    """The error that names who stands in the way of `what`."""
    named = "; ".join(map(str, by[:MOST_NAMED])) if by else "short transactions that follow one another"
    more = f"; {len(by) - MOST_NAMED} more" if len(by) > MOST_NAMED else ""
    return HeldUpError(
        f"{what} has to wait for locks that others hold: {named}{more}; end those that are no longer needed",
        cause=f"held up by {sorted(each.holder for each in by)}",
    )
