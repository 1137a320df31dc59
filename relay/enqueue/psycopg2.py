"""Enqueueing on a connection of psycopg2.

with connection, connection.cursor() as cursor:
    cursor.execute("UPDATE orders SET state = 'paid' WHERE id = %s", [order_id])    # locks the order, begins
    enqueue(connection, "orders", key=str(order_id), payload=json.dumps({"state": "paid"}))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from psycopg2 import extensions
from psycopg2.extras import execute_batch

from relay.enqueue.arguments import event_of, events_of
from relay.enqueue.contract import (
    DEFAULT_SCHEMA,
    FORMAT,
    busy,
    check_encodable,
    check_encoding_of_psycopg2,
    closed,
    codec,
    copy,
    failed_transaction,
    hexadecimal,
    insert,
    not_in_transaction,
    ours,
)
from relay.enqueue.copy import PORTION_BYTES, CopyFile, binary_copy
from relay.enqueue.dispatch import Adapter
from relay.enqueue.event import row
from relay.enqueue.trace import rows, trace_headers
from relay.errors import EnqueueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Unpack
    from uuid import UUID

    from relay.enqueue.event import Event
    from relay.enqueue.signatures import Fields, TypedEvent
    from relay.errors import RelayError

_ROLL_BACK = "leave the block `with connection:` with the error, or call connection.rollback()"

_PAGE = 500
"""Rows that go to the server at once where COPY cannot be had."""


@overload
def enqueue(connection: extensions.connection, topic: str, *, schema: str = ..., **fields: Unpack[Fields]) -> UUID: ...
@overload
def enqueue(connection: extensions.connection, event: Event | TypedEvent, /, *, schema: str = ...) -> UUID: ...
def enqueue(connection: extensions.connection, topic: object, *, schema: str = DEFAULT_SCHEMA, **fields: Any) -> UUID:
    """Write one event in the caller's open transaction by one INSERT, and return its event_id.

    See `relay.enqueue.enqueue`.
    """
    return write(connection, event_of(topic, fields), schema)


def enqueue_many(
    connection: extensions.connection, events: Iterable[Event | TypedEvent], *, schema: str = DEFAULT_SCHEMA
) -> list[UUID]:
    """Write many events in the caller's open transaction by one COPY, and return their event_ids.

    Under a wait callback, as with gevent, psycopg2 has no COPY: the events are inserted in batches. See
    `relay.enqueue.enqueue_many`.
    """
    return write_many(connection, events_of(events), schema)


def write(connection: extensions.connection, event: Event, schema: str) -> UUID:
    """Write one event."""
    statement = insert(schema, FORMAT)
    check_status(connection)
    check_encoding_of_psycopg2(connection, event)
    try:
        # Not connection.cursor(): the caller's kind of cursor may do anything.
        extensions.cursor(connection).execute(statement, parameters(event))
    except Exception as error:
        if (refused := _ours(error, [event])) is not None:
            raise refused from error
        raise
    return event.event_id


def write_many(connection: extensions.connection, events: Sequence[Event], schema: str) -> list[UUID]:
    """Write all events in order; ids are given row by row in that order."""
    statement = copy(schema)
    check_status(connection)
    if events:
        cursor = extensions.cursor(connection)
        try:
            encoding = codec(connection.get_parameter_status("client_encoding") or "UTF8")
            check_encodable(events, encoding)
            if extensions.get_wait_callback() is None:
                cursor.copy_expert(statement, CopyFile(binary_copy(rows(events), encoding)), PORTION_BYTES)
            else:
                execute_batch(cursor, insert(schema, FORMAT), map(parameters, events), _PAGE)
        except Exception as error:
            if (refused := _ours(error, events)) is not None:
                raise refused from error
            raise
    return [event.event_id for event in events]


def check_status(connection: extensions.connection) -> None:
    """Refuse unless the connection is in a transaction that can be committed."""
    status = connection.get_transaction_status()
    if status == extensions.TRANSACTION_STATUS_INTRANS:
        if connection.async_:
            raise EnqueueError("the connection is asynchronous, which relay.enqueue does not support; use psycopg 3")
        return
    if status == extensions.TRANSACTION_STATUS_INERROR:
        raise failed_transaction(_ROLL_BACK)
    if status == extensions.TRANSACTION_STATUS_ACTIVE:
        raise busy()
    if connection.closed:
        raise closed()
    if connection.autocommit:
        raise not_in_transaction(
            "the connection is in autocommit mode; set connection.autocommit = False and write both inside "
            "`with connection:`"
        )
    raise not_in_transaction("write both inside `with connection:`, and execute the change before you enqueue")


def parameters(event: Event) -> tuple[str | None, ...]:
    """The columns as text: psycopg2 writes the values into the statement."""
    event_id, topic, key, payload, headers, kind = row(event, trace_headers())
    return str(event_id), topic, hexadecimal(key), hexadecimal(payload), headers, kind


def _ours(error: Exception, events: Sequence[Event]) -> RelayError | None:
    return ours(error, events, _ROLL_BACK)


ADAPTER = Adapter(write, write_many)
