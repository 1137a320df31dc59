"""Enqueueing on a connection of psycopg 3, synchronous or asynchronous.

with connection.transaction():
    connection.execute("UPDATE orders SET state = 'paid' WHERE id = %s", [order_id])    # locks the order
    enqueue(connection, "orders", key=str(order_id), payload=json.dumps({"state": "paid"}))

On an AsyncConnection, the results of both functions are to be awaited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from relay.enqueue.arguments import event_of, events_of
from relay.enqueue.batches import batches, portions, values
from relay.enqueue.contract import (
    DEFAULT_SCHEMA,
    FORMAT,
    FORMAT_BINARY,
    busy,
    closed,
    copy,
    encoding_of_copy,
    failed_transaction,
    function_call,
    insert,
    not_in_transaction,
    ours,
)
from relay.enqueue.dispatch import Adapter, adapter_of
from relay.enqueue.psycopg_copy import CancellableCopy
from relay.enqueue.scheduling import cancel_call, reschedule_call
from relay.enqueue.wake_up import with_wake_up

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence
    from typing import Unpack
    from uuid import UUID

    from relay.enqueue.event import Event
    from relay.enqueue.scheduling import Call
    from relay.enqueue.signatures import Due, Fields, Schedule, TypedEvent, Which
    from relay.errors import RelayError


@overload
def enqueue(connection: Connection[Any], topic: str, *, schema: str = ..., **fields: Unpack[Fields]) -> UUID: ...
@overload
def enqueue(
    connection: Connection[Any],
    event: Event | TypedEvent,
    /,
    *,
    schema: str = ...,
    wake_up: bool = ...,
    **when: Unpack[Schedule],
) -> UUID: ...
@overload
def enqueue(
    connection: AsyncConnection[Any], topic: str, *, schema: str = ..., **fields: Unpack[Fields]
) -> Coroutine[Any, Any, UUID]: ...
@overload
def enqueue(
    connection: AsyncConnection[Any],
    event: Event | TypedEvent,
    /,
    *,
    schema: str = ...,
    wake_up: bool = ...,
    **when: Unpack[Schedule],
) -> Coroutine[Any, Any, UUID]: ...
def enqueue(
    connection: Connection[Any] | AsyncConnection[Any],
    topic: object,
    *,
    schema: str = DEFAULT_SCHEMA,
    wake_up: bool = False,
    **fields: Any,
) -> UUID | Coroutine[Any, Any, UUID]:
    """Write one event in the caller's open transaction by one INSERT; its event_id is the result.

    See `relay.enqueue.enqueue`.
    """
    adapter = adapter_of(connection, __name__)
    written: UUID | Coroutine[Any, Any, UUID]
    written = with_wake_up(adapter, adapter.write, connection, event_of(topic, fields), schema, wake_up)
    return written


@overload
def enqueue_many(
    connection: Connection[Any], events: Iterable[Event | TypedEvent], *, schema: str = ..., wake_up: bool = ...
) -> list[UUID]: ...
@overload
def enqueue_many(
    connection: AsyncConnection[Any], events: Iterable[Event | TypedEvent], *, schema: str = ..., wake_up: bool = ...
) -> Coroutine[Any, Any, list[UUID]]: ...
def enqueue_many(
    connection: Connection[Any] | AsyncConnection[Any],
    events: Iterable[Event | TypedEvent],
    *,
    schema: str = DEFAULT_SCHEMA,
    wake_up: bool = False,
) -> list[UUID] | Coroutine[Any, Any, list[UUID]]:
    """Write many events in the caller's open transaction by one COPY; their event_ids are the result.

    See `relay.enqueue.enqueue_many`.
    """
    adapter = adapter_of(connection, __name__)
    written: list[UUID] | Coroutine[Any, Any, list[UUID]]
    written = with_wake_up(adapter, adapter.write_many, connection, events_of(events), schema, wake_up)
    return written


@overload
def cancel(connection: Connection[Any], *, schema: str = ..., **which: Unpack[Which]) -> bool: ...
@overload
def cancel(
    connection: AsyncConnection[Any], *, schema: str = ..., **which: Unpack[Which]
) -> Coroutine[Any, Any, bool]: ...
def cancel(
    connection: Connection[Any] | AsyncConnection[Any], *, schema: str = DEFAULT_SCHEMA, **which: Unpack[Which]
) -> bool | Coroutine[Any, Any, bool]:
    """Cancel a scheduled event in the caller's open transaction; the result says whether it was still to come.

    See `relay.enqueue.cancel`.
    """
    function = cancel_call(**which)
    found: bool | Coroutine[Any, Any, bool] = adapter_of(connection, __name__).call(connection, function, schema)
    return found


@overload
def reschedule(connection: Connection[Any], *, schema: str = ..., **due: Unpack[Due]) -> bool: ...
@overload
def reschedule(
    connection: AsyncConnection[Any], *, schema: str = ..., **due: Unpack[Due]
) -> Coroutine[Any, Any, bool]: ...
def reschedule(
    connection: Connection[Any] | AsyncConnection[Any], *, schema: str = DEFAULT_SCHEMA, **due: Unpack[Due]
) -> bool | Coroutine[Any, Any, bool]:
    """Give a scheduled event another time; the result says whether it was still to come.

    See `relay.enqueue.reschedule`.
    """
    function = reschedule_call(**due)
    found: bool | Coroutine[Any, Any, bool] = adapter_of(connection, __name__).call(connection, function, schema)
    return found


def write(connection: Connection[Any], event: Event, schema: str) -> UUID:
    """Write one event."""
    statement = insert(schema, FORMAT_BINARY, event.is_scheduled)
    _check(connection)
    try:
        # Not connection.execute(): the caller's kind of cursor may write values into the statement.
        Cursor(connection).execute(statement, _parameters(event))
    except Exception as error:
        if (refused := _ours(error, [event], connection)) is not None:
            raise refused from error
        raise
    return event.event_id


async def awrite(connection: AsyncConnection[Any], event: Event, schema: str) -> UUID:
    """Write one event."""
    statement = insert(schema, FORMAT_BINARY, event.is_scheduled)
    _check(connection)
    try:
        await AsyncCursor(connection).execute(statement, _parameters(event))
    except Exception as error:
        if (refused := _ours(error, [event], connection)) is not None:
            raise refused from error
        raise
    return event.event_id


def write_many(connection: Connection[Any], events: Sequence[Event], schema: str) -> list[UUID]:
    """Write all events in order by one COPY; ids are given row by row in that order."""
    copy(schema)  # Checks the name.
    _check(connection)
    encoding = encoding_of_copy(events, connection.info.parameter_status("client_encoding"))
    for batch in batches(events):
        try:
            with Cursor(connection).copy(copy(schema, batch.scheduled)) as stream:
                for portion in portions(batch, encoding):
                    stream.write(portion)
        except Exception as error:
            if (refused := _ours(error, batch, connection)) is not None:
                raise refused from error
            raise
    return [event.event_id for event in events]


async def awrite_many(connection: AsyncConnection[Any], events: Sequence[Event], schema: str) -> list[UUID]:
    """Write all events in order by one COPY; ids are given row by row in that order."""
    copy(schema)  # Checks the name.
    _check(connection)
    encoding = encoding_of_copy(events, connection.info.parameter_status("client_encoding"))
    for batch in batches(events):
        try:
            await CancellableCopy(connection, copy(schema, batch.scheduled), portions(batch, encoding)).run()
        except Exception as error:
            if (refused := _ours(error, batch, connection)) is not None:
                raise refused from error
            raise
    return [event.event_id for event in events]


def call(connection: Connection[Any], function: Call, schema: str) -> bool:
    """Call a function of the schema that says whether it found what is meant."""
    statement = function_call(schema, function.function, FORMAT)
    _check(connection)
    try:
        rows = Cursor(connection, row_factory=tuple_row).execute(statement, function.arguments).fetchall()
    except Exception as error:
        if (refused := _ours(error, [], connection)) is not None:
            raise refused from error
        raise
    return bool(rows)


async def acall(connection: AsyncConnection[Any], function: Call, schema: str) -> bool:
    """Call a function of the schema that says whether it found what is meant."""
    statement = function_call(schema, function.function, FORMAT)
    _check(connection)
    try:
        cursor = await AsyncCursor(connection, row_factory=tuple_row).execute(statement, function.arguments)
        rows = await cursor.fetchall()
    except Exception as error:
        if (refused := _ours(error, [], connection)) is not None:
            raise refused from error
        raise
    return bool(rows)


def check_status(connection: Connection[Any] | AsyncConnection[Any]) -> None:
    """Refuse unless the connection is in a transaction that can be committed."""
    _check(connection)


def _check(connection: Connection[Any] | AsyncConnection[Any]) -> None:
    protocol = connection.pgconn
    status = protocol.transaction_status
    if status == TransactionStatus.INTRANS:
        return
    if status == TransactionStatus.ACTIVE:
        # In a pipeline the server has not answered yet: BEGIN was sent, or the caller's statement outside of one.
        if protocol.pipeline_status != PipelineStatus.OFF:
            raise not_in_transaction("end the pipeline's part before it with pipeline.sync(), or enqueue outside of it")
        raise busy()
    if status == TransactionStatus.INERROR:
        raise failed_transaction(_roll_back(connection))
    if connection.closed:
        raise closed()
    raise not_in_transaction(_do(connection))


def _do(connection: Connection[Any] | AsyncConnection[Any]) -> str:
    word, block = ("await ", "async with") if isinstance(connection, AsyncConnection) else ("", "with")
    code = f"`{block} connection.transaction():`"
    if connection.autocommit:
        return f"the connection is in autocommit mode; write both inside {code}"
    return f"write both inside {code}, or {word}connection.execute() the change before you enqueue"


def _roll_back(connection: Connection[Any] | AsyncConnection[Any]) -> str:
    if isinstance(connection, AsyncConnection):
        return "leave the block `async with connection.transaction():` with the error, or `await connection.rollback()`"
    return "leave the block `with connection.transaction():` with the error, or call connection.rollback()"


def _ours(
    error: Exception, events: Sequence[Event], connection: Connection[Any] | AsyncConnection[Any]
) -> RelayError | None:
    return ours(error, events, _roll_back(connection))


def _parameters(event: Event) -> tuple[str | bytes | None, ...]:
    event_id, *others = values(event)
    # As text: the caller may have a dumper of its own for UUIDs.
    return str(event_id), *others


def _in_transaction(connection: Connection[Any] | AsyncConnection[Any]) -> bool:
    return connection.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)


SYNC = Adapter(write, write_many, call, in_transaction=_in_transaction)
ASYNC = Adapter(
    awrite,
    awrite_many,
    acall,
    in_transaction=_in_transaction,
    after="async with wake_up.after(connection.transaction()):",
)
