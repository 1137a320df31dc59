"""Finds the adapter for a connection by the name of its class, without importing a client the caller does not use."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Adapter:
    """What a client's module offers for one kind of connection. All functions refuse outside an open transaction.

    `write(connection, event, schema)` writes one event and returns its event_id. `write_many(connection, events,
    schema)` writes all events in order, or none, and returns their event_ids. `call(connection, function, schema)`
    calls a function of the schema that returns a boolean. Those of an asynchronous client return coroutines.

    `in_transaction(connection)` says whether a transaction is open. `on_commit(connection)` returns a function that is
    given another one, to be called once the transaction is committed; None if this client does not tell of that.
    `after` is the code for `wake_up.after` in its place.
    """

    def __init__(
        self,
        write: Callable[..., Any],
        write_many: Callable[..., Any],
        call: Callable[..., Any],
        *,
        in_transaction: Callable[[Any], bool],
        on_commit: Callable[[Any], Callable[[Callable[[], None]], None] | None] | None = None,
        after: str = "with wake_up.after(connection.transaction()):",
    ) -> None:
        # Python says of a coroutine that nobody awaited what its function was called.
        write.__qualname__, write_many.__qualname__ = "enqueue", "enqueue_many"
        call.__qualname__ = "cancel or reschedule"
        self.write = write
        self.write_many = write_many
        self.call = call
        self.in_transaction = in_transaction
        self.on_commit = on_commit
        self.after = after


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


def adapter_for(connection: object) -> Adapter:
    """The adapter for this connection. Raises EnqueueError if there is none. Subclasses count as their base."""
    found = _adapter_for_class(connection.__class__)  # type: ignore[arg-type] # mypy finds no hash in type[object]
    if found is None:
        from relay.enqueue.mistakes import refusal

        raise refusal(connection, _names(connection.__class__))
    return found


def adapter_of(connection: object, module: str) -> Adapter:
    """The same for the module of one client. Raises EnqueueError for the connection of another one as well."""
    found = adapter_for(connection)
    theirs: str = found.write.__module__
    if theirs != module:
        from relay.enqueue.mistakes import of_another_client

        raise of_another_client(module, theirs)
    return found


@lru_cache(256)
def _adapter_for_class(kind: Any) -> Adapter | None:
    for name in _names(kind):
        if name in _CONNECTIONS:
            module, adapter = _CONNECTIONS[name]
            found: Adapter = getattr(import_module(module), adapter)
            return found
    return None


def _names(kind: type) -> list[str]:
    return [f"{each.__module__}.{each.__qualname__}" for each in kind.__mro__]
