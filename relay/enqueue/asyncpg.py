"""Enqueueing on a connection of asyncpg, its own or one of a pool.

async with connection.transaction():
    await connection.execute("UPDATE orders SET state = 'paid' WHERE id = $1", order_id)    # locks the order
    await enqueue(connection, "orders", key=str(order_id), payload=json.dumps({"state": "paid"}))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from relay.enqueue.arguments import event_of, events_of
from relay.enqueue.contract import (
    COLUMNS,
    DEFAULT_SCHEMA,
    DOLLARS,
    busy,
    check_encodable,
    closed,
    codec,
    copy,
    insert,
    not_in_transaction,
    ours,
)
from relay.enqueue.copy import binary_copy
from relay.enqueue.dispatch import Adapter
from relay.enqueue.event import row
from relay.enqueue.trace import rows, trace_headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
    from typing import TypeAlias, Unpack
    from uuid import UUID

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from relay.enqueue.event import Event
    from relay.enqueue.signatures import Fields, TypedEvent
    from relay.errors import RelayError

    Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy

_DO = "write both inside `async with connection.transaction():`"
_ROLL_BACK = "leave the block `async with connection.transaction():` with the error"


@overload
def enqueue(
    connection: Connection, topic: str, *, schema: str = ..., **fields: Unpack[Fields]
) -> Coroutine[Any, Any, UUID]: ...
@overload
def enqueue(
    connection: Connection, event: Event | TypedEvent, /, *, schema: str = ...
) -> Coroutine[Any, Any, UUID]: ...
def enqueue(
    connection: Connection, topic: object, *, schema: str = DEFAULT_SCHEMA, **fields: Any
) -> Coroutine[Any, Any, UUID]:
    """Write one event in the caller's open transaction by one INSERT; its event_id is the result.

    See `relay.enqueue.enqueue`.
    """
    return write(connection, event_of(topic, fields), schema)


def enqueue_many(
    connection: Connection, events: Iterable[Event | TypedEvent], *, schema: str = DEFAULT_SCHEMA
) -> Coroutine[Any, Any, list[UUID]]:
    """Write many events in the caller's open transaction by one COPY; their event_ids are the result.

    See `relay.enqueue.enqueue_many`.
    """
    return write_many(connection, events_of(events), schema)


async def write(connection: Connection, event: Event, schema: str) -> UUID:
    """Write one event."""
    statement = insert(schema, DOLLARS)
    _check(connection)
    try:
        await connection.execute(statement, *row(event, trace_headers()))
    except Exception as error:
        if (refused := _ours(error, [event])) is not None:
            raise refused from error
        raise
    return event.event_id


async def write_many(connection: Connection, events: Sequence[Event], schema: str) -> list[UUID]:
    """Write all events in order by one COPY; ids are given row by row in that order."""
    copy(schema)  # Checks the name.
    _check(connection)
    if events:
        encoding = codec(connection.get_settings().client_encoding)
        try:
            check_encodable(events, encoding)
            # Binary and encoded here: asyncpg's own encoding of rows depends on the codecs the caller has set.
            await connection.copy_to_table(
                "event", schema_name=schema, columns=COLUMNS, source=_source(events, encoding), format="binary"
            )
        except Exception as error:
            if (refused := _ours(error, events)) is not None:
                raise refused from error
            raise
    return [event.event_id for event in events]


async def _source(events: Sequence[Event], encoding: str) -> AsyncIterator[bytes]:
    for portion in binary_copy(rows(events), encoding):
        yield portion


def _check(connection: Connection) -> None:
    """Refuse unless the connection is in a transaction; the server says whether that has failed."""
    try:
        if connection.is_in_transaction():
            return
    except Exception as error:
        if "released back to the pool" in str(error):
            raise closed() from error
        raise
    raise closed() if connection.is_closed() else not_in_transaction(_DO)


def _ours(error: Exception, events: Sequence[Event]) -> RelayError | None:
    if error.__class__.__name__ == "InterfaceError" and "another operation is in progress" in str(error):
        return busy()
    return ours(error, events, _ROLL_BACK)


ADAPTER = Adapter(write, write_many)
