"""One connection for one command of a person."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from relay.postgres.connect import drop
from relay.postgres.dsn import login
from relay.postgres.hosts import connect_to_primary
from relay.postgres.sessions import secure_transaction
from relay.postgres.sql import query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from relay.settings import PostgresSettings


class AdminConnection(asyncpg.Connection):
    """Runs every statement in a transaction that sets what it rests on, whether it was asked for one or not.

    Behind a pooler each transaction may be in another session: what is set for a session would not hold for the next
    statement of ours, but for the next of somebody else.
    """

    _in_ours = False
    _takes_writes = False

    async def get_ready(self) -> None:
        """Find out what the server lets us do, and have it wait for a person for as long as it takes."""
        self._takes_writes = not await self.fetchval(query("in_recovery"))
        await self.execute(query("patient_session"))

    @asynccontextmanager
    async def transaction(  # type: ignore[override]
        self, *, isolation: str = "read_committed", readonly: bool = False
    ) -> AsyncIterator[None]:
        """Begin a transaction, or a savepoint inside one; to be used with `async with` only."""
        begin: Callable[..., Any] = super().transaction
        if self._in_ours:
            async with begin():
                yield
            return
        self._in_ours = True
        try:
            async with begin(isolation=isolation, readonly=readonly):
                if self._takes_writes and not readonly:
                    await super().execute(query("writing_transaction"))
                await secure_transaction(self)
                yield
        finally:
            self._in_ours = False

    async def execute(self, *given: Any, **options: Any) -> Any:
        """See asyncpg."""
        return await self._secured(super().execute, *given, **options)

    async def fetch(self, *given: Any, **options: Any) -> Any:
        """See asyncpg."""
        return await self._secured(super().fetch, *given, **options)

    async def fetchrow(self, *given: Any, **options: Any) -> Any:
        """See asyncpg."""
        return await self._secured(super().fetchrow, *given, **options)

    async def fetchval(self, *given: Any, **options: Any) -> Any:
        """See asyncpg."""
        return await self._secured(super().fetchval, *given, **options)

    async def outside_a_transaction(self, statement: str) -> None:
        """Run a statement that PostgreSQL runs in no transaction of ours, such as VACUUM. It must be qualified."""
        await super().execute(statement)

    async def _secured(self, run: Callable[..., Awaitable[Any]], *given: Any, **options: Any) -> Any:
        if self._in_ours:
            return await run(*given, **options)
        async with self.transaction():
            return await run(*given, **options)


@asynccontextmanager
async def admin_connection(settings: PostgresSettings) -> AsyncIterator[asyncpg.Connection]:
    """Connect, and close at the end. Works through poolers too: it keeps no statement prepared.

    Raises an UnreachableError that says what to check, or SettingsError about a secret.
    """
    connect_timeout = settings.connect_timeout

    async def connect(dsn: str) -> asyncpg.Connection:
        connection: AdminConnection = await asyncpg.connect(
            dsn,
            timeout=connect_timeout,
            statement_cache_size=0,
            server_settings={"application_name": "relay admin"},
            connection_class=AdminConnection,
        )
        try:
            await connection.get_ready()
        except BaseException:
            drop(connection)
            raise
        return connection

    connection, _ = await connect_to_primary(await login(settings), connect)
    try:
        yield connection
    finally:
        # Bounded: a server that hangs must not keep the command from ending.
        await connection.close(timeout=connect_timeout)
