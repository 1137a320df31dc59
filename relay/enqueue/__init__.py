"""Enqueue events from your service, in the transaction that makes the change they tell of.

async with connection.transaction():
    await connection.execute("UPDATE orders SET state = 'paid' WHERE id = $1", order_id)    # locks the order
    await enqueue(connection, "orders", key=str(order_id), payload=json.dumps({"state": "paid"}))

If the transaction commits, the event reaches Kafka; if it is rolled back, there never was an event.

Your part: **lock the aggregate before enqueueing** (its UPDATE, or SELECT ... FOR UPDATE). Events with the same key
are published in the order in which their transactions commit, and only that lock gives two transactions with the
same key an order. Enqueueing first leaves no order to keep.

The functions here take the connection of any client: asyncpg, psycopg 3, psycopg2, SQLAlchemy 2, Django. The modules
`relay.enqueue.asyncpg`, `.psycopg`, `.psycopg2`, `.sqlalchemy` and `.django` have the same two functions for one client
each. Importing this package needs the standard library alone.
"""

from __future__ import annotations

from relay.enqueue.arguments import event_of, events_of
from relay.enqueue.contract import DEFAULT_SCHEMA
from relay.enqueue.dispatch import adapter_for
from relay.enqueue.event import Event
from relay.enqueue.typed import EventType, Serialized
from relay.errors import EnqueueError, NotInTransactionError, SchemaError

TYPE_CHECKING = False  # Importing typing would cost more than all the rest.
if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from typing import Any, Unpack, overload
    from uuid import UUID

    from relay.enqueue.signatures import AsyncConnection, Fields, SyncConnection, TypedEvent
else:

    def overload(function):
        return function


__all__ = [
    "EnqueueError",
    "Event",
    "EventType",
    "NotInTransactionError",
    "SchemaError",
    "Serialized",
    "enqueue",
    "enqueue_many",
]


@overload
def enqueue(connection: SyncConnection, topic: str, *, schema: str = ..., **fields: Unpack[Fields]) -> UUID: ...
@overload
def enqueue(connection: SyncConnection, event: Event | TypedEvent, /, *, schema: str = ...) -> UUID: ...
@overload
def enqueue(
    connection: AsyncConnection, topic: str, *, schema: str = ..., **fields: Unpack[Fields]
) -> Coroutine[Any, Any, UUID]: ...
@overload
def enqueue(
    connection: AsyncConnection, event: Event | TypedEvent, /, *, schema: str = ...
) -> Coroutine[Any, Any, UUID]: ...
def enqueue(connection: object, topic: object, *, schema: str = DEFAULT_SCHEMA, **fields: Any) -> Any:
    """Write one event in the caller's open transaction, by one INSERT, and return its event_id.

    Takes the topic with `key`, `payload` and, if wanted, `headers`, `type` and `event_id`, or an event as a whole. The
    call is awaited if the client is asynchronous. Lock the aggregate before calling this (see the package's docstring).
    `str` is encoded as UTF-8; a payload of None is a tombstone, a key of None means no order.

    Raises NotInTransactionError outside a transaction or inside a failed one, EnqueueError (a ValueError) for an
    event that cannot be enqueued, SchemaError if there is no outbox. The client's own errors stay as they are.
    """
    return adapter_for(connection).write(connection, event_of(topic, fields), schema)


@overload
def enqueue_many(
    connection: SyncConnection, events: Iterable[Event | TypedEvent], *, schema: str = ...
) -> list[UUID]: ...
@overload
def enqueue_many(
    connection: AsyncConnection, events: Iterable[Event | TypedEvent], *, schema: str = ...
) -> Coroutine[Any, Any, list[UUID]]: ...
def enqueue_many(connection: object, events: Iterable[Event | TypedEvent], *, schema: str = DEFAULT_SCHEMA) -> Any:
    """Write many events in the caller's open transaction, by one COPY, and return their event_ids.

    Events of the same key are published in the order of the iterable. Either all are written or none is. The call is
    awaited if the client is asynchronous. Raises as `enqueue` does.
    """
    return adapter_for(connection).write_many(connection, events_of(events), schema)
