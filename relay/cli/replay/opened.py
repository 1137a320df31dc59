"""The replays of the outbox that the settings name."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from relay.cli.failed.reasons import RefusedError
from relay.postgres.admin.connection import admin_connection
from relay.postgres.admin.replays import ReplayRequests
from relay.postgres.checks import check_schema
from relay.settings import load_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.postgres.admin.replays import ReplayRow


@asynccontextmanager
async def opened() -> AsyncIterator[ReplayRequests]:
    """A connection; only the settings of PostgreSQL are read."""
    settings = load_postgres()
    async with admin_connection(settings.dsn.get_secret_value(), settings.connect_timeout) as connection:
        await check_schema(connection, settings.schema_name)
        yield ReplayRequests(connection, settings.schema_name)


async def one(requests: ReplayRequests, id_: int) -> ReplayRow:
    """The replay with this number. Raises RefusedError if there is none."""
    found = await requests.replays(1, only=id_)
    if not found:
        raise RefusedError(f"there is no replay {id_}; see `relay replay list`")
    return found[0]
