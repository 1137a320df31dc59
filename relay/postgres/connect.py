"""The relay's long-lived connections to PostgreSQL."""

from __future__ import annotations

from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING

import asyncpg
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from relay import event
from relay.errors import PostgresLostError, SettingsError
from relay.postgres.dsn import login
from relay.postgres.hosts import connect_to_primary
from relay.postgres.sessions import secure_session
from relay.postgres.sql import query

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from relay.settings import PostgresSettings

    Result = TypeVar("Result")


class EventRow(asyncpg.Record):
    """A row of a statement that returns events, as a `relay.event.PendingEvent`: the names are those of its columns.

    Properties made of getters: a look-up of a name costs one call into C, and no line of Python.
    """

    __slots__ = ()

    lane = property(itemgetter(event.LANE))
    id = property(itemgetter(event.ID))
    event_id = property(itemgetter(event.EVENT_ID))
    topic = property(itemgetter(event.TOPIC))
    key = property(itemgetter(event.KEY))
    payload = property(itemgetter(event.PAYLOAD))
    headers = property(itemgetter(event.HEADERS))
    type = property(itemgetter(event.TYPE))
    created_ms = property(itemgetter(event.CREATED_MS))
    size = property(itemgetter(event.SIZE))


async def dsn_of(settings: PostgresSettings) -> str:
    """The DSN with its password, both as they are now. Raises PostgresLostError when that cannot be had just now."""
    try:
        return await login(settings)
    except SettingsError as error:
        raise PostgresLostError(str(error)) from error


async def open_connection(dsn: str, timeout: float, name: str) -> asyncpg.Connection:
    """One connection with the relay's session settings, shown in pg_stat_activity as `name`.

    Raises PostgresLostError when waiting may help, another UnreachableError when it takes a person.
    """
    connection, _ = await open_first(dsn, timeout, name)
    return connection


async def open_first(dsn: str, timeout: float, name: str) -> tuple[asyncpg.Connection, str]:
    """Connect to the first host that serves; return the connection and the DSN of that host alone.

    Connections that belong together must go to one server, so further ones use that DSN.
    """

    async def connect(dsn: str) -> asyncpg.Connection:
        connection: asyncpg.Connection = await asyncpg.connect(
            dsn,
            timeout=timeout,
            command_timeout=90,
            server_settings={"application_name": name},
        )
        try:
            await secure_session(connection, timeout)
            await connection.execute(query("relay_settings"), timeout=timeout)
        except BaseException:
            drop(connection)
            raise
        return connection

    return await connect_to_primary(dsn, connect)


async def wait_for(attempt: Callable[[], Awaitable[Result]], on_failure: Callable[[PostgresLostError], None]) -> Result:
    """Call a coroutine function until PostgreSQL is there, with exponential backoff and jitter up to 5 s between tries.

    `on_failure` hears of every failed try. Any other error is raised.
    """

    def report(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, PostgresLostError):
            on_failure(error)

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(PostgresLostError),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        before_sleep=report,
    )
    return await retrying(attempt)


def drop(connection: asyncpg.Connection) -> None:
    """Close at once, without a word to the server: it may be gone."""
    with suppress(Exception):
        connection.terminate()
