"""Opens the outbox that the settings name, for one command or request of a person."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from asyncpg import exceptions as pg

from relay.postgres.admin.connection import admin_connection
from relay.postgres.admin.failures import Failures
from relay.postgres.admin.replays import Replays
from relay.postgres.admin.scheduled import ScheduledEvents
from relay.postgres.checks import check_schema
from relay.postgres.errors import PrivilegeError
from relay.postgres.sql import query
from relay.text import one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from relay.settings import PostgresSettings


class Outbox(NamedTuple):
    """An outbox that this program can work with, through one connection."""

    connection: asyncpg.Connection
    schema: str

    @property
    def failures(self) -> Failures:
        """Its failures."""
        return Failures(self.connection, self.schema)

    @property
    def replays(self) -> Replays:
        """Its replays of delivered events."""
        return Replays(self.connection, self.schema)

    @property
    def scheduled(self) -> ScheduledEvents:
        """Its scheduled events."""
        return ScheduledEvents(self.connection, self.schema)


@asynccontextmanager
async def open_outbox(settings: PostgresSettings) -> AsyncIterator[Outbox]:
    """Connect. Raises UnreachableError, and SchemaError if there is no outbox or one of another version."""
    async with connected(settings) as connection:
        await check_schema(connection, settings.schema_name)
        yield Outbox(connection, settings.schema_name)


@asynccontextmanager
async def connected(settings: PostgresSettings) -> AsyncIterator[asyncpg.Connection]:
    """Connect for work that the role `outbox_admin` may do. Raises PrivilegeError, which names it, if ours may not."""
    async with admin_connection(settings) as connection:
        try:
            yield connection
        except PrivilegeError as error:
            role = None
            with suppress(pg.PostgresError, pg.InterfaceError, OSError):
                role = await connection.fetchval(query("current_role"))
            admin = f"{settings.schema_name}_admin"
            raise PrivilegeError(
                f"PostgreSQL: {one_line(error.__cause__ or error)}; this command needs the rights of the role {admin}: "
                f"as an administrator, run GRANT {admin} TO {role or 'the role that connects'} "
                "(`relay migrate --roles` creates it)"
            ) from error
