"""Enqueueing on a connection of psycopg 3, synchronous or asynchronous.

with connection.transaction():
    connection.execute("UPDATE orders SET state = 'paid' WHERE id = %s", [order_id])    # locks the order
    enqueue(connection, "orders", key=str(order_id), payload=json.dumps({"state": "paid"}))

On an AsyncConnection, the results of both functions are to be awaited.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, overload

from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor
from psycopg.pq import PipelineStatus, TransactionStatus

from relay.enqueue.arguments import event_of, events_of
from relay.enqueue.contract import (
    DEFAULT_SCHEMA,
    FORMAT_BINARY,
    busy,
    check_encodable,
    closed,
    codec,
    copy,
    failed_transaction,
    insert,
    not_in_transaction,
    ours,
)
from relay.enqueue.copy import binary_copy
from relay.enqueue.dispatch import Adapter
from relay.enqueue.event import row
from relay.enqueue.trace import rows, trace_headers

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator, Sequence
    from typing import LiteralString, Unpack
    from uuid import UUID

    from relay.enqueue.event import Event
    from relay.enqueue.signatures import Fields, TypedEvent
    from relay.errors import RelayError


@overload
def enqueue(connection: Connection[Any], topic: str, *, schema: str = ..., **fields: Unpack[Fields]) -> UUID: ...
@overload
def enqueue(connection: Connection[Any], event: Event | TypedEvent, /, *, schema: str = ...) -> UUID: ...
@overload
def enqueue(
    connection: AsyncConnection[Any], topic: str, *, schema: str = ..., **fields: Unpack[Fields]
) -> Coroutine[Any, Any, UUID]: ...
@overload
def enqueue(
    connection: AsyncConnection[Any], event: Event | TypedEvent, /, *, schema: str = ...
) -> Coroutine[Any, Any, UUID]: ...
def enqueue(
    connection: Connection[Any] | AsyncConnection[Any], topic: object, *, schema: str = DEFAULT_SCHEMA, **fields: Any
) -> UUID | Coroutine[Any, Any, UUID]:
    """Write one event in the caller's open transaction by one INSERT; its event_id is the result.

    See `relay.enqueue.enqueue`.
    """
    event = event_of(topic, fields)
    if isinstance(connection, AsyncConnection):
        return awrite(connection, event, schema)
    return write(connection, event, schema)


@overload
def enqueue_many(
    connection: Connection[Any], events: Iterable[Event | TypedEvent], *, schema: str = ...
) -> list[UUID]: ...
@overload
def enqueue_many(
    connection: AsyncConnection[Any], events: Iterable[Event | TypedEvent], *, schema: str = ...
) -> Coroutine[Any, Any, list[UUID]]: ...
def enqueue_many(
    connection: Connection[Any] | AsyncConnection[Any],
    events: Iterable[Event | TypedEvent],
    *,
    schema: str = DEFAULT_SCHEMA,
) -> list[UUID] | Coroutine[Any, Any, list[UUID]]:
    """Write many events in the caller's open transaction by one COPY; their event_ids are the result.

    See `relay.enqueue.enqueue_many`.
    """
    if isinstance(connection, AsyncConnection):
        return awrite_many(connection, events_of(events), schema)
    return write_many(connection, events_of(events), schema)


def write(connection: Connection[Any], event: Event, schema: str) -> UUID:
    """Write one event."""
    statement = insert(schema, FORMAT_BINARY)
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
    statement = insert(schema, FORMAT_BINARY)
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
    statement = copy(schema)
    _check(connection)
    if events:
        try:
            encoding = codec(connection.info.parameter_status("client_encoding") or "UTF8")
            check_encodable(events, encoding)
            with Cursor(connection).copy(statement) as stream:
                for portion in binary_copy(rows(events), encoding):
                    stream.write(portion)
        except Exception as error:
            if (refused := _ours(error, events, connection)) is not None:
                raise refused from error
            raise
    return [event.event_id for event in events]


async def awrite_many(connection: AsyncConnection[Any], events: Sequence[Event], schema: str) -> list[UUID]:
    """Write all events in order by one COPY; ids are given row by row in that order."""
    statement = copy(schema)
    _check(connection)
    if events:
        try:
            encoding = codec(connection.info.parameter_status("client_encoding") or "UTF8")
            check_encodable(events, encoding)
            await _Copy(connection, statement, binary_copy(rows(events), encoding)).run()
        except Exception as error:
            if (refused := _ours(error, events, connection)) is not None:
                raise refused from error
            raise
    return [event.event_id for event in events]


class _Copy:
    """A COPY that can be cancelled at any moment, after which the connection works.

    psycopg leaves the connection in the middle of the COPY if it is cancelled between the statement and the answer.
    """

    def __init__(self, connection: AsyncConnection[Any], statement: LiteralString, portions: Iterator[bytes]) -> None:
        self._connection = connection
        self._statement = statement
        self._portions = portions
        self._cancelled = False

    async def run(self) -> None:
        """Copy all portions, or raise."""
        copying = asyncio.ensure_future(self._copy())
        try:
            await asyncio.shield(copying)
        except asyncio.CancelledError:
            self._cancelled = True
            # The server may wait for a lock, and then no portion is asked for.
            await self._connection.cancel_safe()
            await asyncio.wait([copying])
            if not copying.cancelled():
                copying.exception()
            raise

    async def _copy(self) -> None:
        async with AsyncCursor(self._connection).copy(self._statement) as stream:
            for portion in self._portions:
                if self._cancelled:
                    raise asyncio.CancelledError
                await stream.write(portion)


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
    event_id, *others = row(event, trace_headers())
    # As text: the caller may have a dumper of its own for UUIDs.
    return str(event_id), *others


SYNC = Adapter(write, write_many)
ASYNC = Adapter(awrite, awrite_many)
