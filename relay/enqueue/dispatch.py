"""Finds the adapter for a connection by its type, without importing a driver the caller does not use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from relay.errors import EnqueueError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.enqueue.event import Event

# Class of the connection -> module with the functions of `Adapter`. A new driver is a line here and a module.
_MODULES = {
    "asyncpg.connection.Connection": "relay.enqueue.with_asyncpg",
    "asyncpg.pool.PoolConnectionProxy": "relay.enqueue.with_asyncpg",
}
_NOT_YET_A_CONNECTION = {"asyncpg.pool.Pool"}


class Adapter(Protocol):
    """What a driver's module offers. Both refuse outside an open transaction."""

    async def enqueue(self, connection: object, event: Event, schema: str) -> None:
        """Write one event."""

    async def enqueue_many(self, connection: object, events: Sequence[Event], schema: str) -> None:
        """Write all events in order, or none."""


def adapter_for(connection: object) -> Adapter:
    """The adapter for this connection; EnqueueError if there is none. Subclasses count as their base."""
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(connection).__mro__]
    for name in names:
        if module := _MODULES.get(name):
            return cast("Adapter", import_module(module))
    if _NOT_YET_A_CONNECTION.intersection(names):
        raise EnqueueError(
            "a pool is not a connection; acquire a connection, begin the transaction of your change on it, "
            "and enqueue on that connection"
        )
    raise EnqueueError(f"cannot enqueue on a {names[0]}; pass the asyncpg connection of your transaction")
