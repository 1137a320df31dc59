"""Enqueue events from your service, in the transaction that makes the change they tell of.

async with connection.transaction():
    await connection.execute("UPDATE orders SET state = 'paid' WHERE id = $1", order_id)    # locks the order
    await enqueue(connection, "orders", key=str(order_id), payload=json.dumps({"state": "paid"}))

If the transaction commits, the event reaches Kafka; if it is rolled back, there never was an event.

Your part: **lock the aggregate before enqueueing** (its UPDATE, or SELECT ... FOR UPDATE). Events with the same key
are published in the order in which their transactions commit, and only that lock gives two transactions with the
same key an order. Enqueueing first leaves no order to keep.

Works with asyncpg connections. Importing this package needs neither Kafka's client nor the relay's settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.enqueue.dispatch import adapter_for
from relay.enqueue.event import Event
from relay.errors import EnqueueError, NotInTransactionError, SettingsError
from relay.postgres.sql import DEFAULT_SCHEMA, check_schema_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from uuid import UUID

__all__ = ["EnqueueError", "Event", "NotInTransactionError", "enqueue", "enqueue_many"]


async def enqueue(
    connection: object,
    topic: str,
    *,
    key: bytes | str | None,
    payload: bytes | str | None,
    headers: Mapping[str, str] | None = None,
    type: str | None = None,  # noqa: A002 the word of CloudEvents and of the schema
    event_id: UUID | None = None,
    schema: str = DEFAULT_SCHEMA,
) -> UUID:
    """Write one event in the caller's open transaction and return its event_id.

    Lock the aggregate before calling this (see the package's docstring). `str` is encoded as UTF-8; a payload of
    None is a tombstone, a key of None means no order. One round trip: one INSERT.

    Raises NotInTransactionError outside a transaction or inside a failed one, EnqueueError (a ValueError) for an
    event that cannot be enqueued, SchemaError if there is no outbox. The driver's own errors stay as they are.
    """
    adapter = adapter_for(connection)
    _check_schema(schema)
    if event_id is None:
        event = Event(topic, key=key, payload=payload, headers=headers, type=type)
    else:
        event = Event(topic, key=key, payload=payload, headers=headers, type=type, event_id=event_id)
    await adapter.enqueue(connection, event, schema)
    return event.event_id


async def enqueue_many(connection: object, events: Iterable[Event], *, schema: str = DEFAULT_SCHEMA) -> list[UUID]:
    """Write many events in the caller's open transaction, by one COPY, and return their event_ids.

    Events of the same key are published in the order of the iterable. Either all are written or none is. Raises as
    `enqueue` does.
    """
    adapter = adapter_for(connection)
    _check_schema(schema)
    batch = list(events)
    for index, event in enumerate(batch):
        if not isinstance(event, Event):
            raise EnqueueError(
                f"events[{index}] is of type {_type_name(event)}; enqueue_many takes relay.enqueue.Event objects"
            )
    await adapter.enqueue_many(connection, batch, schema)
    return [event.event_id for event in batch]


def _check_schema(schema: str) -> None:
    try:
        check_schema_name(schema)
    except SettingsError as error:
        raise EnqueueError(f"schema: {error}") from None


def _type_name(value: object) -> str:
    return type(value).__name__
