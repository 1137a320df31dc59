"""Enqueueing on a Connection or Session of SQLAlchemy 2, and on their asynchronous relatives.

with Session.begin() as session:
    session.execute(update(Order).where(Order.id == order_id).values(state="paid"))    # locks the order
    enqueue(session, "orders", key=str(order_id), payload=json.dumps({"state": "paid"}))

The drivers are asyncpg, psycopg and psycopg2. A Session writes its pending changes first, so that they lock what they
change before the event gets its place in the order. On an AsyncConnection or AsyncSession, the results of both
functions are to be awaited.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from sqlalchemy import event, exc
from sqlalchemy.engine import Connection
from sqlalchemy.exc import InvalidRequestError, MissingGreenlet, PendingRollbackError
from sqlalchemy.orm import Session, scoped_session

from relay.enqueue.arguments import event_of, events_of
from relay.enqueue.batches import values
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
    function_call,
    hexadecimal,
    insert,
    not_in_transaction,
    ours,
    texts,
)
from relay.enqueue.dispatch import Adapter, adapter_for, adapter_of
from relay.enqueue.scheduling import cancel_call, reschedule_call
from relay.enqueue.wake_up import with_wake_up
from relay.errors import EnqueueError, NotInTransactionError, RelayError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from typing import Unpack
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import SessionTransaction

    from relay.enqueue.event import Event
    from relay.enqueue.scheduling import Call
    from relay.enqueue.signatures import Due, Fields, Schedule, TypedEvent, Which

    Synchronous: TypeAlias = Connection | Session | scoped_session[Any]
    Asynchronous: TypeAlias = AsyncConnection | AsyncSession | async_scoped_session[Any]

_DRIVERS = ("asyncpg", "psycopg", "psycopg_async", "psycopg2")


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


def call(connection: Synchronous, function: Call, schema: str) -> bool:
    """Call a function of the schema that says whether it found what is meant."""
    function_call(schema, function.function, FORMAT)  # Checks the name.
    found = _connection_in_transaction(connection)
    parameters = DOLLARS if found.dialect.driver == "asyncpg" else FORMAT
    try:
        if found.dialect.driver == "psycopg2":
            check_encoding_of_psycopg2(found.connection.driver_connection, *function.arguments)
        result = found.exec_driver_sql(function_call(schema, function.function, parameters), function.arguments)
        return bool(result.all())
    except Exception as error:
        if (refused := _ours(error, [], connection, found)) is not None:
            raise refused from error
        raise


async def acall(connection: Asynchronous, function: Call, schema: str) -> bool:
    """Call a function of the schema that says whether it found what is meant."""
    found: bool = await _asynchronous(connection).run_sync(call, function, schema)
    return found


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
    found = _connection_of(subject) if isinstance(subject, Session) else subject
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
            f"without AUTOCOMMIT, and {_do(subject)}"
        )
    return found


def _connection_of(session: Session) -> Connection:
    """The connection of a session's transaction, on which its pending changes have been written."""
    # These lock what they change, and must do that before the event has its place in the order.
    if session.is_active and not getattr(session, "_flushing", False):
        session.flush()
    try:
        return session.connection()
    except PendingRollbackError as error:
        raise failed_transaction(_roll_back(session)) from error
    except exc.UnboundExecutionError as error:
        raise EnqueueError(
            "the session has no default bind, so that nobody knows which of its transactions is meant; enqueue on "
            'session.connection(bind_arguments={"mapper": ...}) with the class that you change'
        ) from error
    except InvalidRequestError as error:
        raise _not_usable(error) from error


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
    if isinstance(getattr(error, "orig", None), MissingGreenlet):
        return _not_awaited()
    if "another operation is in progress" in str(error):
        return busy()
    return ours(error, events, _roll_back(given if isinstance(given, Session) else connection))


def _not_awaited() -> EnqueueError:
    """The refusal of the synchronous part of an asynchronous object, outside of its run_sync()."""
    return EnqueueError(
        "this is the synchronous part of an AsyncSession or AsyncConnection, and nothing was enqueued; pass the "
        "asynchronous one and await the call, or call this in a function that you give to its run_sync()"
    )


def _not_usable(error: InvalidRequestError) -> EnqueueError:
    """The refusal for a transaction that SQLAlchemy itself says is over."""
    if isinstance(error, MissingGreenlet):
        return _not_awaited()
    text = " ".join(str(error).split(" (Background on this error", 1)[0].split())
    return NotInTransactionError(f"nothing was enqueued; SQLAlchemy says: {text}")


def _subject(given: Synchronous | Asynchronous) -> Connection | Session:
    """The synchronous object within, whose state is the transaction's."""
    if isinstance(given, Connection | Session):
        return given
    if isinstance(given, scoped_session):
        session: Session = given()
        return session
    found = _asynchronous(given)
    subject: Connection | Session = getattr(found, "sync_session", None) or found.sync_connection
    return subject


def _in_transaction(given: Synchronous | Asynchronous) -> bool:
    try:
        return _subject(given).in_transaction()
    except NotInTransactionError:
        return False


def _on_commit(given: Synchronous | Asynchronous) -> Callable[[Callable[[], None]], None] | None:
    """A Session tells of its commits. A Connection does so too early, before them."""
    try:
        subject = _subject(given)
    except NotInTransactionError:
        return None
    return _Commits.of(subject).note if isinstance(subject, Session) else None


def _innermost(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


class _Commits:
    """The transactions and savepoints of one session in which events were written, and whom to wake up for them."""

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._noted: dict[SessionTransaction, set[Callable[[], None]]] = {}
        event.listen(session, "after_commit", self._committed)
        event.listen(session, "after_transaction_end", self._ended)

    @classmethod
    def of(cls, session: Session) -> _Commits:
        found = _commits.get(session)
        if found is None:
            found = _commits[session] = cls(session)
        return found

    def note(self, wake: Callable[[], None]) -> None:
        session = self._session()
        if session is not None and (transaction := _innermost(session)) is not None:
            self._noted.setdefault(transaction, set()).add(wake)

    def _committed(self, session: Session) -> None:
        transaction = _innermost(session)
        wakes = self._noted.pop(transaction, None) if transaction is not None else None
        if transaction is None or wakes is None:
            return
        if transaction.nested and transaction.parent is not None:
            self._noted.setdefault(transaction.parent, set()).update(wakes)
        elif not (isinstance(session.bind, Connection) and session.bind.in_transaction()):
            # Else the session was part of somebody's transaction, as it is in tests that roll back.
            for wake in wakes:
                wake()

    def _ended(self, _session: Session, transaction: SessionTransaction) -> None:
        self._noted.pop(transaction, None)


_commits: weakref.WeakKeyDictionary[Session, _Commits] = weakref.WeakKeyDictionary()

_AFTER = "with wake_up.after(connection.begin()):"
SYNC = Adapter(write, write_many, call, in_transaction=_in_transaction, on_commit=_on_commit, after=_AFTER)
ASYNC = Adapter(
    awrite, awrite_many, acall, in_transaction=_in_transaction, on_commit=_on_commit, after=f"async {_AFTER}"
)
