"""Enqueueing on a Connection or Session of SQLAlchemy 2, and on their asynchronous relatives.

with Session.begin() as session:
    session.execute(update(Order).where(Order.id == order_id).values(state="paid"))    # locks the order
    enqueue(session, "orders", key=str(order_id), payload=json.dumps({"state": "paid"}))

The drivers are asyncpg, psycopg and psycopg2. A Session writes its pending changes first, so that they lock what they
change before the event gets its place in the order. On an AsyncConnection or AsyncSession, the results of both
functions are to be awaited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, overload

from sqlalchemy.engine import Connection
from sqlalchemy.exc import InvalidRequestError, PendingRollbackError
from sqlalchemy.orm import Session, scoped_session

from relay.enqueue.arguments import event_of, events_of
from relay.enqueue.contract import (
    DEFAULT_SCHEMA,
    DOLLARS,
    FORMAT,
    FORMAT_BINARY,
    busy,
    check_encoding_of_psycopg2,
    closed,
    copy,
    failed_transaction,
    hexadecimal,
    insert,
    not_in_transaction,
    ours,
)
from relay.enqueue.dispatch import Adapter, adapter_for
from relay.enqueue.event import row
from relay.enqueue.trace import trace_headers
from relay.errors import EnqueueError, NotInTransactionError, RelayError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence
    from typing import Unpack
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    from relay.enqueue.event import Event
    from relay.enqueue.signatures import Fields, TypedEvent

    Synchronous: TypeAlias = Connection | Session | scoped_session[Any]
    Asynchronous: TypeAlias = AsyncConnection | AsyncSession | async_scoped_session[Any]

_DRIVERS = ("asyncpg", "psycopg", "psycopg_async", "psycopg2")


@overload
def enqueue(connection: Synchronous, topic: str, *, schema: str = ..., **fields: Unpack[Fields]) -> UUID: ...
@overload
def enqueue(connection: Synchronous, event: Event | TypedEvent, /, *, schema: str = ...) -> UUID: ...
@overload
def enqueue(
    connection: Asynchronous, topic: str, *, schema: str = ..., **fields: Unpack[Fields]
) -> Coroutine[Any, Any, UUID]: ...
@overload
def enqueue(
    connection: Asynchronous, event: Event | TypedEvent, /, *, schema: str = ...
) -> Coroutine[Any, Any, UUID]: ...
def enqueue(
    connection: Synchronous | Asynchronous, topic: object, *, schema: str = DEFAULT_SCHEMA, **fields: Any
) -> UUID | Coroutine[Any, Any, UUID]:
    """Write one event in the caller's open transaction by one INSERT; its event_id is the result.

    See `relay.enqueue.enqueue`.
    """
    event = event_of(topic, fields)
    if isinstance(connection, Connection | Session | scoped_session):
        return write(connection, event, schema)
    return awrite(connection, event, schema)


@overload
def enqueue_many(connection: Synchronous, events: Iterable[Event | TypedEvent], *, schema: str = ...) -> list[UUID]: ...
@overload
def enqueue_many(
    connection: Asynchronous, events: Iterable[Event | TypedEvent], *, schema: str = ...
) -> Coroutine[Any, Any, list[UUID]]: ...
def enqueue_many(
    connection: Synchronous | Asynchronous, events: Iterable[Event | TypedEvent], *, schema: str = DEFAULT_SCHEMA
) -> list[UUID] | Coroutine[Any, Any, list[UUID]]:
    """Write many events in the caller's open transaction by the driver's COPY; their event_ids are the result.

    What the COPY raises is the driver's error, and not SQLAlchemy's around it. See `relay.enqueue.enqueue_many`.
    """
    if isinstance(connection, Connection | Session | scoped_session):
        return write_many(connection, events_of(events), schema)
    return awrite_many(connection, events_of(events), schema)


def write(connection: Synchronous, event: Event, schema: str) -> UUID:
    """Write one event."""
    insert(schema, FORMAT)  # Checks the name.
    found = _connection_in_transaction(connection)
    try:
        # Not execute(text()): SQLAlchemy adds casts to what it binds, and the search path decides about their types.
        found.exec_driver_sql(*_statement(found, event, schema))
    except Exception as error:
        if (refused := _ours(error, [event], connection, found)) is not None:
            raise refused from error
        raise
    return event.event_id


def write_many(connection: Synchronous, events: Sequence[Event], schema: str) -> list[UUID]:
    """Write all events in order by one COPY; ids are given row by row in that order."""
    copy(schema)  # Checks the name.
    found = _connection_in_transaction(connection)
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
        if (refused := _ours(error, events, connection, found)) is not None:
            raise refused from error
        raise
    return [event.event_id for event in events]


async def awrite(connection: Asynchronous, event: Event, schema: str) -> UUID:
    """Write one event."""
    written: UUID = await _asynchronous(connection).run_sync(write, event, schema)
    return written


async def awrite_many(connection: Asynchronous, events: Sequence[Event], schema: str) -> list[UUID]:
    """Write all events in order by one COPY; ids are given row by row in that order."""
    written: list[UUID] = await _asynchronous(connection).run_sync(write_many, events, schema)
    return written


def _asynchronous(connection: Asynchronous) -> Any:
    """The AsyncConnection or AsyncSession; an async_scoped_session is called for its own."""
    found: Any = connection if hasattr(connection, "run_sync") else connection()
    if getattr(found, "sync_connection", found) is None:
        raise NotInTransactionError(
            "this connection was not started, or is closed; write `async with engine.begin() as connection:`"
        )
    return found


def _connection_in_transaction(given: Synchronous) -> Connection:
    """The Connection whose transaction is open and will be committed by somebody. Raises NotInTransactionError."""
    subject: Connection | Session = given() if isinstance(given, scoped_session) else given
    if not subject.in_transaction():
        raise closed() if getattr(subject, "closed", False) else not_in_transaction(_do(subject))
    if isinstance(subject, Session):
        # The pending changes lock what they change, and must do that before the event has its place in the order.
        if subject.is_active and not getattr(subject, "_flushing", False):
            subject.flush()
        try:
            found = subject.connection()
        except PendingRollbackError as error:
            raise failed_transaction(_roll_back(subject)) from error
        except InvalidRequestError as error:
            raise _not_usable(error) from error
    else:
        found = subject
    if found.dialect.name != "postgresql" or found.dialect.driver not in _DRIVERS:
        raise EnqueueError(
            f"cannot enqueue through SQLAlchemy's {found.dialect.name}+{found.dialect.driver}; make the engine with "
            "postgresql+asyncpg, postgresql+psycopg or postgresql+psycopg2"
        )
    if getattr(found.get_transaction(), "_is_prepared", False):
        raise NotInTransactionError(
            "the transaction is prepared, and nothing was enqueued; enqueue before you prepare the transaction"
        )
    try:
        driver: Any = found.connection.dbapi_connection
    except InvalidRequestError as error:
        raise _not_usable(error) from error
    if driver.autocommit:
        raise not_in_transaction(
            "its isolation level is AUTOCOMMIT, which makes each statement a transaction of its own; take an engine "
            f"without AUTOCOMMIT, {_do(subject)}"
        )
    return found


def _statement(connection: Connection, event: Event, schema: str) -> tuple[str, tuple[Any, ...]]:
    """The INSERT in the driver's own style."""
    event_id, topic, key, payload, headers, kind = row(event, trace_headers())
    name = connection.dialect.driver
    if name == "asyncpg":
        return insert(schema, DOLLARS), (event_id, topic, key, payload, headers, kind)
    if name == "psycopg2":
        check_encoding_of_psycopg2(connection.connection.driver_connection, event)
    elif not _writes_values_into_statements(connection):
        return insert(schema, FORMAT_BINARY), (str(event_id), topic, key, payload, headers, kind)
    return insert(schema, FORMAT), (str(event_id), topic, hexadecimal(key), hexadecimal(payload), headers, kind)


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


def _do(subject: Connection | Session) -> str:
    noun = "session" if isinstance(subject, Session) else "connection"
    return f"write both inside `{_block(subject)} {noun}.begin():`"


def _roll_back(subject: Connection | Session) -> str:
    noun = "session" if isinstance(subject, Session) else "connection"
    word = "await " if _block(subject) == "async with" else "call "
    return f"leave the block `{_block(subject)} {noun}.begin():` with the error, or {word}{noun}.rollback()"


def _block(subject: Connection | Session) -> str:
    bind: Any = subject.bind if isinstance(subject, Session) else subject
    return "async with" if bind is not None and bind.dialect.is_async else "with"


def _ours(error: Exception, events: Sequence[Event], given: Synchronous, connection: Connection) -> RelayError | None:
    if isinstance(error, RelayError):
        return None
    if isinstance(error, InvalidRequestError):
        return _not_usable(error)
    if "another operation is in progress" in str(error):
        return busy()
    return ours(error, events, _roll_back(given if isinstance(given, Session) else connection))


def _not_usable(error: InvalidRequestError) -> NotInTransactionError:
    """The refusal for a transaction that SQLAlchemy itself says is over."""
    text = " ".join(str(error).split(" (Background on this error", 1)[0].split())
    return NotInTransactionError(f"nothing was enqueued; SQLAlchemy says: {text}")


SYNC = Adapter(write, write_many)
ASYNC = Adapter(awrite, awrite_many)
