"""Enqueueing on a connection of Django.

with transaction.atomic():
    Order.objects.filter(id=order_id).update(state="paid")    # locks the order
    enqueue(connection, "orders", key=str(order_id), payload=json.dumps({"state": "paid"}))

`connection` is `django.db.connection`, or `connections[alias]`. Django has no asynchronous transactions: in an
asynchronous view, put the block into a function and write `await sync_to_async(function)()`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, overload

from relay.enqueue.arguments import event_of, events_of
from relay.enqueue.batches import batches, portions, values
from relay.enqueue.contract import (
    DEFAULT_SCHEMA,
    FORMAT,
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
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias, Unpack
    from uuid import UUID

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.utils.connection import ConnectionProxy

    from relay.enqueue.event import Event
    from relay.enqueue.scheduling import Call
    from relay.enqueue.signatures import Due, Fields, Schedule, TypedEvent, Which
    from relay.errors import RelayError

    Connection: TypeAlias = BaseDatabaseWrapper | ConnectionProxy[Any]

_DO = "write both inside `with transaction.atomic():`"
_DO_ASYNC = (
    "write both inside `with transaction.atomic():` in a function of its own, and call that with "
    "`await sync_to_async(function)()`"
)
_ROLL_BACK = "leave the block `with transaction.atomic():` with the error"


@overload
def enqueue(connection: Connection, topic: str, *, schema: str = ..., **fields: Unpack[Fields]) -> UUID: ...
@overload
def enqueue(
    connection: Connection,
    event: Event | TypedEvent,
    /,
    *,
    schema: str = ...,
    wake_up: bool = ...,
    **when: Unpack[Schedule],
) -> UUID: ...
def enqueue(
    connection: Connection, topic: object, *, schema: str = DEFAULT_SCHEMA, wake_up: bool = False, **fields: Any
) -> UUID:
    """Write one event in the caller's open transaction by one INSERT, and return its event_id.

    See `relay.enqueue.enqueue`.
    """
    written: UUID = with_wake_up(
        adapter_of(connection, __name__), write, connection, event_of(topic, fields), schema, wake_up
    )
    return written


def enqueue_many(
    connection: Connection, events: Iterable[Event | TypedEvent], *, schema: str = DEFAULT_SCHEMA, wake_up: bool = False
) -> list[UUID]:
    """Write many events in the caller's open transaction by one COPY, and return their event_ids.

    See `relay.enqueue.enqueue_many`.
    """
    written: list[UUID] = with_wake_up(
        adapter_of(connection, __name__), write_many, connection, events_of(events), schema, wake_up
    )
    return written


def cancel(connection: Connection, *, schema: str = DEFAULT_SCHEMA, **which: Unpack[Which]) -> bool:
    """Cancel a scheduled event in the caller's open transaction; the result says whether it was still to come.

    See `relay.enqueue.cancel`.
    """
    adapter_of(connection, __name__)
    return call(connection, cancel_call(**which), schema)


def reschedule(connection: Connection, *, schema: str = DEFAULT_SCHEMA, **due: Unpack[Due]) -> bool:
    """Give a scheduled event another time; the result says whether it was still to come.

    See `relay.enqueue.reschedule`.
    """
    adapter_of(connection, __name__)
    return call(connection, reschedule_call(**due), schema)


def write(connection: Connection, event: Event, schema: str) -> UUID:
    """Write one event."""
    statement = insert(schema, FORMAT, event.is_scheduled)
    _check(connection)
    event_id, topic, key, payload, *others = values(event)
    try:
        with connection.cursor() as cursor:
            if hasattr(connection.connection, "get_parameter_status"):
                check_encoding_of_psycopg2(connection.connection, *texts(event))
            # As text: Django's cursors write the values into the statement.
            cursor.execute(statement, (str(event_id), topic, hexadecimal(key), hexadecimal(payload), *others))
    except Exception as error:
        if (refused := _ours(error, [event])) is not None:
            raise refused from error
        raise
    return event.event_id


def write_many(connection: Connection, events: Sequence[Event], schema: str) -> list[UUID]:
    """Write all events in order by one COPY; ids are given row by row in that order."""
    copy(schema)  # Checks the name.
    _check(connection)
    encoding = encoding_of_copy(events, connection.connection.info.parameter_status("client_encoding"))
    for batch in batches(events):
        try:
            with connection.cursor() as found, connection.wrap_database_errors:
                statement = copy(schema, batch.scheduled)
                source = portions(batch, encoding)
                cursor: Any = found
                if hasattr(cursor.cursor, "copy_expert"):  # psycopg2
                    cursor.copy_expert(statement, CopyFile(source), PORTION_BYTES)
                else:
                    with cursor.copy(statement) as stream:
                        for portion in source:
                            stream.write(portion)
        except Exception as error:
            if (refused := _ours(error, batch)) is not None:
                raise refused from error
            raise
    return [event.event_id for event in events]


def call(connection: Connection, function: Call, schema: str) -> bool:
    """Call a function of the schema that says whether it found what is meant."""
    statement = function_call(schema, function.function, FORMAT)
    _check(connection)
    try:
        with connection.cursor() as cursor:
            if hasattr(connection.connection, "get_parameter_status"):
                check_encoding_of_psycopg2(connection.connection, *function.arguments)
            cursor.execute(statement, function.arguments)
            found: bool = cursor.rowcount == 1
    except Exception as error:
        if (refused := _ours(error, [])) is not None:
            raise refused from error
        raise
    return found


def _check(connection: Connection) -> None:
    """Refuse unless the connection is in a transaction that can be committed."""
    if connection.vendor != "postgresql":
        raise EnqueueError(
            f"this connection of Django is to {connection.vendor}; pass the one to PostgreSQL, connections[alias]"
        )
    if connection.in_atomic_block:
        if connection.needs_rollback:
            raise failed_transaction(_ROLL_BACK)
        if connection.closed_in_transaction:
            raise closed()
        # Django's TestCase puts every test into such blocks. Where the service has none, the test must say so.
        if not all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
            return
    elif connection.connection is not None and not connection.autocommit and _begun(connection.connection):
        return
    raise not_in_transaction(_DO_ASYNC if _in_a_task() else _DO)


def _begun(driver: Any) -> bool:
    """Whether the driver's connection is in a transaction; 0 is libpq's idle, in both psycopgs."""
    return bool(driver.info.transaction_status != 0)


def _in_a_task() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _ours(error: Exception, events: Sequence[Event]) -> RelayError | None:
    return ours(error, events, _ROLL_BACK)


def _on_commit(connection: Connection) -> Callable[[Callable[[], None]], None] | None:
    # In a transaction that the caller began without atomic(), Django refuses to tell of the commit.
    return connection.on_commit if connection.in_atomic_block else None


def _in_transaction(connection: Connection) -> bool:
    if connection.in_atomic_block:
        return True
    return connection.connection is not None and not connection.autocommit and _begun(connection.connection)


ADAPTER = Adapter(
    write,
    write_many,
    call,
    in_transaction=_in_transaction,
    on_commit=_on_commit,
    after="with wake_up.after(transaction.atomic()):",
)
