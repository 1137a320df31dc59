"""Enqueue events from your service, in the transaction that makes the change they tell of.

async with connection.transaction():
    await connection.execute("UPDATE orders SET state = 'paid' WHERE id = $1", order_id)    # locks the order
    await enqueue(connection, "orders", key=str(order_id), payload=json.dumps({"state": "paid"}))

If the transaction commits, the event reaches Kafka; if it is rolled back, there never was an event.

Your part: **lock the aggregate before enqueueing** (its UPDATE, or SELECT ... FOR UPDATE). Events with the same key
are published in the order in which their transactions commit, and only that lock gives two transactions with the
same key an order. Enqueueing first leaves no order to keep.

The functions here take the connection of any client: asyncpg, psycopg 3, psycopg2, SQLAlchemy 2, Django. The modules
`relay.enqueue.asyncpg`, `.psycopg`, `.psycopg2`, `.sqlalchemy` and `.django` have the same functions for one client
each. Importing this package needs the standard library alone. `relay.enqueue.wake_up` wakes an idle relay up after a
commit, and `relay.enqueue.registry` has serializers for a schema registry.
"""

from __future__ import annotations

from relay.enqueue.arguments import event_of, events_of
from relay.enqueue.contract import DEFAULT_SCHEMA
from relay.enqueue.dispatch import adapter_for
from relay.enqueue.event import Event
from relay.enqueue.typed import EventType, Serialized
from relay.enqueue.wake_up import with_wake_up
from relay.errors import EnqueueError, NotInTransactionError, SchemaError

TYPE_CHECKING = False  # Importing typing would cost more than all the rest.
if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from typing import Any, Unpack, overload
    from uuid import UUID

    from relay.enqueue.signatures import AsyncConnection, Due, Fields, Schedule, SyncConnection, TypedEvent, Which
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
    "cancel",
    "enqueue",
    "enqueue_many",
    "reschedule",
]


@overload
def enqueue(connection: SyncConnection, topic: str, *, schema: str = ..., **fields: Unpack[Fields]) -> UUID: ...
@overload
def enqueue(
    connection: SyncConnection,
    event: Event | TypedEvent,
    /,
    *,
    schema: str = ...,
    wake_up: bool = ...,
    **when: Unpack[Schedule],
) -> UUID: ...
@overload
def enqueue(
    connection: AsyncConnection, topic: str, *, schema: str = ..., **fields: Unpack[Fields]
) -> Coroutine[Any, Any, UUID]: ...
@overload
def enqueue(
    connection: AsyncConnection,
    event: Event | TypedEvent,
    /,
    *,
    schema: str = ...,
    wake_up: bool = ...,
    **when: Unpack[Schedule],
) -> Coroutine[Any, Any, UUID]: ...
def enqueue(
    connection: object, topic: object = None, *, schema: str = DEFAULT_SCHEMA, wake_up: bool = False, **fields: Any
) -> Any:
    """Write one event in the caller's open transaction, by one INSERT, and return its event_id.

    Takes the topic with `key`, `payload` and, if wanted, `headers`, `type` and `event_id`, or an event as a whole. The
    call is awaited if the client is asynchronous. Lock the aggregate before calling this (see the package's docstring).
    `str` is encoded as UTF-8; a payload of None is a tombstone, a key of None means no order. With `wake_up`, an idle
    relay looks for the event as soon as it is committed (see relay.enqueue.wake_up).

    With `deliver_at` or `delay` the event enters the outbox when it is due, and takes its place in its key's order
    then; `timer` names it until then.

    Raises NotInTransactionError outside a transaction or inside a failed one, EnqueueError (a ValueError) for an
    event that cannot be enqueued, SchemaError if there is no outbox. The client's own errors stay as they are.
    """
    adapter = adapter_for(connection)
    return with_wake_up(adapter, adapter.write, connection, event_of(topic, fields), schema, wake_up)


@overload
def enqueue_many(
    connection: SyncConnection, events: Iterable[Event | TypedEvent], *, schema: str = ..., wake_up: bool = ...
) -> list[UUID]: ...
@overload
def enqueue_many(
    connection: AsyncConnection, events: Iterable[Event | TypedEvent], *, schema: str = ..., wake_up: bool = ...
) -> Coroutine[Any, Any, list[UUID]]: ...
def enqueue_many(
    connection: object,
    events: Iterable[Event | TypedEvent],
    *,
    schema: str = DEFAULT_SCHEMA,
    wake_up: bool = False,
) -> Any:
    """Write many events in the caller's open transaction, by one COPY, and return their event_ids.

    Events of the same key are published in the order of the iterable. Either all are written or none is. The call is
    awaited if the client is asynchronous. Raises as `enqueue` does.
    """
    adapter = adapter_for(connection)
    return with_wake_up(adapter, adapter.write_many, connection, events_of(events), schema, wake_up)


@overload
def cancel(connection: SyncConnection, *, schema: str = ..., **which: Unpack[Which]) -> bool: ...
@overload
def cancel(connection: AsyncConnection, *, schema: str = ..., **which: Unpack[Which]) -> Coroutine[Any, Any, bool]: ...
def cancel(connection: object, *, schema: str = DEFAULT_SCHEMA, **which: Any) -> Any:
    """Cancel the scheduled event with this `timer` or `event_id`, in the caller's open transaction.

    Returns whether it was still to come: False means that it has entered the outbox, or never was. The call is awaited
    if the client is asynchronous. Raises as `enqueue` does.
    """
    from relay.enqueue.scheduling import cancel_call

    return adapter_for(connection).call(connection, cancel_call(**which), schema)


@overload
def reschedule(connection: SyncConnection, *, schema: str = ..., **due: Unpack[Due]) -> bool: ...
@overload
def reschedule(connection: AsyncConnection, *, schema: str = ..., **due: Unpack[Due]) -> Coroutine[Any, Any, bool]: ...
def reschedule(connection: object, *, schema: str = DEFAULT_SCHEMA, **due: Any) -> Any:
    """Give the scheduled event with this `timer` or `event_id` another time: `deliver_at` or `delay`.

    In the caller's open transaction. Returns whether it was still to come, as `cancel` does.
    """
    from relay.enqueue.scheduling import reschedule_call

    return adapter_for(connection).call(connection, reschedule_call(**due), schema)
