"""Finds the adapter for a connection by the name of its class, without importing a client the caller does not use."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from inspect import isawaitable

from relay.errors import EnqueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Adapter:
    """What a client's module offers for one kind of connection. Both functions refuse outside an open transaction.

    `write(connection, event, schema)` writes one event and returns its event_id. `write_many(connection, events,
    schema)` writes all events in order, or none, and returns their event_ids. Those of an asynchronous client return
    coroutines.
    """

    def __init__(self, write: Callable[..., Any], write_many: Callable[..., Any]) -> None:
        self.write = write
        self.write_many = write_many


# Class of the connection -> module, and the name of the Adapter in it. A new client is a line here and a module.
_CONNECTIONS = {
    "asyncpg.connection.Connection": ("relay.enqueue.asyncpg", "ADAPTER"),
    "asyncpg.pool.PoolConnectionProxy": ("relay.enqueue.asyncpg", "ADAPTER"),
    "psycopg.Connection": ("relay.enqueue.psycopg", "SYNC"),
    "psycopg.AsyncConnection": ("relay.enqueue.psycopg", "ASYNC"),
    "psycopg2.extensions.connection": ("relay.enqueue.psycopg2", "ADAPTER"),
    "sqlalchemy.engine.base.Connection": ("relay.enqueue.sqlalchemy", "SYNC"),
    "sqlalchemy.orm.session.Session": ("relay.enqueue.sqlalchemy", "SYNC"),
    "sqlalchemy.orm.scoping.scoped_session": ("relay.enqueue.sqlalchemy", "SYNC"),
    "sqlalchemy.ext.asyncio.engine.AsyncConnection": ("relay.enqueue.sqlalchemy", "ASYNC"),
    "sqlalchemy.ext.asyncio.session.AsyncSession": ("relay.enqueue.sqlalchemy", "ASYNC"),
    "sqlalchemy.ext.asyncio.scoping.async_scoped_session": ("relay.enqueue.sqlalchemy", "ASYNC"),
    "django.db.backends.base.base.BaseDatabaseWrapper": ("relay.enqueue.django", "ADAPTER"),
    "django.utils.connection.ConnectionProxy": ("relay.enqueue.django", "ADAPTER"),
}

SUPPORTED = (
    "asyncpg's Connection, psycopg's Connection and AsyncConnection, psycopg2's connection, SQLAlchemy's Connection, "
    "Session, AsyncConnection and AsyncSession, and Django's connection"
)

_POOL = (
    "a pool is not a connection; acquire a connection, begin the transaction of your change on it, and enqueue on that "
    "connection"
)
_ACQUIRE = "pool.acquire() was not entered; write `async with pool.acquire() as connection:`"
_CURSOR = "a cursor is not a connection; pass the connection that the cursor belongs to"
_ENGINE = "an engine is not a connection; write `with engine.begin() as connection:`, and pass that connection"
_ASYNC_ENGINE = _ENGINE.replace("with", "async with")
_FACTORY = "a session factory is not a session; write `with factory.begin() as session:` and pass that session"
_ASYNC_FACTORY = _FACTORY.replace("with", "async with")
_ALL = "django.db.connections has all connections; pass one of them, connections['default']"

# What people pass by mistake, and how to come from it to a connection.
_NOT_A_CONNECTION = {
    "asyncpg.pool.Pool": _POOL,
    "asyncpg.pool.PoolAcquireContext": _ACQUIRE,
    "psycopg_pool.base.BasePool": _POOL,
    "psycopg2.pool.AbstractConnectionPool": _POOL,
    "psycopg.Cursor": _CURSOR,
    "psycopg.AsyncCursor": _CURSOR,
    "psycopg2.extensions.cursor": _CURSOR,
    "django.db.backends.utils.CursorWrapper": _CURSOR,
    "sqlalchemy.engine.base.Engine": _ENGINE,
    "sqlalchemy.ext.asyncio.engine.AsyncEngine": _ASYNC_ENGINE,
    "sqlalchemy.orm.session.sessionmaker": _FACTORY,
    "sqlalchemy.ext.asyncio.session.async_sessionmaker": _ASYNC_FACTORY,
    "django.utils.connection.BaseConnectionHandler": _ALL,
}


def adapter_for(connection: object) -> Adapter:
    """The adapter for this connection. Raises EnqueueError if there is none. Subclasses count as their base."""
    found = _adapter_for_class(connection.__class__)  # type: ignore[arg-type] # mypy finds no hash in type[object]
    if found is None:
        raise _refusal(connection)
    return found


@lru_cache(256)
def _adapter_for_class(kind: Any) -> Adapter | None:
    for name in _names(kind):
        if name in _CONNECTIONS:
            module, adapter = _CONNECTIONS[name]
            found: Adapter = getattr(import_module(module), adapter)
            return found
    return None


def _refusal(connection: object) -> EnqueueError:
    names = _names(connection.__class__)
    for name in names:
        if name in _NOT_A_CONNECTION:
            return EnqueueError(_NOT_A_CONNECTION[name])
    if isawaitable(connection):
        return EnqueueError("the connection was not awaited; write `await` before the call that makes it")
    return EnqueueError(f"cannot enqueue on a {names[0]}; pass the connection of your transaction: {SUPPORTED}")


def _names(kind: type) -> list[str]:
    return [f"{each.__module__}.{each.__qualname__}" for each in kind.__mro__]
