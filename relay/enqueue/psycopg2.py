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
from relay.enqueue.batches import batches, portions, values
from relay.enqueue.contract import (
    DEFAULT_SCHEMA,
    FORMAT,
    busy,
    check_encoding_of_psycopg2,
    closed,
    copy,
    encoding_of_copy,
    failed_transaction,
    function_call,
    hexadecimal,
    insert,
    not_in_transaction,
    ours,
    texts,
)
from relay.enqueue.copy import PORTION_BYTES, CopyFile
from relay.enqueue.dispatch import Adapter, adapter_of
from relay.enqueue.scheduling import cancel_call, reschedule_call
from relay.enqueue.wake_up import with_wake_up
from relay.errors import EnqueueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Unpack
    from uuid import UUID

    from relay.enqueue.event import Event
    from relay.enqueue.scheduling import Call
    from relay.enqueue.signatures import Due, Fields, Schedule, TypedEvent, Which
    from relay.errors import RelayError

_ROLL_BACK = "leave the block `with connection:` with the error, or call connection.rollback()"

_PAGE = 500
"""Rows that go to the server at once where COPY cannot be had."""


@overload
def enqueue(connection: extensions.connection, topic: str, *, schema: str = ..., **fields: Unpack[Fields]) -> UUID: ...
@overload
def enqueue(
    connection: extensions.connection,
    event: Event | TypedEvent,
    /,
    *,
    schema: str = ...,
    wake_up: bool = ...,
    **when: Unpack[Schedule],
) -> UUID: ...
def enqueue(
    connection: extensions.connection,
    topic: object,
    *,
    schema: str = DEFAULT_SCHEMA,
    wake_up: bool = False,
    **fields: Any,
) -> UUID:
    """Write one event in the caller's open transaction by one INSERT, and return its event_id.

    See `relay.enqueue.enqueue`.
    """
    written: UUID = with_wake_up(
        adapter_of(connection, __name__), write, connection, event_of(topic, fields), schema, wake_up
    )
    return written


def enqueue_many(
    connection: extensions.connection,
    events: Iterable[Event | TypedEvent],
    *,
    schema: str = DEFAULT_SCHEMA,
    wake_up: bool = False,
) -> list[UUID]:
    """Write many events in the caller's open transaction by one COPY, and return their event_ids.

    Under a wait callback, as with gevent, psycopg2 has no COPY: the events are inserted in batches. See
    `relay.enqueue.enqueue_many`.
    """
    written: list[UUID] = with_wake_up(
        adapter_of(connection, __name__), write_many, connection, events_of(events), schema, wake_up
    )
    return written


def cancel(connection: extensions.connection, *, schema: str = DEFAULT_SCHEMA, **which: Unpack[Which]) -> bool:
    """Cancel a scheduled event in the caller's open transaction; the result says whether it was still to come.

    See `relay.enqueue.cancel`.
    """
    adapter_of(connection, __name__)
    return call(connection, cancel_call(**which), schema)


def reschedule(connection: extensions.connection, *, schema: str = DEFAULT_SCHEMA, **due: Unpack[Due]) -> bool:
    """Give a scheduled event another time; the result says whether it was still to come.

    See `relay.enqueue.reschedule`.
    """
    adapter_of(connection, __name__)
    return call(connection, reschedule_call(**due), schema)


def write(connection: extensions.connection, event: Event, schema: str) -> UUID:
    """Write one event."""
    statement = insert(schema, FORMAT, event.is_scheduled)
    check_status(connection)
    check_encoding_of_psycopg2(connection, *texts(event))
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
    copy(schema)  # Checks the name.
    check_status(connection)
    encoding = encoding_of_copy(events, connection.get_parameter_status("client_encoding"))
    if by_insert := extensions.get_wait_callback() is not None:
        for event in events:
            check_encoding_of_psycopg2(connection, *texts(event))
    for batch in batches(events):
        cursor = extensions.cursor(connection)
        try:
            if not by_insert:
                statement = copy(schema, batch.scheduled)
                cursor.copy_expert(statement, CopyFile(portions(batch, encoding)), PORTION_BYTES)
            else:
                execute_batch(cursor, insert(schema, FORMAT, batch.scheduled), map(parameters, batch), _PAGE)
        except Exception as error:
            if (refused := _ours(error, batch)) is not None:
                raise refused from error
            raise
    return [event.event_id for event in events]


def call(connection: extensions.connection, function: Call, schema: str) -> bool:
    """Call a function of the schema that says whether it found what is meant."""
    statement = function_call(schema, function.function, FORMAT)
    check_status(connection)
    check_encoding_of_psycopg2(connection, *function.arguments)
    try:
        cursor = extensions.cursor(connection)
        cursor.execute(statement, function.arguments)
    except Exception as error:
        if (refused := _ours(error, [])) is not None:
            raise refused from error
        raise
    return bool(cursor.rowcount == 1)


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
    event_id, topic, key, payload, *others = values(event)
    return str(event_id), topic, hexadecimal(key), hexadecimal(payload), *others


def _ours(error: Exception, events: Sequence[Event]) -> RelayError | None:
    return ours(error, events, _ROLL_BACK)


def _in_transaction(connection: extensions.connection) -> bool:
    return not connection.closed and connection.get_transaction_status() != extensions.TRANSACTION_STATUS_IDLE


ADAPTER = Adapter(write, write_many, call, in_transaction=_in_transaction, after="with wake_up.after(connection):")
