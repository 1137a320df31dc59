"""Enqueueing on a Connection or Session of SQLAlchemy 2, and on their asynchronous relatives.

with Session.begin() as session:
    session.execute(update(Order).where(Order.id == order_id).values(state="paid"))    # locks the order
    enqueue(session, "orders", key=str(order_id), payload=json.dumps({"state": "paid"}))

The drivers are asyncpg, psycopg and psycopg2. A Session writes its pending changes first, so that they lock what they
change before the event gets its place in the order. On an AsyncConnection or AsyncSession, the results of both
functions are to be awaited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from relay.enqueue.arguments import event_of, events_of
from relay.enqueue.batches import values
from relay.enqueue.contract import (
    DEFAULT_SCHEMA,
    DOLLARS,
    FORMAT,
    FORMAT_BINARY,
    check_encoding_of_psycopg2,
    copy,
    function_call,
    hexadecimal,
    insert,
    texts,
)
from relay.enqueue.dispatch import Adapter, adapter_for, adapter_of
from relay.enqueue.scheduling import cancel_call, reschedule_call
from relay.enqueue.sqlalchemy_commits import on_commit
from relay.enqueue.sqlalchemy_refusals import refusal_of
from relay.enqueue.sqlalchemy_transaction import asynchronous, connection_in_transaction, in_transaction
from relay.enqueue.wake_up import with_wake_up

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence
    from typing import Unpack
    from uuid import UUID

    from sqlalchemy.engine import Connection

    from relay.enqueue.event import Event
    from relay.enqueue.scheduling import Call
    from relay.enqueue.signatures import Due, Fields, Schedule, TypedEvent, Which
    from relay.enqueue.sqlalchemy_transaction import Asynchronous, Synchronous


@overload
def enqueue(connection: Synchronous, topic: str, *, schema: str = ..., **fields: Unpack[Fields]) -> UUID: ...
@overload
def enqueue(
    connection: Synchronous,
    event: Event | TypedEvent,
    /,
    *,
    schema: str = ...,
    wake_up: bool = ...,
    **when: Unpack[Schedule],
) -> UUID: ...
@overload
def enqueue(
    connection: Asynchronous, topic: str, *, schema: str = ..., **fields: Unpack[Fields]
) -> Coroutine[Any, Any, UUID]: ...
@overload
def enqueue(
    connection: Asynchronous,
    event: Event | TypedEvent,
    /,
    *,
    schema: str = ...,
    wake_up: bool = ...,
    **when: Unpack[Schedule],
) -> Coroutine[Any, Any, UUID]: ...
def enqueue(
    connection: Synchronous | Asynchronous,
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
    connection: Synchronous, events: Iterable[Event | TypedEvent], *, schema: str = ..., wake_up: bool = ...
) -> list[UUID]: ...
@overload
def enqueue_many(
    connection: Asynchronous, events: Iterable[Event | TypedEvent], *, schema: str = ..., wake_up: bool = ...
) -> Coroutine[Any, Any, list[UUID]]: ...
def enqueue_many(
    connection: Synchronous | Asynchronous,
    events: Iterable[Event | TypedEvent],
    *,
    schema: str = DEFAULT_SCHEMA,
    wake_up: bool = False,
) -> list[UUID] | Coroutine[Any, Any, list[UUID]]:
    """Write many events in the caller's open transaction by the driver's COPY; their event_ids are the result.

    What the COPY raises is the driver's error, and not SQLAlchemy's around it. See `relay.enqueue.enqueue_many`.
    """
    adapter = adapter_of(connection, __name__)
    written: list[UUID] | Coroutine[Any, Any, list[UUID]]
    written = with_wake_up(adapter, adapter.write_many, connection, events_of(events), schema, wake_up)
    return written


@overload
def cancel(connection: Synchronous, *, schema: str = ..., **which: Unpack[Which]) -> bool: ...
@overload
def cancel(connection: Asynchronous, *, schema: str = ..., **which: Unpack[Which]) -> Coroutine[Any, Any, bool]: ...
def cancel(
    connection: Synchronous | Asynchronous, *, schema: str = DEFAULT_SCHEMA, **which: Unpack[Which]
) -> bool | Coroutine[Any, Any, bool]:
    """Cancel a scheduled event in the caller's open transaction; the result says whether it was still to come.

    See `relay.enqueue.cancel`.
    """
    function = cancel_call(**which)
    found: bool | Coroutine[Any, Any, bool] = adapter_of(connection, __name__).call(connection, function, schema)
    return found


@overload
def reschedule(connection: Synchronous, *, schema: str = ..., **due: Unpack[Due]) -> bool: ...
@overload
def reschedule(connection: Asynchronous, *, schema: str = ..., **due: Unpack[Due]) -> Coroutine[Any, Any, bool]: ...
def reschedule(
    connection: Synchronous | Asynchronous, *, schema: str = DEFAULT_SCHEMA, **due: Unpack[Due]
) -> bool | Coroutine[Any, Any, bool]:
    """Give a scheduled event another time; the result says whether it was still to come.

    See `relay.enqueue.reschedule`.
    """
    function = reschedule_call(**due)
    found: bool | Coroutine[Any, Any, bool] = adapter_of(connection, __name__).call(connection, function, schema)
    return found


def write(connection: Synchronous, event: Event, schema: str) -> UUID:
    """Write one event."""
    insert(schema, FORMAT)  # Checks the name.
    found = connection_in_transaction(connection)
    try:
        # Not execute(text()): SQLAlchemy adds casts to what it binds, and the search path decides about their types.
        found.exec_driver_sql(*_statement(found, event, schema))
    except Exception as error:
        if (refused := refusal_of(error, [event], connection, found)) is not None:
            raise refused from error
        raise
    return event.event_id


def write_many(connection: Synchronous, events: Sequence[Event], schema: str) -> list[UUID]:
    """Write all events in order by one COPY; ids are given row by row in that order."""
    copy(schema)  # Checks the name.
    found = connection_in_transaction(connection)
    if not events:
        return []
    try:
        _let_the_driver_begin(found)
        pooled = found.connection
        driver: Any = pooled.driver_connection
        adapter = adapter_for(driver)
        if found.dialect.is_async:
            adapted: Any = pooled.dbapi_connection
            adapted.run_async(lambda driver: adapter.write_many(driver, events, schema))
        else:
            adapter.write_many(driver, events, schema)
    except Exception as error:
        if (refused := refusal_of(error, events, connection, found)) is not None:
            raise refused from error
        raise
    return [event.event_id for event in events]


def call(connection: Synchronous, function: Call, schema: str) -> bool:
    """Call a function of the schema that says whether it found what is meant."""
    function_call(schema, function.function, FORMAT)  # Checks the name.
    found = connection_in_transaction(connection)
    parameters = DOLLARS if found.dialect.driver == "asyncpg" else FORMAT
    try:
        if found.dialect.driver == "psycopg2":
            check_encoding_of_psycopg2(found.connection.driver_connection, *function.arguments)
        result = found.exec_driver_sql(function_call(schema, function.function, parameters), function.arguments)
        return bool(result.all())
    except Exception as error:
        if (refused := refusal_of(error, [], connection, found)) is not None:
            raise refused from error
        raise


async def acall(connection: Asynchronous, function: Call, schema: str) -> bool:
    """Call a function of the schema that says whether it found what is meant."""
    found: bool = await asynchronous(connection).run_sync(call, function, schema)
    return found


async def awrite(connection: Asynchronous, event: Event, schema: str) -> UUID:
    """Write one event."""
    written: UUID = await asynchronous(connection).run_sync(write, event, schema)
    return written


async def awrite_many(connection: Asynchronous, events: Sequence[Event], schema: str) -> list[UUID]:
    """Write all events in order by one COPY; ids are given row by row in that order."""
    written: list[UUID] = await asynchronous(connection).run_sync(write_many, events, schema)
    return written


def _statement(connection: Connection, event: Event, schema: str) -> tuple[str, tuple[Any, ...]]:
    """The INSERT in the driver's own style."""
    event_id, topic, key, payload, *others = values(event)
    scheduled = event.is_scheduled
    name = connection.dialect.driver
    if name == "asyncpg":
        return insert(schema, DOLLARS, scheduled), (event_id, topic, key, payload, *others)
    if name == "psycopg2":
        check_encoding_of_psycopg2(connection.connection.driver_connection, *texts(event))
    elif not _writes_values_into_statements(connection):
        return insert(schema, FORMAT_BINARY, scheduled), (str(event_id), topic, key, payload, *others)
    return insert(schema, FORMAT, scheduled), (str(event_id), topic, hexadecimal(key), hexadecimal(payload), *others)


def _writes_values_into_statements(connection: Connection) -> bool:
    """Whether psycopg was told to bind on the client."""
    driver: Any = connection.connection.driver_connection
    return hasattr(driver.cursor_factory, "mogrify")


def _let_the_driver_begin(connection: Connection) -> None:
    """Begin in the database what SQLAlchemy has begun: the drivers do so before the first statement."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.driver == "asyncpg":
        begun = driver.is_in_transaction()
    else:
        begun = driver.info.transaction_status != 0  # 0 is libpq's idle, in both psycopgs.
    if not begun:
        connection.exec_driver_sql("SELECT")


_AFTER = "with wake_up.after(connection.begin()):"
SYNC = Adapter(write, write_many, call, in_transaction=in_transaction, on_commit=on_commit, after=_AFTER)
ASYNC = Adapter(awrite, awrite_many, acall, in_transaction=in_transaction, on_commit=on_commit, after=f"async {_AFTER}")
