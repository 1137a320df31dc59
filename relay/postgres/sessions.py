"""What our sessions and transactions set before their first statement: see sql/queries/sessions.sql."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.postgres.sql import query

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg


async def secure_session(connection: asyncpg.Connection, timeout: float | None = None) -> None:
    """For the whole session. Not behind a pooler that gives each transaction another session."""
    await connection.execute(query("safe_search_path"), timeout=timeout)
    await connection.execute(query("dependable_settings"), False, timeout=timeout)


async def secure_transaction(connection: asyncpg.Connection) -> None:
    """For the transaction that has just begun: nothing of it stays in the session."""
    await connection.execute(query("safe_search_path_of_transaction"))
    await connection.execute(query("dependable_settings"), True)


async def forget_settings(connections: Iterable[asyncpg.Connection]) -> None:
    """Take back what was set for sessions that turned out to be shared with others."""
    for connection in connections:
        await connection.execute(query("forget_settings"))


def as_text() -> str:
    """What `secure_transaction` does, for a script that another tool runs."""
    settings = query("dependable_settings").replace("$1::boolean", "true")
    return f"{query('safe_search_path_of_transaction')}\n{settings}"
